import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Operator } from "../../src/contracts/index.js";
import {
  attentionPairs,
  atWorkload,
  checkWorkload,
  importHuggingFace,
  loadModel,
  modelFlops,
  operatorAt,
  scaledFlops,
  tensorBytes,
} from "../../src/models/index.js";
import { samples } from "./published.js";

const family = fc.constantFrom(...Object.keys(samples));
const workload = fc.record({
  batch: fc.integer({ min: 1, max: 9 }),
  sequence: fc.integer({ min: 1, max: 256 }),
});

describe("evaluation at a workload", () => {
  it("is the identity at the reference", () => {
    for (const [name, config] of Object.entries(samples)) {
      const model = importHuggingFace(config, name);
      expect(atWorkload(model, model.reference)).toEqual(model);
    }
  });

  it("equals the import at that workload", () => {
    fc.assert(
      fc.property(family, workload, workload, (name, from, to) => {
        const at = (reference: typeof from) => importHuggingFace(samples[name], name, { reference });
        expect(atWorkload(at(from), to)).toEqual(at(to));
      }),
      { numRuns: 100 },
    );
  });

  it("doubles FLOPs and activations with the batch, and leaves parameters alone", () => {
    fc.assert(
      fc.property(family, workload, (name, { batch, sequence }) => {
        const model = importHuggingFace(samples[name], name);
        const once = { batch, sequence };
        const twice = { batch: 2 * batch, sequence };
        for (const operator of model.operators) {
          // Positions are looked up once for all sequences of a batch.
          if (operator.id === "embedding.position_embedding") continue;
          const [a, b] = [once, twice].map((at) => scaledFlops(operator, model.reference, at));
          expect(b).toEqual({ forward: 2 * a!.forward, backward: 2 * a!.backward });
        }
        for (const tensor of model.tensors) {
          const [a, b] = [once, twice].map((at) => tensorBytes(tensor, model.reference, at));
          expect(b).toBe(tensor.axes.includes("batch") ? 2 * a! : a);
          if (tensor.kind === "parameter") expect(tensor.axes.includes("batch")).toBe(false);
        }
      }),
      { numRuns: 50 },
    );
  });

  it("holds at the sizes of long training: 405B parameters, 131,072 tokens", () => {
    const model = loadModel("llama-3.1-405b");
    const long = { batch: 2, sequence: 131072 };
    const attention = model.operators.find(({ kind }) => kind === "attention")!;
    expect(scaledFlops(attention, model.reference, long).forward).toBe(2 * 2 * 16384 * 131072 ** 2);
    const direct = modelFlops(loadModel("llama-3.1-405b", { reference: long }));
    const scaled = modelFlops(model, long);
    expect(scaled.forward / direct.forward).toBeCloseTo(1, 14);
    expect(scaled.backward / direct.backward).toBeCloseTo(1, 14);
  });

  it("overrides the dtype of a tensor's bytes", () => {
    const model = loadModel("gpt2");
    const tensor = model.tensors.find(({ id }) => id === "layers.0.attention.out")!;
    const at = { batch: 4, sequence: 128 };
    expect(tensorBytes(tensor, model.reference, at)).toBe(4 * 128 * 768 * 2);
    expect(tensorBytes(tensor, model.reference, at, "f32")).toBe(4 * 128 * 768 * 4);
  });

  it("scales the two sequence dimensions of attention", () => {
    const model = loadModel("gpt2");
    const attention = model.operators.find(({ kind }) => kind === "attention") as Operator;
    const at = operatorAt(attention, model.reference, { batch: 2, sequence: 100 });
    const sizes = Object.fromEntries(at.dims.map(({ name, size }) => [name, size]));
    expect(sizes).toEqual({ batch: 2, head: 12, sequence: 100, keySequence: 100, headFeature: 64 });
  });

  it("refuses a sequence beyond learned positions, and accepts one beyond rotary ones", () => {
    expect(() => atWorkload(loadModel("gpt2"), { batch: 1, sequence: 1025 })).toThrow(
      "Expected a sequence of at most 1024 tokens for gpt2, which learns its positions, but found 1025.",
    );
    expect(() => loadModel("gpt2", { reference: { batch: 1, sequence: 2048 } })).toThrow("at most 1024");
    expect(atWorkload(loadModel("mini-llama"), { batch: 1, sequence: 4096 }).reference.sequence).toBe(4096);
  });
});

describe("a part of a sequence", () => {
  const workloads = fc.record({
    batch: fc.integer({ min: 1, max: 5 }),
    part: fc.integer({ min: 1, max: 64 }),
    ranks: fc.integer({ min: 1, max: 8 }),
  });

  it("costs every rank of c an even share of the FLOPs, in windows too", () => {
    fc.assert(
      fc.property(family, workloads, (name, { batch, part, ranks }) => {
        const model = importHuggingFace(samples[name], name);
        const local = { batch, sequence: part, keySequence: ranks * part };
        const whole = { batch, sequence: ranks * part };
        for (const operator of model.operators) {
          if (!operator.dims.some((dim) => dim.name === "sequence")) continue;
          const [a, b] = [local, whole].map((at) => scaledFlops(operator, model.reference, at));
          expect(a!.forward * ranks).toBeCloseTo(b!.forward, 4);
          expect(a!.backward * ranks).toBeCloseTo(b!.backward, 4);
        }
      }),
      { numRuns: 60 },
    );
  });

  it("keeps scores of all keys for its own queries, and its own keys alone", () => {
    const model = loadModel("gpt2", { kernels: { attention: "materialized", dropout: true } });
    const bytes = (id: string) =>
      tensorBytes(model.tensors.find((tensor) => tensor.id === `layers.0.${id}`)!, model.reference, {
        batch: 3,
        sequence: 128,
        keySequence: 512,
      });
    expect(bytes("key")).toBe(2 * 3 * 128 * 768);
    expect(bytes("probabilities")).toBe(2 * 3 * 12 * 128 * 512);
  });

  it("is bound by learned positions as the whole is, and makes no document", () => {
    const model = loadModel("gpt2");
    expect(() => checkWorkload(model, { batch: 1, sequence: 512, keySequence: 1024 })).not.toThrow();
    expect(() => checkWorkload(model, { batch: 1, sequence: 512, keySequence: 2048 })).toThrow("2048");
    expect(() => atWorkload(model, { batch: 1, sequence: 512, keySequence: 1024 })).toThrow(
      "1024 keys for 512 queries",
    );
  });
});

describe("attention pairs", () => {
  it("equal the count over queries in a window", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 200 }), (sequence, window) => {
        fc.pre(window < sequence);
        let pairs = 0;
        for (let query = 1; query <= sequence; query += 1) pairs += Math.min(query, window);
        expect(attentionPairs(sequence, true, window)).toBe(pairs);
      }),
    );
  });

  it("are half of all under a causal mask, and all without one", () => {
    expect(attentionPairs(8, true)).toBe(32);
    expect(attentionPairs(8, true, 8)).toBe(32);
    expect(attentionPairs(8, false)).toBe(64);
  });
});
