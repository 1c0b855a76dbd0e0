import { MpoptError } from "../contracts/index.js";
import { type CompiledSchedule, kindCodes, lastComputeKind } from "./compile.js";
import type { Clock } from "./timeInOrder.js";

/** What a stage holds on each of its devices, bytes. */
export interface StageMemory {
  /** One version of the weights; times the table's `weightVersions`. */
  parameterBytes: number;
  gradientBytes?: number;
  optimizerBytes?: number;
  /** Saved by one forward for its backward. */
  activationBytes: number;
  /**
   * Share of `activationBytes` that a backward-input gives back, 0 to 1; its backward-weight gives back the rest
   * (1 - M_W / M_B of Qi et al., ICLR 2024, section 2). 0 by default.
   */
  freedAtInput?: number;
  /** Held while a forward runs. */
  forwardWorkspaceBytes?: number;
  /** Held while a backward or backward-input runs: recomputed activations, logits. */
  backwardWorkspaceBytes?: number;
  /** Parameters that an `all-gather` brings, held until the `reshard`. */
  gatheredBytes?: number;
  /** Gradients beyond `gradientBytes` from the first backward after a `reduce` to the end of the next one. */
  unreducedGradientBytes?: number;
}

export interface MemoryModel {
  /** One entry a stage. */
  stages: readonly StageMemory[];
  /**
   * Buffers of transfers, one entry a boundary: on the sender from handing over to arrival; on the receiver from
   * its receive (without one, from the first byte) until the forward starts, or the backward ends, that uses it.
   */
  transferBytes?: readonly { activation: number; gradient: number }[];
  /** Held outside of the allocator throughout: driver context, communicators. */
  contextBytes?: number;
  /** What the allocator reserves over what it hands out, as a factor of at least 1. 1 by default. */
  fragmentation?: number;
}

export const simulatedMemoryTerms = [
  "parameters",
  "gradients",
  "optimizer",
  "activations",
  "workspace",
  "transferBuffers",
  "context",
] as const;
export type SimulatedMemoryTerm = (typeof simulatedMemoryTerms)[number];
const [parameters, gradients, optimizer, activations, workspace, buffers, context] = [
  0, 1, 2, 3, 4, 5, 6,
] as const;

/** Entry i holds from `seconds[i]` until the next one. */
export interface MemoryCurve {
  seconds: number[];
  allocatedBytes: number[];
  terms: Record<SimulatedMemoryTerm, number[]>;
}

export interface RankMemory {
  /** Most bytes at one moment, the context included. */
  peakAllocatedBytes: number;
  /** The first such moment. */
  peakSeconds: number;
  peakTerms: Record<SimulatedMemoryTerm, number>;
  /** Activations at that moment, one entry a stage of the table. */
  peakActivationBytes: number[];
  /** (allocated - context) x fragmentation + context at the peak. */
  reservedBytes: number;
  curve?: MemoryCurve;
}

/** A change of what a rank holds. */
interface Change {
  seconds: number;
  term: number;
  stage: number;
  bytes: number;
}

/**
 * Memory of every rank over a timed schedule. What is given back at a moment is gone before anything is taken at
 * the same moment. Needs the times of transfers where the model has `transferBytes`.
 * @throws MpoptError E_USAGE for a model that does not fit the schedule.
 */
export function memoryOf(
  schedule: CompiledSchedule,
  clock: Clock,
  model: MemoryModel,
  withCurve: boolean,
): RankMemory[] {
  requireModel(schedule, model);
  const changes: Change[][] = schedule.positionsOfRank.map(() => []);
  stageChanges(schedule, clock, model, changes);
  if (model.transferBytes) transferChanges(schedule, clock, model.transferBytes, changes);
  return changes.map((list, r) => {
    list.sort((a, b) => a.seconds - b.seconds);
    return sweep(schedule, model, r, list, withCurve);
  });
}

function stageChanges(
  schedule: CompiledSchedule,
  { starts, ends, collectiveEnds }: Clock,
  model: MemoryModel,
  changes: Change[][],
): void {
  const { kind, stage, collective, positionsOfRank } = schedule;
  const { forward, backward, reduce, reshard, "all-gather": gather } = kindCodes;
  const { "backward-input": input, "backward-weight": weight } = kindCodes;
  const unreduced = new Uint8Array(schedule.table.stages);
  positionsOfRank.forEach((positions, r) => {
    const add = (seconds: number, term: number, s: number, bytes: number) => {
      if (bytes !== 0) changes[r]!.push({ seconds, term, stage: s, bytes });
    };
    for (const i of positions) {
      const s = stage[i]!;
      const each = model.stages[s]!;
      const code = kind[i]!;
      const { activationBytes, freedAtInput = 0, gatheredBytes = 0, unreducedGradientBytes = 0 } = each;
      const [start, end] = [starts[i]!, ends[i]!];
      if (code === forward) add(start, activations, s, activationBytes);
      else if (code === backward) add(end, activations, s, -activationBytes);
      else if (code === input) add(end, activations, s, -activationBytes * freedAtInput);
      else if (code === weight) add(end, activations, s, -(activationBytes - activationBytes * freedAtInput));
      else if (code === reshard) add(end, parameters, s, -gatheredBytes);
      // Collectives end later; memory is taken when the rank comes to them.
      else if (code === gather) add(start, parameters, s, gatheredBytes);
      else if (code === reduce && unreduced[s]) {
        unreduced[s] = 0;
        add(collectiveEnds[collective[i]!]!, gradients, s, -unreducedGradientBytes);
      }
      if ((code === backward || code === weight) && !unreduced[s]) {
        unreduced[s] = 1;
        add(start, gradients, s, unreducedGradientBytes);
      }
      const extra =
        code === forward
          ? each.forwardWorkspaceBytes
          : code === backward || code === input
            ? each.backwardWorkspaceBytes
            : 0;
      if (extra) {
        add(start, workspace, s, extra);
        add(end, workspace, s, -extra);
      }
    }
  });
}

function transferChanges(
  schedule: CompiledSchedule,
  { starts, ends, transferStarts, arrivals }: Clock,
  transferBytes: NonNullable<MemoryModel["transferBytes"]>,
  changes: Change[][],
): void {
  const { transfers, transfer, kind, stage, length } = schedule;
  for (let i = 0; i < length; i++) {
    const t = transfer[i]!;
    if (t === -1) continue;
    const { activation, gradient } = transferBytes[transfers.boundary[t]!]!;
    const isGradient = transfers.gradient[t] === 1;
    const bytes = isGradient ? gradient : activation;
    if (bytes === 0) continue;
    const producer = transfers.producer[t]!;
    const receive = transfers.posted[t]!;
    const handedOver = kind[producer]! > lastComputeKind ? starts[producer]! : ends[producer]!;
    const source = changes[transfers.sourceRank[transfers.connection[t]!]!]!;
    const target = changes[transfers.targetRank[transfers.connection[t]!]!]!;
    const from = stage[producer]!;
    source.push({ seconds: handedOver, term: buffers, stage: from, bytes });
    source.push({ seconds: arrivals[t]!, term: buffers, stage: from, bytes: -bytes });
    const taken = receive === -1 ? transferStarts[t]! : starts[receive]!;
    const given = isGradient ? ends[i]! : starts[i]!;
    target.push({ seconds: taken, term: buffers, stage: stage[i]!, bytes });
    target.push({ seconds: given, term: buffers, stage: stage[i]!, bytes: -bytes });
  }
}

function sweep(
  { table, rankOfStage }: CompiledSchedule,
  { stages, contextBytes = 0, fragmentation = 1 }: MemoryModel,
  r: number,
  changes: Change[],
  withCurve: boolean,
): RankMemory {
  const terms = new Float64Array(simulatedMemoryTerms.length);
  const ofStage = new Float64Array(table.stages);
  terms[context] = contextBytes;
  stages.forEach((each, s) => {
    if (rankOfStage[s] !== r) return;
    terms[parameters]! += each.parameterBytes * (table.weightVersions?.[s] ?? 1);
    terms[gradients]! += each.gradientBytes ?? 0;
    terms[optimizer]! += each.optimizerBytes ?? 0;
  });
  const curve: MemoryCurve = {
    seconds: [],
    allocatedBytes: [],
    terms: Object.fromEntries(
      simulatedMemoryTerms.map((term) => [term, [] as number[]]),
    ) as MemoryCurve["terms"],
  };
  let peak = Number.NEGATIVE_INFINITY;
  let peakSeconds = 0;
  let peakTerms = terms.slice();
  let peakOfStage = ofStage.slice();
  const sample = (seconds: number) => {
    const allocated = terms.reduce((sum, bytes) => sum + bytes, 0);
    if (allocated > peak) {
      peak = allocated;
      peakSeconds = seconds;
      peakTerms = terms.slice();
      peakOfStage = ofStage.slice();
    }
    if (!withCurve) return;
    curve.seconds.push(seconds);
    curve.allocatedBytes.push(allocated);
    simulatedMemoryTerms.forEach((term, k) => {
      curve.terms[term].push(terms[k]!);
    });
  };
  if (changes.length === 0 || changes[0]!.seconds > 0) sample(0);
  for (let at = 0; at < changes.length; ) {
    const { seconds } = changes[at]!;
    for (; at < changes.length && changes[at]!.seconds === seconds; at++) {
      const { term, stage, bytes } = changes[at]!;
      terms[term]! += bytes;
      if (term === activations) ofStage[stage]! += bytes;
    }
    sample(seconds);
  }
  return {
    peakAllocatedBytes: peak,
    peakSeconds,
    peakTerms: Object.fromEntries(
      simulatedMemoryTerms.map((term, k) => [term, peakTerms[k]!]),
    ) as RankMemory["peakTerms"],
    peakActivationBytes: [...peakOfStage],
    reservedBytes: (peak - contextBytes) * fragmentation + contextBytes,
    ...(withCurve ? { curve } : {}),
  };
}

function requireModel({ table, boundaries }: CompiledSchedule, model: MemoryModel): void {
  const { stages, transferBytes, contextBytes = 0, fragmentation = 1 } = model;
  const fail = (sentence: string) => {
    throw new MpoptError("E_USAGE", sentence);
  };
  if (stages.length !== table.stages) {
    fail(`Expected memory of ${table.stages} stages but found ${stages.length}.`);
  }
  if (transferBytes && transferBytes.length !== boundaries.length) {
    fail(`Expected transferBytes of ${boundaries.length} boundaries but found ${transferBytes.length}.`);
  }
  const number = (name: string, value: number, least: number, most = Number.MAX_VALUE) => {
    if (!(value >= least && value <= most)) {
      fail(`Expected at least ${least} for ${name} but found ${value}.`);
    }
  };
  number("contextBytes", contextBytes, 0);
  number("fragmentation", fragmentation, 1);
  stages.forEach((each, s) => {
    for (const [name, value] of Object.entries(each)) {
      number(`${name} of stage ${s}`, value, 0, name === "freedAtInput" ? 1 : undefined);
    }
  });
  transferBytes?.forEach((each, b) => {
    number(`the activation of transferBytes ${b}`, each.activation, 0);
    number(`the gradient of transferBytes ${b}`, each.gradient, 0);
  });
}
