import { describe, expect, it } from "vitest";
import { formatPercent, planFacts, renderPlan, terminalOptions } from "../../src/report/index.js";
import { samplePlan } from "./samplePlan.js";

const widest = (text: string) => Math.max(...text.split("\n").map((line) => [...line].length));

describe("renderPlan", () => {
  it("says what a user asks: headline, certificate, degrees, stages, terms, alternatives, provenance", () => {
    const plan = samplePlan();
    const text = renderPlan(plan, { color: false, width: 100 });
    for (const expected of [
      "llama-3.1-405b on h100-sxm:8x256",
      `MFU ${formatPercent(plan.estimate.mfu)}`,
      `HFU ${formatPercent(plan.estimate.hfu)}`,
      "Proven optimal",
      "pipeline 16 × data 16 × tensor 8 = 2,048 devices, sequence parallel, ZeRO-1, 1F1B",
      "global batch 2,048 = 128 micro-batches of 1 × 16 replicas, sequence 8,192",
      "Memory binds: pipeline rank 3 fills 96.6 %",
      "Largest overhead: tensor-parallel communication",
      "pipeline 8 × data 32 × tensor 8",
      "stage 0 needs more memory than a device has",
      "assumed: some inputs are data-sheet",
    ]) {
      expect(text).toContain(expected);
    }
    const rows = text.split("\n").filter((line) => /^ {2,6}\d+ +\d+–\d+ /.test(line));
    expect(rows).toHaveLength(16);
    expect(rows[0]).toContain("embedding");
    expect(rows[0]).toContain("selective");
    expect(rows[15]).toContain("head");
    expect(rows[3]).toMatch(/67\.7\/70\.0 {2}?█+/);
    const compute = text.split("\n").find((line) => line.startsWith("  Compute"));
    expect(compute).toContain("largest");
  });

  it("fits the terminal from 80 to 120 columns and has no trailing spaces", () => {
    for (const stages of [1, 2, 16, 40]) {
      for (const width of [10, 80, 97, 120, 300]) {
        const text = renderPlan(samplePlan({ stages, status: "feasible" }), { color: false, width });
        expect(widest(text)).toBeLessThanOrEqual(Math.max(80, Math.min(120, width)));
      }
    }
  });

  it("shortens a long pipeline but keeps its ends, its slowest stage and its fullest rank", () => {
    const plan = samplePlan({ stages: 64, layers: 250 });
    const text = renderPlan(plan, { color: false, width: 100 });
    const { slowestStage, fullestRank } = planFacts(plan);
    for (const index of [0, 63, slowestStage.index, fullestRank.pipelineRank]) {
      expect(text).toMatch(new RegExp(`^ +${index} +\\d`, "m"));
    }
    expect(text).toContain("⋯");
    expect(text.split("\n").length).toBeLessThan(60);
  });

  it("colours only when asked, and lets no name drive the terminal", () => {
    const plan = samplePlan({ modelName: "evil\u001b[2J\u202e\nname" });
    const plain = renderPlan(plan, { color: false, width: 100 });
    expect(plain).not.toContain("\u001b");
    expect(plain).not.toContain("\u202e");
    expect(plain.split("\n")[0]).toContain("evil\ufffd[2J\ufffd\ufffdname");
    const colored = renderPlan(plan, { color: true, width: 100 });
    expect(colored).not.toContain("\u001b[2J");
    // biome-ignore lint/suspicious/noControlCharactersInRegex: colour codes start with one.
    expect(colored.replace(/\u001b\[[\d;]+m/g, "")).toBe(plain);
  });

  it("asks the stream whether it takes colours", () => {
    const before = process.env.NO_COLOR;
    delete process.env.NO_COLOR;
    try {
      expect(terminalOptions({ isTTY: false }).color).toBe(false);
      expect(terminalOptions({ isTTY: true, columns: 90 })).toEqual({
        color: process.env.TERM !== "dumb",
        width: 90,
      });
      process.env.NO_COLOR = "1";
      expect(terminalOptions({ isTTY: true }).color).toBe(false);
    } finally {
      if (before === undefined) delete process.env.NO_COLOR;
      else process.env.NO_COLOR = before;
    }
  });

  it("does not call a pinned recomputation a lack of memory", () => {
    const plan = samplePlan();
    for (const entry of plan.estimate.memory) entry.reservedBytes = entry.limitBytes / 2;
    expect(planFacts(plan).binding).toBe("memory");
    plan.job.pins = { recompute: "selective" };
    expect(planFacts(plan).binding).toBe("time");
  });
});
