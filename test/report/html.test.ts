import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { formatSeconds, planFacts, renderHtml } from "../../src/report/index.js";
import { simulatePlan } from "../../src/schedule/index.js";
import { samplePlan } from "./samplePlan.js";

interface TimelineData {
  ticks: number;
  microBatches: number;
  forward: number[];
  backward: number[];
  rows: { rank: number; events: number[] }[];
}

function timelineData(page: string): TimelineData {
  const match = /<script type="application\/json" id="timeline-data">(.*?)<\/script>/s.exec(page);
  return JSON.parse(match![1]!) as TimelineData;
}

describe("renderHtml", () => {
  it("refers to nothing outside itself", () => {
    const page = renderHtml(samplePlan());
    expect(page).not.toMatch(/https?:|\/\/[a-z]/i);
    expect(page).not.toMatch(/<(link|img|iframe|object|embed|base)\b/i);
    expect(page).not.toMatch(/\s(src|href|srcset|action|style|on\w+)=/i);
    expect(page).not.toMatch(/@import|url\(/i);
  });

  it("allows by hash exactly the style and the script that it holds", () => {
    const page = renderHtml(samplePlan());
    const policy = /Content-Security-Policy" content="([^"]+)"/.exec(page)![1]!;
    expect(policy).toContain("default-src 'none'");
    expect(policy).not.toContain("unsafe");
    const hash = (text: string) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
    const styles = [...page.matchAll(/<style>(.*?)<\/style>/gs)];
    const scripts = [...page.matchAll(/<script>(.*?)<\/script>/gs)];
    expect(styles).toHaveLength(1);
    expect(scripts).toHaveLength(1);
    expect(policy).toContain(`style-src ${hash(styles[0]![1]!)};`);
    expect(policy).toContain(`script-src ${hash(scripts[0]![1]!)};`);
    expect(() => new Function(scripts[0]![1]!)).not.toThrow();
  });

  it("escapes every name, wherever it comes from", () => {
    const attack = `</script><script>alert("1")</script>'"><img src=x onerror=alert(1)>&\u0000`;
    const plan = samplePlan();
    plan.name = attack;
    plan.model.name = attack;
    plan.model.source = attack;
    plan.cluster.name = attack;
    plan.cluster.source = attack;
    plan.cluster.deviceKind = attack;
    plan.optimizer.name = attack;
    plan.certificate.space = attack;
    plan.provenance.mpopt = attack;
    plan.provenance.createdAt = attack;
    plan.rejected[0]!.plan = attack;
    plan.rejected[0]!.reason = attack;
    plan.lossyFor = { [attack]: [attack] };
    for (const operator of plan.operators) {
      operator.block = attack;
      operator.operator = attack;
      operator.modules = [attack];
      operator.sharding = { [attack]: operator.sharding.tensor! };
    }
    const page = renderHtml(plan);
    const clean = renderHtml(samplePlan());
    // The attack adds text and no element.
    const elements = (text: string) => text.match(/<[a-z/!]/gi)!.length;
    expect(elements(page)).toBe(elements(clean));
    expect(page).not.toContain("<img");
    expect(page).not.toContain("\u0000");
    expect(page).toContain("&lt;/script&gt;&lt;script&gt;alert(&quot;1&quot;)");
  });

  it("stays under 2 MB for every pipeline, and says what it leaves out", () => {
    const page = renderHtml(samplePlan({ stages: 16, microBatches: 128 }));
    expect(page.length).toBeLessThan(400_000);
    for (const [stages, microBatches] of [
      [64, 512],
      [256, 1024],
      [2, 20_000],
    ] as const) {
      const large = renderHtml(samplePlan({ stages, microBatches, data: 1, tensor: 1 }));
      expect(Buffer.byteLength(large)).toBeLessThan(2_000_000);
      if (stages > 2) expect(large).toContain(`of ${stages} ranks are drawn`);
      else expect(large).toContain("Steady state, not drawn");
    }
  });

  it("draws exactly the simulated actions", () => {
    const plan = samplePlan({ stages: 5, microBatches: 9, layers: 23 });
    const page = renderHtml(plan);
    const data = timelineData(page);
    const step = simulatePlan(plan, { events: true });
    expect(data.rows.map((row) => row.rank)).toEqual([0, 1, 2, 3, 4]);
    data.rows.forEach((row, rank) => {
      const { events } = step.pipeline.ranks[rank]!;
      expect(row.events).toHaveLength(2 * events.length);
      let start = 0;
      events.forEach((event, i) => {
        start += row.events[2 * i]!;
        expect(start).toBe(Math.round((event.startSeconds / step.stepSeconds) * data.ticks));
        const code = row.events[2 * i + 1]!;
        expect(code & 1).toBe(event.kind === "backward" ? 1 : 0);
        expect((code >> 1) % data.microBatches).toBe(event.microBatch);
        expect(Math.floor((code >> 1) / data.microBatches)).toBe(event.stage);
      });
    });
    // As many lines in the drawing as actions.
    const drawing = /<svg id="timeline-drawing".*?<\/svg>/s.exec(page)![0];
    const lines = [...drawing.matchAll(/class="[fb][01]" d="([^"]+)"/g)].map(
      ([, d]) => d!.split("M").length - 1,
    );
    expect(lines.reduce((a, b) => a + b, 0)).toBe(2 * 5 * 9);
  });

  it("shows the figures and every section, labelled for those who do not see", () => {
    const plan = samplePlan({ status: "feasible" });
    const page = renderHtml(plan);
    for (const id of ["timeline", "time", "memory", "stages", "shardings", "rejected", "provenance"]) {
      expect(page).toContain(`<section id="${id}"`);
      expect(page).toContain(`aria-labelledby="${id}-title"`);
      expect(page).toContain(`<h2 id="${id}-title"`);
    }
    expect(page).toContain(formatSeconds(plan.estimate.stepSeconds));
    expect(page).toContain(planFacts(plan).certificateTitle);
    expect(page).toContain("figures assumed");
    expect(page).toContain(plan.model.sha256);
    for (const svg of page.match(/<svg\b[^>]*>/g)!) expect(svg).toMatch(/aria-(label|hidden)=/);
    expect(page).toContain("The simulator gives the same step time.");
  });

  it("says so when the simulator disagrees with the estimate", () => {
    const plan = samplePlan();
    plan.estimate.stepSeconds *= 0.9;
    expect(renderHtml(plan)).toMatch(/The simulator gives 43\.\d+ s \(\+11\.1 %\)/);
  });

  it("holds for one stage, no operators, nothing rejected, and times of zero", () => {
    const plan = samplePlan({ stages: 1, microBatches: 1, data: 1, tensor: 1, layers: 3 });
    plan.operators = [];
    plan.rejected = [];
    expect(renderHtml(plan)).not.toContain('id="rejected"');
    for (const stage of plan.stages) stage.forwardSeconds = stage.backwardSeconds = 0;
    for (const term of Object.keys(plan.estimate.terms)) {
      plan.estimate.terms[term as keyof typeof plan.estimate.terms] = 0;
    }
    plan.estimate.stepSeconds = 0;
    const page = renderHtml(plan);
    expect(page.replace(/<script>.*?<\/script>/s, "")).not.toMatch(/NaN|Infinity|undefined/);
  });
});
