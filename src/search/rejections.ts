import { MpoptError } from "../contracts/index.js";
import type { Candidate, Rejected } from "./candidate.js";
import { describeConfiguration } from "./candidates.js";
import { stageProblem } from "./oneForwardOneBackward.js";
import { describeChoice } from "./scheduleChoices.js";
import type { ScheduledCut } from "./scheduleFinalists.js";
import type { SchedulePlan } from "./scheduleSearch.js";
import type { StageCosts } from "./stageCosts.js";
import { cutStages, leastMaximum } from "./stages.js";

/** How many alternatives a plan lists. */
export const alternativesShown = 6;
const misfitsShown = 4;
/** Variants of one division of the devices that are tried until one fits. */
const variantsTried = 6;

/** What names one division of the devices. */
function degreesOf({ configuration: { tensor, context, pipeline, data, expert } }: Candidate): string {
  return `${tensor}/${context}/${pipeline}/${data}/${expert}`;
}

/** The best plan of the chosen degrees' next variant, and of other degrees. */
export function flushAlternatives(
  candidates: readonly Candidate[],
  chosen: Candidate,
  objective: number,
): Rejected[] {
  const variants = new Map<string, Candidate[]>();
  for (const candidate of candidates) {
    const list = variants.get(degreesOf(candidate)) ?? [];
    if (candidate !== chosen && list.length < variantsTried) list.push(candidate);
    variants.set(degreesOf(candidate), list);
  }
  const priced: { plan: string; reason: string; stepSeconds: number }[] = [];
  for (const list of [...variants.values()].slice(0, 3 * alternativesShown)) {
    for (const candidate of list) {
      const worst =
        priced.length < alternativesShown ? undefined : priced[alternativesShown - 1]!.stepSeconds;
      if (worst !== undefined && candidate.lowerBound >= worst) break;
      const cut = cutStages(stageProblem(candidate.costs), worst);
      if (!cut) continue;
      priced.push({
        plan: describeConfiguration(candidate.configuration),
        reason: `slower by ${((cut.objective / objective - 1) * 100).toFixed(1)} %`,
        stepSeconds: cut.objective,
      });
      priced.sort((a, b) => a.stepSeconds - b.stepSeconds);
      break;
    }
  }
  return priced.slice(0, alternativesShown);
}

/** The chosen division under other schedules, and other divisions of the devices with their best schedule. */
export function scheduleAlternatives(visited: SchedulePlan["visited"], best: ScheduledCut): Rejected[] {
  const own = degreesOf(best.candidate);
  const seen = new Set<string>();
  const result: Rejected[] = [];
  for (const { candidate, choice, seconds } of visited) {
    if (result.length >= alternativesShown) break;
    const key = degreesOf(candidate) === own ? choice.name : degreesOf(candidate);
    // Times of visited cuts are those before the improvement that the chosen one had.
    if (seen.has(key) || key === best.name || seconds <= best.seconds) continue;
    seen.add(key);
    result.push({
      plan: `${describeConfiguration(candidate.configuration)}, ${describeChoice(choice)}`,
      reason: `slower by ${((seconds / best.seconds - 1) * 100).toFixed(1)} %`,
      stepSeconds: seconds,
    });
  }
  return result;
}

/** Candidates that might have been faster, had they fitted: those that miss by the least. */
export function misfits(candidates: readonly Candidate[], objective: number): Rejected[] {
  const faster = candidates.filter((candidate) => candidate.lowerBound < objective);
  const hopeful = faster
    .map((candidate) => ({ candidate, least: candidate.costs.wholeModel().leastStageBytes }))
    .sort((a, b) => a.least - b.least)
    .slice(0, 4 * misfitsShown);
  const missed = hopeful
    .map(({ candidate }) => ({ candidate, needed: leastMemory(candidate.costs) }))
    .filter(({ candidate, needed }) => needed > candidate.costs.limitBytes)
    .sort((a, b) => a.needed - b.needed);
  return missed.slice(0, misfitsShown).map(({ candidate, needed }) => ({
    plan: describeConfiguration(candidate.configuration),
    reason: `does not fit: ${gib(needed)} needed on the fullest device, ${gib(candidate.costs.limitBytes)} allowed`,
    memoryBytes: needed,
  }));
}

/** Least memory of the fullest device over all cuts, bytes. */
function leastMemory(costs: StageCosts): number {
  return leastMaximum(costs.layerCount, costs.configuration.pipeline, (stage, start, end) =>
    costs.reservedBytes(stage, start, end),
  );
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

/** The refusal that names the memory that is missing. */
export function fitsNowhere(candidates: readonly Candidate[]): MpoptError {
  let closest = candidates[0]!;
  let needed = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const optimistic = candidate.costs.wholeModel().leastStageBytes;
    if (optimistic >= needed) continue;
    const memory = leastMemory(candidate.costs);
    if (memory < needed) {
      needed = memory;
      closest = candidate;
    }
  }
  return new MpoptError(
    "E_INFEASIBLE",
    `Expected a plan within ${gib(closest.costs.limitBytes)} a device but the smallest one found needs ${gib(needed)}.`,
    [
      `Smallest: ${describeConfiguration(closest.configuration)}.`,
      "The tightest constraint is device memory: use more devices, devices with more memory, or shorter sequences.",
    ],
  );
}
