import { describe, expect, test } from "vitest";
import { clusterPreset, evenLevels } from "../../src/cluster/index.js";
import { measureTorch, mergeTorch, type TorchMeasurements } from "../../src/cluster/torchProvider.js";
import { type Cluster, checkDocument, MpoptError } from "../../src/contracts/index.js";
import { findPython } from "../../src/launch/index.js";

const python = await findPython();
const torchPython = python?.torch ? python.executable : undefined;
if (!torchPython) console.warn("Skipped timing PyTorch: no Python with PyTorch (see MPOPT_PYTHON).");

function figures(secondsMedian: number) {
  return {
    secondsMedian,
    p05: secondsMedian * 0.9,
    p95: secondsMedian * 1.2,
    samples: 7,
    disturbed: 1,
    confidence95: 0.02,
  };
}

function linear(pass: "forward" | "backward", work: number, secondsMedian: number, m = 128) {
  return {
    operator: "linear" as const,
    pass,
    unit: "flop" as const,
    work,
    shape: { m, n: 256, k: 256 },
    ...figures(secondsMedian),
  };
}

/** A short answer of the script. */
const recorded: TorchMeasurements = {
  schema: "mpopt.torch-measurements/1",
  torch: "2.13.0+cpu",
  processes: 2,
  operators: [
    { ...linear("forward", 32, 4e-6), operator: "call", name: "call", unit: "byte" },
    { ...linear("backward", 48, 6e-6), operator: "call", name: "call", unit: "byte" },
    linear("forward", 4e8, 5e-3),
    linear("forward", 1e8, 2e-3),
    linear("forward", 1e8, 8e-3, 512),
    linear("backward", 2e8, 3e-3),
    { ...linear("forward", 4e5, 2e-4), operator: "activation", name: "gelu", unit: "byte" },
    { ...linear("forward", 1e6, 1e-4), operator: "accumulation", unit: "byte" },
    { ...linear("forward", 1e6, 3e-4), operator: "optimizer", name: "adam", unit: "byte" },
  ],
  collectives: [
    { collective: "transfer", ranks: 2, bytes: 1e6, ...figures(5e-4) },
    { collective: "transfer", ranks: 2, bytes: 4096, ...figures(1e-4) },
    { collective: "allReduce", ranks: 2, bytes: 4096, ...figures(4e-4) },
    { collective: "allReduce", ranks: 2, bytes: 1e6, ...figures(1e-3) },
    { collective: "reduceScatter", ranks: 2, bytes: 1e6, ...figures(3e-3) },
    { collective: "reduceScatter", ranks: 2, bytes: 4096, ...figures(2e-4) },
  ],
  shardedCall: { forward: figures(2e-4), backward: figures(4e-4) },
  failedProbes: [{ probe: "rotary (32, 128)", reason: "the deadline was over" }],
};

function processor(): Cluster {
  const cluster = clusterPreset("h100-sxm:2x1");
  cluster.devices[0]!.type = "cpu";
  return cluster;
}

describe("mergeTorch", () => {
  const before = processor();
  const merged = mergeTorch(before, recorded);
  const device = merged.devices[0]!;
  const table = (operator: string) => device.compute.find((each) => each.operator === operator)!;

  test("makes a valid document, and leaves its input alone", () => {
    expect(checkDocument("cluster", JSON.parse(JSON.stringify(merged)), "again")).toEqual(merged);
    expect(before).toEqual(processor());
    expect(merged.environment.libraries.torch).toBe("2.13.0+cpu");
    expect(merged.failedProbes).toEqual([
      { probe: "PyTorch: rotary (32, 128)", reason: "the deadline was over" },
    ]);
  });

  test("puts whole calls before the kernels and keeps those", () => {
    expect(device.compute.slice(-before.devices[0]!.compute.length)).toEqual(before.devices[0]!.compute);
    expect(table("gemm")).toMatchObject({
      pass: "forward",
      includesCall: true,
      dtype: "f32",
      unit: "flop",
      provenance: "measured",
      source: "PyTorch 2.13.0+cpu, 2 processes at once",
    });
    expect(table("activation")).toMatchObject({ name: "gelu", pass: "forward" });
    expect(table("accumulation").pass).toBeUndefined();
    expect(device.callSeconds).toMatchObject({
      forward: { value: 4e-6, provenance: "measured" },
      sharded: { backward: { value: 4e-4 } },
    });
  });

  test("sorts points, and takes the geometric mean of shapes with equal work", () => {
    const { points } = table("gemm");
    expect(points.map(({ work }) => work)).toEqual([1e8, 4e8]);
    expect(points[0]!.rate).toBeCloseTo(1e8 / 4e-3, 0);
    expect(points[1]!.rate).toBeCloseTo(4e8 / 5e-3, 0);
  });

  test("describes the link and the collectives by gloo's times", () => {
    const { link, collectives } = evenLevels(merged)[0]!;
    expect(link.points.map(({ bytes }) => bytes)).toEqual([4096, 1e6]);
    expect(link.latencySeconds).toMatchObject({ value: 1e-4, provenance: "measured" });
    expect(link.bytesPerSecond.value).toBeCloseTo((1e6 - 4096) / 4e-4, 0);
    const scatter = collectives!.find(({ collective }) => collective === "reduceScatter")!;
    expect(scatter.points).toEqual([
      { bytes: 4096, seconds: 2e-4 },
      { bytes: 1e6, seconds: 1e-3 },
    ]);
    expect(collectives!.some(({ collective }) => collective === "allGather")).toBe(false);
  });

  test("lists every figure with its spread", () => {
    expect(merged.measurements).toHaveLength(recorded.operators.length + recorded.collectives.length + 2);
    expect(merged.measurements.find(({ what }) => what.startsWith("torch gelu"))).toMatchObject({
      what: "torch gelu forward m=128 n=256 k=256",
      secondsMedian: 2e-4,
      method: "PyTorch 2.13.0+cpu, 2 processes at once; 1 samples disturbed by other work",
    });
  });

  test("keeps the link and adds nothing where nothing was measured", () => {
    const empty = { ...recorded, operators: [], collectives: [], shardedCall: undefined, failedProbes: [] };
    const same = mergeTorch(before, empty);
    expect(same.topology).toEqual(before.topology);
    expect(same.devices).toEqual(before.devices);
  });
});

describe("measureTorch", () => {
  test("says what went wrong with the interpreter", async () => {
    const attempt = measureTorch({ python: "/nonexistent/python", processes: 1 });
    await expect(attempt).rejects.toThrow(MpoptError);
    await expect(attempt).rejects.toThrow(/operators to be timed but .*ENOENT/);
    await expect(measureTorch({ python: process.execPath, processes: 1 })).rejects.toThrow(/ended with 1/);
  });

  test("stops when it is told to", async () => {
    const signal = AbortSignal.abort(new MpoptError("E_CANCELLED", "stopped"));
    await expect(measureTorch({ python: "python3", processes: 1, signal })).rejects.toThrow("stopped");
  });

  test.skipIf(!torchPython)(
    "times this machine's PyTorch in two processes at once",
    async () => {
      const torch = await measureTorch({ python: torchPython!, processes: 2, seconds: 4, quick: true });
      expect(torch.processes).toBe(2);
      const found = (operator: string, pass: string) =>
        torch.operators.filter((row) => row.operator === operator && row.pass === pass);
      for (const pass of ["forward", "backward"]) {
        for (const kind of ["call", "linear", "attention"])
          expect(found(kind, pass).length).toBeGreaterThan(0);
      }
      // A processor core does between 10 MFLOP/s and 10 TFLOP/s, and the backward pass takes longer.
      for (const row of found("linear", "forward")) {
        expect(row.work / row.secondsMedian).toBeGreaterThan(1e7);
        expect(row.work / row.secondsMedian).toBeLessThan(1e13);
      }
      const total = (pass: string) => found("linear", pass).reduce((sum, row) => sum + row.secondsMedian, 0);
      expect(total("backward")).toBeGreaterThan(total("forward"));
      expect(() => mergeTorch(processor(), torch)).not.toThrow();
    },
    90_000,
  );
});
