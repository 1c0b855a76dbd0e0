import type { Operand, Operator, Tensor } from "../contracts/index.js";
import type { PassBytes } from "./passes.js";

/** What a mixture of experts costs beside the products of its experts and the exchange of tokens. */

/** How the experts of a layer are divided over devices. */
export interface ExpertDivision {
  /** Devices that share the experts of a layer. */
  parallel: number;
  /** Tokens of the busiest of them over the mean. */
  imbalance: number;
  /** Whether the kernels of the exchange sort tokens by expert on their way (`Job.expertDispatch`). */
  fused?: boolean;
  /** Whether every expert takes equally many tokens (`Job.expertCapacity`), so that one call multiplies them all. */
  padded?: boolean;
}

/** Operators whose cost depends on where experts are. */
export function seesExperts({ kind }: Operator): boolean {
  return kind === "grouped_linear" || kind === "dispatch" || kind === "combine";
}

/**
 * Bytes that framework operators move beside one reading and one writing of the operands, by pass.
 *
 * - Tokens that come from other ranks are sorted by expert where a device has several, and sorted back before they
 *   return: a copy each way (Megatron-Core, MoEAlltoAllTokenDispatcher, `sort_chunks_by_idxs`).
 * - A bias behind the experts is weighted by the router's f32 probabilities (TEGroupedMLP, `_apply_bias`). For a result
 *   of 1 byte: the weighted bias in f32, 2; the sum, 1 + 2 read and 2 written; experts joined, 4; the cast, 3. Backward:
 *   the cast, 3; the result's gradient, 3; a product and a sum each for bias and probabilities, 12; experts split, 2.
 * - An activation whose inputs are clamped: two clamps and their join, each reading and writing all of it; backward
 *   masks that read gradient and input, and the join (fused_bias_geglu, `weighted_bias_quick_geglu_impl`).
 * @param bytesOf bytes of an operand on one device.
 */
export function mixtureBytes(
  operator: Operator,
  tensors: ReadonlyMap<string, Tensor>,
  bytesOf: (operand: Operand) => number,
  division: ExpertDivision | undefined,
): PassBytes {
  const { kind, attributes } = operator;
  const sum = (operands: readonly Operand[]) =>
    operands.reduce((bytes, operand) => bytes + bytesOf(operand), 0);
  if (kind === "dispatch" || kind === "combine") {
    const { parallel = 1, fused = false } = division ?? {};
    const local = Number(attributes?.experts ?? Number.POSITIVE_INFINITY) / parallel;
    if (parallel === 1 || fused || local <= 1) return { forward: 0, backward: 0 };
    const routed = kind === "dispatch" ? operator.outputs[0] : operator.inputs[0];
    const copied = routed ? 2 * bytesOf(routed) : 0;
    return { forward: copied, backward: copied };
  }
  if (attributes?.weightedBias === true) {
    const result = sum(operator.outputs);
    return { forward: 14 * result, backward: 20 * result };
  }
  if (attributes?.clamped === true) {
    const clamped = sum(operator.inputs.filter(({ tensor }) => tensors.get(tensor)!.kind !== "parameter"));
    return { forward: 4 * clamped, backward: 5 * clamped };
  }
  return { forward: 0, backward: 0 };
}

/** Framework calls by pass. */
export interface PassCalls {
  forward: number;
  backward: number;
}

/** Kernels of the framework that one call stands for. */
const kernelsOfCall = 3;

/**
 * Calls of a mixture's operators, three kernels each, counted in Megatron-Core's `moe/router.py` and
 * `moe/token_dispatcher.py`: a router scores in f32, picks and counts; tokens are permuted, counted on the host,
 * exchanged with their probabilities, and sorted.
 */
const mixtureCalls: Partial<Record<Operator["kind"], number>> = { router: 4, dispatch: 5, combine: 4 };

/**
 * Calls that one expert's product, or the cast of its operand, takes in the loop over a device's experts; `fitted` to
 * NeMo's Qwen3-30B on B200, of which a layer of 16 experts in MXFP8 takes 8.8 ms with one sequence a micro-batch.
 */
const callsOfExpert = 0.45;

/**
 * Kernels for the bias of one expert that is weighted behind its product: a product and a sum, backward their gradients
 * and sums over tokens, and the gradient's own sum over micro-batches.
 */
const biasKernels = { forward: 2, backward: 7 };

/**
 * Framework calls of an operator of a mixture; undefined of another one. Experts are looped over: a product each
 * forward and two backward, with a cast before each pass where products are narrow.
 */
export function mixtureCallCount(
  operator: Operator,
  tensors: ReadonlyMap<string, Tensor>,
  { parallel, padded }: Pick<ExpertDivision, "parallel" | "padded">,
  narrow: boolean,
): PassCalls | undefined {
  if (operator.kind === "grouped_linear") {
    if (padded) return { forward: 1, backward: 1 };
    const weight = operator.inputs.find(({ tensor }) => tensors.get(tensor)!.kind === "parameter");
    const axis = weight?.dims.indexOf("expert") ?? -1;
    const experts = weight && axis >= 0 ? tensors.get(weight.tensor)!.shape[axis]! / parallel : 1;
    const casts = narrow ? 1 : 0;
    const biased = operator.attributes?.weightedBias === true;
    const each = (products: number, kernels: number) =>
      1 + experts * (callsOfExpert * (products + casts) + (biased ? kernels / kernelsOfCall : 0));
    return { forward: each(1, biasKernels.forward), backward: each(2, biasKernels.backward) };
  }
  const calls = mixtureCalls[operator.kind];
  return calls === undefined ? undefined : { forward: calls, backward: calls };
}
