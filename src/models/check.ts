import { type Model, MpoptError, type Operand } from "../contracts/index.js";
import { countParameters } from "./graph.js";

/**
 * Checks what the schema of `mpopt.model/1` cannot say: ids are unique and refer to something, operands have
 * one entry an axis and an axis is as long as its loop dimension or divides it, layers cover the operators
 * without gap or overlap, every layer is in the block that it names, and the parameter count is right.
 * @throws MpoptError E_FIELD with the first violation.
 */
export function checkModel(model: Model, where: string): void {
  const fail = (field: string, expected: string, found: string): never => {
    throw new MpoptError("E_FIELD", `${where}: expected ${expected} for field ${field} but found ${found}.`);
  };
  const unique = (field: string, ids: string[]) => {
    const seen = new Set<string>();
    for (const id of ids) {
      if (seen.has(id)) fail(field, "ids that differ", `"${id}" twice`);
      seen.add(id);
    }
    return seen;
  };
  const tensors = new Map(model.tensors.map((tensor) => [tensor.id, tensor]));
  unique(
    "tensors",
    model.tensors.map(({ id }) => id),
  );
  unique(
    "operators",
    model.operators.map(({ id }) => id),
  );
  const layerIds = unique(
    "layers",
    model.layers.map(({ id }) => id),
  );
  unique(
    "modules of layers",
    model.layers.flatMap(({ modules }) => modules),
  );

  model.tensors.forEach((tensor, i) => {
    if (tensor.axes.length !== tensor.shape.length) {
      fail(`tensors[${i}].axes`, `${tensor.shape.length} names`, `${tensor.axes.length}`);
    }
    if (tensor.tiedTo !== undefined && !tensors.has(tensor.tiedTo)) {
      fail(`tensors[${i}].tiedTo`, "a tensor's id", `"${tensor.tiedTo}"`);
    }
  });

  model.operators.forEach((operator, i) => {
    const field = `operators[${i}]`;
    const sizes = new Map(operator.dims.map(({ name, size }) => [name, size]));
    const check = (operand: Operand, name: string) => {
      const tensor = tensors.get(operand.tensor);
      if (!tensor) return fail(`${name}.tensor`, "a tensor's id", `"${operand.tensor}"`);
      if (operand.dims.length !== tensor.shape.length) {
        fail(`${name}.dims`, `${tensor.shape.length} entries`, `${operand.dims.length}`);
      }
      operand.dims.forEach((dim, axis) => {
        if (dim === null) return;
        const size = sizes.get(dim);
        const length = tensor.shape[axis]!;
        if (size === undefined) fail(`${name}.dims[${axis}]`, "a loop dimension's name", `"${dim}"`);
        else if (length === 0 || size % length !== 0) {
          fail(`${name}.dims[${axis}]`, `an axis that divides ${dim} (${size})`, `${length}`);
        }
      });
    };
    for (const [j, operand] of operator.inputs.entries()) check(operand, `${field}.inputs[${j}]`);
    for (const [j, operand] of operator.outputs.entries()) check(operand, `${field}.outputs[${j}]`);
    for (const id of operator.savedForBackward) {
      if (!tensors.has(id)) fail(`${field}.savedForBackward`, "a tensor's id", `"${id}"`);
    }
  });

  const blockOf = new Map<string, string>();
  for (const { id, layers } of model.blocks) for (const layer of layers) blockOf.set(layer, id);
  let next = 0;
  model.layers.forEach((layer, i) => {
    const { start, end } = layer.operators;
    if (start !== next || end < start)
      fail(`layers[${i}].operators`, `a range from ${next}`, `${start}..${end}`);
    next = end;
    if (blockOf.get(layer.id) !== layer.block) {
      fail(`layers[${i}].block`, "the block that lists the layer", `"${layer.block}"`);
    }
    for (const before of layer.predecessors) {
      if (!layerIds.has(before)) fail(`layers[${i}].predecessors`, "a layer's id", `"${before}"`);
    }
  });
  if (next !== model.operators.length) {
    fail("layers", `ranges over all ${model.operators.length} operators`, `${next}`);
  }
  const count = countParameters(model.tensors);
  if (count !== model.parameterCount) fail("parameterCount", `${count}`, `${model.parameterCount}`);
}
