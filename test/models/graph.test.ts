import { describe, expect, it } from "vitest";
import { bytesPerElement, checkDocument, type Model, type Operator } from "../../src/contracts/index.js";
import {
  atWorkload,
  checkModel,
  distinctLayers,
  importHuggingFace,
  loadModel,
  presetNames,
  tensorBytes,
  tensorsById,
} from "../../src/models/index.js";
import { samples } from "./published.js";

const models: [string, () => Model][] = [
  ...Object.entries(samples).map(([name, config]): [string, () => Model] => [
    name,
    () => importHuggingFace(config, name),
  ]),
  ...presetNames.map((name): [string, () => Model] => [`preset ${name}`, () => loadModel(name)]),
];

const elements = (shape: readonly number[]) => shape.reduce((all, size) => all * size, 1);

function operatorsOf(model: Model, layerId: string): Operator[] {
  const { start, end } = model.layers.find((layer) => layer.id === layerId)!.operators;
  return model.operators.slice(start, end);
}

/** Ids of the tensors that a layer keeps for its backward pass, each once. */
function savedBytes(model: Model, layerId: string): number {
  const saved = new Set(operatorsOf(model, layerId).flatMap((operator) => operator.savedForBackward));
  const tensors = tensorsById(model);
  return [...saved].reduce(
    (sum, id) => sum + tensorBytes(tensors.get(id)!, model.reference, model.reference),
    0,
  );
}

describe.each(models)("%s", (_name, load) => {
  const model = load();
  const tensors = tensorsById(model);

  it("is a valid document without inner contradictions", () => {
    checkDocument("model", JSON.parse(JSON.stringify(model)), "model");
    checkModel(model, "model");
  });

  it("has every parameter in exactly one layer, under one of the layer's modules", () => {
    const owner = new Map<string, string>();
    const astray: string[] = [];
    for (const layer of model.layers) {
      for (const operator of operatorsOf(model, layer.id)) {
        for (const { tensor } of operator.inputs) {
          const parameter = tensors.get(tensor)!;
          if (parameter.kind !== "parameter") continue;
          const named = layer.modules.some((module) => parameter.name!.startsWith(`${module}.`));
          if (owner.has(tensor) || !named) astray.push(tensor);
          owner.set(tensor, layer.id);
        }
      }
    }
    expect(astray).toEqual([]);
    const parameters = model.tensors.filter((tensor) => tensor.kind === "parameter");
    expect([...owner.keys()].sort()).toEqual(parameters.map(({ id }) => id).sort());
  });

  it("writes every activation once, before it is read or saved", () => {
    const written = new Set<string>();
    const wrong: string[] = [];
    const ready = (id: string) => tensors.get(id)!.kind !== "activation" || written.has(id);
    for (const operator of model.operators) {
      const { id, inputs, outputs, savedForBackward: saved } = operator;
      if (!inputs.every(({ tensor }) => ready(tensor))) wrong.push(`${id} reads too early`);
      for (const { tensor } of outputs) {
        if (written.has(tensor)) wrong.push(`${id} writes ${tensor} again`);
        written.add(tensor);
      }
      if (!saved.every(ready)) wrong.push(`${id} saves too early`);
      if (new Set(saved).size !== saved.length) wrong.push(`${id} saves twice`);
      const touched = new Set([...inputs, ...outputs].map(({ tensor }) => tensor));
      if (!saved.every((tensor) => touched.has(tensor))) wrong.push(`${id} saves what it does not touch`);
    }
    expect(wrong).toEqual([]);
  });

  it("maps every axis to a loop dimension, but for those that pack several outputs into one weight", () => {
    const free = new Set<string>();
    for (const operator of model.operators) {
      for (const { tensor, dims } of [...operator.inputs, ...operator.outputs]) {
        dims.forEach((dim, i) => {
          if (dim === null) free.add(`${tensors.get(tensor)!.kind} ${tensors.get(tensor)!.axes[i]}`);
        });
      }
    }
    const packed = ["part", "latentAndRope", "keyAndValue"].map((axis) => `parameter ${axis}`);
    expect([...free].filter((axis) => !packed.includes(axis))).toEqual([]);
  });

  it("uses every loop dimension in some operand", () => {
    const idle = model.operators.flatMap((operator) => {
      const used = new Set([...operator.inputs, ...operator.outputs].flatMap(({ dims }) => dims));
      return operator.dims.filter(({ name }) => !used.has(name)).map(({ name }) => `${operator.id} ${name}`);
    });
    expect(idle).toEqual([]);
  });

  it("counts linear FLOPs as two a weight and token, of the chosen experts alone, and twice that backward", () => {
    const tokens = model.reference.batch * model.reference.sequence;
    const wrong: string[] = [];
    for (const operator of model.operators) {
      if (operator.kind !== "linear" && operator.kind !== "grouped_linear") continue;
      const weights = operator.inputs
        .map(({ tensor }) => tensors.get(tensor)!)
        .filter((tensor) => tensor.kind === "parameter" && !tensor.name!.endsWith("bias"));
      const size = (name: string) => operator.dims.find((dim) => dim.name === name)?.size ?? 1;
      const topK = Number(operator.attributes?.topK ?? 1);
      const all = weights.reduce((sum, weight) => sum + elements(weight.shape), 0);
      const forward = (2 * tokens * size("prediction") * all * topK) / size("expert");
      const { flops } = operator;
      if (flops.forward !== forward || flops.backward !== 2 * forward) wrong.push(operator.id);
    }
    expect(wrong).toEqual([]);
  });

  it("groups layers into blocks whose operators are equal", () => {
    const shape = (layer: string) =>
      operatorsOf(model, layer).map(({ kind, name, dims, flops, attributes }) => ({
        kind,
        name,
        dims,
        flops,
        attributes,
      }));
    for (const { layers } of model.blocks) {
      expect(shape(layers.at(-1)!)).toEqual(shape(layers[0]!));
    }
    const distinct = distinctLayers(model);
    expect(distinct.reduce((sum, { count }) => sum + count, 0)).toBe(model.layers.length);
    expect(new Set(distinct.map(({ layer }) => JSON.stringify(shape(layer.id)))).size).toBe(distinct.length);
  });
});

describe("a Llama block", () => {
  const model = loadModel("llama-3.1-8b");
  const operators = operatorsOf(model, "layers.7");

  it("has its operators in order", () => {
    expect(operators.map(({ kind, name }) => `${kind} ${name}`)).toEqual([
      "norm rms_norm",
      "linear qkv",
      "elementwise rotary",
      "attention attention",
      "linear o_proj",
      "elementwise add",
      "norm rms_norm",
      "linear gate_up",
      "elementwise silu_mul",
      "linear down_proj",
      "elementwise add",
    ]);
  });

  it("names modules as the framework does", () => {
    const self = "model.layers.7.self_attn";
    expect(operators[1]!.modules).toEqual([`${self}.q_proj`, `${self}.k_proj`, `${self}.v_proj`]);
    expect(operators[4]!.module).toBe(`${self}.o_proj`);
    expect(model.layers[8]!.modules).toEqual(["model.layers.7"]);
    expect(model.layers.at(-1)!.modules).toEqual(["model.norm", "lm_head"]);
  });

  it("splits q, k, v by head, and by neither feature nor, in attention, sequence", () => {
    const splittable = (operator: Operator) =>
      operator.dims.filter((dim) => dim.splittable).map((dim) => dim.name);
    expect(splittable(operators[1]!)).toEqual(["batch", "sequence", "hidden", "head"]);
    expect(splittable(operators[3]!)).toEqual(["batch", "head"]);
    expect(operators[1]!.outputs.map(({ dims }) => dims[2])).toEqual(["head", "head", "head"]);
    expect(operators[3]!.inputs.map(({ dims }) => dims[1])).toEqual([
      "sequence",
      "keySequence",
      "keySequence",
    ]);
  });

  it("costs 6 FLOPs a parameter and token, embeddings apart, and the attention", () => {
    const { sequence } = model.reference;
    const { hidden, layers, vocabulary } = model.architecture!;
    const matmuls = model.operators.filter(({ kind }) => kind === "linear");
    const forward = matmuls.reduce((sum, { flops }) => sum + flops.forward, 0);
    const backward = matmuls.reduce((sum, { flops }) => sum + flops.backward, 0);
    const norms = (2 * layers + 1) * hidden;
    const weights = model.parameterCount - norms - vocabulary * hidden;
    expect(forward).toBe(2 * weights * sequence);
    expect(forward + backward).toBe(6 * weights * sequence);
    const attention = operators[3]!.flops;
    // Q K^T and P V over half of the pairs; 4 x hidden x sequence^2 / 2.
    expect(attention.forward).toBe(2 * hidden * sequence * sequence);
    expect(attention.backward).toBe(2.5 * attention.forward);
  });

  it("saves what the fused kernels keep", () => {
    const { sequence: s } = model.reference;
    const hidden = 4096;
    const keyValue = 1024;
    const ffn = 14336;
    // Inputs of both norms, of qkv and of gate_up; q and the attention's output; k and v; gate, up, product.
    const halfPrecision = s * (4 * hidden + 2 * hidden + 2 * keyValue + 3 * ffn);
    expect(savedBytes(model, "layers.7")).toBe(2 * halfPrecision + 4 * 32 * s);
  });
});

describe("activation memory of a GPT-2 block", () => {
  it("is 34 s b h of Korthikanti et al. without dropout masks, scores replaced by a log-sum-exp", () => {
    const model = atWorkload(loadModel("gpt2"), { batch: 3, sequence: 512 });
    const { hidden, heads } = model.architecture!;
    const sbh = 3 * 512 * hidden;
    // Their 34 holds two dropout masks of one byte; the score terms 5 a s^2 b fall away under flash attention.
    const expected = (34 - 2) * sbh + bytesPerElement.f32 * 3 * heads * 512;
    expect(savedBytes(model, "layers.5")).toBe(expected);
  });
});

describe("attention that writes its scores", () => {
  const kernels = { attention: "materialized", dropout: true } as const;

  it("keeps 34 s b h + 5 a s^2 b bytes in a GPT-2 block (Korthikanti et al. 2022, equation 1)", () => {
    const model = atWorkload(loadModel("gpt2", { kernels }), { batch: 3, sequence: 512 });
    const { hidden, heads } = model.architecture!;
    expect(savedBytes(model, "layers.5")).toBe(34 * 3 * 512 * hidden + 5 * heads * 512 ** 2 * 3);
  });

  it("computes all pairs, twice what flash attention does under the causal mask", () => {
    const flops = (given: object) =>
      operatorsOf(loadModel("gpt2", given), "layers.0")
        .filter(({ kind, name }) => kind === "attention" && name !== "softmax" && name !== "dropout")
        .reduce((sum, operator) => sum + operator.flops.forward, 0);
    expect(flops({ kernels }) / flops({})).toBeCloseTo(2, 2);
  });

  it.each(presetNames)("is a valid document for %s", (name) => {
    const model = loadModel(name, { kernels });
    checkDocument("model", JSON.parse(JSON.stringify(model)), "model");
    checkModel(model, "model");
    const names = new Set(operatorsOf(model, model.layers.at(1)!.id).map((operator) => operator.name));
    expect(names).toContain("attention_scores");
    expect(names).not.toContain("attention");
  });
});

describe("experts", () => {
  const model = loadModel("deepseek-v3");

  it("leads with dense layers", () => {
    const blocks = model.layers.map(({ block }) => block);
    expect(blocks.slice(0, 5)).toEqual(["embedding", "dense", "dense", "dense", "expert"]);
    expect(model.blocks.map(({ layers }) => layers.length)).toEqual([1, 3, 58, 1]);
  });

  it("costs two FLOPs for every weight that a token meets, of 37 billion active parameters", () => {
    const matmuls = model.operators.filter(({ kind }) =>
      ["linear", "grouped_linear", "router"].includes(kind),
    );
    const forward = matmuls.reduce((sum, { flops }) => sum + flops.forward, 0);
    const hidden = 7168;
    const head = 129280 * hidden;
    const query = hidden * 1536 + 1536 * 128 * 192;
    const keyValue = hidden * (512 + 64) + 512 * 128 * (128 + 128);
    const attention = query + keyValue + 128 * 128 * hidden;
    const dense = 3 * hidden * 18432;
    // Eight routed experts, a shared one, and the router over all 256.
    const expert = 9 * 3 * hidden * 2048 + 256 * hidden;
    const active = 61 * attention + 3 * dense + 58 * expert + head;
    expect(forward).toBe(2 * active * model.reference.sequence);
    // DeepSeek-V3 Technical Report, abstract: 37B activated for each token.
    expect(Math.round(active / 1e9)).toBe(37);
  });

  it("carries experts on weights and choices on activations", () => {
    const tensors = tensorsById(model);
    for (const operator of model.operators.filter(({ kind }) => kind === "grouped_linear")) {
      for (const { tensor, dims } of [...operator.inputs, ...operator.outputs]) {
        expect(dims.includes("expert")).toBe(tensors.get(tensor)!.kind === "parameter");
        expect(dims.includes("choice")).toBe(tensors.get(tensor)!.kind === "activation");
      }
      expect(operator.dims.find(({ name }) => name === "expert")).toMatchObject({
        size: 256,
        splittable: true,
      });
    }
  });

  it("computes latent attention over wider keys than values", () => {
    const attention = model.operators.find(({ kind }) => kind === "attention")!;
    const { sequence: s } = model.reference;
    expect(attention.flops.forward).toBe(s * s * 128 * (192 + 128));
    expect(attention.flops.backward).toBe(s * s * 128 * (3 * 192 + 2 * 128));
  });
});
