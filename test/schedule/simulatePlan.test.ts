import { describe, expect, it } from "vitest";
import type { Plan } from "../../src/contracts/index.js";
import {
  oneForwardOneBackward,
  scheduleByName,
  scheduleOfPlan,
  simulate,
  simulatePlan,
  timesOfPlan,
  writeScheduleCsv,
} from "../../src/schedule/index.js";
import { samplePlan } from "../report/samplePlan.js";

/** The sample plan with its stages dealt to fewer ranks, in turns or there and back. */
function folded(
  ranks: number,
  microBatches: number,
  schedule: string,
  rankOf: (stage: number) => number,
): Plan {
  const plan = samplePlan({ stages: 8, microBatches });
  return {
    ...plan,
    stages: plan.stages.map((stage, s) => ({ ...stage, rank: rankOf(s), chunk: Math.floor(s / ranks) })),
    schedule: { name: schedule, microBatches },
    estimate: { ...plan.estimate, memory: plan.estimate.memory.slice(0, ranks) },
  };
}

describe("simulatePlan", () => {
  it("reaches the estimate's memory on every rank, and reserves what it reserves", () => {
    for (const schedule of ["1f1b", "gpipe"]) {
      const plan = samplePlan({ stages: 6, microBatches: 10, layers: 31, schedule });
      const { ranks } = simulatePlan(plan, { memory: true }).pipeline;
      plan.estimate.memory.forEach(({ allocatedBytes, reservedBytes, terms }, r) => {
        const { peakAllocatedBytes, peakTerms } = ranks[r]!.memory!;
        expect(peakAllocatedBytes / allocatedBytes).toBeCloseTo(1, 12);
        expect(peakTerms.activations / terms.activations).toBeCloseTo(1, 12);
        expect(peakTerms.workspace).toBeCloseTo(terms.workspace + terms.logits, 3);
        // The sample reserves 3 % of the context as well, the simulator of the allocator's part alone.
        expect(ranks[r]!.memory!.reservedBytes / reservedBytes).toBeCloseTo(1, 2);
      });
    }
    expect(simulatePlan(samplePlan({ stages: 2, microBatches: 2 })).pipeline.ranks[0]).not.toHaveProperty(
      "memory",
    );
  });

  it("gives a memory curve that starts with the fixed terms and ends with them", () => {
    const plan = samplePlan({ stages: 4, microBatches: 6 });
    const { ranks } = simulatePlan(plan, { memory: true, memoryCurve: true }).pipeline;
    ranks.forEach((rank, r) => {
      const { parameters, gradients, optimizer, context } = plan.estimate.memory[r]!.terms;
      const last = rank.memory!.curve!.allocatedBytes.at(-1)!;
      expect(last / (parameters + gradients + optimizer + context)).toBeCloseTo(1, 9);
    });
  });

  it("runs several stages a rank, and refuses ranks that the schedule cannot lay out", () => {
    const plan = folded(4, 8, "interleaved", (s) => s % 4);
    const wanted = simulate(
      scheduleByName("interleaved", { ranks: 4, microBatches: 8, chunks: 2 }),
      timesOfPlan(plan),
    );
    const { pipeline } = simulatePlan(plan, { memory: true });
    expect(pipeline.stepSeconds).toBe(wanted.stepSeconds);
    pipeline.ranks.forEach((rank, r) => {
      expect(rank.memory!.peakAllocatedBytes / plan.estimate.memory[r]!.allocatedBytes).toBeCloseTo(1, 12);
    });
    const { message } = catchError(() => scheduleOfPlan({ ...plan, stages: plan.stages.slice(0, 7) }));
    expect(message).toContain("stages");
  });

  it("splits backwards by the plan's weight half, and into equal halves without one", () => {
    const plan = folded(4, 8, "zbv", (s) => (s < 4 ? s : 7 - s));
    const half = timesOfPlan(plan);
    half.backwardSeconds.forEach((seconds, s) => {
      expect(half.backwardWeightSeconds[s]).toBe(seconds / 2);
    });
    const third = {
      ...plan,
      stages: plan.stages.map((stage) => ({ ...stage, backwardWeightSeconds: stage.backwardSeconds / 3 })),
    };
    const { backwardInputSeconds, backwardWeightSeconds, backwardSeconds } = timesOfPlan(third);
    backwardInputSeconds.forEach((seconds, s) => {
      expect(seconds + backwardWeightSeconds[s]!).toBeCloseTo(backwardSeconds[s]!, 12);
    });
    const table = scheduleByName("zbv", { ranks: 4, microBatches: 8 });
    expect(simulatePlan(third).pipeline.stepSeconds).toBe(simulate(table, timesOfPlan(third)).stepSeconds);
  });

  it("runs copies of the stages in both directions of a bidirectional schedule", () => {
    const plan = samplePlan({ stages: 4, microBatches: 8 });
    const both = { ...plan, schedule: { ...plan.schedule, name: "chimera" } };
    const { pipeline } = simulatePlan(both, { memory: true });
    const { forwardSeconds, backwardSeconds } = timesOfPlan(plan);
    pipeline.ranks.forEach(({ busySeconds }, r) => {
      const own = [r, 3 - r].reduce((sum, s) => sum + 4 * (forwardSeconds[s]! + backwardSeconds[s]!), 0);
      expect(busySeconds).toBeCloseTo(own, 9);
    });
  });

  it("runs the plan's own actions, and refuses those of another shape", () => {
    const plan = samplePlan({ stages: 3, microBatches: 5, schedule: "gpipe" });
    const actions = writeScheduleCsv(oneForwardOneBackward(3, 5)).trim().split("\n");
    const searched = { ...plan, schedule: { name: "searched", microBatches: 5, actions } };
    const wanted = simulate(oneForwardOneBackward(3, 5), timesOfPlan(plan));
    expect(simulatePlan(searched).pipeline).toEqual(wanted);
    const wrong = { ...searched, schedule: { ...searched.schedule, microBatches: 6 } };
    expect(catchError(() => simulatePlan(wrong)).message).toContain("6 micro-batches but found 3 and 5");
  });
});

function catchError(work: () => unknown): Error {
  try {
    work();
  } catch (error) {
    return error as Error;
  }
  throw new Error("nothing was thrown");
}
