import { describe, expect, it } from "vitest";
import { comparePlans, explainPlan, renderDifferences, renderExplanation } from "../../src/report/index.js";
import { samplePlan } from "./samplePlan.js";

describe("explainPlan", () => {
  it("names what binds, orders the terms and the alternatives", () => {
    const plan = samplePlan();
    const explanation = explainPlan(plan);
    expect(explanation.binding).toBe("memory");
    expect(explanation.terms[0]!.term).toBe("compute");
    const seconds = explanation.terms.map((term) => term.seconds);
    expect(seconds).toEqual([...seconds].sort((a, b) => b - a));
    expect(seconds.reduce((a, b) => a + b, 0)).toBeCloseTo(plan.estimate.stepSeconds, 9);
    expect(explanation.alternatives.map((other) => other.slower?.toFixed(3))).toEqual([
      "0.064",
      "0.310",
      undefined,
    ]);
    const text = renderExplanation(plan, explanation);
    expect(text).toContain("Memory binds");
    expect(text).toContain("equal stages idle 10.5 %");
    expect(text).toContain("45.83 s (+6.4 %)");
  });

  it("speaks of ranks where they hold several stages", () => {
    const plan = samplePlan();
    const ranks = plan.stages.length / 2;
    plan.mesh.sizes[plan.mesh.axes.indexOf("pipeline")] = ranks;
    plan.schedule.name = "zbv";
    for (const stage of plan.stages) {
      stage.rank = stage.index < ranks ? stage.index : 2 * ranks - 1 - stage.index;
      stage.forwardSeconds = 1;
      stage.backwardSeconds = stage.index === 1 ? 3 : 2;
    }
    const text = renderExplanation(plan, explainPlan(plan));
    // Rank 1 has 7 s of work, the others 6 s.
    expect(text).toContain("Pipeline rank 1 sets the pipeline's pace with 7.00 s a micro-batch");
    expect(text).toMatch(/under 1F1B; under ZB-V the busiest rank idles \d/);
    plan.schedule.name = "dualpipe";
    plan.stages.length = ranks;
    // Copies share the work: ranks 1 and p - 2 have 3.5 s each.
    expect(explainPlan(plan).why.join(" ")).toContain("Pipeline rank 1 sets the pipeline's pace with 3.50 s");
  });

  it("says that time binds where memory is free", () => {
    const plan = samplePlan({ microBatches: 4 });
    for (const entry of plan.estimate.memory) entry.reservedBytes = entry.limitBytes * 0.4;
    for (const stage of plan.stages) stage.recompute = "none";
    const explanation = explainPlan(plan);
    expect(explanation.binding).toBe("time");
    expect(explanation.why[0]).toContain("no rank fills more than 40.0 %");
  });
});

describe("comparePlans", () => {
  it("finds nothing between a plan and itself, however it was written", () => {
    const plan = samplePlan();
    const again = samplePlan();
    again.provenance.createdAt = "2027-01-01T00:00:00.000Z";
    again.certificate.seconds *= 2;
    expect(comparePlans(plan, again)).toEqual([]);
    expect(renderDifferences([])).toBe("The plans are the same.");
  });

  it("shows moved layers, changed degrees and times with their change", () => {
    const before = samplePlan();
    const after = samplePlan({ stages: 8, data: 32, microBatches: 64 });
    const differences = comparePlans(before, after);
    const find = (field: string) => differences.find((difference) => difference.field === field);
    expect(find("pipeline")).toEqual({
      section: "parallelism",
      field: "pipeline",
      before: "16",
      after: "8",
      change: -0.5,
    });
    expect(find("data")!.change).toBe(1);
    expect(find("tensor")).toBeUndefined();
    expect(find("stage 15")!.after).toBe("none");
    expect(find("step time")!.change).toBeCloseTo(
      after.estimate.stepSeconds / before.estimate.stepSeconds - 1,
      12,
    );
    const text = renderDifferences(differences);
    expect(text).toMatch(/pipeline +16 → 8 {2}\(−50\.0 %\)/);
    expect(text.split("\n")[0]).toBe("Parallelism");
  });

  it("notices one changed sharding, a new operator and one moved layer", () => {
    const before = samplePlan();
    const after = samplePlan();
    after.operators[0]!.sharding.tensor!.outputs = ["Replicate"];
    after.operators.push({ block: "decoder", operator: "extra", modules: [], sharding: {} });
    after.stages[0]!.layers.end--;
    after.stages[1]!.layers.start--;
    expect(comparePlans(before, after).map(({ section, field }) => `${section}/${field}`)).toEqual([
      "stages/stage 0",
      "stages/stage 1",
      "shardings/decoder: attention.qkv",
      "shardings/decoder: extra",
    ]);
  });
});
