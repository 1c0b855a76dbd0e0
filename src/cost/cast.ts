import { bytesPerElement, type Dtype, type Scaling } from "../contracts/index.js";
import type { ComputeModel, Pass } from "./compute.js";
import type { GemmShape, ProductShapes } from "./shapes.js";

/** Types of a product whose operands are narrower than what is around it, and how they are scaled. */
export interface NarrowTypes {
  from: Dtype;
  to: Dtype;
  scaling?: Scaling | undefined;
}

export interface Cast extends NarrowTypes {
  elements: number;
  /** Copies that are written: two where one pass reads rows and another columns, which narrow products need. */
  copies?: number;
}

/** Elements of one block, and the byte of its scale (Open Compute Project, MX specification 1.0, section 5.2). */
const blockElements = 32;

/** Times that a cast reads its tensor: under `row` columns are scaled in two passes of their own. */
const reads: Readonly<Record<Scaling, (copies: number) => number>> = {
  delayed: () => 1,
  current: () => 2,
  row: (copies) => 1 + 2 * (copies - 1),
  block: () => 1,
};

/** Bytes read and written by a cast. */
export function castBytes({ elements, from, to, scaling = "delayed", copies = 1 }: Cast): number {
  const written = bytesPerElement[to] + (scaling === "block" ? 1 / blockElements : 0);
  return elements * (bytesPerElement[from] * reads[scaling](copies) + copies * written);
}

/** Seconds of a cast to a narrower type, which memory bounds. @throws MpoptError as `ComputeModel.seconds`. */
export function castSeconds(cast: Cast, compute: ComputeModel): number {
  if (cast.elements <= 0) return 0;
  return compute.seconds({ kind: "elementwise", dtype: cast.from, flops: 0, bytes: castBytes(cast) });
}

/**
 * Seconds of the casts around a linear layer whose products are narrow: its input and its weight before the forward
 * pass, the gradient of its output before the backward pass. Each is read by rows in one product and by columns in
 * another.
 * @param weights modules that read the input: each scales its own copy under `row` (torchao's Float8Linear under tensor
 *   parallelism, pytorch/torchtitan issue 1207), the others share one.
 */
export function linearCastSeconds(
  { forward }: ProductShapes,
  types: NarrowTypes,
  compute: ComputeModel,
  weights = 1,
): { forward: number; backward: number } {
  const { m, n, k } = forward;
  const groups = forward.groups ?? 1;
  const seconds = (elements: number) =>
    castSeconds({ ...types, copies: 2, elements: elements * groups }, compute);
  const inputs = types.scaling === "row" ? weights : 1;
  return { forward: inputs * seconds(m * k) + seconds(k * n), backward: seconds(m * n) };
}

/** Bytes that a product with narrow operands reads and writes; its result stays in the wide type. */
export function narrowProductBytes(shape: GemmShape, { from, to }: NarrowTypes): number {
  const { m, n, k, groups = 1 } = shape;
  return groups * (bytesPerElement[to] * (m * k + k * n) + bytesPerElement[from] * m * n);
}

/**
 * Seconds of a linear layer with narrow operands: its three products, and the casts around them.
 * @param layer FLOPs of one product; types; modules that read the input.
 */
export function narrowLinearSeconds(
  shapes: ProductShapes,
  { flops, types, weights }: { flops: number; types: NarrowTypes; weights: number },
  compute: ComputeModel,
): { forward: number; backward: number; backwardWeight: number } {
  const product = (pass: Pass, shape: GemmShape) => {
    const bytes = narrowProductBytes(shape, types);
    return compute.withCall(compute.seconds({ kind: "gemm", dtype: types.to, flops, bytes, shape }), pass);
  };
  const casts = linearCastSeconds(shapes, types, compute, weights);
  const weight = product("backward", shapes.weightGradient);
  return {
    forward: product("forward", shapes.forward) + casts.forward,
    backward: product("backward", shapes.inputGradient) + weight + casts.backward,
    backwardWeight: weight,
  };
}
