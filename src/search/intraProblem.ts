import type { Group } from "../cluster/index.js";
import {
  type ContextExchange,
  MpoptError,
  type Operator,
  type Runtime,
  type Tensor,
} from "../contracts/index.js";
import type { CommunicationModel } from "../cost/communication.js";
import {
  bytesOf,
  type CostContext,
  type OperatorSeconds,
  operatorSeconds,
  type PassSeconds,
} from "../cost/operator.js";
import type { OverlapKind } from "../cost/overlap.js";
import { type Placement, partial, replicate, samePlacement, shard } from "../cost/placement.js";
import { reshardSeconds } from "../cost/resharding.js";
import type { Problem, ProblemEdge, ProblemNode } from "../solver/problem.js";
import type { Splits } from "./knownShardings.js";
import { enumerateStrategies, gradientPlacement, type Strategy, strategyOf, type Use } from "./strategies.js";

/**
 * The intra-operator problem of one layer on one mesh axis (Alpa, OSDI'22, section 4.2, for one block):
 * choose a strategy an operator so that compute plus resharding of activations and gradients is least.
 *
 * Nodes are the operators, and one node a tensor with several readers. Such a tensor is resharded once for
 * each distinct way in which it is read, however many readers share it; its node's strategies are the sets of
 * ways, so that the problem stays pairwise.
 */

/** What a layer's problem is made of. */
export interface LayerProblemInput {
  operators: readonly Operator[];
  context: CostContext;
  communication: CommunicationModel;
  /** The mesh axis that operators are split over. */
  group: Group;
  runtime: Runtime;
  /** Placement of the activations that enter and leave the layer: split along the sequence, or whole. */
  sequenceParallel: boolean;
  /** Micro-batches a step: weight gradients that are partial sums are reduced once a step. */
  microBatches: number;
  /** Devices that share one expert: the whole group, or 1. */
  expertTensor: number;
  /** Ranks that share the tokens of a sequence, and those that share the experts of a layer. */
  contextGroup: Group;
  contextExchange: ContextExchange;
  expertGroup: Group;
  /** Share of each kind of communication that hides. */
  overlap: (kind: OverlapKind) => number;
  /** See `reshardSeconds`. */
  copySeconds?: (bytes: number) => number;
}

export interface LayerProblem {
  problem: Problem;
  /** Strategies of each operator, in the operators' order; node i of the problem is operator i. */
  strategies: Strategy[][];
  /** Times of each operator's strategies. */
  seconds: OperatorSeconds[][];
  /** Seconds once a step of each operator's strategies, for weight gradients that are partial sums. */
  weightSeconds: number[][];
  /** Micro-batches of a step that the problem's costs are for. */
  microBatches: number;
  /** One entry a resharding that a choice may cause. */
  tensors: TensorFlow[];
}

/** One activation inside the layer: who makes it, who reads it. */
export interface TensorFlow {
  tensor: Tensor;
  bytes: number;
  /** Operator and output position; null where the tensor enters the layer. */
  producer: { operator: number; output: number } | null;
  readers: { operator: number; input: number }[];
  /** Whether the tensor leaves the layer. */
  leaves: boolean;
}

/** Placement of activations between layers. */
export function boundaryPlacement(tensor: Tensor, sequenceParallel: boolean): Placement {
  const axis = tensor.axes.indexOf("sequence");
  return sequenceParallel && axis >= 0 ? shard(axis) : replicate;
}

/** A boundary tensor is read and returned in the same placement. */
export function boundaryUse(placement: Placement): Use {
  return { placement, gradient: placement };
}

/**
 * Forward and backward seconds to serve a set of ways of reading a tensor. Each placement is made once and
 * each kind of gradient is brought home once, however many ways share them.
 */
export function useSeconds(
  produced: Placement,
  uses: readonly Use[],
  bytes: number,
  { group, communication, copySeconds }: Pick<LayerProblemInput, "group" | "communication" | "copySeconds">,
): PassSeconds {
  const wanted = gradientPlacement(produced);
  let forward = 0;
  let backward = 0;
  for (const [i, use] of uses.entries()) {
    const before = uses.slice(0, i);
    if (!before.some((each) => samePlacement(each.placement, use.placement))) {
      forward += reshardSeconds(produced, use.placement, bytes, group, communication, copySeconds);
    }
    if (!before.some((each) => samePlacement(each.gradient, use.gradient))) {
      backward += reshardSeconds(use.gradient, wanted, bytes, group, communication, copySeconds);
    }
  }
  return { forward, backward };
}

export function sameUse(a: Use, b: Use): boolean {
  return samePlacement(a.placement, b.placement) && samePlacement(a.gradient, b.gradient);
}

/** Activations of a layer with their producer and readers. */
export function tensorFlows(operators: readonly Operator[], context: CostContext): TensorFlow[] {
  const flows = new Map<string, TensorFlow>();
  const flow = (id: string): TensorFlow | undefined => {
    const tensor = context.tensors.get(id)!;
    if (tensor.kind === "parameter" || tensor.kind === "input") return undefined;
    let known = flows.get(id);
    if (!known) {
      known = { tensor, bytes: bytesOf(tensor, context), producer: null, readers: [], leaves: false };
      flows.set(id, known);
    }
    return known;
  };
  for (const [i, operator] of operators.entries()) {
    operator.inputs.forEach((operand, input) => {
      flow(operand.tensor)?.readers.push({ operator: i, input });
    });
    operator.outputs.forEach((operand, output) => {
      const made = flow(operand.tensor);
      if (made) made.producer = { operator: i, output };
    });
  }
  const last = operators[operators.length - 1]!;
  for (const made of flows.values()) {
    made.leaves =
      made.readers.length === 0 && last.outputs.some((operand) => operand.tensor === made.tensor.id);
  }
  return [...flows.values()];
}

/** A layer whose shardings are chosen: one strategy an operator, and nothing to solve. */
export function chosenLayer(input: LayerProblemInput, chosen: Splits): LayerProblem {
  const { operators, context, group } = input;
  return {
    problem: { nodes: [], edges: [] },
    strategies: operators.map((operator, i) => [strategyOf(operator, chosen[i]!)]),
    seconds: operators.map((operator, i) => [operatorSeconds(operator, chosen[i]!, group.size, context)]),
    weightSeconds: operators.map((operator, i) => [
      weightGradientSeconds(operator, strategyOf(operator, chosen[i]!), input),
    ]),
    microBatches: input.microBatches,
    tensors: tensorFlows(operators, context),
  };
}

/** Strategies that the input's rules leave to an operator. */
export function allowedStrategies(operator: Operator, input: LayerProblemInput): Strategy[] {
  const { context, group, runtime, sequenceParallel, expertTensor } = input;
  const rules = { runtime, degree: group.size, sequenceParallel, expertTensor };
  return enumerateStrategies(operator, context.tensors, workloadSizes(context), rules);
}

/**
 * Builds the problem.
 * @throws MpoptError E_INFEASIBLE naming the first operator that has no strategy at this degree.
 */
export function buildLayerProblem(input: LayerProblemInput): LayerProblem {
  const { operators, context, group, sequenceParallel } = input;
  const strategies: Strategy[][] = [];
  const seconds: OperatorSeconds[][] = [];
  const weightSeconds: number[][] = [];
  const nodes: ProblemNode[] = [];
  for (const operator of operators) {
    const found = allowedStrategies(operator, input);
    if (found.length === 0) {
      throw new MpoptError(
        "E_INFEASIBLE",
        `Expected ${operator.module} (${operator.name}) to divide over ${group.size} tensor-parallel devices but found ${sizesOf(operator)}.`,
      );
    }
    const times = found.map((each) => operatorSeconds(operator, each.split, group.size, context));
    const weights = found.map((each) => weightGradientSeconds(operator, each, input));
    const costs = times.map(
      ({ forward, backward }, s) => forward + backward + weights[s]! / input.microBatches,
    );
    weightSeconds.push(weights);
    strategies.push(found);
    seconds.push(times);
    nodes.push({ costs, usages: found.map(() => 0) });
  }
  const exposed = 1 - input.overlap("tensor");
  const tensors = tensorFlows(operators, context);
  const edges: ProblemEdge[] = [];
  for (const flow of tensors) addFlow(flow);
  return {
    problem: { nodes, edges },
    strategies,
    seconds,
    weightSeconds,
    microBatches: input.microBatches,
    tensors,
  };

  function addFlow(flow: TensorFlow): void {
    const boundary = boundaryPlacement(flow.tensor, sequenceParallel);
    const produced: Placement[] = flow.producer
      ? strategies[flow.producer.operator]!.map((each) => each.outputs[flow.producer!.output]!)
      : [boundary];
    const cost = (from: Placement, uses: readonly Use[]) => {
      const { forward, backward } = useSeconds(from, uses, flow.bytes, input);
      return exposed * (forward + backward);
    };
    const fixed: Use[] = flow.leaves ? [boundaryUse(boundary)] : [];
    if (flow.readers.length + fixed.length <= 1) {
      const reader = flow.readers[0];
      const uses = reader ? strategies[reader.operator]!.map((each) => each.inputs[reader.input]!) : fixed;
      if (uses.length > 0)
        addTable(flow.producer?.operator, reader?.operator, produced, uses, (from, use) => cost(from, [use]));
      return;
    }
    const sets = reachableSets(
      flow.readers.map((reader) => strategies[reader.operator]!.map((each) => each.inputs[reader.input]!)),
      fixed,
    );
    const node = nodes.length;
    nodes.push({ costs: sets.map(() => 0), usages: sets.map(() => 0) });
    addTable(flow.producer?.operator, node, produced, sets, cost);
    for (const reader of flow.readers) {
      const uses = strategies[reader.operator]!.map((each) => each.inputs[reader.input]!);
      addTable(node, reader.operator, sets, uses, (set, use) =>
        set.some((each) => sameUse(each, use)) ? 0 : Number.POSITIVE_INFINITY,
      );
    }
  }

  /** Adds a table between two nodes; a missing end is a constant, and its cost goes to the other end. */
  function addTable<A, B>(
    from: number | undefined,
    to: number | undefined,
    rows: readonly A[],
    columns: readonly B[],
    cost: (row: A, column: B) => number,
  ): void {
    if (from === undefined && to === undefined) return;
    if (from === undefined) {
      columns.forEach((column, q) => {
        nodes[to!]!.costs[q]! += cost(rows[0]!, column);
      });
    } else if (to === undefined) {
      rows.forEach((row, p) => {
        nodes[from]!.costs[p]! += cost(row, columns[0]!);
      });
    } else {
      edges.push({ from, to, costs: rows.flatMap((row) => columns.map((column) => cost(row, column))) });
    }
  }
}

/** The problem for another number of micro-batches, which share the reduction of weight gradients. */
export function withMicroBatches(
  { problem, weightSeconds, microBatches: before }: LayerProblem,
  microBatches: number,
): Problem {
  if (microBatches === before) return problem;
  const change = 1 / microBatches - 1 / before;
  const nodes = problem.nodes.map((node, i) => {
    const weights = weightSeconds[i];
    if (!weights?.some((seconds) => seconds > 0)) return node;
    return { ...node, costs: node.costs.map((cost, s) => cost + change * weights[s]!) };
  });
  return { nodes, edges: problem.edges };
}

/** Seconds once a step for reducing weight gradients that the split leaves as partial sums. */
function weightGradientSeconds(operator: Operator, strategy: Strategy, input: LayerProblemInput): number {
  let seconds = 0;
  for (const [i, operand] of operator.inputs.entries()) {
    const tensor = input.context.tensors.get(operand.tensor)!;
    if (tensor.kind !== "parameter" || !samePlacement(strategy.inputs[i]!.gradient, partial)) continue;
    // Whole experts are on other devices of the axis: theirs are reduced with the data-parallel gradients.
    if (operator.kind === "grouped_linear" && input.expertTensor < input.group.size) continue;
    // The bias of a product whose sums are reduced is added after the reduction, where its gradient is whole.
    if (operator.kind === "linear" && tensor.shape.length === 1) continue;
    const bytes = bytesOf(tensor, input.context);
    seconds += input.communication.collectiveSeconds("allReduce", bytes, input.group);
  }
  return seconds;
}

/** Every set of uses that some choice of the readers' strategies needs, each set without repetition. */
function reachableSets(readers: readonly Use[][], fixed: readonly Use[]): Use[][] {
  const kinds: Use[] = [];
  const indexOf = (use: Use) => {
    const known = kinds.findIndex((each) => sameUse(each, use));
    if (known >= 0) return known;
    kinds.push(use);
    return kinds.length - 1;
  };
  let masks = new Set<number>([fixed.reduce((mask, use) => mask | (1 << indexOf(use)), 0)]);
  for (const uses of readers) {
    const choices = [...new Set(uses.map((use) => 1 << indexOf(use)))];
    const next = new Set<number>();
    for (const mask of masks) for (const choice of choices) next.add(mask | choice);
    masks = next;
  }
  return [...masks].sort((a, b) => a - b).map((mask) => kinds.filter((_, i) => mask & (1 << i)));
}

function workloadSizes(context: CostContext): Map<string, number> {
  return new Map([
    ["batch", context.workload.batch],
    ["sequence", context.workload.sequence],
    ["keySequence", context.workload.keySequence ?? context.workload.sequence],
  ]);
}

function sizesOf(operator: Operator): string {
  return operator.dims.map((dim) => `${dim.name} ${dim.size}`).join(", ");
}
