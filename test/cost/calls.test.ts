import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import type { Cluster, ComputeTable, Device } from "../../src/contracts/index.js";
import { CommunicationModel } from "../../src/cost/communication.js";
import { ComputeModel } from "../../src/cost/compute.js";
import { type CostContext, operatorSeconds } from "../../src/cost/operator.js";
import { loadModel } from "../../src/models/index.js";
import { tensorsById } from "../../src/models/workload.js";

const preset = clusterPreset("h100-sxm:4x1");
const quantity = (value: number) => ({ value, provenance: "measured" as const, source: "a test" });

function table(part: Partial<ComputeTable> & Pick<ComputeTable, "operator">, rate: number): ComputeTable {
  const unit = part.operator === "gemm" || part.operator === "attention" ? "flop" : "byte";
  const points = [
    { work: 1e3, rate },
    { work: 1e12, rate },
  ];
  return { dtype: "f32", unit, points, provenance: "measured", source: "a test", ...part };
}

const call = { includesCall: true } as const;
const forward = { ...call, pass: "forward" } as const;
const backward = { ...call, pass: "backward" } as const;

/** A processor with kernels of 100 units a second, and slower whole calls of some operators. */
function processor(...calls: ComputeTable[]): Device {
  const device = structuredClone(preset.devices[0]!);
  device.type = "cpu";
  device.launchSeconds = quantity(1e-9);
  device.callSeconds = undefined;
  device.compute = [
    ...calls,
    table({ operator: "gemm" }, 100e9),
    table({ operator: "elementwise" }, 100e9),
    table({ operator: "reduction" }, 100e9),
    table({ operator: "copy" }, 100e9),
  ];
  return device;
}

const work = { dtype: "f32", flops: 1e9, bytes: 0 } as const;

describe("ComputeModel.callSeconds", () => {
  it("prefers the curve of the pass, and knows none where the pass or the type is missing", () => {
    const model = new ComputeModel(
      processor(
        table({ operator: "gemm", ...forward }, 80e9),
        table({ operator: "gemm", ...backward }, 40e9),
      ),
    );
    expect(model.callSeconds({ kind: "gemm", ...work }, "forward")).toBeCloseTo(1 / 80, 9);
    expect(model.callSeconds({ kind: "gemm", ...work }, "backward")).toBeCloseTo(1 / 40, 9);
    expect(model.callSeconds({ kind: "gemm", ...work, dtype: "bf16" }, "forward")).toBeUndefined();
    expect(model.callSeconds({ kind: "attention", ...work }, "forward")).toBeUndefined();
    expect(model.provenance).toBe("measured");
    // Kernels are priced as before.
    expect(model.seconds({ kind: "gemm", ...work })).toBeCloseTo(1 / 100, 9);
  });

  it("gives a curve with a name to that operator alone", () => {
    const named = table({ operator: "normalization", name: "rms_norm", ...forward }, 1e9);
    const model = new ComputeModel(processor(named));
    const bytes = { kind: "normalization", dtype: "f32", flops: 0, bytes: 1e6 } as const;
    expect(model.callSeconds({ ...bytes, name: "rms_norm" }, "forward")).toBeCloseTo(1e-3, 9);
    expect(model.callSeconds({ ...bytes, name: "layer_norm" }, "forward")).toBeUndefined();
    expect(model.seconds(bytes)).toBeCloseTo(1e-5, 12);
  });

  it("takes the smallest size's time below it", () => {
    const model = new ComputeModel(processor(table({ operator: "gemm", ...forward }, 1e9)));
    const tiny = model.callSeconds({ kind: "gemm", dtype: "f32", flops: 10, bytes: 0 }, "forward");
    expect(tiny).toBeCloseTo(1e-6, 12);
  });
});

describe("operatorSeconds", () => {
  const model = loadModel("tiny-gpt");
  const operator = (name: string, layer = "") =>
    model.operators.find((each) => each.name === name && each.id.startsWith(layer))!;
  const context = (device: Device): CostContext => ({
    tensors: tensorsById(model),
    reference: model.reference,
    workload: { batch: 1, sequence: 128 },
    compute: new ComputeModel(device),
    dtype: "f32",
  });
  const seconds = (name: string, device: Device, split: string | null = null, degree = 1) =>
    operatorSeconds(operator(name), split, degree, context(device));
  // 128 tokens through 256 -> 1024.
  const flops = 2 * 128 * 256 * 1024;

  it("prices a projection by its passes, and adds the accumulation of its gradients", () => {
    const calls = [
      table({ operator: "gemm", ...forward }, 80e9),
      table({ operator: "gemm", ...backward }, 40e9),
    ];
    const plain = seconds("c_fc", processor(...calls));
    expect(plain.forward).toBeCloseTo(flops / 80e9, 12);
    expect(plain.backward).toBeCloseTo((2 * flops) / 40e9, 12);
    const adding = seconds("c_fc", processor(...calls, table({ operator: "accumulation", ...call }, 1e9)));
    expect(adding.backward - plain.backward).toBeCloseTo((3 * 4 * (256 * 1024 + 1024)) / 1e9, 9);
  });

  it("splits a backward into what other stages wait for and what only the optimizer does", () => {
    const calls = [
      table({ operator: "gemm", ...forward }, 80e9),
      table({ operator: "gemm", ...backward }, 40e9),
      table({ operator: "accumulation", ...call }, 1e9),
    ];
    for (const device of [processor(), processor(...calls.slice(0, 2)), processor(...calls)]) {
      const without = processor(...device.compute.filter((each) => each.operator !== "accumulation"));
      const products = seconds("c_fc", without);
      expect(products.backwardWeight).toBe(products.backward / 2);
      const linear = seconds("c_fc", device);
      // The sums over micro-batches belong to the weight half.
      expect(linear.backward - linear.backwardWeight).toBeCloseTo(products.backward / 2, 15);
      const embedding = seconds("embedding", device);
      expect(embedding.backwardWeight).toBe(embedding.backward);
      expect(embedding.backwardWeight).toBeGreaterThan(0);
      expect(seconds("gelu", device).backwardWeight).toBe(0);
      expect(seconds("gelu", device).backward).toBeGreaterThan(0);
    }
  });

  it("falls back to kernels for an operator of which one pass is missing", () => {
    const half = seconds("c_fc", processor(table({ operator: "gemm", ...forward }, 80e9)));
    expect(half).toEqual(seconds("c_fc", processor()));
  });

  it("adds a processor's call to its kernels, and floors a GPU's by the launch", () => {
    const bare = seconds("gelu", processor());
    const host = processor();
    host.callSeconds = { forward: quantity(1e-3), backward: quantity(2e-3) };
    const called = seconds("gelu", host);
    expect(called.forward - bare.forward).toBeCloseTo(1e-3, 12);
    expect(called.backward - bare.backward).toBeCloseTo(2e-3, 12);
    const gpu = { ...host, type: "cuda" as const, launchSeconds: quantity(0.5) };
    expect(seconds("gelu", gpu)).toEqual({ forward: 0.5, backward: 0.5, backwardWeight: 0 });
  });

  it("adds the dispatch of split tensors to operators with weights only", () => {
    const host = processor();
    const zero = quantity(0);
    const sharded = { forward: quantity(1e-3), backward: quantity(2e-3) };
    host.callSeconds = { forward: zero, backward: zero, sharded };
    const without = processor();
    const added = (name: string, split: string | null, degree: number) =>
      seconds(name, host, split, degree).backward - seconds(name, without, split, degree).backward;
    expect(added("c_fc", "ffn", 2)).toBeCloseTo(2e-3, 12);
    expect(added("c_fc", null, 1)).toBe(0);
    expect(added("gelu", "ffn", 2)).toBe(0);
  });

  it("writes the whole table in the backward pass of an embedding", () => {
    const host = processor(
      table({ operator: "embedding", ...forward }, 1e9),
      table({ operator: "embedding", ...backward }, 1e9),
    );
    const { forward: read, backward: written } = seconds("embedding", host);
    expect(read).toBeCloseTo((128 * 8 + 128 * 256 * 4) / 1e9, 9);
    expect(written).toBeCloseTo((2048 * 256 * 4 + 128 * 256 * 4) / 1e9, 9);
  });
});

describe("CommunicationModel with measured collectives", () => {
  const cluster: Cluster = structuredClone(preset);
  const points = [
    { bytes: 1e3, seconds: 1e-4 },
    { bytes: 1e6, seconds: 1.1e-3 },
    { bytes: 2e6, seconds: 2.1e-3 },
  ];
  cluster.topology.levels[0]!.collectives = [
    { collective: "allReduce", ranks: 2, points, provenance: "measured", source: "a test" },
  ];
  const all = (bytes: number, size: number) =>
    new CommunicationModel(cluster).collectiveSeconds("allReduce", bytes, { size, stride: 1 });

  it("follows the curve, and its last slope beyond it", () => {
    expect(all(1e6, 2)).toBeCloseTo(1.1e-3, 12);
    expect(all(10, 2)).toBeCloseTo(1e-4, 12);
    expect(all(12e6, 2)).toBeCloseTo(12.1e-3, 12);
  });

  it("scales latency by hops and the rest by ring volume for other groups, and calls that fitted", () => {
    expect(all(1e6, 4)).toBeCloseTo(3 * 1e-4 + 1e-3 * (3 / 4 / (1 / 2)), 12);
    const model = new CommunicationModel(cluster);
    model.collectiveSeconds("allReduce", 1e6, { size: 2, stride: 2 });
    expect(model.provenance).toBe("measured");
    model.collectiveSeconds("allReduce", 1e6, { size: 4, stride: 1 });
    expect(model.provenance).toBe("fitted");
  });

  it("leaves other collectives and other levels to the links", () => {
    const group = { size: 2, stride: 1 };
    const bare = structuredClone(preset);
    delete bare.topology.levels[0]!.collectives;
    const plain = new CommunicationModel(bare).collectiveSeconds("allGather", 1e6, group);
    expect(new CommunicationModel(cluster).collectiveSeconds("allGather", 1e6, group)).toBe(plain);
  });
});
