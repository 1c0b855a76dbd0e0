import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import type { Model, Operand } from "../../src/contracts/index.js";
import { ComputeModel } from "../../src/cost/compute.js";
import { bytesOf, operatorSeconds } from "../../src/cost/operator.js";
import { eagerBytes } from "../../src/cost/passes.js";
import { type TransformerDimensions, transformerModel } from "../../src/models/transformer.js";
import { tensorsById } from "../../src/models/workload.js";

const tokens = 4096;
const hidden = 1024;

function made(dimensions: Partial<TransformerDimensions>): Model {
  return transformerModel({
    name: "small",
    layers: 1,
    hidden,
    ffn: 4096,
    heads: 8,
    keyValueHeads: 8,
    vocabulary: 32_000,
    sequence: tokens,
    gated: false,
    activation: "gelu",
    norm: "layer_norm",
    positions: "learned",
    tiedEmbeddings: true,
    biases: true,
    ...dimensions,
  });
}

function contextOf(model: Model, eager: boolean) {
  return {
    tensors: tensorsById(model),
    reference: model.reference,
    workload: model.reference,
    compute: new ComputeModel(clusterPreset("a100-80:8x1").devices[0]!),
    dtype: "bf16" as const,
    eager,
  };
}

/** Bytes of the named operator of the block beside the counted ones, in bytes a token and hidden feature. */
function more(model: Model, name: string) {
  const block = model.layers.find(({ kind }) => kind === "block")!.operators;
  const operator = model.operators.slice(block.start, block.end).find((each) => each.name === name)!;
  const context = contextOf(model, true);
  const each = eagerBytes(operator, context.tensors, (operand: Operand) =>
    bytesOf(context.tensors.get(operand.tensor)!, context),
  );
  return { forward: each.forward / (tokens * hidden), backward: each.backward / (tokens * hidden) };
}

describe("passes of PyTorch's own kernels", () => {
  it("sum the gradient of a bias, and join those of q, k and v", () => {
    const fused = made({});
    // 3 features of 2 bytes: read for the bias, read and written for the join.
    expect(more(fused, "qkv")).toEqual({ forward: 0, backward: 3 * 2 + 3 * 4 });
    expect(more(fused, "o_proj").backward).toBe(2);
    expect(more(made({ biases: false }), "qkv").backward).toBe(3 * 4);
  });

  it("add up in pairs what separate projections give back to their input", () => {
    const separate = made({ projections: "separate", gated: true, activation: "silu", biases: false });
    expect(more(separate, "qkv").backward).toBe(2 * 3 * 2);
    expect(more(separate, "gate_up").backward).toBe(3 * 2);
  });

  it("read twice for a norm's gain, and rotate in f32", () => {
    const llama = made({ norm: "rms_norm", positions: "rotary", biases: false });
    expect(more(llama, "rms_norm")).toEqual({ forward: 0, backward: 2 * 2 });
    expect(more(llama, "rotary")).toEqual({ forward: 2 * 16, backward: 2 * 14 });
    expect(more(llama, "attention")).toEqual({ forward: 0, backward: 0 });
  });

  it("cost time where the framework runs its own kernels, and none where it does not", () => {
    const model = made({});
    const operator = model.operators.find(({ name }) => name === "qkv")!;
    const [fused, eager] = [false, true].map((each) =>
      operatorSeconds(operator, null, 1, contextOf(model, each)),
    );
    expect(eager!.forward).toBe(fused!.forward);
    const rate = (eager!.backward - fused!.backward) / (18 * tokens * hidden);
    expect(1 / rate / 1e12).toBeGreaterThan(1.2);
    expect(1 / rate / 1e12).toBeLessThan(1.6);
    expect(eager!.backwardWeight).toBe(fused!.backwardWeight);
  });
});
