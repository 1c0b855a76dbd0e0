import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { checkValue, jobSchema } from "../../src/contracts/index.js";
import { CommunicationModel } from "../../src/cost/communication.js";
import { ComputeModel } from "../../src/cost/compute.js";
import { interpolateLog } from "../../src/cost/interpolate.js";
import { inFlightMicroBatches, MemoryModel, stateBytes } from "../../src/cost/memory.js";

const cluster = clusterPreset("h100-sxm:8x16");
/** The same with links alone: no curves of collectives. */
const bare = structuredClone(cluster);
delete bare.topology.levels[0]!.collectives;
const communication = new CommunicationModel(bare);
const compute = new ComputeModel(cluster.devices[0]!);

describe("interpolateLog", () => {
  const points = [
    { x: 1, y: 10 },
    { x: 100, y: 1000 },
    { x: 1e4, y: 1000 },
  ];

  it("follows power laws exactly, and is constant beyond the ends", () => {
    expect(interpolateLog(points, 10)).toBeCloseTo(100, 9);
    expect(interpolateLog(points, 1000)).toBeCloseTo(1000, 9);
    expect(interpolateLog(points, 0.01)).toBe(10);
    expect(interpolateLog(points, 1e9)).toBe(1000);
  });

  it("passes through its points", () => {
    for (const { x, y } of points) expect(interpolateLog(points, x)).toBeCloseTo(y, 9);
  });
});

describe("CommunicationModel", () => {
  const group = { size: 8, stride: 1 };
  const { latencySeconds, bytesPerSecond } = cluster.topology.levels[0]!.link!;

  it("prices a ring reduce-scatter by its definition", () => {
    const bytes = 1e9;
    // A large one pays the handshakes of NCCL's simple protocol, 2.1 times the latency of a short one.
    const wanted = 2.1 * 7 * latencySeconds.value + ((7 / 8) * bytes) / bytesPerSecond.value;
    expect(communication.collectiveSeconds("reduceScatter", bytes, group)).toBeCloseTo(wanted, 12);
    const short = 7 * latencySeconds.value + ((7 / 8) * 1000) / (0.2 * bytesPerSecond.value);
    expect(communication.collectiveSeconds("reduceScatter", 1000, group)).toBeCloseTo(short, 12);
  });

  it("makes an all-reduce of large data cost a reduce-scatter and an all-gather", () => {
    const all = communication.collectiveSeconds("allReduce", 1e9, group);
    const parts =
      communication.collectiveSeconds("reduceScatter", 1e9, group) +
      communication.collectiveSeconds("allGather", 1e9, group);
    expect(all).toBeCloseTo(parts, 12);
  });

  it("does nothing for one rank or no bytes", () => {
    expect(communication.collectiveSeconds("allReduce", 1e9, { size: 1, stride: 1 })).toBe(0);
    expect(communication.collectiveSeconds("allReduce", 0, group)).toBe(0);
  });

  it("uses every rank's link between nodes", () => {
    const network = cluster.topology.levels[1]!.link!.bytesPerSecond.value;
    const alone = communication.collectiveSeconds("allGather", 1e9, { size: 16, stride: 8 });
    expect(alone).toBeGreaterThan(((15 / 16) * 1e9) / network);
    // Eight ranks of a node share one ring: together they have eight links, so NVLink is the limit.
    const together = communication.collectiveSeconds("allGather", 1e9, { size: 128, stride: 1 });
    expect(together).toBeLessThan(alone / 4);
  });

  it("never gets cheaper with more bytes or more ranks", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("allReduce", "allGather", "reduceScatter", "allToAll" as const),
        fc.integer({ min: 1, max: 1e9 }),
        fc.integer({ min: 1, max: 6 }),
        (collective, bytes, exponent) => {
          const kind = collective as "allReduce";
          const seconds = (b: number, n: number) =>
            communication.collectiveSeconds(kind, b, { size: n, stride: 1 });
          expect(seconds(2 * bytes, 2 ** exponent)).toBeGreaterThanOrEqual(seconds(bytes, 2 ** exponent));
          // Inside a node; beyond it a ring gains links.
          if (exponent < 3) {
            expect(seconds(bytes, 2 ** (exponent + 1))).toBeGreaterThanOrEqual(seconds(bytes, 2 ** exponent));
          }
        },
      ),
    );
  });

  it("sends to the next node over the network and inside a node over its links", () => {
    expect(communication.transferSeconds(1e8, 8)).toBeGreaterThan(communication.transferSeconds(1e8, 1) * 4);
  });

  it("takes a measured curve where there is one", () => {
    const measured = structuredClone(cluster);
    const link = measured.topology.levels[0]!.link!;
    link.points = [
      { bytes: 1e3, seconds: 1e-4 },
      { bytes: 1e6, seconds: 1e-3 },
    ];
    expect(new CommunicationModel(measured).transferSeconds(1e6, 1)).toBeCloseTo(1e-3, 12);
  });
});

describe("ComputeModel", () => {
  it("prices large products near the best rate and small ones by their overhead", () => {
    const { points } = cluster.devices[0]!.compute.find(
      ({ operator, dtype }) => operator === "gemm" && dtype === "bf16",
    )!;
    const best = points.at(-1)!.rate;
    // What power leaves of the best product that was measured.
    expect(best / 794.5e12).toBeCloseTo(0.88, 3);
    const large = compute.seconds({ kind: "gemm", dtype: "bf16", flops: 1e14, bytes: 1e9 });
    expect(1e14 / large / best).toBeGreaterThan(0.99);
    const small = compute.seconds({ kind: "gemm", dtype: "bf16", flops: 1e9, bytes: 1e6 });
    expect(small).toBeGreaterThan(15e-6);
  });

  it("is bound by memory where bytes outweigh FLOPs", () => {
    const seconds = compute.seconds({ kind: "gemm", dtype: "bf16", flops: 1e6, bytes: 1e11 });
    expect(seconds).toBeGreaterThan(1e11 / 3.35e12);
  });

  it("never gets cheaper with more work", () => {
    fc.assert(
      fc.property(fc.double({ min: 1, max: 1e15, noNaN: true }), (flops) => {
        const at = (work: number) => compute.seconds({ kind: "gemm", dtype: "bf16", flops: work, bytes: 0 });
        expect(at(flops * 1.5)).toBeGreaterThanOrEqual(at(flops));
      }),
    );
  });

  it("says that a substitute is an assumption", () => {
    const device = structuredClone(cluster.devices[0]!);
    device.compute = device.compute
      .filter((table) => table.operator === "gemm" && table.dtype === "bf16")
      .map((table) => ({ ...table, provenance: "measured" as const }));
    const model = new ComputeModel(device);
    model.seconds({ kind: "gemm", dtype: "bf16", flops: 1e12, bytes: 0 });
    expect(model.provenance).toBe("measured");
    model.seconds({ kind: "attention", dtype: "bf16", flops: 1e12, bytes: 0 });
    expect(model.provenance).toBe("assumed");
  });
});

describe("memory", () => {
  const job = (dtypes: Record<string, string>) =>
    checkValue(jobSchema, { schema: "mpopt.job/1", globalBatch: 8, sequence: 16, dtypes }, "job");

  it("gives ZeRO's sixteen or eighteen bytes a parameter in mixed precision, sixteen in f32", () => {
    const sum = (dtypes: Record<string, string>) => {
      const { parameter, gradient, optimizer } = stateBytes(job(dtypes));
      return parameter + gradient + optimizer;
    };
    expect(sum({ parameters: "bf16", gradients: "bf16", optimizer: "f32" })).toBe(16);
    expect(sum({ parameters: "bf16", gradients: "f32", optimizer: "f32" })).toBe(18);
    expect(sum({ parameters: "f32", gradients: "f32", optimizer: "f32" })).toBe(16);
  });

  it("holds min(p - stage, m) micro-batches under 1F1B", () => {
    expect([0, 1, 2, 3].map((stage) => inFlightMicroBatches(stage, 4, 16))).toEqual([4, 3, 2, 1]);
    expect(inFlightMicroBatches(0, 8, 3)).toBe(3);
  });

  it("reserves more than it allocates, but not for the context", () => {
    const memory = new MemoryModel(
      cluster,
      cluster.devices[0]!,
      job({ parameters: "bf16", gradients: "f32", optimizer: "f32" }),
    );
    const contents = {
      parameters: { dense: 1e9, expert: 0 },
      savedBytes: 1e8,
      inFlight: 4,
      recomputedBytes: 0,
      logitsBytes: 0,
      workspaceBytes: 0,
    };
    const terms = memory.terms(contents, {
      zero: 1,
      shards: 8,
      expertShards: 8,
      offloadOptimizer: false,
    });
    expect(terms).toMatchObject({ parameters: 2e9, gradients: 4e9, optimizer: 1.5e9, activations: 4e8 });
    const fragmentation = cluster.memoryOverheads.fragmentation.value;
    const beyond = memory.reservedBytes(terms) - memory.allocatedBytes(terms);
    expect(beyond).toBeCloseTo((fragmentation - 1) * 7.9e9, 0);
  });
});
