import { describe, expect, test } from "vitest";
import { profileText } from "../../src/cli/profile.js";
import { evenLevels } from "../../src/cluster/index.js";
import type { NativeMeasurement, NativeReport } from "../../src/cluster/native.js";
import { assembleCluster } from "../../src/cluster/profile.js";
import { checkDocument, MpoptError } from "../../src/contracts/index.js";

function row(part: Partial<NativeMeasurement>): NativeMeasurement {
  const secondsMedian = part.secondsMedian ?? 1e-3;
  return {
    operation: "gemm",
    dtype: "f32",
    work: 1e9,
    unit: "flop",
    load: "together",
    secondsMedian,
    p05: secondsMedian * 0.9,
    p95: secondsMedian * 1.1,
    samples: 20,
    confidence95: 0.005,
    converged: true,
    method: "a method",
    ...part,
  };
}

function report(measurements: NativeMeasurement[], type: "cpu" | "cuda" = "cpu"): NativeReport {
  const attributes: Record<string, number> =
    type === "cpu" ? {} : { contextBytes: 5e8, multiprocessors: 132 };
  return {
    backend: type,
    environment: { processor: "Some Processor", driver: "", libraries: {}, clocks: { coreHertz: 2e9 } },
    devices: [0, 1].map((index) => ({
      index,
      name: type === "cpu" ? "Some Processor" : "NVIDIA H100 80GB HBM3",
      type,
      memoryBytes: 8e9,
      attributes,
    })),
    measurements,
    failedProbes: [],
  };
}

const complete: NativeMeasurement[] = [
  row({ work: 4e9, secondsMedian: 0.05 }),
  row({ work: 1e9, secondsMedian: 0.02, shape: { m: 1, n: 2, k: 3 } }),
  row({ operation: "elementwise", unit: "byte", work: 1e4, secondsMedian: 1e-7 }),
  row({ operation: "elementwise", unit: "byte", work: 1e8, secondsMedian: 1e-2 }),
  row({ operation: "reduction", unit: "byte", work: 1e8, secondsMedian: 1e-2 }),
  row({ operation: "copy", unit: "byte", work: 1e8, secondsMedian: 2e-2 }),
  row({ operation: "launch", unit: "call", work: 1, secondsMedian: 3e-8 }),
  row({ operation: "link", dtype: "i8", unit: "byte", work: 16e6, secondsMedian: 4.01e-3, load: "alone" }),
  row({ operation: "link", dtype: "i8", unit: "byte", work: 8, secondsMedian: 1e-5, load: "alone" }),
];

describe("assembleCluster", () => {
  test("makes a valid document of a processor", () => {
    const cluster = assembleCluster(report(complete));
    expect(checkDocument("cluster", JSON.parse(JSON.stringify(cluster)), "again")).toEqual(cluster);
    const device = cluster.devices[0]!;
    expect(device).toMatchObject({ kind: "cpu", type: "cpu", count: 2 });
    expect(device.memoryBytes).toMatchObject({ value: 8e9, provenance: "measured" });
    expect(device.peakFlopsPerSecond.f32).toMatchObject({ value: 4e9 / 0.05, provenance: "measured" });
    expect(device.memoryBytesPerSecond.value).toBeCloseTo(1e10);
    expect(device.launchSeconds.value).toBe(3e-8);
    expect(cluster.topology.levels).toHaveLength(1);
    expect(cluster.topology.levels[0]!.groupSize).toBe(2);
    expect(cluster.measurements).toHaveLength(complete.length);
    expect(cluster.overlap.gradientReduction).toMatchObject({ value: 0, provenance: "assumed" });
  });

  test("fits the link to its smallest and its largest message", () => {
    const { link } = evenLevels(assembleCluster(report(complete)))[0]!;
    expect(link.latencySeconds.value).toBe(1e-5);
    expect(link.bytesPerSecond.value).toBeCloseTo(16e6 / 4e-3, 0);
    expect(link.points.map(({ bytes }) => bytes)).toEqual([8, 16e6]);
  });

  test("sorts points and keeps their shapes", () => {
    const gemm = assembleCluster(report(complete)).devices[0]!.compute.find(
      ({ operator }) => operator === "gemm",
    );
    expect(gemm!.points).toEqual([
      { work: 1e9, rate: 1e9 / 0.02, shape: { m: 1, n: 2, k: 3 } },
      { work: 4e9, rate: 4e9 / 0.05 },
    ]);
  });

  test("plans with what was measured under full load, and keeps both", () => {
    const alone = row({ work: 4e9, secondsMedian: 0.01, load: "alone" });
    const cluster = assembleCluster(report([alone, ...complete]));
    expect(cluster.devices[0]!.peakFlopsPerSecond.f32!.value).toBeCloseTo(4e9 / 0.05, 0);
    expect(cluster.measurements).toHaveLength(complete.length + 1);
  });

  test("keeps the slower of two shapes with equal work", () => {
    const shapes = [
      row({ work: 2e9, secondsMedian: 0.03, shape: { m: 1, n: 1, k: 1 } }),
      row({ work: 2e9, secondsMedian: 0.04, shape: { m: 2, n: 2, k: 2 } }),
    ];
    const { points } = assembleCluster(report([...shapes, ...complete])).devices[0]!.compute[0]!;
    expect(points.map(({ work }) => work)).toEqual([1e9, 2e9, 4e9]);
    expect(points[1]!.shape).toEqual({ m: 2, n: 2, k: 2 });
  });

  test("describes GPUs, and says what was not measured", () => {
    const gpu = complete.filter(({ operation }) => !["elementwise", "reduction", "link"].includes(operation));
    const cluster = assembleCluster(report(gpu, "cuda"));
    expect(cluster.devices[0]).toMatchObject({ kind: "nvidia-h100-80gb-hbm3", type: "cuda", count: 2 });
    expect(cluster.memoryOverheads.contextBytes).toMatchObject({ value: 5e8, provenance: "measured" });
    expect(cluster.devices[0]!.multiprocessors).toMatchObject({ value: 132, provenance: "measured" });
    expect(cluster.topology.levels[0]!.link!.bytesPerSecond.provenance).toBe("assumed");
    const elementwise = cluster.devices[0]!.compute.find(({ operator }) => operator === "elementwise");
    expect(elementwise!.provenance).toBe("assumed");
  });

  test("refuses a report without what everything rests on", () => {
    const failing = { ...report([]), failedProbes: [{ probe: "gemm f32", reason: "no memory" }] };
    const attempt = () => assembleCluster(failing);
    expect(attempt).toThrow(MpoptError);
    try {
      attempt();
    } catch (error) {
      expect(error).toMatchObject({ code: "E_NATIVE", notes: ["gemm f32: no memory"] });
    }
    expect(() => assembleCluster(report(complete.filter(({ operation }) => operation !== "link")))).toThrow(
      /loopback probe/,
    );
  });
});

test("the table names every figure with its origin", () => {
  const text = profileText(assembleCluster(report(complete)));
  expect(text).toContain("2 x Some Processor");
  expect(text).toMatch(/gemm f32 +50\.0 to 80\.0 GFLOP\/s +measured/);
  expect(text).toMatch(/link bandwidth +4\.00 GB\/s +measured/);
});
