import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import type { Device } from "../../src/contracts/index.js";
import { attentionSeconds } from "../../src/cost/attention.js";
import { castBytes, castSeconds, linearCastSeconds, narrowLinearSeconds } from "../../src/cost/cast.js";
import { ComputeModel } from "../../src/cost/compute.js";
import { gemmConstants, gemmSeconds } from "../../src/cost/gemm.js";
import { interpolateScattered } from "../../src/cost/interpolate.js";
import type { AttentionShape, GemmShape } from "../../src/cost/shapes.js";

/** A100 PCIe as SimuMax's system file: MAMF table, memory of its `default` operators. */
const a100 = { flopsPerSecond: 252.9e12, bytesPerSecond: 1456e9, multiprocessors: 108 };
const peak = 312e12;

const flopsOf = ({ m, n, k, groups = 1 }: GemmShape) => 2 * m * n * k * groups;
const bytesOf = ({ m, n, k, groups = 1, accumulates }: GemmShape) =>
  groups * (2 * (m * k + k * n) + (accumulates ? 8 : 2) * m * n);
const share = (shape: GemmShape) => flopsOf(shape) / gemmSeconds(shape, bytesOf(shape), a100) / peak;

describe("gemmSeconds", () => {
  // Shares of 312 TFLOP/s in SimuMax configs/system/a100_pcie.json: forward, gradients of inputs and of weights.
  it.each([
    [{ m: 4096, k: 16384, n: 5120 }, 0.74928],
    [{ m: 4096, k: 5120, n: 16384 }, 0.76124],
    [{ m: 5120, k: 4096, n: 16384, accumulates: true }, 0.71904],
    [{ m: 4096, k: 1536, n: 24576 }, 0.69713],
    [{ m: 4096, k: 24576, n: 1536 }, 0.7378],
    [{ m: 4096, k: 5120, n: 576 }, 0.4968],
    [{ m: 4096, k: 512, n: 4096 }, 0.61011],
    [{ groups: 20, m: 1232, n: 3072, k: 5120, separate: true }, 0.70737],
  ])("is within 8 %% of a measured A100: %o", (shape, measured) => {
    expect(Math.abs(share(shape) / measured - 1)).toBeLessThan(0.08);
  });

  it("never beats power nor memory, and wastes no more than a tile a multiprocessor", () => {
    const side = fc.integer({ min: 1, max: 70000 });
    fc.assert(
      fc.property(side, side, side, fc.integer({ min: 1, max: 512 }), (m, n, k, groups) => {
        const shape = { m, n, k, groups };
        const seconds = gemmSeconds(shape, bytesOf(shape), a100);
        expect(seconds).toBeGreaterThan(flopsOf(shape) / a100.flopsPerSecond / 1.08);
        expect(seconds).toBeGreaterThan(bytesOf(shape) / a100.bytesPerSecond);
        // No worse than odd rows (off the tensor cores where matrices are many) and the smallest tiles in whole waves, and the bytes after that.
        const tiles = Math.ceil((Math.ceil(m / 64) * Math.ceil(n / 64) * groups) / 108) * 108;
        const padded = tiles * 2 * 64 * 64 * (k + 160);
        const slow = groups > 1 && (n % 8 > 0 || k % 8 > 0) ? 5 / gemmConstants.unalignedBatchedShare : 12;
        const most = (slow * padded) / a100.flopsPerSecond + bytesOf(shape) / a100.bytesPerSecond;
        expect(seconds).toBeLessThan(most + 1e-5);
      }),
      { numRuns: 300, examples: [[1, 1, 1, 1]] },
    );
  });

  it("grows with every side", () => {
    const side = fc.integer({ min: 1, max: 2500 }).map((eighths) => 8 * eighths);
    const sides = ["m", "n", "k", "groups"] as const;
    fc.assert(
      fc.property(side, side, side, fc.constantFrom(...sides), (m, n, k, grown) => {
        const shape = { m, n, k, groups: 8 };
        const larger = { ...shape, [grown]: shape[grown] + 8 };
        const at = (one: GemmShape) => gemmSeconds(one, bytesOf(one), a100);
        expect(at(larger)).toBeGreaterThanOrEqual(at(shape));
      }),
      { numRuns: 500 },
    );
  });

  it("pays for a wave that is hardly begun", () => {
    // 108 tiles of 256 x 128 fill the device; one more row of tiles does not.
    const full = share({ m: 12 * 256, n: 9 * 128, k: 4096 });
    const spilled = share({ m: 12 * 256 + 8, n: 9 * 128, k: 4096 });
    expect(spilled).toBeLessThan(0.95 * full);
  });

  it("finds small batched products slow, and rows of odd length too", () => {
    expect(share({ m: 2048, n: 2048, k: 64, groups: 64 })).toBeLessThan(
      0.5 * share({ m: 8192, n: 8192, k: 8192 }),
    );
    const head = (n: number) => share({ m: 4096, n, k: 1024 });
    expect(head(50257)).toBeLessThan(0.5 * head(50304));
    expect(head(50260)).toBeGreaterThan(head(50258));
  });

  it("charges kernels of their own for each group", () => {
    const shape = { m: 64, n: 1024, k: 1024, groups: 128 };
    const more =
      gemmSeconds({ ...shape, separate: true }, bytesOf(shape), a100) -
      gemmSeconds(shape, bytesOf(shape), a100);
    expect(more).toBeCloseTo(127 * 1.1e-6, 9);
  });
});

describe("attentionSeconds", () => {
  const roofs = { ...a100, flopsPerSecond: 0.8 * 252.9e12 };
  const shape = (heads: number, headSize: number, valueSize: number, backward: boolean): AttentionShape => ({
    batch: 1,
    heads,
    keyValueHeads: heads,
    queries: 4096,
    keys: 4096,
    headSize,
    valueSize,
    causal: true,
    backward,
  });
  const flopsOf = ({ heads, queries, keys, headSize, valueSize, backward }: AttentionShape) =>
    ((heads * queries * keys) / 2) * 2 * (backward ? 3 * headSize + 2 * valueSize : headSize + valueSize);
  // SimuMax counts all pairs, and 2.5 times the forward pass for the backward.
  const share = (one: AttentionShape) => {
    const counted = one.heads * 4096 ** 2 * (one.headSize + one.valueSize) * (one.backward ? 5 : 2);
    return counted / attentionSeconds(one, flopsOf(one), 0, roofs) / peak;
  };

  it.each([
    [64, 128, 128, false, 1.18701],
    [16, 128, 128, false, 0.9877],
    [4, 128, 128, false, 0.5142],
    [128, 192, 128, false, 1.07297],
    [64, 128, 128, true, 1.00506],
    [8, 128, 128, true, 0.76285],
    [64, 192, 128, true, 0.79426],
  ])(
    "is within 10 %% of a measured A100: %i heads of %i and %i, backward %s",
    (heads, qk, v, backward, measured) => {
      expect(Math.abs(share(shape(heads, qk, v, backward)) / measured - 1)).toBeLessThan(0.1);
    },
  );

  it("is slower by the FLOP with narrow heads, short sequences and few blocks", () => {
    expect(share(shape(64, 64, 64, false))).toBeLessThan(0.92 * share(shape(64, 128, 128, false)));
    expect(share(shape(2, 128, 128, false))).toBeLessThan(0.5 * share(shape(64, 128, 128, false)));
  });

  it("takes a window's FLOPs for what they are", () => {
    const whole = shape(32, 128, 128, false);
    const windowed = flopsOf(whole) / 8;
    const seconds = attentionSeconds(whole, windowed, 0, roofs);
    expect(seconds).toBeLessThan(attentionSeconds(whole, flopsOf(whole), 0, roofs) / 6);
    expect(seconds).toBeGreaterThan(windowed / roofs.flopsPerSecond);
  });
});

describe("casts to narrow types", () => {
  const h100 = new ComputeModel(clusterPreset("h100-sxm").devices[0]!);

  it("count each element's bytes, the maximum's pass and both copies", () => {
    const cast = { elements: 1000, from: "bf16", to: "fp8" } as const;
    expect(castBytes(cast)).toBe(3000);
    expect(castBytes({ ...cast, scaling: "current", copies: 2 })).toBe(6000);
    expect(castBytes({ ...cast, scaling: "block" })).toBe(1000 * (3 + 1 / 32));
    // Rows are scaled on the way, columns in two passes of their own.
    expect(castBytes({ ...cast, scaling: "row" })).toBe(3000);
    expect(castBytes({ ...cast, scaling: "row", copies: 2 })).toBe(8000);
    expect(castSeconds({ ...cast, elements: 0 }, h100)).toBe(0);
  });

  it("leave a wide layer faster in fp8, and a thin one not", () => {
    const gain = (m: number, n: number, k: number) => {
      const forward = { m, n, k };
      const bytes = 2 * (m * k + k * n + m * n);
      const work = { kind: "gemm", flops: 2 * m * n * k, bytes, shape: forward } as const;
      const products = { forward, inputGradient: forward, weightGradient: forward };
      const casts = linearCastSeconds(products, { from: "bf16", to: "fp8", scaling: "current" }, h100);
      const narrow = h100.seconds({ ...work, dtype: "fp8" }) + casts.forward;
      return h100.seconds({ ...work, dtype: "bf16" }) / narrow;
    };
    expect(gain(8192, 28672, 8192)).toBeGreaterThan(1.3);
    expect(gain(8192, 512, 512)).toBeLessThan(1);
  });
});

describe("narrow linear layers", () => {
  const h100 = new ComputeModel(clusterPreset("h100-sxm").devices[0]!);
  const shape = (m: number, n: number, k: number) => ({
    forward: { m, n, k },
    inputGradient: { m, n: k, k: n },
    weightGradient: { m: k, n, k: m },
  });

  it("cast their input once for all weights, and once for each under scales by row", () => {
    const shapes = shape(16384, 3072, 4096);
    const forward = (scaling: "current" | "row", weights: number) =>
      linearCastSeconds(shapes, { from: "bf16", to: "fp8", scaling }, h100, weights).forward;
    expect(forward("current", 3)).toBe(forward("current", 1));
    expect(forward("row", 3) / forward("row", 1)).toBeGreaterThan(2.3);
  });

  it("take what torchao measured under scales by row on an H100", () => {
    // pytorch/ao, pull request 2185: wqkv, w0, w13 and w2 of a 70B model over 8 devices, forward and backward, ms.
    const measured: [number, number, number, number][] = [
      [16384, 8192, 1280, 1.757],
      [16384, 1024, 8192, 1.193],
      [16384, 8192, 7168, 5.707],
      [16384, 3584, 8192, 3.034],
    ];
    for (const [m, k, n, milliseconds] of measured) {
      const types = { from: "bf16", to: "fp8", scaling: "row" } as const;
      const layer = { flops: 2 * m * n * k, types, weights: 1 };
      const { forward, backward } = narrowLinearSeconds(shape(m, n, k), layer, h100);
      const ratio = (1e3 * (forward + backward)) / milliseconds;
      expect(ratio, `${m} x ${k} x ${n}`).toBeGreaterThan(0.8);
      expect(ratio, `${m} x ${k} x ${n}`).toBeLessThan(1.15);
    }
  });
});

describe("ComputeModel with shapes", () => {
  const preset = clusterPreset("a100-80").devices[0]!;
  const shape = { m: 4096, n: 4096, k: 4096 };
  const work = { kind: "gemm", dtype: "bf16", flops: flopsOf(shape), bytes: bytesOf(shape), shape } as const;
  const quantity = (value: number) => ({ value, provenance: "fitted" as const, source: "a test" });

  it("multiplies rates by the device's efficiencies, and takes over their provenance", () => {
    const device = (efficiency: Device["efficiency"]): Device => ({ ...preset, efficiency });
    const seconds = (efficiency: Device["efficiency"], one: Parameters<ComputeModel["seconds"]>[0]) =>
      new ComputeModel(device(efficiency)).seconds(one);
    const half = { gemm: quantity(0.5), attention: quantity(0.25), memory: quantity(0.5) };
    expect(seconds(half, work) / seconds(undefined, work)).toBeCloseTo(2, 1);
    const plain = { kind: "gemm", dtype: "bf16", flops: 1e12, bytes: 0 } as const;
    expect(seconds(half, plain) / seconds(undefined, plain)).toBeCloseTo(2, 9);
    const copied = { kind: "elementwise", dtype: "bf16", flops: 0, bytes: 1e9 } as const;
    expect(seconds(half, copied) / seconds(undefined, copied)).toBeCloseTo(2, 9);
    const attention = { ...plain, kind: "attention" } as const;
    expect(seconds(half, attention) / seconds(undefined, attention)).toBeCloseTo(4, 9);
    const measured = device({ memory: quantity(0.5) });
    measured.compute = measured.compute.map((table) => ({ ...table, provenance: "measured" }));
    const model = new ComputeModel(measured);
    model.seconds({ ...copied, kind: "elementwise" });
    expect(model.provenance).toBe("fitted");
  });

  it("writes sums of gradients in f32", () => {
    const thin = { m: 4096, n: 4096, k: 64 };
    const one = { ...work, flops: flopsOf(thin), bytes: bytesOf(thin) };
    const model = new ComputeModel(preset);
    const plain = model.seconds({ ...one, shape: thin });
    const summed = model.seconds({ ...one, shape: { ...thin, accumulates: true } });
    expect(summed).toBeGreaterThan(2 * plain);
  });

  describe("where products were measured", () => {
    const slow = 1.7;
    const sides = [1024, 4096, 16384];
    const measured: Device = structuredClone(preset);
    const roofs = { flopsPerSecond: 100e12, bytesPerSecond: 1e12, multiprocessors: 108 };
    // Products that take 1.7 times what the model says, but for the one that reaches the best rate.
    const points = sides.map((side) => {
      const cube = { m: side, n: side, k: side };
      const factor = side === 16384 ? 1 : slow;
      return {
        work: flopsOf(cube),
        rate: flopsOf(cube) / (factor * gemmSeconds(cube, bytesOf(cube), roofs)),
        shape: cube,
      };
    });
    points.push({ work: 1e15, rate: 100e12, shape: { m: 65536, n: 65536, k: 116415 } });
    const source = "a test";
    measured.compute = [
      { operator: "gemm", dtype: "bf16", unit: "flop", points, provenance: "measured", source },
      {
        operator: "elementwise",
        dtype: "bf16",
        unit: "byte",
        points: [{ work: 1e9, rate: 1e12 }],
        provenance: "measured",
        source,
      },
    ];
    const seconds = (one: GemmShape, model = new ComputeModel(measured)) =>
      model.seconds({ ...work, flops: flopsOf(one), bytes: bytesOf(one), shape: one });

    it("gives their own times, and calls those near them measured", () => {
      for (const { work: flops, rate, shape: cube } of points.slice(0, 3)) {
        const model = new ComputeModel(measured);
        expect(seconds(cube, model)).toBeCloseTo(flops / rate, 9);
        expect(model.provenance).toBe("measured");
      }
    });

    it("corrects shapes near them, stays between the corrections far away, and calls those fitted", () => {
      const near = { m: 1024, n: 1152, k: 1024 };
      expect(seconds(near) / gemmSeconds(near, bytesOf(near), roofs)).toBeGreaterThan(1.5);
      const model = new ComputeModel(measured);
      const far = { m: 64, n: 131072, k: 64 };
      const factor = seconds(far, model) / gemmSeconds(far, bytesOf(far), roofs);
      expect(factor).toBeGreaterThan(0.9);
      expect(factor).toBeLessThan(slow);
      expect(model.provenance).toBe("fitted");
    });
  });

  it("prices narrow types in 16 bit where the part has none", () => {
    const model = new ComputeModel(preset);
    expect(model.seconds({ ...work, dtype: "fp8" })).toBeCloseTo(model.seconds(work), 12);
  });
});

describe("interpolateScattered", () => {
  const points = [
    { place: [0, 0], value: 1 },
    { place: [1, 0], value: 3 },
    { place: [0, 1], value: 5 },
  ];

  it("passes through its points and stays between them", () => {
    for (const { place, value } of points) expect(interpolateScattered(points, place).value).toBe(value);
    fc.assert(
      fc.property(
        fc.double({ min: -9, max: 9, noNaN: true }),
        fc.double({ min: -9, max: 9, noNaN: true }),
        (x, y) => {
          const { value } = interpolateScattered(points, [x, y]);
          expect(value).toBeGreaterThanOrEqual(1);
          expect(value).toBeLessThanOrEqual(5);
        },
      ),
    );
  });

  it("tells how far the nearest point is", () => {
    expect(interpolateScattered(points, [4, 0]).distance).toBeCloseTo(3, 12);
  });
});

describe("gemmSeconds of experts", () => {
  const roofs = { flopsPerSecond: 700e12, bytesPerSecond: 2.5e12, multiprocessors: 132 };
  const shape = { m: 1024, n: 5760, k: 2880, groups: 16, separate: true };
  const seconds = (m: number, ragged: boolean) => gemmSeconds({ ...shape, m, ragged }, 0, roofs);

  it("pays for half a tile of rows that routing leaves empty", () => {
    expect(seconds(1024, true)).toBeGreaterThan(1.02 * seconds(1024, false));
    expect(seconds(1024, true)).toBeLessThan(1.12 * seconds(1024, false));
  });

  it("hardly sees it where experts have many rows, and grows without steps", () => {
    expect(seconds(65_536, true) / seconds(65_536, false)).toBeLessThan(1.01);
    expect(seconds(1025, true) / seconds(1024, true)).toBeLessThan(1.01);
  });
});
