import { bytesPerElement, type Dtype } from "../contracts/index.js";
import type { ComputeModel } from "./compute.js";
import type { GemmShape, ProductShapes } from "./shapes.js";

/**
 * How the scale of a narrow tensor is found: `delayed` from steps before, the maximum being taken on the way;
 * `current` from the tensor itself, in a pass before the cast; `block` for each block of elements on the way (MXFP8,
 * NVFP4, DeepSeek-V3's tiles). As in the recipes of Transformer Engine.
 */
export type Scaling = "delayed" | "current" | "block";

export interface Cast {
  elements: number;
  from: Dtype;
  to: Dtype;
  scaling?: Scaling;
  /** Copies that are written: two where one pass reads rows and another columns, which narrow products need. */
  copies?: number;
}

/** Elements of one block, and the byte of its scale (Open Compute Project, MX specification 1.0, section 5.2). */
const blockElements = 32;

/** Bytes read and written by a cast. */
export function castBytes({ elements, from, to, scaling = "delayed", copies = 1 }: Cast): number {
  const read = bytesPerElement[from] * (scaling === "current" ? 2 : 1);
  const written = bytesPerElement[to] + (scaling === "block" ? 1 / blockElements : 0);
  return elements * (read + copies * written);
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
 * @param weightCasts share of the passes that cast the weight: 1, or 1 / micro-batches where it is kept.
 */
export function linearCastSeconds(
  { forward }: ProductShapes,
  types: Pick<Cast, "from" | "to" | "scaling">,
  compute: ComputeModel,
  weightCasts = 1,
): { forward: number; backward: number } {
  const { m, n, k } = forward;
  const groups = forward.groups ?? 1;
  const seconds = (elements: number) =>
    castSeconds({ ...types, copies: 2, elements: elements * groups }, compute);
  return { forward: seconds(m * k) + weightCasts * seconds(k * n), backward: seconds(m * n) };
}

/** Bytes that a product with narrow operands reads and writes; its result stays in the wide type. */
export function narrowProductBytes(shape: GemmShape, { from, to }: Pick<Cast, "from" | "to">): number {
  const { m, n, k, groups = 1 } = shape;
  return groups * (bytesPerElement[to] * (m * k + k * n) + bytesPerElement[from] * m * n);
}
