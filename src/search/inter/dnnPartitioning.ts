import { MpoptError } from "../../contracts/index.js";
import type { LayeredGraph } from "../../models/layered.js";
import { cutBound, packingBound, volumeBound } from "./dnnPartitioningBounds.js";
import { Budget } from "./dnnPartitioningBudget.js";
import { cutOrder, linearOrders } from "./dnnPartitioningCuts.js";
import { evaluateDnnPartitioning } from "./dnnPartitioningEvaluate.js";
import { type Placed, searchIdeals } from "./dnnPartitioningIdeals.js";
import { Loads } from "./dnnPartitioningLoads.js";
import { localSearch } from "./dnnPartitioningLocal.js";
import { solvePlacementMilp } from "./dnnPartitioningMilp.js";
import { type PlacementLimits, type PlacementProblem, placementProblem } from "./dnnPartitioningProblem.js";
import { reduceProblem } from "./dnnPartitioningReduce.js";
import type { InterSolution, InterStage } from "./solution.js";

export interface DnnPartitioningOptions extends PlacementLimits {
  /** Wall-clock seconds; the best answer so far is returned with its bound. Without it, until proven. */
  timeLimitSeconds?: number;
  /** Relative gap at which the search ends; 1e-6 where not given. */
  gap?: number;
  /** Ends the search, which returns its best answer so far; it rejects only where it has none. */
  signal?: AbortSignal;
  /** Called with every better placement and every better bound, in milliseconds. */
  onProgress?: (progress: { objective: number; bound: number; seconds: number }) => void;
}

const defaultGap = 1e-6;
/** Most of what is left of the time that one local search takes. */
const localShare = 0.25;
/** Rounding within which two loads count as equal. */
const rounding = 1e-12;
const restriction =
  "contiguous stages: the forward nodes of the stages follow one another in a chain of ideals";

/**
 * Places the nodes of a graph on accelerators and host processors so that the largest load, in milliseconds
 * for one sample in a full pipeline, is least (Tarnawski et al., NeurIPS'20: an accelerator pays its nodes'
 * time, and once for every tensor that it sends or receives; a processor pays time only). Contiguous: cuts of
 * linear orders, then an exact search over the chains of ideals below the best of them. Otherwise: local
 * search, bounds, and a mixed-integer program. The answer is checked by `evaluateDnnPartitioning`.
 * @throws MpoptError E_USAGE for limits that make no sense, E_CANCELLED when the signal aborts before there is
 *   an answer, E_SOLVER where the time ends before there is one
 */
export async function solveDnnPartitioning(
  graph: LayeredGraph,
  options: DnnPartitioningOptions,
): Promise<InterSolution> {
  const before = process.cpuUsage();
  const problem = placementProblem(graph, options);
  const run = new Run(problem, options);
  const reason = obstacle(graph, problem);
  if (reason === undefined) {
    run.raise(volumeBound(problem));
    // One device for everything, so that there is an answer from the start wherever it fits.
    const blocks = [...problem.blocks.keys()];
    if (problem.devices > 0) run.offer(problem, [{ blocks, processor: false }]);
    if (problem.processors > 0) run.offer(problem, [{ blocks, processor: true }]);
    if (options.contiguous) await solveContiguous(run);
    else await solveFree(run, placementProblem(graph, { ...options, contiguous: true }));
  }
  const cpu = process.cpuUsage(before);
  const cpuSeconds = (cpu.user + cpu.system) / 1e6;
  const base = {
    unit: "milliseconds" as const,
    cpuSeconds,
    restriction: options.contiguous ? restriction : "",
  };
  if (reason !== undefined || run.infeasible) {
    return {
      ...base,
      status: "infeasible",
      objective: Number.POSITIVE_INFINITY,
      bound: Number.POSITIVE_INFINITY,
      gap: 0,
      stages: [],
      reason: reason ?? exhausted(problem),
    };
  }
  if (run.placed === undefined) {
    const { signal } = options;
    if (signal?.aborted) {
      if (signal.reason instanceof MpoptError) throw signal.reason;
      throw new MpoptError("E_CANCELLED", "The search was cancelled before it found a placement.", [], {
        cause: signal.reason,
      });
    }
    throw new MpoptError(
      "E_SOLVER",
      `Expected a placement within ${options.timeLimitSeconds} seconds but found none in that time.`,
    );
  }
  const stages = stagesOf(graph, problem, run.placed);
  const objective = stages.reduce((most, stage) => Math.max(most, stage.seconds * 1000), 0);
  // A bound that rounding lifts over the objective is the objective.
  const bound = Math.min(run.bound, objective);
  const gap = objective > 0 ? (objective - bound) / objective : 0;
  const solution: InterSolution = {
    ...base,
    status: gap <= defaultGap ? "optimal" : "feasible",
    objective,
    bound,
    gap,
    stages,
  };
  evaluateDnnPartitioning(graph, solution, options);
  return solution;
}

/** Best placement and bound of one solve. */
class Run {
  readonly budget: Budget;
  readonly gap: number;
  objective = Number.POSITIVE_INFINITY;
  bound = 0;
  infeasible = false;
  /** Node indices a device. */
  placed: Placed[] | undefined;
  readonly #started = performance.now();

  constructor(
    readonly problem: PlacementProblem,
    readonly options: DnnPartitioningOptions,
  ) {
    this.budget = new Budget(options.timeLimitSeconds ?? Number.POSITIVE_INFINITY, options.signal);
    this.gap = Math.max(options.gap ?? defaultGap, rounding);
  }

  /** What a better placement stays below. */
  get ceiling(): number {
    return this.objective * (1 - rounding);
  }

  get closed(): boolean {
    return this.infeasible || this.enough(this.objective);
  }

  enough(objective: number): boolean {
    return objective < Number.POSITIVE_INFINITY && objective - this.bound <= this.gap * objective;
  }

  /** Takes a placement where it is better; its blocks are those of `problem`. */
  offer(problem: PlacementProblem, placed: Placed[]): void {
    const objective = loadOf(problem, placed);
    if (!(objective < this.objective)) return;
    this.objective = objective;
    this.placed = placed
      .filter(({ blocks }) => blocks.length > 0)
      .map(({ blocks, processor }) => ({
        blocks: blocks.flatMap((block) => problem.blocks[block]!).sort((a, b) => a - b),
        processor,
      }));
    this.#report();
  }

  raise(bound: number): void {
    if (!(bound > this.bound)) return;
    this.bound = bound;
    if (this.placed) this.#report();
  }

  #report(): void {
    this.options.onProgress?.({
      objective: this.objective,
      bound: Math.min(this.bound, this.objective),
      seconds: (performance.now() - this.#started) / 1000,
    });
  }
}

async function solveContiguous(run: Run): Promise<void> {
  let problem = run.problem;
  const cut = async () => {
    // Few orders are cut worse than this, and a low ceiling makes the cuts short.
    const likely = 2 * run.bound + problem.acceleratorMs.reduce((most, time) => Math.max(most, time), 0);
    for (const order of linearOrders(problem)) {
      const over = () => run.budget.over();
      const found =
        (likely < run.ceiling ? cutOrder(problem, order, likely, over) : undefined) ??
        cutOrder(problem, order, run.ceiling, over);
      if (found) run.offer(problem, found.stages);
      if (run.closed || (await run.budget.breathe())) return;
    }
  };
  await cut();
  problem = reduceProblem(problem, run.ceiling, false);
  if (problem !== run.problem && !run.closed && !run.budget.over()) await cut();
  while (!run.closed && !run.budget.over()) {
    problem = reduceProblem(problem, run.ceiling, false);
    const { outcome, stages } = await searchIdeals(problem, run.ceiling, run.budget);
    if (outcome === "found") run.offer(problem, stages);
    else if (outcome === "none" && run.placed === undefined) run.infeasible = true;
    else if (outcome === "none") run.raise(run.ceiling);
    if (outcome === "open") break;
  }
  if (!run.closed) run.raise(cutBound(problem, run.bound, () => run.budget.over()));
}

async function solveFree(run: Run, chain: PlacementProblem): Promise<void> {
  const { problem, budget } = run;
  for (const order of linearOrders(chain)) {
    if (await budget.breathe()) break;
    const found = cutOrder(chain, order, run.ceiling, () => budget.over());
    if (found) run.offer(chain, found.stages);
  }
  run.raise(cutBound(problem, run.bound, () => budget.over()));
  const search = (on: PlacementProblem, kicks: number) => {
    const start = placementOn(on, run.placed);
    return localSearch(
      on,
      start ? [start] : [],
      kicks,
      new Budget(budget.left() * localShare, budget.signal),
      (deviceOf) => run.offer(on, devicesOf(on, deviceOf)),
      (load) => run.enough(load),
    );
  };
  if (run.closed || budget.over()) return;
  await search(problem, 100);
  if (run.closed || budget.over()) return;
  // Above the gap by more than rounding, so that what it excludes closes the gap.
  const wanted = run.objective * (1 - run.gap) * (1 + 1e-9);
  run.raise(packingBound(problem, run.bound, run.objective, wanted, () => budget.over()));
  const reduced = reduceProblem(problem, run.ceiling, true, () => budget.over());
  if (run.closed || budget.over()) return;
  await search(reduced, 300);
  run.raise(
    Math.min(
      run.objective,
      cutBound(reduced, run.bound, () => budget.over()),
    ),
  );
  if (run.closed || budget.over()) return;
  await solveByMilp(run, reduced);
}

async function solveByMilp(run: Run, problem: PlacementProblem): Promise<void> {
  const start = placementOn(problem, run.placed);
  const ceiling = run.placed ? run.objective : serialLoad(problem);
  try {
    const { bound, closed } = await solvePlacementMilp(problem, ceiling, {
      gap: run.gap / 2,
      budget: run.budget,
      start,
      onPlacement: (deviceOf) => run.offer(problem, devicesOf(problem, deviceOf)),
      onBound: (bound) => run.raise(Math.min(bound, run.objective)),
    });
    if (closed && run.placed === undefined) run.infeasible = true;
    else run.raise(Math.min(closed ? ceiling : bound, run.objective));
  } catch (error) {
    const cancelled = error instanceof MpoptError && error.code === "E_CANCELLED";
    if (!cancelled || !run.options.signal?.aborted) throw error;
  }
}

/** A load that no placement exceeds: every block and every net on one device. */
function serialLoad({ acceleratorMs, processorMs, nets, processors }: PlacementProblem): number {
  let sum = 1e-9;
  for (const [block, time] of acceleratorMs.entries()) {
    const host = processors > 0 ? processorMs[block]! : 0;
    sum += Math.max(Number.isFinite(time) ? time : 0, Number.isFinite(host) ? host : 0);
  }
  return nets.reduce((all, { cost }) => all + cost, sum) * (1 + 1e-9);
}

function devicesOf({ devices, processors }: PlacementProblem, deviceOf: ArrayLike<number>): Placed[] {
  const placed = Array.from({ length: devices + processors }, (_, device): Placed => {
    return { blocks: [], processor: device >= devices };
  });
  for (let block = 0; block < deviceOf.length; block++) placed[deviceOf[block]!]!.blocks.push(block);
  return placed;
}

/** A placement of nodes as devices of the problem's blocks; undefined where it splits one. */
function placementOn(problem: PlacementProblem, placed: Placed[] | undefined): Int32Array | undefined {
  if (!placed) return undefined;
  const home = new Map<number, number>();
  let [accelerators, processors] = [0, problem.devices];
  for (const { blocks: nodes, processor } of placed) {
    const device = processor ? processors++ : accelerators++;
    for (const node of nodes) home.set(node, device);
  }
  const deviceOf = Int32Array.from(problem.blocks, (nodes) => home.get(nodes[0]!)!);
  const whole = problem.blocks.every((nodes, block) =>
    nodes.every((node) => home.get(node) === deviceOf[block]),
  );
  return whole ? deviceOf : undefined;
}

function loadOf(problem: PlacementProblem, placed: Placed[]): number {
  const deviceOf = new Int32Array(problem.blocks.length);
  let [accelerators, processors] = [0, problem.devices];
  for (const { blocks, processor } of placed) {
    const device = processor ? processors++ : accelerators++;
    for (const block of blocks) deviceOf[block] = device;
  }
  return new Loads(problem, deviceOf).objective();
}

function stagesOf(graph: LayeredGraph, problem: PlacementProblem, placed: Placed[]): InterStage[] {
  const blockOf = new Map(
    problem.blocks.flatMap((nodes, block) => nodes.map((node) => [node, block] as const)),
  );
  const deviceOf = new Int32Array(problem.blocks.length);
  let [accelerators, processors] = [0, problem.devices];
  const devices = placed.map(({ blocks: nodes, processor }) => {
    const device = processor ? processors++ : accelerators++;
    for (const node of nodes) deviceOf[blockOf.get(node)!] = device;
    return device;
  });
  const { load } = new Loads(problem, deviceOf);
  return placed.map(({ blocks: nodes }, stage) => ({
    nodes,
    replicas: 1,
    tensor: 1,
    recomputed: [],
    devices: [devices[stage]!],
    seconds: load[devices[stage]!]! / 1000,
    memoryBytes: nodes.reduce((sum, node) => sum + graph.nodes[node]!.variants[0]!.fixedBytes, 0),
  }));
}

/** A sentence on what no placement can meet; undefined where nothing obvious stands in the way. */
function obstacle(graph: LayeredGraph, problem: PlacementProblem): string | undefined {
  const { blocks, acceleratorMs, processorMs, bytes, memoryBytes, devices, processors } = problem;
  for (const [block, nodes] of blocks.entries()) {
    if (processors > 0 && Number.isFinite(processorMs[block]!)) continue;
    const name = `${nodes.length === 1 ? "node" : "the nodes that share a device with node"} ${graph.nodes[nodes[0]!]!.id}`;
    if (devices === 0 || !Number.isFinite(acceleratorMs[block]!)) {
      return `Expected a device that can run ${name} but found none.`;
    }
    if (bytes[block]! > memoryBytes) {
      return `Expected room for ${name} on an accelerator of ${memoryBytes} bytes but ${bytes[block]} are needed.`;
    }
  }
  const all = bytes.reduce((sum, value) => sum + value, 0);
  if (processors === 0 && all > memoryBytes * devices) {
    return `Expected room for ${all} bytes but found ${devices} accelerators of ${memoryBytes} bytes.`;
  }
  return undefined;
}

function exhausted({ memoryBytes, devices }: PlacementProblem): string {
  return `Expected stages of at most ${memoryBytes} bytes on ${devices} accelerators but no way to split the nodes gives them.`;
}
