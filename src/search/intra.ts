import { bytesPerElement, MpoptError, type Operator, type Recompute } from "../contracts/index.js";
import { seesExperts } from "../cost/mixture.js";
import { localCallCount, operatorSeconds, type PassSeconds } from "../cost/operator.js";
import type { Placement } from "../cost/placement.js";
import { isMaterialized } from "../cost/shapes.js";
import { scaledFlops } from "../models/workload.js";
import { eliminate } from "../solver/eliminate.js";
import { solve } from "../solver/index.js";
import { addSeconds, contextExchange, expertExchange } from "./exchanges.js";
import {
  boundaryPlacement,
  boundaryUse,
  buildLayerProblem,
  chosenLayer,
  type LayerProblem,
  type LayerProblemInput,
  sameUse,
  useSeconds,
  weightGradientSeconds,
} from "./intraProblem.js";
import type { Splits } from "./knownShardings.js";
import type { Strategy, Use } from "./strategies.js";

/** Cost of one layer on one device of the tensor-parallel group, for one micro-batch. */
export interface LayerCost {
  forwardSeconds: number;
  backwardSeconds: number;
  /** Part of `backwardSeconds` that makes gradients of parameters: see `OperatorSeconds`. */
  backwardWeightSeconds: number;
  /** Communication over the tensor axis; not contained in forward and backward. */
  forwardCommunicationSeconds: number;
  backwardCommunicationSeconds: number;
  /** Exposed communication between context-parallel ranks, and between those that share experts; not in the above. */
  contextSeconds: PassSeconds;
  expertSeconds: PassSeconds;
  /** Framework calls of both passes. */
  calls: { forward: number; backward: number };
  /** Once a step: reduction over the tensor axis of weight gradients that are partial sums. */
  weightGradientSeconds: number;
  /** Parameters that one device holds, outside experts and in them. */
  parameters: number;
  expertParameters: number;
  /** Those among them that are stored elsewhere too, and only once where both places are one device. */
  tiedParameters: number;
  /** Elements of the weights of products that one device holds: of each shape once, and of the largest parameter. */
  weights: { shapes: ReadonlyMap<string, number>; largest: number };
  /** Activation bytes that one micro-batch keeps from forward to backward. */
  savedBytes: Readonly<Record<Recompute, number>>;
  /** Those where checkpointing keeps every second product: see `MemoryHabits.keeps`. */
  productBytes: number;
  /** Those of the result of attention that does not write its scores. */
  attentionBytes: number;
  /** Seconds that recomputing adds to the backward pass, and the communication among them. */
  recomputeSeconds: Readonly<Record<Recompute, number>>;
  recomputeCommunicationSeconds: Readonly<Record<Recompute, number>>;
  /** Largest bytes that live only inside one operator's call: gathered inputs, whole outputs. */
  workspaceBytes: number;
  /** Bytes of what the loss keeps of the logits, and of their gradient. */
  logitsBytes: number;
  /** Those of the gradient among them. */
  logitsGradientBytes: number;
  /** Bytes a device that leave the layer. */
  outputBytes: number;
  /** FLOPs of the whole layer, all devices together, one micro-batch. */
  flops: { forward: number; backward: number };
  /** Chosen strategy of each operator. */
  strategies: Strategy[];
  /** Value of the intra-operator objective, and its bound. */
  objective: number;
  bound: number;
}

/**
 * Solves one layer to proven optimality and prices the answer.
 * @throws MpoptError E_INFEASIBLE when an operator cannot be divided, E_SOLVER when no optimum was proven.
 */
export async function solveLayer(input: LayerProblemInput, signal?: AbortSignal): Promise<LayerCost> {
  const built = buildLayerProblem(input);
  const exact = eliminate(built.problem);
  if (exact && Number.isFinite(exact.objective)) {
    const strategies = input.operators.map((_, i) => built.strategies[i]![exact.assignment[i]!]!);
    return priceLayer(input, built, strategies, exact.objective, exact.objective);
  }
  const solution = await solve(built.problem, { seconds: 30, signal });
  if (solution.status === "infeasible") {
    throw new MpoptError(
      "E_INFEASIBLE",
      `Expected some sharding of ${input.operators[0]!.module} over ${input.group.size} devices but found none.`,
    );
  }
  if (solution.status !== "optimal") {
    throw new MpoptError(
      "E_SOLVER",
      `Expected a proven sharding of ${input.operators[0]!.module} but the solver answered ${solution.status}.`,
    );
  }
  const strategies = input.operators.map((_, i) => built.strategies[i]![solution.assignment[i]!]!);
  return priceLayer(input, built, strategies, solution.objective, solution.bound);
}

/** Prices a layer whose shardings were solved before, and nothing else: its objective and bound are not numbers. */
export function priceChosen(input: LayerProblemInput, chosen: Splits): LayerCost {
  const built = chosenLayer(input, chosen);
  const strategies = built.strategies.map((only) => only[0]!);
  return priceLayer(input, built, strategies, Number.NaN, Number.NaN);
}

/**
 * The cost of a layer with its experts over other devices, or keys exchanged another way, and all else the same: only
 * operators that see the difference are priced again.
 */
export function priceElsewhere(
  cost: LayerCost,
  before: LayerProblemInput,
  after: LayerProblemInput,
): LayerCost {
  const { operators, group } = before;
  const moved = { forward: 0, backward: 0, backwardWeight: 0 };
  const contextSeconds = { forward: 0, backward: 0 };
  const expertSeconds = { forward: 0, backward: 0 };
  const calls = { ...cost.calls };
  let touched = false;
  for (const [i, operator] of operators.entries()) {
    const isAttention = operator.kind === "attention";
    const isMixture = seesExperts(operator);
    if (!isAttention && !isMixture) continue;
    const strategy = cost.strategies[i]!;
    if (isMixture) {
      const now = operatorSeconds(operator, strategy.split, group.size, after.context);
      const then = operatorSeconds(operator, strategy.split, group.size, before.context);
      moved.forward += now.forward - then.forward;
      moved.backward += now.backward - then.backward;
      moved.backwardWeight += now.backwardWeight - then.backwardWeight;
      const callsNow = localCallCount(operator, strategy.split, group.size, after.context);
      const callsThen = localCallCount(operator, strategy.split, group.size, before.context);
      calls.forward += callsNow.forward - callsThen.forward;
      calls.backward += callsNow.backward - callsThen.backward;
    }
    if (isAttention && after.contextGroup.size > 1) {
      const seconds = operatorSeconds(operator, strategy.split, group.size, after.context);
      addSeconds(contextSeconds, contextExchange(operator, strategy, seconds, after));
    }
    addSeconds(expertSeconds, expertExchange(operator, strategy, after));
    touched = true;
  }
  if (!touched) return cost;
  return {
    ...cost,
    forwardSeconds: cost.forwardSeconds + moved.forward,
    backwardSeconds: cost.backwardSeconds + moved.backward,
    backwardWeightSeconds: cost.backwardWeightSeconds + moved.backwardWeight,
    contextSeconds,
    expertSeconds,
    calls,
    expertParameters: (cost.expertParameters * before.expertGroup.size) / after.expertGroup.size,
    recomputeSeconds: { ...cost.recomputeSeconds, full: cost.recomputeSeconds.full + moved.forward },
  };
}

/** Prices given strategies of a layer; `solveLayer` and the checker of plans share it. */
export function priceLayer(
  input: LayerProblemInput,
  built: LayerProblem,
  strategies: Strategy[],
  objective: number,
  bound: number,
): LayerCost {
  const { operators, context, group, sequenceParallel } = input;
  let forwardSeconds = 0;
  let backwardSeconds = 0;
  let backwardWeightSeconds = 0;
  let backwardCommunicationSeconds = 0;
  let weightGradients = 0;
  let parameters = 0;
  let expertParameters = 0;
  let tiedParameters = 0;
  let attentionSeconds = 0;
  const calls = { forward: 0, backward: 0 };
  const shapes = new Map<string, number>();
  let largest = 0;
  const contextSeconds = { forward: 0, backward: 0 };
  const expertSeconds = { forward: 0, backward: 0 };
  for (const [i, operator] of operators.entries()) {
    const strategy = strategies[i]!;
    const seconds = built.seconds[i]![built.strategies[i]!.indexOf(strategy)]!;
    forwardSeconds += seconds.forward;
    backwardSeconds += seconds.backward;
    backwardWeightSeconds += seconds.backwardWeight;
    weightGradients += weightGradientSeconds(operator, strategy, { ...input, microBatches: 1 });
    if (operator.kind === "attention") attentionSeconds += seconds.forward;
    addSeconds(calls, localCallCount(operator, strategy.split, group.size, context));
    const held = localParameters(operator, strategy, input);
    if (operator.kind === "grouped_linear") expertParameters += held.all / input.expertGroup.size;
    else parameters += held.all;
    tiedParameters += held.tied;
    const weight = localWeight(operator, strategy, input);
    if (weight && operator.kind !== "embedding") shapes.set(weight.shape, weight.elements);
    largest = Math.max(largest, weight?.elements ?? 0);
    addSeconds(contextSeconds, contextExchange(operator, strategy, seconds, input));
    addSeconds(expertSeconds, expertExchange(operator, strategy, input));
  }
  const exposed = 1 - input.overlap("tensor");
  const kept = keptTensors(operators);
  const local = (bytes: number, placement: Placement) =>
    placement.kind === "shard" ? bytes / group.size : bytes;
  let forwardCommunicationSeconds = 0;
  let workspaceBytes = 0;
  let boundaryBytes = 0;
  let outputBytes = 0;
  const logits = logitTensors(operators);
  let logitsBytes = 0;
  let logitsGradientBytes = 0;
  const saved = { none: 0, selective: 0 };
  let productBytes = 0;
  let attentionBytes = 0;
  for (const flow of built.tensors) {
    const boundary = boundaryPlacement(flow.tensor, sequenceParallel);
    const produced = flow.producer
      ? strategies[flow.producer.operator]!.outputs[flow.producer.output]!
      : boundary;
    const uses: Use[] = flow.leaves ? [boundaryUse(boundary)] : [];
    for (const reader of flow.readers) {
      const use = strategies[reader.operator]!.inputs[reader.input]!;
      if (!uses.some((each) => sameUse(each, use))) uses.push(use);
    }
    const seconds = useSeconds(produced, uses, flow.bytes, input);
    forwardCommunicationSeconds += exposed * seconds.forward;
    backwardCommunicationSeconds += exposed * seconds.backward;
    const isLogits = logits.has(flow.tensor.id);
    const largest = isLogits
      ? 0
      : Math.max(local(flow.bytes, produced), ...uses.map((use) => local(flow.bytes, use.placement)));
    workspaceBytes = Math.max(workspaceBytes, largest);
    // A partial sum is stored as what it is reduced to: the smallest placement that a reader takes.
    const stored =
      produced.kind === "partial"
        ? Math.min(flow.bytes, ...uses.map((use) => local(flow.bytes, use.placement)))
        : local(flow.bytes, produced);
    if (!flow.producer) boundaryBytes += stored;
    if (!flow.producer || kept.products.has(flow.tensor.id)) productBytes += stored;
    if (flow.leaves) outputBytes += local(flow.bytes, boundary);
    if (isLogits) {
      const own = bytesPerElement[flow.tensor.dtype];
      const each = lossBytes(operators, own, bytesPerElement[context.dtype]);
      logitsBytes += (stored / own) * (each.saved + each.gradient);
      logitsGradientBytes += (stored / own) * each.gradient;
      continue;
    }
    const maker = flow.producer?.output === 0 ? operators[flow.producer.operator]! : undefined;
    if (maker?.kind === "attention" && !isMaterialized(maker)) attentionBytes += stored;
    if (kept.none.has(flow.tensor.id)) saved.none += stored;
    if (kept.selective.has(flow.tensor.id)) saved.selective += stored;
  }
  return {
    forwardSeconds,
    backwardSeconds,
    backwardWeightSeconds,
    forwardCommunicationSeconds,
    backwardCommunicationSeconds,
    contextSeconds,
    expertSeconds,
    calls,
    weightGradientSeconds: weightGradients,
    parameters,
    expertParameters,
    tiedParameters,
    weights: { shapes, largest },
    productBytes,
    attentionBytes,
    savedBytes: { none: saved.none, selective: saved.selective, full: boundaryBytes },
    recomputeSeconds: {
      none: 0,
      selective: attentionSeconds,
      full: forwardSeconds + forwardCommunicationSeconds,
    },
    recomputeCommunicationSeconds: { none: 0, selective: 0, full: forwardCommunicationSeconds },
    workspaceBytes: 2 * workspaceBytes,
    logitsBytes,
    logitsGradientBytes,
    outputBytes,
    flops: layerFlops(input),
    strategies,
    objective,
    bound,
  };
}

function localParameters(
  operator: Operator,
  strategy: Strategy,
  { context, group }: LayerProblemInput,
): { all: number; tied: number } {
  const count = { all: 0, tied: 0 };
  for (const [i, operand] of operator.inputs.entries()) {
    const tensor = context.tensors.get(operand.tensor)!;
    if (tensor.kind !== "parameter") continue;
    const size = tensor.shape.reduce((product, n) => product * n, 1);
    const held = strategy.inputs[i]!.placement.kind === "shard" ? size / group.size : size;
    count.all += held;
    if (tensor.tiedTo) count.tied += held;
  }
  return count;
}

/** Products whose weights have gradients of a matrix each, and the table that tokens are looked up in. */
const weighted: ReadonlySet<Operator["kind"]> = new Set(["linear", "grouped_linear", "embedding"]);

/**
 * What one device holds of an operator's weights: those of one product are one tensor, and of experts one's are meant.
 * Operators of one shape and placement have weights of one shape.
 */
function localWeight(
  operator: Operator,
  strategy: Strategy,
  { context, group }: LayerProblemInput,
): { shape: string; elements: number } | undefined {
  if (!weighted.has(operator.kind)) return undefined;
  const shapes: string[] = [];
  let elements = 0;
  const results = new Set(operator.outputs.flatMap(({ dims }) => dims));
  for (const [i, { tensor: id, dims }] of operator.inputs.entries()) {
    const tensor = context.tensors.get(id)!;
    // Biases have no axis that is contracted.
    const isWeight = dims.some((dim) => dim !== null && dim !== "expert" && !results.has(dim));
    if (tensor.kind !== "parameter" || !isWeight) continue;
    const { placement } = strategy.inputs[i]!;
    const own = tensor.shape.filter((_, axis) => dims[axis] !== "expert");
    const split = placement.kind === "shard" && dims[placement.axis] !== "expert";
    elements += own.reduce((all, n) => all * n, 1) / (split ? group.size : 1);
    shapes.push(`${own.join("x")}/${split ? dims[placement.axis] : ""}`);
  }
  return elements > 0 ? { shape: shapes.join("+"), elements } : undefined;
}

/**
 * Tensors that stay from forward to backward. Selective recomputation repeats the attention core (Korthikanti
 * et al. 2022, section 5): what only attention keeps is dropped, its inputs stay. By products, the results of every
 * second one and of attention stay, where something that the backward reads is made from them.
 */
function keptTensors(operators: readonly Operator[]): Record<"none" | "selective" | "products", Set<string>> {
  const none = new Set<string>();
  const selective = new Set<string>();
  for (const operator of operators) {
    for (const id of operator.savedForBackward) {
      none.add(id);
      const isOutput = operator.outputs.some((operand) => operand.tensor === id);
      if (operator.kind !== "attention" || !isOutput) selective.add(id);
    }
  }
  const read = new Set(none);
  for (const { inputs, outputs } of operators.toReversed()) {
    if (outputs.some(({ tensor }) => read.has(tensor))) for (const { tensor } of inputs) read.add(tensor);
  }
  const products = new Set<string>();
  let count = 0;
  for (const { kind, outputs } of operators) {
    for (const { tensor } of outputs) {
      const isProduct = kind === "linear" || kind === "grouped_linear";
      const stays = kind === "attention" || (isProduct && count++ % 2 === 0);
      if (stays && read.has(tensor)) products.add(tensor);
    }
  }
  return { none, selective, products };
}

/** Ids of the tensors that a loss reads. */
function logitTensors(operators: readonly Operator[]): Set<string> {
  const losses = operators.filter((operator) => operator.kind === "cross_entropy");
  return new Set(losses.flatMap((operator) => operator.inputs.map((operand) => operand.tensor)));
}

/** Bytes a logit that the loss keeps until its backward, and that this adds: what the operator says, else its types'. */
function lossBytes(operators: readonly Operator[], saved: number, gradient: number) {
  const attributes = operators.find((operator) => operator.kind === "cross_entropy")?.attributes;
  return {
    saved: Number(attributes?.savedBytes ?? saved),
    gradient: Number(attributes?.gradientBytes ?? gradient),
  };
}

function layerFlops({ operators, context }: LayerProblemInput): { forward: number; backward: number } {
  const sum = { forward: 0, backward: 0 };
  for (const operator of operators) {
    const flops = scaledFlops(operator, context.reference, context.workload);
    sum.forward += flops.forward;
    sum.backward += flops.backward;
  }
  return sum;
}
