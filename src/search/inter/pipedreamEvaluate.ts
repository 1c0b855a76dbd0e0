import { MpoptError } from "../../contracts/index.js";
import type { LayeredGraph } from "../../models/layered.js";
import type { PipedreamOptions, PipedreamStage } from "./pipedream.js";
import type { InterStage } from "./solution.js";

/**
 * PipeDream's objective straight from its definition: sets of nodes, no tables, nothing shared with the search.
 */

/** What is evaluated: a plan's stages, and the machines per level that it uses. */
export interface PipedreamPlan {
  stages: Pick<PipedreamStage, "nodes" | "levels">[];
  machines: number[];
}

/**
 * Checks that stages place each node exactly once, and that no edge leads back to an earlier stage: what precedes
 * a stage's end is then a down-set of the graph.
 * @throws MpoptError E_PLAN_INVALID naming the node or the edge.
 */
export function checkPlacement(
  graph: LayeredGraph,
  { stages }: { stages: Pick<InterStage, "nodes">[] },
): void {
  const fail = (message: string): never => {
    throw new MpoptError("E_PLAN_INVALID", message);
  };
  const place = new Map<number, number>();
  stages.forEach(({ nodes }, stage) => {
    if (nodes.length === 0) fail(`Expected at least one node in stage ${stage} but found none.`);
    for (const node of nodes) {
      if (!graph.nodes[node]) fail(`Expected nodes of the graph in stage ${stage} but found index ${node}.`);
      const before = place.get(node);
      if (before !== undefined) {
        fail(
          `Expected node ${graph.nodes[node]!.id} in one stage but found it in stages ${before} and ${stage}.`,
        );
      }
      place.set(node, stage);
    }
  });
  graph.nodes.forEach(({ id }, node) => {
    if (!place.has(node)) fail(`Expected node ${id} in one stage but found it in none.`);
  });
  for (const { from, to } of graph.edges) {
    if (place.get(from)! <= place.get(to)!) continue;
    fail(
      `Expected edges to later stages but ${graph.nodes[from]!.id} → ${graph.nodes[to]!.id} leads from stage ` +
        `${place.get(from)} to stage ${place.get(to)}.`,
    );
  }
}

/**
 * Seconds per minibatch of a plan in PipeDream's model; infinite where a stage breaks the memory limit of
 * `options`.
 * @throws MpoptError E_PLAN_INVALID for a plan that breaks the model's rules: nodes not placed once, machines
 *   left over, replicas of a straight pipeline.
 */
export function evaluatePipedream(
  graph: LayeredGraph,
  plan: PipedreamPlan,
  options: Omit<PipedreamOptions, "machines">,
): number {
  checkPlacement(graph, plan);
  const { stages, machines } = plan;
  const { bandwidths, memoryBytes, peerMemory = false } = options;
  const ancestors = ancestorSets(graph);
  const sum = (part: PipedreamPlan["stages"], of: (node: number) => number) =>
    part.reduce((total, { nodes }) => nodes.reduce((all, node) => all + of(node), total), 0);
  const cost = (node: number) => {
    const { variants } = graph.nodes[node]!;
    return variants.find(({ tensor, recompute }) => tensor === 1 && !recompute) ?? variants[0]!;
  };
  const parameters = (part: PipedreamPlan["stages"]) => sum(part, (node) => cost(node).parameterBytes);
  const activations = (part: PipedreamPlan["stages"]) => sum(part, (node) => cost(node).activationBytes);

  /** Bytes that leave the nodes of all stages before `stage`. */
  const output = (stage: number): number => {
    const done = new Set(stages.slice(0, stage).flatMap(({ nodes }) => nodes));
    const inner = new Set(graph.edges.filter(({ to }) => done.has(to)).map(({ from }) => from));
    const sent = new Set<number>();
    for (const node of done) {
      if (inner.has(node)) continue;
      sent.add(node);
      for (const { from, to } of graph.edges) {
        if (!ancestors[node]!.has(from)) continue;
        if (to !== node && !ancestors[node]!.has(to)) sent.add(from);
      }
    }
    return [...sent].reduce((total, node) => total + cost(node).activationBytes, 0);
  };

  let fits = true;
  /** Value of stages [begin, end) at one level, held in `copies` copies, `later` devices after them. */
  const value = (level: number, begin: number, end: number, copies: number, later: number): number => {
    const part = stages.slice(begin, end);
    if (level < 0) {
      if (part.length !== 1)
        throw invalid(`one stage in a stage of the innermost level but found ${part.length}`);
      const replicas = copies;
      const inFlight = Math.ceil((replicas + later) / replicas);
      const peak = inFlight * (activations(part) + parameters(part)) + parameters(part);
      const limited = options.trueMemory ?? !peerMemory;
      if (memoryBytes !== undefined && limited && peak > memoryBytes) fits = false;
      return sum(part, (node) => cost(node).forwardSeconds + cost(node).backwardSeconds);
    }
    const n = machines[level]!;
    const inside = machines.slice(0, level).reduce((product, k) => product * k, 1);
    const bytesPerSecond = bandwidths[level]!;
    let worst = 0;
    let used = 0;
    for (let from = begin, q = 0; from < end; q++) {
      const { stage, replicas: m } = stages[from]!.levels[level]!;
      let to = from + 1;
      while (to < end && stages[to]!.levels[level]!.stage === stage) to++;
      if (options.straight && m !== 1) throw invalid(`one machine a stage but found ${m}`);
      used += m;
      const own = stages.slice(from, to);
      const weights = parameters(own);
      if (peerMemory && Math.ceil((n - used) / m) * (activations(own) + weights) > memoryBytes!) fits = false;
      let reduce = (4 * (m - 1) * weights) / (bytesPerSecond * m);
      if (q === 0 && level > 0) reduce /= machines[level - 1]!;
      const range = value(level - 1, from, to, copies * m, later + copies * (n - used) * inside);
      worst = Math.max(worst, (range + reduce) / m);
      if (q > 0 && !options.freeTransfers) {
        worst = Math.max(worst, (2 * output(from)) / (bytesPerSecond * m));
        if (to < stages.length) worst = Math.max(worst, (2 * output(to)) / (bytesPerSecond * m));
      }
      from = to;
    }
    if (used !== n) throw invalid(`stages on all ${n} machines of level ${level} but found ${used} in use`);
    return worst;
  };
  if (machines.length !== bandwidths.length) {
    throw invalid(`machines for each of ${bandwidths.length} levels but found ${machines.length}`);
  }
  const seconds = value(machines.length - 1, 0, stages.length, 1, 0);
  return fits ? seconds : Number.POSITIVE_INFINITY;
}

function invalid(what: string): MpoptError {
  return new MpoptError("E_PLAN_INVALID", `Expected ${what}.`);
}

/** All ancestors of each node, itself not among them. */
function ancestorSets(graph: LayeredGraph): Set<number>[] {
  const before = graph.nodes.map((): number[] => []);
  for (const { from, to } of graph.edges) before[to]!.push(from);
  return graph.nodes.map((_, node) => {
    const seen = new Set<number>();
    const open = [...before[node]!];
    while (open.length > 0) {
      const next = open.pop()!;
      if (seen.has(next)) continue;
      seen.add(next);
      open.push(...before[next]!);
    }
    return seen;
  });
}
