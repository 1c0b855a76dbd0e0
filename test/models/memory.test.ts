import { describe, expect, it } from "vitest";
import { bytesPerElement, type Operator } from "../../src/contracts/index.js";
import {
  distinctLayers,
  type Kernels,
  presetDimensions,
  tensorBytes,
  tensorsById,
  transformerModel,
} from "../../src/models/index.js";

/** Axes that Megatron-LM's tensor parallelism divides. */
const tensorAxes = new Set(["head", "keyValueHead", "ffn"]);

const batch = 4;
const sequence = 2048;
const dimensions = presetDimensions("megatron-22b")!;
const { hidden: h, heads: a } = dimensions;
const sbh = sequence * batch * h;
/** Bytes of scores in units of sbh: 5 a s / h. */
const scores = (5 * a * sequence) / h;

interface Division {
  tensor: number;
  sequenceParallel: boolean;
  recompute: "none" | "selective" | "full";
}

/**
 * Bytes that one device keeps of a layer: tensors over heads and inner features are divided by the tensor degree,
 * the others by sequence parallelism; selective recomputation drops what only the attention core wrote and keeps,
 * full recomputation keeps the layer's input.
 */
function savedBytes(kernels: Kernels, { tensor, sequenceParallel, recompute }: Division): number {
  const model = transformerModel(dimensions, kernels);
  const tensors = tensorsById(model);
  const { operators } = distinctLayers(model).find(({ layer }) => layer.kind === "block")!;
  const isCore = (operator: Operator) => operator.kind === "attention";
  const written = new Set(operators.filter(isCore).flatMap((each) => each.outputs.map((o) => o.tensor)));
  const kept = new Set(
    operators.flatMap((operator) =>
      operator.savedForBackward.filter((id) => recompute === "none" || !isCore(operator) || !written.has(id)),
    ),
  );
  const list = recompute === "full" ? [operators[0]!.inputs[0]!.tensor] : [...kept];
  return list.reduce((all, id) => {
    const one = tensors.get(id)!;
    const divided = one.axes.some((axis) => tensorAxes.has(axis));
    // Sequence parallelism gathers the inputs of the two column-parallel layers again, and keeps its part of them.
    const degree = divided || sequenceParallel ? tensor : 1;
    return all + tensorBytes(one, model.reference, { batch, sequence }) / degree;
  }, 0);
}

describe("activation memory of a layer (Korthikanti et al. 2022, table 2)", () => {
  const kernels: Kernels = { attention: "materialized", dropout: true };
  const t = 8;

  it.each<[string, Division, number]>([
    ["no parallelism", { tensor: 1, sequenceParallel: false, recompute: "none" }, 34 + scores],
    [
      "tensor parallelism",
      { tensor: t, sequenceParallel: false, recompute: "none" },
      10 + 24 / t + scores / t,
    ],
    ["and sequence parallelism", { tensor: t, sequenceParallel: true, recompute: "none" }, (34 + scores) / t],
    [
      "tensor parallelism, selective recomputation",
      { tensor: t, sequenceParallel: false, recompute: "selective" },
      10 + 24 / t,
    ],
    ["both, selective recomputation", { tensor: t, sequenceParallel: true, recompute: "selective" }, 34 / t],
    ["full recomputation", { tensor: t, sequenceParallel: false, recompute: "full" }, 2],
  ])("%s", (_name, division, expected) => {
    expect(savedBytes(kernels, division)).toBeCloseTo(expected * sbh, 3);
  });

  const whole: Division = { tensor: 1, sequenceParallel: false, recompute: "none" };

  it("without dropout, two masks of the hidden size and one of the scores with what dropout left are less", () => {
    expect(savedBytes({ attention: "materialized" }, whole)).toBeCloseTo(
      (32 + (2 * a * sequence) / h) * sbh,
      3,
    );
  });

  it("with flash attention, scores are one number a row", () => {
    const rows = bytesPerElement.f32 * a * batch * sequence;
    expect(savedBytes({ dropout: true }, whole)).toBe(34 * sbh + rows);
  });

  it("with an unfused softmax, probabilities are kept in f32 as well", () => {
    const pairs = a * batch * sequence ** 2;
    const unfused: Kernels = { attention: "materialized", softmax: "unfused" };
    // Probabilities 4, mask 1, what dropout left 2.
    expect(savedBytes({ ...unfused, dropout: true }, whole)).toBe(34 * sbh + 7 * pairs);
    expect(savedBytes(unfused, whole)).toBe(32 * sbh + (4 + 2) * pairs);
    expect(savedBytes(unfused, { ...whole, recompute: "selective" })).toBe(32 * sbh);
  });
});

describe("traffic of a softmax", () => {
  const bytesPerPair = (kernels: Kernels) => {
    const model = transformerModel(dimensions, { attention: "materialized", ...kernels });
    const tensors = tensorsById(model);
    const { operators } = distinctLayers(model).find(({ layer }) => layer.kind === "block")!;
    const between = operators.filter(({ name }) => ["mask", "softmax", "cast"].includes(name));
    const bytes = between
      .flatMap(({ inputs, outputs }) => [...inputs, ...outputs])
      .reduce((all, { tensor }) => {
        return all + tensorBytes(tensors.get(tensor)!, model.reference, { batch, sequence });
      }, 0);
    return bytes / (a * batch * sequence ** 2);
  };

  it("is one read and one write of 16 bits where it is fused", () => {
    expect(bytesPerPair({})).toBe(2 + 2);
  });

  it("goes through f32 twice where it is not", () => {
    expect(bytesPerPair({ softmax: "unfused" })).toBe(2 + 4 + (4 + 4) + (4 + 2));
  });
});
