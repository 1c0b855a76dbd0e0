import { MpoptError } from "../../contracts/index.js";
import type { LayeredGraph } from "../../models/layered.js";
import { cutsAround, nodesOf, posetOf } from "./linearise.js";
import { type CutTable, chooseCuts, cutTable, plainVariant, tableOf } from "./pipedreamCuts.js";
import { type PlannedStage, planStages } from "./pipedreamPlan.js";
import {
  type Level,
  type PipedreamProblem,
  PipedreamTables,
  peakBytes,
  reduceSeconds,
  slack,
  unbounded,
} from "./pipedreamTables.js";
import type { InterSolution, InterStage } from "./solution.js";

export interface PipedreamOptions {
  /** Machines per level, innermost first: [4, 2] is two servers of four devices. */
  machines: number[];
  /** Bytes per second of one link, per level, innermost first. */
  bandwidths: number[];
  /** One device a stage: no replication. */
  straight?: boolean;
  /** Activations cost nothing to send, which is PipeDream's default. */
  freeTransfers?: boolean;
  /** Bytes a device. */
  memoryBytes?: number;
  /** Apply `memoryBytes` to the peak of 1F1B; on unless `peerMemory` is. */
  trueMemory?: boolean;
  /** Apply `memoryBytes` to PipeDream's own test, which underestimates the peak; for comparison with it. */
  peerMemory?: boolean;
  /**
   * Also look at smaller machines: any number of machines up to the given one at each level. PipeDream's model
   * makes every machine take part.
   */
  fewerMachines?: boolean;
  /** More cuts than this are not enumerated. */
  maximumCuts?: number;
  signal?: AbortSignal;
}

export interface PipedreamStage extends InterStage {
  /**
   * Per level, innermost first: the stage of that level that this one lies in, counted over the whole plan, and
   * its replicas there.
   */
  levels: { stage: number; replicas: number }[];
}

/** `seconds` of a stage is its share of the objective: the largest of its time and its transfers. */
export interface PipedreamSolution extends InterSolution {
  stages: PipedreamStage[];
  /** Machines per level that the plan uses, innermost first. */
  machines: number[];
  /** No plan at all is faster, whatever `restriction` says. */
  unrestrictedBound: number;
}

/** Cuts of the coarse searches that give the exact one its first bound. */
const coarseCuts = [24, 72];
/** Where not all cuts are searched: rounds of moving this many nodes over the plan's cuts, and their cuts. */
const improvementRounds = 8;
const improvementSteps = 2;
const improvementCuts = 1000;

/**
 * The plan with the least seconds per minibatch in PipeDream's own model (see `PipedreamTables` for the formula):
 * steady state, over nested cuts of the graph. Exact over all cuts where they are at most `maximumCuts`. Equal
 * plans are told apart level by level, from the outermost, by the sum of stage times, then traffic, then memory.
 * @throws MpoptError E_USAGE for options that contradict each other, E_CANCELLED.
 */
export function solvePipedream(graph: LayeredGraph, options: PipedreamOptions): PipedreamSolution {
  const begun = process.cpuUsage();
  checkOptions(options);
  try {
    const cuts = cutTable(graph, options.maximumCuts);
    let best: Found | undefined;
    for (const machines of shapes(options)) {
      const found = search(problemOf(cuts, options, machines), best?.value ?? unbounded, options.signal);
      if (found && (!best || found.value < best.value / slack)) best = { ...found, machines };
    }
    if (best && cuts.restriction !== "") best = improve(graph, options, best);
    const total = cuts.seconds[cuts.count - 1]!;
    const devices = options.machines.reduce((product, n) => product * n, 1);
    const longest = graph.nodes.reduce((most, _, node) => {
      const { forwardSeconds, backwardSeconds } = plainVariant(graph, node);
      return Math.max(most, forwardSeconds + backwardSeconds);
    }, 0);
    const solution: PipedreamSolution = {
      status: "infeasible",
      objective: Number.POSITIVE_INFINITY,
      bound: Number.POSITIVE_INFINITY,
      gap: 0,
      unit: "seconds",
      cpuSeconds: 0,
      stages: [],
      restriction: cuts.restriction,
      machines: options.machines,
      unrestrictedBound: Math.max(total / devices, options.straight ? longest : 0),
    };
    if (best) {
      const { problem, stages, value, machines } = best;
      Object.assign(solution, { status: "optimal", objective: value, bound: value, machines });
      if (cuts.restriction === "") solution.unrestrictedBound = value;
      solution.stages = describe(problem, stages);
    } else {
      solution.reason = whyNot(graph, cuts, options);
    }
    const used = process.cpuUsage(begun);
    solution.cpuSeconds = (used.user + used.system) / 1e6;
    return solution;
  } catch (error) {
    if (!options.signal?.aborted) throw error;
    if (options.signal.reason instanceof MpoptError) throw options.signal.reason;
    throw new MpoptError("E_CANCELLED", "The search was cancelled.", [], { cause: error });
  }
}

interface Found {
  problem: PipedreamProblem;
  value: number;
  stages: PlannedStage[];
  machines: number[];
}

function checkOptions({ machines, bandwidths, memoryBytes, trueMemory, peerMemory }: PipedreamOptions): void {
  const fail = (what: string): never => {
    throw new MpoptError("E_USAGE", `Expected ${what}.`);
  };
  if (machines.length === 0) fail("at least one level of machines but found none");
  if (machines.length !== bandwidths.length) {
    fail(`a bandwidth for each of the ${machines.length} levels of machines but found ${bandwidths.length}`);
  }
  for (const n of machines) {
    if (!(Number.isInteger(n) && n >= 1)) fail(`a whole number of machines of at least 1 but found ${n}`);
  }
  for (const bytes of bandwidths) {
    if (!(bytes > 0 && Number.isFinite(bytes)))
      fail(`a bandwidth above 0 in bytes per second but found ${bytes}`);
  }
  if (memoryBytes !== undefined && !(memoryBytes > 0))
    fail(`a memory above 0 bytes but found ${memoryBytes}`);
  if (memoryBytes === undefined && (trueMemory || peerMemory)) fail("a memory limit but found none");
}

/** Machine counts to search, all machines first. */
function shapes({ machines, fewerMachines }: PipedreamOptions): number[][] {
  if (!fewerMachines) return [machines];
  return machines.reduce<number[][]>(
    (lists, n) => lists.flatMap((list) => Array.from({ length: n }, (_, i) => [...list, n - i])),
    [[]],
  );
}

/** The recursion's input: levels with their links, limits where they apply. */
export function problemOf(
  cuts: CutTable,
  options: PipedreamOptions,
  machines = options.machines,
): PipedreamProblem {
  const { bandwidths, straight = false, freeTransfers = false, memoryBytes, peerMemory = false } = options;
  const trueMemory = options.trueMemory ?? !peerMemory;
  let devices = 1;
  const levels = machines.map((n, at): Level => {
    const bytesPerSecond = bandwidths[at]!;
    const level = {
      machines: n,
      devices,
      share: at === 0 ? 1 : machines[at - 1]!,
      bytesPerSecond,
      transferSeconds: cuts.outputBytes.map((bytes) => (freeTransfers ? 0 : (2 * bytes) / bytesPerSecond)),
    };
    devices *= n;
    return level;
  });
  return {
    cuts,
    levels,
    straight,
    peerMemoryBytes: peerMemory ? memoryBytes! : unbounded,
    memoryBytes: trueMemory ? (memoryBytes ?? unbounded) : unbounded,
  };
}

/** The best plan of at most `cap` seconds, first over few cuts for a good cap, then over all. */
function search(
  problem: PipedreamProblem,
  cap: number,
  signal: AbortSignal | undefined,
): { problem: PipedreamProblem; value: number; stages: PlannedStage[] } | undefined {
  const { cuts, levels } = problem;
  let best = cap;
  for (const size of coarseCuts) {
    if (size * 2 > cuts.count) break;
    const part = chooseCuts(cuts, spread(cuts, size));
    const coarse = {
      ...problem,
      cuts: part,
      levels: levels.map((level) => ({
        ...level,
        transferSeconds: transfersOf(
          part,
          level,
          level.transferSeconds.some((s) => s > 0),
        ),
      })),
    };
    best = Math.min(best, new PipedreamTables(coarse, best, signal).solve());
  }
  const tables = new PipedreamTables(problem, best, signal);
  const value = tables.solve();
  if (value >= unbounded || value > best * slack) return undefined;
  return { problem, value, stages: planStages(problem, tables, value) };
}

/** Moves single nodes over the cuts of a plan while that makes it faster. */
function improve(graph: LayeredGraph, options: PipedreamOptions, found: Found): Found {
  const poset = posetOf(graph);
  let best = found;
  for (let round = 0; round < improvementRounds; round++) {
    const { cuts } = best.problem;
    const ends = (stages: PlannedStage[]): number[] =>
      stages.flatMap(({ end, inner }) => [end, ...ends(inner)]);
    const own = [...new Set(ends(best.stages))].sort((a, b) => a - b);
    const bits = chooseCuts(cuts, own).bits;
    const near = cutsAround(poset, { count: own.length, bits }, improvementSteps, improvementCuts);
    const table = tableOf(graph, poset, near, cuts.restriction);
    const next = search(problemOf(table, options, best.machines), best.value, options.signal);
    if (!next || next.value >= best.value / slack) break;
    best = { ...next, machines: best.machines };
  }
  return best;
}

function transfersOf(cuts: CutTable, level: Level, paid: boolean): Float64Array {
  return cuts.outputBytes.map((bytes) => (paid ? (2 * bytes) / level.bytesPerSecond : 0));
}

/** Nested cuts at even distances in seconds: of each interval the one with the fewest bytes to send. */
function spread({ count, seconds, outputBytes, inside }: CutTable, size: number): number[] {
  const last = count - 1;
  const chosen = [0];
  let next = 1;
  for (let i = 1; i <= size && next < last; i++) {
    const end = (seconds[last]! * i) / size;
    const before = chosen.at(-1)!;
    let best = -1;
    for (; next < last && (seconds[next]! < end || i === size); next++) {
      if (inside !== undefined && inside[next * count + before] === 0) continue;
      if (best < 0 || outputBytes[next]! <= outputBytes[best]!) best = next;
    }
    if (best >= 0) chosen.push(best);
  }
  return [...chosen, last];
}

/** The innermost stages of a plan, with their share of the objective. */
function describe(problem: PipedreamProblem, planned: PlannedStage[]): PipedreamStage[] {
  const { cuts, levels } = problem;
  const { words, bits, seconds, parameterBytes, activationBytes } = cuts;
  const last = cuts.count - 1;
  const numbers = levels.map(() => 0);
  const walk = (
    stages: PlannedStage[],
    at: number,
    bases: number[],
    later: number,
    path: { stage: number; replicas: number }[],
  ): PipedreamStage[] =>
    stages.flatMap(({ start, end, replicas: m, used, inner }, index) => {
      const level = levels[at]!;
      const own = [{ stage: numbers[at]!++, replicas: m }, ...path];
      const devices = bases.flatMap((base) =>
        Array.from({ length: m }, (_, i) => base + (used + i) * level.devices),
      );
      const after = later + bases.length * (level.machines - used - m) * level.devices;
      const parameters = parameterBytes[end]! - parameterBytes[start]!;
      const activations = activationBytes[end]! - activationBytes[start]!;
      const reduce = reduceSeconds(level, m, parameters, index === 0);
      const leaves: PipedreamStage[] =
        at > 0
          ? walk(inner, at - 1, devices, after, own)
          : [
              {
                nodes: difference(bits, start * words, end * words, words),
                replicas: devices.length,
                tensor: 1,
                recomputed: [],
                devices: [...devices].sort((a, b) => a - b),
                seconds: seconds[end]! - seconds[start]!,
                memoryBytes: peakBytes(devices.length, after, activations, parameters),
                levels: own,
              },
            ];
      for (const leaf of leaves) leaf.seconds = (leaf.seconds + reduce) / m;
      const raise = (leaf: PipedreamStage, value: number) => {
        leaf.seconds = Math.max(leaf.seconds, value);
      };
      if (index > 0) {
        raise(leaves[0]!, level.transferSeconds[start]! / m);
        if (end !== last) raise(leaves.at(-1)!, level.transferSeconds[end]! / m);
      }
      return leaves;
    });
  return walk(planned, levels.length - 1, [0], 0, []);
}

function difference(bits: Uint32Array, part: number, whole: number, words: number): number[] {
  const left = new Uint32Array(words);
  for (let w = 0; w < words; w++) left[w] = bits[whole + w]! & ~bits[part + w]!;
  return nodesOf(left, 0, words);
}

/** The tightest constraint of a problem without a plan, in one sentence. */
function whyNot(graph: LayeredGraph, cuts: CutTable, options: PipedreamOptions): string {
  const all = options.machines.reduce((product, n) => product * n, 1);
  if (options.straight && !options.fewerMachines && graph.nodes.length < all) {
    return `Expected at least ${all} nodes for a straight pipeline of ${all} stages but found ${graph.nodes.length}.`;
  }
  const { memoryBytes } = options;
  if (memoryBytes === undefined) {
    return `Expected cuts for ${all} stages but the ${cuts.count - 1} that were kept hold no such plan.`;
  }
  const attempt = (bytes: number) => {
    for (const machines of shapes(options)) {
      const limited = { ...options, memoryBytes: bytes };
      const found = search(problemOf(cuts, limited, machines), unbounded, options.signal);
      if (found) return found;
    }
    return undefined;
  };
  const last = cuts.count - 1;
  let low = memoryBytes;
  let high = (all + 2) * (cuts.parameterBytes[last]! + cuts.activationBytes[last]!);
  let found = attempt(high);
  if (!found) return `Expected cuts for ${all} stages but the ${last} that were kept hold no such plan.`;
  while (high > low * 1.001) {
    const middle = Math.sqrt(low * high);
    const next = attempt(middle);
    if (next) {
      found = next;
      high = middle;
    } else {
      low = middle;
    }
  }
  const fullest = describe(found.problem, found.stages).reduce((a, b) =>
    b.memoryBytes > a.memoryBytes ? b : a,
  );
  const giga = (bytes: number) => `${Number((bytes / 1e9).toPrecision(4))} GB`;
  const names = fullest.nodes.map((node) => graph.nodes[node]!.id);
  return (
    `Expected a plan within ${giga(memoryBytes)} a device but the least that any plan needs is ${giga(high)}: ` +
    `${names.length === 1 ? `node ${names[0]}` : `the ${names.length} nodes from ${names[0]} to ${names.at(-1)}`} ` +
    `on ${fullest.replicas} ${fullest.replicas === 1 ? "device" : "devices"} hold the most.`
  );
}
