import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import type { Pins, Plan, Runtime } from "../../src/contracts/index.js";
import { loadModel } from "../../src/models/index.js";
import { createPlan } from "../../src/plan/index.js";

const cluster = clusterPreset("a100-80:8x1");
const [batch, sequence] = [32, 1024];
// GPT-2: hidden size, layers, vocabulary.
const [h, l, v] = [768, 12, 50257];

async function planned(
  pins: Pins,
  options: Parameters<typeof loadModel>[1] = {},
  runtime: Runtime = "portable",
) {
  const model = loadModel("gpt2", options);
  return createPlan({ model, cluster, job: { globalBatch: batch, sequence, pins, runtime }, plain: true });
}

/** FLOPs of a step at 312 TFLOP/s a device and so much of it. */
const flops = ({ estimate }: Plan, share: number) => share * estimate.stepSeconds * 8 * 312e12;
/** Biases, norms and the like are not in the formulas. */
const near = (value: number, formula: number) => {
  expect(value / formula).toBeGreaterThan(0.999);
  expect(value / formula).toBeLessThan(1.005);
};

describe("utilisation", () => {
  it("counts full attention as Narayanan et al., SC'21: 96 B s l h^2 (1 + s / 6h + V / 16 l h) with recomputation", async () => {
    const plan = await planned({ recompute: "full" });
    const formula = 96 * batch * sequence * l * h * h * (1 + sequence / (6 * h) + v / (16 * l * h));
    near(flops(plan, plan.estimate.fullAttention!.hfu), formula);
    // One forward of the layers less.
    const once = 24 * batch * sequence * l * h * h * (1 + sequence / (6 * h));
    near(flops(plan, plan.estimate.fullAttention!.mfu), formula - once);
  });

  it("counts as 6 N + 12 l h s a token with full attention, and half the second term under the mask", async () => {
    const plan = await planned({ recompute: "none" });
    // Parameters in products: without positions, and with the tied embedding as the head.
    const parameters = 12 * l * h * h + v * h;
    const tokens = batch * sequence;
    const { mfu, hfu, fullAttention } = plan.estimate;
    near(flops(plan, fullAttention!.mfu), tokens * (6 * parameters + 12 * l * h * sequence));
    near(flops(plan, mfu), tokens * (6 * parameters + 6 * l * h * sequence));
    expect(hfu).toBe(mfu);
    expect(fullAttention!.hfu).toBe(fullAttention!.mfu);
  });

  it("repeats attention alone under selective recomputation, and some layers under the number of them", async () => {
    const selective = (await planned({ recompute: "selective" })).estimate;
    const step = 8 * 312e12 * selective.stepSeconds;
    near(
      (selective.fullAttention!.hfu - selective.fullAttention!.mfu) * step,
      4 * batch * l * h * sequence ** 2,
    );
    near((selective.hfu - selective.mfu) * step, 2 * batch * l * h * sequence ** 2);

    const layers = await planned({ recompute: "none", recomputeLayers: 3, pipeline: 1 }, {}, "any");
    const full = await planned({ recompute: "full", pipeline: 1 }, {}, "any");
    const repeated = ({ estimate }: Plan) => (estimate.hfu - estimate.mfu) * estimate.stepSeconds;
    expect(repeated(layers) / repeated(full)).toBeCloseTo(3 / 12, 9);
  });

  it("is the same question for kernels that write their scores", async () => {
    const flash = await planned({ recompute: "none" });
    const materialized = await planned({ recompute: "none" }, { kernels: { attention: "materialized" } });
    const [a, b] = [flash, materialized].map(({ estimate }) => ({
      masked: estimate.mfu * estimate.stepSeconds,
      full: estimate.fullAttention!.mfu * estimate.stepSeconds,
    }));
    const about = (value: number, wanted: number) => expect(Math.abs(value / wanted - 1)).toBeLessThan(0.02);
    // Softmax counts beside the products where it is an operator of its own.
    about(b!.masked / a!.masked, 1);
    about(b!.full / a!.full, 1);
    about(b!.full / b!.masked, a!.full / a!.masked);
  });
});
