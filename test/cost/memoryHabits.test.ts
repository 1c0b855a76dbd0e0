import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { checkValue, jobSchema } from "../../src/contracts/index.js";
import { habitsOf, type MemoryHabits, MemoryModel, plainHabits } from "../../src/cost/memory.js";
import { deepSpeedBrain, deepSpeedHalf, shardedHabits } from "../../src/validate/habits.js";

const cluster = clusterPreset("a100-80:8x1");
const context = cluster.memoryOverheads.contextBytes.value;

function model(habits: MemoryHabits | undefined, dtypes: object, runtime = "portable"): MemoryModel {
  const job = checkValue(
    jobSchema,
    { schema: "mpopt.job/1", globalBatch: 8, sequence: 512, dtypes, runtime },
    "job",
  );
  return new MemoryModel(cluster, cluster.devices[0]!, job, habits);
}

const held = {
  parameters: { dense: 800, expert: 200 },
  savedBytes: 0,
  inFlight: 0,
  recomputedBytes: 0,
  logitsBytes: 0,
  workspaceBytes: 0,
};
const half = { parameters: "f16", gradients: "f16", optimizer: "f32" };
const brain = { parameters: "bf16", gradients: "f32", optimizer: "f32", microBatchGradients: "bf16" };
const mixed = { parameters: "bf16", gradients: "f32", optimizer: "f32" };
const shards = (zero: 0 | 1 | 2 | 3) =>
  ({ zero, shards: 8, expertShards: 2, offloadOptimizer: false }) as const;

describe("what software holds beside a model", () => {
  it("is nothing without habits, and Megatron-Core's fused gradients by runtime", () => {
    expect(model(undefined, mixed).habits).toEqual(plainHabits);
    expect(model(undefined, mixed, "megatron").habits).toEqual(habitsOf("megatron"));
    expect(habitsOf("megatron").fusedWeightGradients).toBe(true);
  });

  it("are the f32 gradients and the flat copy of a share in DeepSpeed's f16 update, and its buckets", () => {
    const terms = model(deepSpeedHalf, half).terms(held, shards(1));
    // 800 / 8 + 200 / 2 parameters: 12 bytes of state, 6 of the update.
    expect(terms.optimizer).toBe(200 * 18);
    expect(terms.gradients).toBe(2000);
    expect(terms.context - context).toBe(2 * 1e9);
    expect(model(deepSpeedHalf, half).terms(held, shards(0)).optimizer).toBe(1000 * 18);
  });

  it("is a bf16 copy of all gradients in DeepSpeed's BF16_Optimizer", () => {
    const terms = model(deepSpeedBrain, brain).terms(held, shards(1));
    expect(terms.gradients).toBe(1000 * 6);
    expect(terms.optimizer).toBe(200 * 12 + 1000 * 2);
  });

  it("is one copy less where parameters are stored in f32", () => {
    const total = (habits: MemoryHabits, zero: 0 | 3) => {
      const memory = model(habits, mixed);
      return memory.allocatedBytes(memory.terms(held, shards(zero))) - context;
    };
    expect(total(plainHabits, 3)).toBe(200 * 18);
    expect(total(shardedHabits, 3)).toBe(200 * 16);
    expect(total(shardedHabits, 0)).toBe(1000 * 16);
    const whole = model(shardedHabits, { ...mixed, parameters: "f32" });
    expect(whole.terms(held, shards(0)).optimizer).toBe(1000 * 8);
  });

  it("costs each parameter what its terms say", () => {
    for (const habits of [plainHabits, deepSpeedHalf, deepSpeedBrain, shardedHabits]) {
      for (const zero of [0, 1, 2, 3] as const) {
        const memory = model(habits, brain);
        const each = memory.bytesEach(shards(zero));
        const terms = memory.terms(held, shards(zero));
        expect(each.dense * 800 + each.expert * 200).toBeCloseTo(
          terms.parameters + terms.gradients + terms.optimizer,
          6,
        );
      }
    }
  });
});
