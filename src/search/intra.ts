import { bytesPerElement, MpoptError, type Recompute } from "../contracts/index.js";
import { seesExperts } from "../cost/mixture.js";
import { localCallCount, operatorSeconds, type PassSeconds } from "../cost/operator.js";
import type { Placement } from "../cost/placement.js";
import { isMaterialized } from "../cost/shapes.js";
import { scaledFlops } from "../models/workload.js";
import { eliminate } from "../solver/eliminate.js";
import { solve } from "../solver/index.js";
import { addSeconds, contextExchange, expertExchange } from "./exchanges.js";
import { keptTensors, localParameters, localWeight, logitTensors, lossBytes } from "./heldTensors.js";
import {
  boundaryPlacement,
  boundaryUse,
  buildLayerProblem,
  chosenLayer,
  type LayerProblem,
  type LayerProblemInput,
  sameUse,
  useSeconds,
  withMicroBatches,
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
 * @param built its problem, for this or another number of micro-batches.
 * @throws MpoptError E_INFEASIBLE when an operator cannot be divided, E_SOLVER when no optimum was proven.
 */
export async function solveLayer(
  input: LayerProblemInput,
  signal?: AbortSignal,
  built = buildLayerProblem(input),
): Promise<LayerCost> {
  const problem = withMicroBatches(built, input.microBatches);
  const exact = eliminate(problem);
  if (exact && Number.isFinite(exact.objective)) {
    const strategies = input.operators.map((_, i) => built.strategies[i]![exact.assignment[i]!]!);
    return priceLayer(input, built, strategies, exact.objective, exact.objective);
  }
  const solution = await solve(problem, { seconds: 30, signal });
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
    const at = built.strategies[i]!.indexOf(strategy);
    const seconds = built.seconds[i]![at]!;
    forwardSeconds += seconds.forward;
    backwardSeconds += seconds.backward;
    backwardWeightSeconds += seconds.backwardWeight;
    weightGradients += built.weightSeconds[i]![at]!;
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

function layerFlops({ operators, context }: LayerProblemInput): { forward: number; backward: number } {
  const sum = { forward: 0, backward: 0 };
  for (const operator of operators) {
    const flops = scaledFlops(operator, context.reference, context.workload);
    sum.forward += flops.forward;
    sum.backward += flops.backward;
  }
  return sum;
}
