import {
  bytesPerElement,
  type Dtype,
  type Model,
  MpoptError,
  type Operator,
  type Tensor,
} from "../contracts/index.js";
import type { Workload } from "./graph.js";

/**
 * Evaluation of a model at another workload than the one its document stands at. Tensor shapes and loop
 * dimensions grow with the axes `batch`, `sequence` and `keySequence`; FLOPs grow with the product of those
 * loop dimensions, except where a sliding window bounds the keys of a query. Nothing else depends on the
 * workload, so the evaluation is exact.
 */

export type { Workload } from "./graph.js";

/**
 * Query-key pairs of one sequence that attention computes.
 *
 * Without a mask every query sees all s keys: s^2. A causal mask halves that, s^2 / 2, as flash-attention
 * kernels skip the blocks above the diagonal (Dao, FlashAttention-2, 2023, section 3.1.1, counts FLOPs so). In
 * a causal window of w < s keys, query i sees min(i, w) of them: w s - w (w - 1) / 2 in sum. Where the window is
 * one of the pieces that the sequence is cut into (`chunked`), every piece is a causal sequence of its own.
 */
export function attentionPairs(sequence: number, causal: boolean, window?: number, chunked = false): number {
  if (!causal) return sequence * sequence;
  if (window === undefined || window >= sequence) return (sequence * sequence) / 2;
  if (!chunked) return window * sequence - (window * (window - 1)) / 2;
  const rest = sequence % window;
  return (window * (sequence - rest) + rest * rest) / 2;
}

/** Tokens whose keys the queries of a workload meet. */
const keysOf = ({ sequence, keySequence }: Workload): number => keySequence ?? sequence;

function growth(name: string, workload: Workload): number {
  if (name === "batch") return workload.batch;
  if (name === "sequence") return workload.sequence;
  return name === "keySequence" ? keysOf(workload) : 1;
}

/** Size of an axis or loop dimension of the given name at `workload`; a part of a whole is rounded up. */
export function scaledSize(name: string, size: number, reference: Workload, workload: Workload): number {
  return Math.ceil((size * growth(name, workload)) / growth(name, reference));
}

/** Shape of a tensor at `workload`. */
export function scaledShape(tensor: Tensor, reference: Workload, workload: Workload): number[] {
  return tensor.shape.map((size, i) => scaledSize(tensor.axes[i]!, size, reference, workload));
}

/** Bytes of a tensor at `workload`, in its own dtype unless another is given. */
export function tensorBytes(
  tensor: Tensor,
  reference: Workload,
  workload: Workload,
  dtype: Dtype = tensor.dtype,
): number {
  const elements = scaledShape(tensor, reference, workload).reduce((all, size) => all * size, 1);
  return elements * bytesPerElement[dtype];
}

/**
 * FLOPs of an operator at `workload`.
 *
 * Where `keySequence` exceeds `sequence`, attention counts an even share of the whole's pairs, sequence /
 * keySequence of them: s^2 / 2c for each of c ranks under a causal mask, as ranks get where each holds an early
 * and a late part of the sequence (Llama 3, 2024, section 3.3.2: 2c chunks, rank i holds chunks i and 2c - 1 - i).
 * A window bounds every query by itself, so the same share holds there.
 */
export function scaledFlops(
  operator: Operator,
  reference: Workload,
  workload: Workload,
): { forward: number; backward: number } {
  // Dividing first keeps the numbers whole, so that nothing is lost to rounding.
  let divisor = 1;
  let factor = 1;
  const window = operator.attributes?.window;
  const windowed = typeof window === "number";
  for (const { name } of operator.dims) {
    if (windowed && (name === "sequence" || name === "keySequence")) continue;
    divisor *= growth(name, reference);
    factor *= growth(name, workload);
  }
  if (windowed) {
    const causal = operator.attributes?.causal === true;
    const chunked = operator.attributes?.chunked === true;
    const pairs = (at: Workload) =>
      attentionPairs(keysOf(at), causal, window, chunked) * (at.sequence / keysOf(at));
    divisor *= pairs(reference);
    factor *= pairs(workload);
  }
  const scale = (flops: number) => (flops / divisor) * factor;
  return { forward: scale(operator.flops.forward), backward: scale(operator.flops.backward) };
}

/** An operator with its loop dimensions and FLOPs at `workload`. */
export function operatorAt(operator: Operator, reference: Workload, workload: Workload): Operator {
  return {
    ...operator,
    dims: operator.dims.map((dim) => ({
      ...dim,
      size: scaledSize(dim.name, dim.size, reference, workload),
    })),
    flops: scaledFlops(operator, reference, workload),
  };
}

/**
 * Refuses a sequence that the model has no learned positions for. Rotary positions have no such limit.
 * @throws MpoptError E_USAGE.
 */
export function checkWorkload(model: Model, workload: Workload): void {
  const { architecture } = model;
  const sequence = keysOf(workload);
  if (architecture?.positions === "learned" && sequence > architecture.maxSequence) {
    throw new MpoptError(
      "E_USAGE",
      `Expected a sequence of at most ${architecture.maxSequence} tokens for ${model.name}, which learns its positions, but found ${sequence}.`,
    );
  }
}

/**
 * The whole model at another workload: a document like the given one, with `reference` set to `workload`.
 * @throws MpoptError E_USAGE for a sequence beyond the model's learned positions, and for a part of a sequence:
 * a document stands at whole ones.
 */
export function atWorkload(model: Model, workload: Workload): Model {
  checkWorkload(model, workload);
  if (keysOf(workload) !== workload.sequence) {
    throw new MpoptError(
      "E_USAGE",
      `Expected as many keys as queries for a document of ${model.name} but found ${keysOf(workload)} keys for ${workload.sequence} queries.`,
    );
  }
  const { reference } = model;
  return {
    ...model,
    reference: { batch: workload.batch, sequence: workload.sequence },
    tensors: model.tensors.map((tensor) => ({
      ...tensor,
      shape: scaledShape(tensor, reference, workload),
    })),
    operators: model.operators.map((operator) => operatorAt(operator, reference, workload)),
  };
}

/** One block with the layer that stands for all of its layers. */
export interface DistinctLayer {
  block: string;
  /** The first layer of the block. */
  layer: Model["layers"][number];
  /** How many layers the block has. */
  count: number;
  operators: Operator[];
}

const distinct = new WeakMap<Model, DistinctLayer[]>();
const tensors = new WeakMap<Model, ReadonlyMap<string, Tensor>>();

/** The distinct layers of a model, in the order of their first appearance; computed once a model. */
export function distinctLayers(model: Model): readonly DistinctLayer[] {
  let found = distinct.get(model);
  if (!found) {
    const blocks = new Map<string, DistinctLayer>();
    for (const layer of model.layers) {
      const block = blocks.get(layer.block);
      if (block) block.count += 1;
      else {
        const operators = model.operators.slice(layer.operators.start, layer.operators.end);
        blocks.set(layer.block, { block: layer.block, layer, count: 1, operators });
      }
    }
    found = [...blocks.values()];
    distinct.set(model, found);
  }
  return found;
}

/** The tensors of a model by id; computed once a model. */
export function tensorsById(model: Model): ReadonlyMap<string, Tensor> {
  let found = tensors.get(model);
  if (!found) {
    found = new Map(model.tensors.map((tensor) => [tensor.id, tensor]));
    tensors.set(model, found);
  }
  return found;
}

/** FLOPs of one pass over a micro-batch at `workload`, the reference by default. */
export function modelFlops(
  model: Model,
  workload: Workload = model.reference,
): { forward: number; backward: number } {
  const sum = { forward: 0, backward: 0 };
  for (const { count, operators } of distinctLayers(model)) {
    for (const operator of operators) {
      const flops = scaledFlops(operator, model.reference, workload);
      sum.forward += count * flops.forward;
      sum.backward += count * flops.backward;
    }
  }
  return sum;
}
