import type { Operand, Operator, Tensor } from "../contracts/index.js";
import { scaledSize, type Workload } from "../models/workload.js";

/** A matrix product [m, k] x [k, n], `groups` times beside each other; 1 where absent. */
export interface GemmShape {
  /** Rows of the result: tokens in a forward pass. */
  m: number;
  n: number;
  k: number;
  groups?: number;
  /** The result is added to f32 sums in memory, as gradients of weights are over micro-batches. */
  accumulates?: boolean;
  /** Each group is a kernel of its own, as the experts of a grouped linear layer are. */
  separate?: boolean;
  /** Rows are what routing sends to a group: their last tile is half empty in the mean. */
  ragged?: boolean;
}

/** Flash attention of one device. */
export interface AttentionShape {
  batch: number;
  heads: number;
  /** Heads of keys and values; `heads` of them without grouping. */
  keyValueHeads: number;
  queries: number;
  keys: number;
  /** Features of a query and a key. */
  headSize: number;
  /** Features of a value. */
  valueSize: number;
  causal: boolean;
  backward: boolean;
}

/** Products that one linear operator is made of: its result, and the gradients of its two inputs. */
export interface ProductShapes {
  forward: GemmShape;
  inputGradient: GemmShape;
  weightGradient: GemmShape;
}

/** What the local shape of an operator depends on beside itself. */
export interface ShapeContext {
  tensors: ReadonlyMap<string, Tensor>;
  reference: Workload;
  workload: Workload;
  /** Devices that a loop dimension is divided over; 1 for most. */
  divisor: (dim: string) => number;
}

/** True for one of the operators that attention which writes its scores is made of. */
export function isMaterialized(operator: Operator): boolean {
  return operator.kind === "attention" && operator.attributes?.materialized === true;
}

/** True where an operator of materialised attention is a product; its softmax and dropout are bound by memory. */
export function isBatchedProduct(operator: Operator): boolean {
  return isMaterialized(operator) && operator.inputs.length === 2;
}

/**
 * Shapes of a matrix product on one device; undefined where the operator is none or its graph does not tell.
 * @param flops the forward pass on this device, which fixes the rows that reach it.
 */
export function productShapes(
  operator: Operator,
  flops: number,
  context: ShapeContext,
): ProductShapes | undefined {
  if (flops <= 0) return undefined;
  const forward = isBatchedProduct(operator)
    ? batchedShape(operator, context)
    : linearShape(operator, flops, context);
  if (!forward) return undefined;
  const { m, n, k, ...rest } = forward;
  const { ragged: _rows, ...whole } = rest;
  const isLinear = !isMaterialized(operator);
  return {
    forward,
    inputGradient: { m, n: k, k: n, ...rest },
    weightGradient: { m: k, n, k: m, ...whole, ...(isLinear ? { accumulates: true } : {}) },
  };
}

const productKinds: ReadonlySet<Operator["kind"]> = new Set(["linear", "grouped_linear", "router"]);

/** From the weights: what they have in common with the result is n, the rest is contracted. */
function linearShape(operator: Operator, flops: number, context: ShapeContext): GemmShape | undefined {
  if (!productKinds.has(operator.kind)) return undefined;
  const [result] = operator.outputs;
  if (!result) return undefined;
  const grouped = operator.kind === "grouped_linear";
  const isContracted = (dim: string | null) =>
    dim !== null && !result.dims.includes(dim) && !(grouped && dim === "expert");
  // Biases have no axis that is contracted.
  const weights = operator.inputs.filter(
    ({ tensor, dims }) => context.tensors.get(tensor)!.kind === "parameter" && dims.some(isContracted),
  );
  const [weight] = weights;
  if (!weight) return undefined;
  const sizes = localSizes(weight, context);
  const product = (pick: (dim: string | null) => boolean) =>
    sizes.reduce((all, size, axis) => (pick(weight.dims[axis]!) ? all * size : all), 1);
  const k = product(isContracted);
  const groups = grouped ? product((dim) => dim === "expert") : 1;
  const elements = weights.reduce(
    (sum, each) => sum + localSizes(each, context).reduce((all, size) => all * size, 1),
    0,
  );
  const shape = { m: flops / (2 * elements), n: elements / (k * groups), k };
  return grouped ? { ...shape, groups, separate: true, ragged: true } : shape;
}

/** Products of attention: one for each sequence and head. */
function batchedShape(operator: Operator, context: ShapeContext): GemmShape | undefined {
  const [left, right] = operator.inputs as [Operand, Operand];
  const [result] = operator.outputs;
  if (!result) return undefined;
  const size = (dim: string) => localSize(operator, dim, context);
  const groups: string[] = [];
  const rows: string[] = [];
  const contracted: string[] = [];
  for (const { name } of operator.dims) {
    const [inLeft, inRight] = [left.dims.includes(name), right.dims.includes(name)];
    if (!result.dims.includes(name)) contracted.push(name);
    else if (inLeft && inRight) groups.push(name);
    else if (inLeft) rows.push(name);
  }
  const columns = result.dims.filter((dim) => dim !== null && !groups.includes(dim) && !rows.includes(dim));
  const product = (names: readonly (string | null)[]) => names.reduce((all, name) => all * size(name!), 1);
  return { m: product(rows), n: product(columns), k: product(contracted), groups: product(groups) };
}

/** Flash attention on one device; undefined for other operators and for graphs without these dimensions. */
export function attentionShape(operator: Operator, context: ShapeContext): AttentionShape | undefined {
  if (operator.kind !== "attention" || isMaterialized(operator)) return undefined;
  const [query, key, value] = operator.inputs;
  const has = (name: string) => operator.dims.some((dim) => dim.name === name);
  if (!query || !key || !value || !["batch", "head", "sequence"].every(has)) return undefined;
  const size = (dim: string) => (has(dim) ? localSize(operator, dim, context) : 1);
  const features = ({ tensor, dims }: Operand) => {
    const { shape } = context.tensors.get(tensor)!;
    return shape[dims.length - 1]! / context.divisor(dims.at(-1) ?? "");
  };
  const headAxis = key.dims.indexOf("head");
  const keyHeads = headAxis < 0 ? 1 : localSizes(key, context)[headAxis]!;
  return {
    batch: size("batch"),
    heads: size("head"),
    keyValueHeads: Math.max(1, keyHeads),
    queries: size("sequence"),
    keys: has("keySequence") ? size("keySequence") : size("sequence"),
    headSize: features(query),
    valueSize: features(value),
    causal: operator.attributes?.causal === true,
    backward: false,
  };
}

function localSize(operator: Operator, dim: string, { reference, workload, divisor }: ShapeContext): number {
  const { size } = operator.dims.find(({ name }) => name === dim)!;
  return scaledSize(dim, size, reference, workload) / divisor(dim);
}

/** Sizes of the axes of an operand that holds no tokens, on one device. */
function localSizes({ tensor, dims }: Operand, { tensors, divisor }: ShapeContext): number[] {
  return tensors.get(tensor)!.shape.map((size, axis) => {
    const dim = dims[axis];
    return dim ? size / divisor(dim) : size;
  });
}
