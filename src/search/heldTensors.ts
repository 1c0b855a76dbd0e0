import type { Operator } from "../contracts/index.js";
import type { LayerProblemInput } from "./intraProblem.js";
import type { Strategy } from "./strategies.js";

/** What a device holds of a layer: weights, and the tensors that stay from forward to backward. */

/** Parameters of an operator that one device holds, and those among them that are stored elsewhere too. */
export function localParameters(
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
export function localWeight(
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
export function keptTensors(
  operators: readonly Operator[],
): Record<"none" | "selective" | "products", Set<string>> {
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
export function logitTensors(operators: readonly Operator[]): Set<string> {
  const losses = operators.filter((operator) => operator.kind === "cross_entropy");
  return new Set(losses.flatMap((operator) => operator.inputs.map((operand) => operand.tensor)));
}

/** Bytes a logit that the loss keeps until its backward, and that this adds: what the operator says, else its types'. */
export function lossBytes(operators: readonly Operator[], saved: number, gradient: number) {
  const attributes = operators.find((operator) => operator.kind === "cross_entropy")?.attributes;
  return {
    saved: Number(attributes?.savedBytes ?? saved),
    gradient: Number(attributes?.gradientBytes ?? gradient),
  };
}
