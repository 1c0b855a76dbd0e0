import { MpoptError } from "../contracts/index.js";
import { type CompiledSchedule, kindCodes, lastComputeKind } from "./compile.js";
import { type FlatNetwork, flattenNetwork, type Network } from "./links.js";

/** How long everything takes. All lists have one entry a stage unless they say otherwise. */
export interface StageTimes {
  /** One micro-batch. */
  forwardSeconds: ArrayLike<number>;
  /** The whole backward of one micro-batch, without recomputation; by default the sum of its halves. */
  backwardSeconds?: ArrayLike<number>;
  backwardInputSeconds?: ArrayLike<number>;
  backwardWeightSeconds?: ArrayLike<number>;
  /** Forward work done again at the start of each backward or backward-input. */
  recomputeSeconds?: ArrayLike<number>;
  /**
   * Time that the host needs to launch the kernels of one compute action: no action is shorter, and the two of
   * an overlapped pair are launched one after the other.
   */
  launchSeconds?: ArrayLike<number>;
  /** Time of an overlapped pair over the sum of its two actions; 1 by default: no gain. */
  overlappedPairFactor?: number;
  /**
   * Delay of every transfer, one entry a boundary, either way. It keeps neither rank busy, and any number are
   * on their way at once; a transfer that blocks its sender belongs into the stage's time. Free where both
   * stages share a rank.
   */
  transferSeconds?: ArrayLike<number>;
  /** Transfers on links with a bandwidth, in place of `transferSeconds`. */
  network?: Network;
  /** One `reduce` of a stage's gradients, with nothing beside it. Copies of a stage reduce in the longest. */
  reduceSeconds?: ArrayLike<number>;
  /** One `all-gather` of a stage's parameters, with nothing beside it. */
  gatherSeconds?: ArrayLike<number>;
  /** One `optimizer` step of a stage. */
  optimizerSeconds?: ArrayLike<number>;
  /** How much slower both get while a gather or reduction runs beside a compute action: factors of at least 1. */
  collectiveSlowdown?: { compute: number; collective: number };
}

/** Times as flat arrays, made for one compiled schedule. */
export interface FlatTimes {
  /** By kind code x stages + stage: seconds of a compute action. */
  readonly seconds: Float64Array;
  /** By way (2 x boundary, plus 1 for gradients): seconds that a transfer is under way; all of it alone. */
  readonly delaySeconds: Float64Array;
  readonly network: FlatNetwork | null;
  readonly pairFactor: number;
  /** By collective. */
  readonly collectiveSeconds: Float64Array;
  readonly computeSlowdown: number;
  readonly collectiveSlowdown: number;
}

/**
 * Checks times and lays them out for a schedule, to be timed with `timeInOrder` or `timeByEvents`.
 * @throws MpoptError E_USAGE for times that are missing for an action of the schedule or do not fit.
 */
export function flattenTimes(times: StageTimes, schedule: CompiledSchedule): FlatTimes {
  const { stages } = schedule.table;
  const zero = new Float64Array(stages);
  const list = (name: keyof StageTimes, length = stages): ArrayLike<number> | undefined => {
    const values = times[name] as ArrayLike<number> | undefined;
    if (values) requireTimes(name, values, length);
    return values;
  };
  const forward = list("forwardSeconds")!;
  const whole = list("backwardSeconds");
  const input = list("backwardInputSeconds");
  const weight = list("backwardWeightSeconds");
  const recompute = list("recomputeSeconds") ?? zero;
  const launch = list("launchSeconds") ?? zero;
  const optimizer = list("optimizerSeconds") ?? zero;
  const reduce = list("reduceSeconds") ?? zero;
  const gather = list("gatherSeconds") ?? zero;
  const transfer = list("transferSeconds", schedule.boundaries.length);

  const seconds = new Float64Array((lastComputeKind + 1) * stages);
  const missing = Number.NaN;
  for (let s = 0; s < stages; s++) {
    const atLeast = (value: number) => Math.max(value, launch[s]!);
    const both = whole ? whole[s]! : input && weight ? input[s]! + weight[s]! : missing;
    seconds[kindCodes.forward * stages + s] = atLeast(forward[s]!);
    seconds[kindCodes.backward * stages + s] = atLeast(recompute[s]! + both);
    seconds[kindCodes["backward-input"] * stages + s] = atLeast(recompute[s]! + (input?.[s] ?? missing));
    seconds[kindCodes["backward-weight"] * stages + s] = atLeast(weight?.[s] ?? missing);
    seconds[kindCodes.optimizer * stages + s] = atLeast(optimizer[s]!);
  }
  if (!whole || !input || !weight) requireKnown(seconds, schedule);

  const pairFactor = times.overlappedPairFactor ?? 1;
  const { compute = 1, collective = 1 } = times.collectiveSlowdown ?? {};
  requireAtLeast("overlappedPairFactor", pairFactor, 0);
  requireAtLeast("collectiveSlowdown.compute", compute, 1);
  requireAtLeast("collectiveSlowdown.collective", collective, 1);
  if (transfer && times.network) {
    throw new MpoptError("E_USAGE", "Expected either transferSeconds or a network but found both.");
  }
  const network = times.network ? flattenNetwork(times.network, schedule) : null;
  const ways = 2 * schedule.boundaries.length;
  const { collectives } = schedule;
  return {
    seconds,
    delaySeconds: Float64Array.from({ length: ways }, (_, w) =>
      network ? network.aloneSeconds[w]! + network.latencySeconds[w]! : (transfer?.[w >> 1] ?? 0),
    ),
    network,
    pairFactor,
    collectiveSeconds: Float64Array.from({ length: collectives.length }, (_, c) => {
      const each = collectives.reduces[c] ? reduce : gather;
      return collectives.stages[c]!.reduce((longest, s) => Math.max(longest, each[s]!), 0);
    }),
    computeSlowdown: compute,
    collectiveSlowdown: collective,
  };
}

function requireAtLeast(name: string, value: number, least: number): void {
  if (!(value >= least && value < Number.POSITIVE_INFINITY)) {
    throw new MpoptError("E_USAGE", `Expected a number of at least ${least} for ${name} but found ${value}.`);
  }
}

function requireTimes(name: string, values: ArrayLike<number>, length: number): void {
  if (values.length !== length) {
    throw new MpoptError("E_USAGE", `Expected ${length} times for ${name} but found ${values.length}.`);
  }
  for (let i = 0; i < length; i++) {
    if (!(values[i]! >= 0) || values[i] === Number.POSITIVE_INFINITY) {
      throw new MpoptError(
        "E_USAGE",
        `Expected a time of at least 0 for ${name}[${i}] but found ${values[i]}.`,
      );
    }
  }
}

/** Whole and split backwards may be mixed; only times that the table uses must be there. */
function requireKnown(seconds: Float64Array, { table, length, kind, stage }: CompiledSchedule): void {
  for (let i = 0; i < length; i++) {
    if (kind[i]! > lastComputeKind || !Number.isNaN(seconds[kind[i]! * table.stages + stage[i]!]!)) continue;
    const name = ["", "backwardSeconds", "backwardInputSeconds", "backwardWeightSeconds"][kind[i]!];
    throw new MpoptError("E_USAGE", `Expected ${name} for the schedule "${table.name}" but found none.`);
  }
}
