import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { simulateCommand } from "../../src/cli/simulate.js";
import { type Plan, serialize } from "../../src/contracts/index.js";
import { scheduleByName, simulatePlan, writeScheduleCsv } from "../../src/schedule/index.js";
import { samplePlan } from "../report/samplePlan.js";
import { captureCommand } from "./captured.js";

const captured = captureCommand();

async function run(plan: Plan, ...args: string[]) {
  const path = join(captured.folder, "plan.json");
  writeFileSync(path, serialize(plan));
  captured.out = "";
  process.exitCode = undefined;
  await simulateCommand().parseAsync(["--plan", path, ...args, "--json"], { from: "user" });
  return JSON.parse(captured.out);
}

/** The sample plan with its stages dealt to `ranks` ranks, in turns or there and back. */
function folded(ranks: number, schedule: string, rankOf: (stage: number) => number): Plan {
  const plan = samplePlan({ stages: 8, microBatches: 8 });
  return {
    ...plan,
    stages: plan.stages.map((stage, s) => ({ ...stage, rank: rankOf(s), chunk: Math.floor(s / ranks) })),
    schedule: { name: schedule, microBatches: 8 },
    estimate: { ...plan.estimate, memory: plan.estimate.memory.slice(0, ranks) },
  };
}

describe("mpopt simulate --plan --schedule", () => {
  const plan = samplePlan({ stages: 4, microBatches: 12, layers: 30 });

  it("plays another schedule on the plan's stages, with its own memory", async () => {
    const own = await run(plan);
    const gpipe = await run(plan, "--schedule", "gpipe");
    expect(gpipe).toMatchObject({ schedule: "gpipe", estimatedStepSeconds: plan.estimate.stepSeconds });
    const renamed = { ...plan, schedule: { name: "gpipe", microBatches: 12 } };
    expect(gpipe.pipelineSeconds).toBe(simulatePlan(renamed).pipeline.stepSeconds);
    plan.estimate.memory.forEach(({ terms, reservedBytes, allocatedBytes }, r) => {
      expect(own.ranks[r].peakBytes).toBe(reservedBytes);
      // GPipe holds all 12 micro-batches where 1F1B holds 4 - r.
      const more = terms.activations * (12 / (4 - r) - 1);
      const factor = reservedBytes / allocatedBytes;
      expect(gpipe.ranks[r].peakBytes / (reservedBytes + more * factor)).toBeCloseTo(1, 2);
    });
    const h1 = await run(plan, "--schedule", "zb-h1");
    expect(h1.pipelineSeconds).toBeLessThan(own.pipelineSeconds);
    expect(h1.ranks[0].peakMicroBatches).toBe(own.ranks[0].peakMicroBatches);
  });

  it("gives the plan's own schedule the plan's memory again, by name", async () => {
    const named = await run(plan, "--schedule", "1f1b");
    plan.estimate.memory.forEach(({ reservedBytes }, r) => {
      expect(named.ranks[r].peakBytes / reservedBytes).toBeCloseTo(1, 2);
    });
  });

  it("keeps copies of the layers for bidirectional schedules, and versions for asynchronous ones", async () => {
    const chimera = await run(plan, "--schedule", "chimera");
    expect(chimera.stages).toBe(8);
    const own = await run(plan);
    expect(chimera.ranks[0].peakBytes).toBeGreaterThan(own.ranks[0].peakBytes);
    const asynchronous = await run(plan, "--schedule", "1f1b-async");
    const { parameters } = plan.estimate.memory[0]!.terms;
    const more = asynchronous.ranks[0].peakBytes - own.ranks[0].peakBytes;
    expect(more / (3 * parameters * 1.03)).toBeCloseTo(1, 1);
    expect(asynchronous.steadySecondsPerMicroBatch).toBeGreaterThan(0);
  });

  it("searches within the plan's memory limits", async () => {
    const tight = samplePlan({ stages: 4, microBatches: 12, layers: 30 });
    // Room for what 1F1B needs and not much more.
    for (const entry of tight.estimate.memory) entry.limitBytes = entry.reservedBytes * 1.03;
    const searched = await run(tight, "--schedule", "searched", "--time-limit", "2");
    const named = await run(tight, "--schedule", "1f1b");
    expect(searched.pipelineSeconds).toBeLessThanOrEqual(named.pipelineSeconds);
    expect(searched.bound).toBeLessThanOrEqual(searched.pipelineSeconds);
    expect(searched.gap).toBeGreaterThanOrEqual(0);
    tight.estimate.memory.forEach(({ limitBytes }, r) => {
      expect(searched.ranks[r].peakBytes).toBeLessThanOrEqual(limitBytes * (1 + 1e-9));
    });
    for (const entry of tight.estimate.memory) entry.limitBytes = entry.reservedBytes * 0.5;
    const { error } = await run(tight, "--schedule", "searched");
    expect(error.code).toBe("E_INFEASIBLE");
  });

  it("plays a CSV on the plan's stages", async () => {
    const path = join(captured.folder, "zb.csv");
    writeFileSync(path, writeScheduleCsv(scheduleByName("zb-h1", { ranks: 4, microBatches: 12 })));
    const played = await run(plan, "--actions", path);
    const named = await run(plan, "--schedule", "zb-h1");
    expect(played.ranks).toEqual(named.ranks);
  });

  it("says where the placement does not fit, in one sentence", async () => {
    const loop = folded(4, "interleaved", (s) => s % 4);
    const v = folded(4, "zbv", (s) => (s < 4 ? s : 7 - s));
    const cases: [Plan, string[], string][] = [
      [
        plan,
        ["--schedule", "zbv"],
        "Expected a plan with 2 stages a rank for zbv but found 4 stages on 4 ranks.",
      ],
      [
        loop,
        ["--schedule", "1f1b"],
        "Expected a plan with 1 stage a rank for 1f1b but found 8 stages on 4 ranks.",
      ],
      [
        loop,
        ["--schedule", "dualpipe"],
        "Expected a plan with one stage a rank for dualpipe but found 8 stages on 4 ranks.",
      ],
      [loop, ["--schedule", "zbv"], "Expected stage 4 on rank 3 for zbv but the plan has it on rank 0."],
      [
        v,
        ["--schedule", "interleaved"],
        "Expected stage 4 on rank 0 for interleaved but the plan has it on rank 3.",
      ],
    ];
    for (const [each, args, sentence] of cases) {
      const { error } = await run(each, ...args);
      expect(error).toMatchObject({ code: "E_USAGE", message: sentence });
    }
    const fits = await run(v, "--schedule", "dualpipev");
    // DualPipeV needs as many micro-batches as stages: 8 are enough.
    expect(fits.schedule).toBe("dualpipev");
    const path = join(captured.folder, "short.csv");
    writeFileSync(path, writeScheduleCsv(scheduleByName("1f1b", { ranks: 4, microBatches: 3 })));
    const { error } = await run(plan, "--actions", path);
    expect(error.message).toBe(
      "Expected 4 stages and 12 micro-batches, as the plan has, in short but found 4 and 3.",
    );
  });

  it("traces what it played, memory and transfers included", async () => {
    const path = join(captured.folder, "trace.json");
    const report = join(captured.folder, "report.html");
    const result = await run(plan, "--schedule", "zb-h1", "--trace", path, "--report", report);
    const page = readFileSync(report, "utf8");
    expect(page).toContain(`<h1>ZB-H1 <span>for ${plan.name}</span></h1>`);
    expect(page.match(/class="limit-line"/g)).toHaveLength(4);
    expect(result.trace).toBe(path);
    const { traceEvents, otherData } = JSON.parse(readFileSync(path, "utf8"));
    expect(otherData).toEqual({ title: plan.name, schedule: "zb-h1" });
    const phases = new Set(traceEvents.map(({ ph }: { ph: string }) => ph));
    for (const phase of ["X", "C", "M", "s", "f"]) expect(phases).toContain(phase);
    const names = new Set(traceEvents.map(({ name }: { name: string }) => name));
    for (const name of ["backward-weight 11", "memory allocated", "Optimizer"]) expect(names).toContain(name);
  });
});
