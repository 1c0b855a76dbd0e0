import type { Operand, Operator, Tensor } from "../contracts/index.js";
import type { Workload } from "../models/workload.js";
import { isMaterialized } from "./shapes.js";

/**
 * Passes over memory beside those that operators count, which are what the fused kernels of Megatron-LM and Transformer
 * Engine move.
 */

/** Bytes by pass. */
export interface PassBytes {
  forward: number;
  backward: number;
}

/** Bytes a feature that a rotation moves over those of the 16-bit features in and out: it runs in f32, in steps. */
const rotation = { forward: 16, backward: 14 };

/**
 * Bytes that an operator moves beside its counted ones, as PyTorch 2 runs it:
 * - the gradient of a bias is a sum of its own over the output's gradient;
 * - gradients of one input from several weights are added up in pairs;
 * - gradients of the parts of one projection are copied behind each other;
 * - the gradient of a norm's gain is a second kernel over the same two tensors;
 * - a rotation casts to f32, multiplies, and casts back (`apply_rotary_emb` of Llama).
 * @param bytesOf bytes of an operand on one device.
 */
export function eagerBytes(
  operator: Operator,
  tensors: ReadonlyMap<string, Tensor>,
  bytesOf: (operand: Operand) => number,
): PassBytes {
  const isParameter = ({ tensor }: Operand) => tensors.get(tensor)!.kind === "parameter";
  const inputs = operator.inputs.filter((operand) => !isParameter(operand));
  const sum = (operands: readonly Operand[]) =>
    operands.reduce((bytes, operand) => bytes + bytesOf(operand), 0);
  if (operator.kind === "linear") {
    const contracts = ({ dims }: Operand) =>
      dims.some((dim) => dim !== null && !operator.outputs[0]!.dims.includes(dim));
    const parameters = operator.inputs.filter(isParameter);
    const weights = parameters.filter(contracts).length;
    const output = sum(operator.outputs);
    const bias = parameters.length > weights ? output : 0;
    const joined = weights === 1 && operator.outputs.length > 1 ? 2 * output : 0;
    return { forward: 0, backward: bias + joined + 3 * Math.max(0, weights - 1) * sum(inputs) };
  }
  if (operator.kind === "norm") return { forward: 0, backward: 2 * sum(inputs) };
  if (operator.name === "rotary") {
    // Features of 2 bytes each.
    const features = sum(inputs) / 2;
    return { forward: rotation.forward * features, backward: rotation.backward * features };
  }
  return { forward: 0, backward: 0 };
}

/**
 * Scores beside each other that Megatron-LM's fused softmax handles at a time: where the sequences times heads of a
 * device are no multiple, each step is a kernel of its own (`FusedScaleMaskSoftmax.is_kernel_available`).
 */
const fusedSoftmaxGroup = 4;

/**
 * Kernels of the softmax that is not fused (to f32, scale, mask, softmax, and back), and the bytes a score that they
 * move over those of the fused one: 2 + 4, thrice 4 + 4, and 4 + 2 over 2 + 2.
 */
export const plainSoftmax = { calls: 5, traffic: 9 } as const;

/** Whether an operator is a softmax of written scores that a device cannot fuse. */
export function isPlainSoftmax(
  operator: Operator,
  divisor: (dim: string) => number,
  workload: Workload,
): boolean {
  if (!isMaterialized(operator) || operator.name !== "softmax") return false;
  const heads = operator.dims.find(({ name }) => name === "head")?.size ?? fusedSoftmaxGroup;
  return ((workload.batch * heads) / divisor("head")) % fusedSoftmaxGroup !== 0;
}
