import { type Cluster, MpoptError, type Quantity } from "../contracts/index.js";
import { presetTemplate, SizedClusters } from "./clusters.js";
import type { Software } from "./kinds.js";
import { type RobustProblem, solveRobust } from "./leastSquares.js";
import { type Parameter, type PlacedParameter, parameters, placed, sigmaOn, valueAt } from "./parameters.js";
import { PredictionCache, predictAll } from "./predict.js";
import type {
  CalibratedFamily,
  CalibratedKind,
  CalibrateOptions,
  Calibration,
  FittedParameter,
  MeasuredRun,
  RunInputs,
  TemplateOf,
} from "./types.js";

/**
 * Spread of log(predicted / measured) where the parameters are right: what the form of the cost model leaves open,
 * and repeated readings (about 3 % between BLOOM's).
 */
const stepSpread = 0.03;
/** Same of peak memory: what tensors take is known, what the allocator adds varies. */
const memorySpread = 0.02;
/** Up to so many runs of a group each counts in full; beyond, a group counts as the square root of its number. */
const fullRuns = 16;
/** Runs of a kind that a family looks at, and that a kind looks at: more of one source say little that is new. */
const familyRuns = 48;
const kindRuns = 128;
/**
 * Prior of a kind around its family, over the prior of the family around the preset. Cross-validation prefers a wide
 * one: installations of one part differ more than their family's mean does from a data sheet.
 */
const kindShare = 2;
/** A parameter whose spread the runs left above this share of the prior's was not measured: it stays as it was. */
const informedShare = 0.95;

/** Software that spends its time alike: how attention runs, and whether parameters are gathered layer by layer. */
export function softwareFamily({ attention, zero }: Software): string {
  return `${attention} attention, ${zero === 3 ? "sharded" : "resident"} parameters`;
}

const familyKey = (run: RunInputs) => `${run.hardware.part}/${softwareFamily(run.software)}`;

/**
 * Fits the named quantities of each kind of cluster to measured runs: least squares of log(predicted / measured) of
 * step time and peak memory, with a loss that is linear for outliers and Gaussian priors around the template's
 * figures. Kinds of one part and like software are fitted together first; what they share is the prior of each.
 * @throws MpoptError E_USAGE where none of the runs can be predicted, E_CANCELLED.
 */
export async function calibrate(
  runs: readonly MeasuredRun[],
  options: CalibrateOptions = {},
): Promise<Calibration> {
  const { templateOf = presetTemplate, cache = new PredictionCache() } = options;
  const kinds = await usableKinds(runs, templateOf, cache, options);
  if (kinds.length === 0) {
    throw new MpoptError(
      "E_USAGE",
      `Expected runs to calibrate with but found none of ${runs.length} that can be predicted.`,
      ["A measured run gives step_time_s or memory_GiB beside model, GPUs and plan."],
    );
  }
  const calibration: Calibration = { kinds: {}, families: [] };
  const families = groupBy(kinds, ({ runs }) => familyKey(runs[0]!.run));
  let done = 0;
  for (const members of families.values()) {
    const together =
      members.length > 1 ? await fitTogether(members, familyRuns, undefined, cache, options) : undefined;
    for (const kind of members) {
      options.onProgress?.({ message: `fitting ${kind.name}`, fraction: done++ / kinds.length });
      const fit = await fitTogether([kind], kindRuns, together, cache, options);
      calibration.kinds[kind.name] = await calibratedKind(kind, fit, cache, options);
      if (!together) calibration.families.push(familyOf(members, fit));
    }
    if (together) calibration.families.push(familyOf(members, together));
  }
  return calibration;
}

/** Measured runs of one kind that its template can price. */
interface Kind {
  name: string;
  template: Cluster;
  runs: MeasuredRun[];
}

async function usableKinds(
  runs: readonly MeasuredRun[],
  templateOf: TemplateOf,
  cache: PredictionCache,
  options: CalibrateOptions,
): Promise<Kind[]> {
  const usable = runs.filter(
    ({ stepSeconds, memoryGiB, outOfMemory }) => !outOfMemory && (stepSeconds ?? memoryGiB) !== undefined,
  );
  const kinds: Kind[] = [];
  for (const [name, all] of groupBy(usable, ({ run }) => run.kind)) {
    const template = templateOf(all[0]!.run);
    const { predictions } = await predictOn(template, all, cache, options);
    const known = new Set(predictions.map(({ id }) => id));
    const own = all.filter(({ run }) => known.has(run.id));
    if (own.length > 0) kinds.push({ name, template, runs: own });
  }
  return kinds;
}

function predictOn(
  template: Cluster,
  runs: readonly MeasuredRun[],
  cache: PredictionCache,
  { signal }: CalibrateOptions,
) {
  const sizes = new SizedClusters(template);
  return predictAll(
    runs.map(({ run }) => run),
    (run) => sizes.get(run.devicesPerNode, run.nodes) ?? "the cluster has no link between nodes",
    cache,
    { signal },
  );
}

/** What a fit found, as shifts along coordinates: they apply to any template. */
interface Fit {
  shifts: Map<Parameter, number>;
  /** Standard deviations of the shifts; those of the priors beside them. */
  sigma: Map<Parameter, number>;
  prior: Map<Parameter, number>;
}

/** A run in a fit, with what it counts for. */
interface WeightedRun {
  measured: MeasuredRun;
  weight: number;
}

/** Fits one vector of shifts to the runs of several kinds. */
async function fitTogether(
  kinds: readonly Kind[],
  runsOfEach: number,
  family: Fit | undefined,
  cache: PredictionCache,
  options: CalibrateOptions,
): Promise<Fit> {
  const chosen = kinds.map((kind) => ({
    kind,
    runs: weighted(spreadOut(kind.runs, runsOfEach), kinds.length > 1),
  }));
  const runs = chosen.flatMap((each) => each.runs.map(({ measured }) => measured.run));
  const free = parameters.filter(
    (parameter) => runs.some(parameter.informed) && kinds.some(({ template }) => placed(parameter, template)),
  );
  const prior = new Map(
    free.map((each) => {
      const sigma = sigmaOn(each, kinds[0]!.template);
      return [each, family?.sigma.has(each) ? kindShare * sigma : sigma];
    }),
  );
  const centre = free.map((each) => family?.shifts.get(each) ?? 0);
  const steps = chosen.map((each) => each.runs.filter(({ measured }) => measured.stepSeconds !== undefined));
  const memories = chosen.map((each) => each.runs.filter(({ measured }) => measured.memoryGiB !== undefined));
  const residuals: RobustProblem["residuals"] = async (x) => {
    const byTime: number[] = [];
    const byMemory: number[] = [];
    for (const [i, { kind, runs: own }] of chosen.entries()) {
      const cluster = shifted(kind.template, free, x);
      const measured = own.map((each) => each.measured);
      const { predictions } = await predictOn(cluster, measured, cache, options);
      const known = new Map(predictions.map((each) => [each.id, each]));
      for (const { measured: of } of steps[i]!) {
        byTime.push(Math.log(known.get(of.run.id)!.stepSeconds / of.stepSeconds!));
      }
      for (const { measured: of } of memories[i]!) {
        byMemory.push(Math.log(known.get(of.run.id)!.memoryGiB / of.memoryGiB!));
      }
    }
    return [...byTime, ...byMemory];
  };
  const timed = steps.flat();
  const weighed = memories.flat();
  const solution = await solveRobust({
    residuals,
    spread: [...timed.map(() => stepSpread), ...weighed.map(() => memorySpread)],
    weights: [...timed, ...weighed].map(({ weight }) => weight),
    mean: centre,
    starts: startsAround(free, centre),
    sigma: free.map((each) => prior.get(each)!),
    // The box of the narrowest kind; shifts that leave another's are clamped where they are written.
    lower: free.map((each) => bound(kinds, each, "lower")),
    upper: free.map((each) => bound(kinds, each, "upper")),
    step: 0.02,
    maximumIterations: 18,
  });
  return {
    shifts: new Map(free.map((each, j) => [each, solution.x[j]!])),
    sigma: new Map(free.map((each, j) => [each, solution.sigma[j]!])),
    prior,
  };
}

/** The centre, and every combination of what parameters may begin with. */
function startsAround(free: readonly Parameter[], centre: readonly number[]): number[][] {
  return free.reduce<number[][]>(
    (all, { starts = [] }, j) => all.flatMap((x) => [x, ...starts.map((shift) => x.with(j, x[j]! + shift))]),
    [[...centre]],
  );
}

/** How far the kinds' limits let a shift go. */
function bound(kinds: readonly Kind[], parameter: Parameter, side: "lower" | "upper"): number {
  const all = kinds.flatMap(({ template }) => {
    const place = placed(parameter, template);
    return place ? [place[side] - place.mean] : [];
  });
  return side === "lower" ? Math.min(...all) : Math.max(...all);
}

/** A template with every parameter moved by its shift, inside its limits. */
function shifted(
  template: Cluster,
  free: readonly Parameter[],
  shifts: readonly number[],
  source = "a step of a fit",
): Cluster {
  return free.reduce((cluster, parameter, j) => {
    const place = placed(parameter, template);
    if (!place) return cluster;
    const value = valueAt(parameter, clamped(place, shifts[j]!));
    return parameter.write(cluster, { value, provenance: "fitted", source });
  }, template);
}

function clamped({ mean, lower, upper }: PlacedParameter, shift: number): number {
  return Math.min(upper, Math.max(lower, mean + shift));
}

/**
 * Weights that keep what was measured often from drowning the rest: groups of runs count as the square root of their
 * number. Of a kind, groups are models; between kinds, the kind.
 */
function weighted(runs: readonly MeasuredRun[], asOne: boolean): WeightedRun[] {
  const groups = groupBy(runs, ({ run }) => (asOne ? "" : run.model.name));
  return [...groups.values()].flatMap((group) =>
    group.map((measured) => ({ measured, weight: Math.sqrt(fullRuns / Math.max(fullRuns, group.length)) })),
  );
}

/** At most so many runs, spread evenly over models, plans and batches. */
function spreadOut(runs: readonly MeasuredRun[], most: number): MeasuredRun[] {
  if (runs.length <= most) return [...runs];
  const key = ({ run: { model, configuration: c } }: MeasuredRun) =>
    [model.name, c.tensor, c.microBatch, c.pipeline, c.data, c.microBatches].map((each) =>
      String(each).padStart(6),
    );
  const sorted = runs
    .map((each) => ({ each, key: key(each).join("/") }))
    .sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
  return Array.from({ length: most }, (_, i) => sorted[Math.floor(((i + 0.5) * sorted.length) / most)]!.each);
}

async function calibratedKind(
  kind: Kind,
  fit: Fit,
  cache: PredictionCache,
  options: CalibrateOptions,
): Promise<CalibratedKind> {
  const source = sourceOf(kind.runs, options);
  const found: FittedParameter[] = [];
  let cluster = kind.template;
  for (const [parameter, shift] of fit.shifts) {
    const place = placed(parameter, kind.template);
    if (!place || !wasMeasured(fit, parameter)) continue;
    const value = valueAt(parameter, clamped(place, shift));
    const quantity: Quantity = { value, provenance: "fitted", source };
    cluster = parameter.write(cluster, quantity);
    found.push({
      name: parameter.name,
      value,
      prior: valueAt(parameter, place.mean),
      sigma: sigmaOn(parameter, kind.template),
      provenance: "fitted",
    });
  }
  const { predictions } = await predictOn(cluster, kind.runs, cache, options);
  const measured = new Map(kind.runs.map(({ run, stepSeconds }) => [run.id, stepSeconds]));
  const residuals = predictions.flatMap(({ id, stepSeconds }) => {
    const seconds = measured.get(id);
    return seconds === undefined ? [] : [{ id, error: stepSeconds / seconds - 1 }];
  });
  return { cluster, parameters: found, residuals };
}

/** Whether the runs narrowed a parameter, or its family did. */
function wasMeasured({ sigma, prior, shifts }: Fit, parameter: Parameter): boolean {
  return (
    sigma.get(parameter)! < informedShare * prior.get(parameter)! || Math.abs(shifts.get(parameter)!) > 1e-3
  );
}

function sourceOf(runs: readonly MeasuredRun[], { source, date }: CalibrateOptions): string {
  const day = date ?? new Date().toISOString().slice(0, 10);
  return `fitted to ${runs.length} runs of ${source ?? "measured runs"} on ${day}`;
}

function familyOf(members: readonly Kind[], fit: Fit): CalibratedFamily {
  const [first] = members;
  const { hardware, software } = first!.runs[0]!.run;
  return {
    part: hardware.part,
    software: softwareFamily(software),
    runs: members.reduce((sum, { runs }) => sum + runs.length, 0),
    shifts: Object.fromEntries(
      [...fit.shifts].flatMap(([parameter, shift]) =>
        wasMeasured(fit, parameter) ? [[parameter.name, shift]] : [],
      ),
    ),
  };
}

/**
 * Templates of all kinds after a calibration: a kind's own, else the base template with what its part showed under
 * like software, else with what the part and its links showed under other software, else the base template.
 */
export function calibratedTemplates(calibration: Calibration, base: TemplateOf = presetTemplate): TemplateOf {
  return (run) => {
    const own = calibration.kinds[run.kind];
    if (own) return own.cluster;
    const template = base(run);
    const ofPart = calibration.families.filter(({ part }) => part === run.hardware.part);
    const alike = ofPart.find(({ software }) => software === softwareFamily(run.software));
    const nearest = alike ?? ofPart.reduce<CalibratedFamily | undefined>(mostRuns, undefined);
    if (!nearest) return template;
    const free = parameters.filter(
      ({ name, hardware }) => nearest.shifts[name] !== undefined && (alike !== undefined || hardware),
    );
    const source = `fitted to ${nearest.runs} runs on ${nearest.part} under ${nearest.software}`;
    return shifted(
      template,
      free,
      free.map(({ name }) => nearest.shifts[name]!),
      source,
    );
  };
}

function mostRuns(best: CalibratedFamily | undefined, family: CalibratedFamily): CalibratedFamily {
  return best && best.runs >= family.runs ? best : family;
}

function groupBy<T>(values: readonly T[], keyOf: (value: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const value of values) {
    const key = keyOf(value);
    const group = groups.get(key);
    if (group) group.push(value);
    else groups.set(key, [value]);
  }
  return groups;
}
