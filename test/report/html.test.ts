import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import type { Plan } from "../../src/contracts/index.js";
import { formatBytes, formatSeconds, planFacts, renderHtml } from "../../src/report/index.js";
import { actionShades } from "../../src/report/page/colors.js";
import { simulatePlan } from "../../src/schedule/index.js";
import { samplePlan } from "./samplePlan.js";

interface TimelineData {
  ticks: number;
  microBatches: number;
  chunks: number;
  tail: { kind: string; start: number; end: number }[];
  rows: { rank: number; stages: number[]; events: number[]; steady?: [number, number, number] }[];
}

function dataOf<T>(page: string, id: string): T {
  const match = new RegExp(`<script type="application/json" id="${id}">(.*?)</script>`, "s").exec(page);
  return JSON.parse(match![1]!) as T;
}
const timelineData = (page: string) => dataOf<TimelineData>(page, "timeline-data");

/** The sample plan with its 2 x `ranks` stages there and back over the ranks. */
function folded(ranks: number, microBatches: number, schedule: string): Plan {
  const plan = samplePlan({ stages: 2 * ranks, microBatches });
  return {
    ...plan,
    stages: plan.stages.map((stage, s) => ({ ...stage, rank: s < ranks ? s : 2 * ranks - 1 - s })),
    schedule: { name: schedule, microBatches },
    estimate: { ...plan.estimate, memory: plan.estimate.memory.slice(0, ranks) },
  };
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

  it.each([
    ["1f1b", samplePlan({ stages: 5, microBatches: 9, layers: 23 })],
    ["zbv", folded(3, 7, "zbv")],
    ["dualpipev", folded(3, 8, "dualpipev")],
    [
      "chimera",
      { ...samplePlan({ stages: 4, microBatches: 6 }), schedule: { name: "chimera", microBatches: 6 } },
    ],
  ])("draws exactly the simulated actions of %s", (_name, plan) => {
    const page = renderHtml(plan);
    const data = timelineData(page);
    const step = simulatePlan(plan, { events: true });
    const { ranks } = step.pipeline;
    expect(data.rows.map((row) => row.rank)).toEqual([...ranks.keys()]);
    const kinds = ["forward", "backward", "backward-input", "backward-weight"];
    const at = (seconds: number) => Math.round((seconds / step.stepSeconds) * data.ticks);
    let count = 0;
    data.rows.forEach((row, rank) => {
      const { events } = ranks[rank]!;
      count += events.length;
      expect(row.events).toHaveLength(3 * events.length);
      let start = 0;
      events.forEach((event, i) => {
        start += row.events[3 * i]!;
        expect(start).toBe(at(event.startSeconds));
        expect(start + row.events[3 * i + 1]!).toBe(at(event.endSeconds));
        const code = row.events[3 * i + 2]!;
        expect(kinds[code & 3]).toBe(event.kind);
        expect((code >> 2) % data.microBatches).toBe(event.microBatch);
        expect(row.stages[Math.floor((code >> 2) / data.microBatches)]).toBe(event.stage);
      });
    });
    expect(data.tail.at(-1)!.end).toBe(data.ticks);
    // As many lines in the drawing as actions.
    const drawing = /<svg id="timeline-drawing".*?<\/svg>/s.exec(page)![0];
    const lines = [...drawing.matchAll(/class="[fbiw]\d(?: half)?" stroke-width="[\d.]+" d="([^"]+)"/g)].map(
      ([, d]) => d!.split("M").length - 1,
    );
    expect(lines.reduce((a, b) => a + b, 0)).toBe(count);
  });

  it("tells split backwards, chunks and actions side by side apart, and names them in a legend", () => {
    const legendOf = (page: string) => /<ul class="legend">(.*?)<\/ul>/s.exec(page)![1]!;
    const plain = renderHtml(samplePlan({ stages: 4, microBatches: 6 }));
    expect(legendOf(plain)).toContain("Forward</li>");
    expect(legendOf(plain)).not.toContain("half");
    const zbv = renderHtml(folded(3, 7, "zbv"));
    for (const label of ["Forward, chunks 0–1", "input half, chunks 0–1", "weight half, chunks 0–1"]) {
      expect(legendOf(zbv)).toContain(label);
    }
    expect(legendOf(zbv)).not.toContain(">Backward, chunks");
    expect(zbv).not.toContain(' half" stroke');
    expect(renderHtml(folded(3, 8, "dualpipev"))).toContain(' half" stroke');
    // Every shade that is drawn has a colour in both themes and text that can be read on it.
    for (const theme of ["light", "dark"] as const) {
      const shades = actionShades(theme);
      expect(new Set(shades.map(({ color }) => color)).size).toBe(shades.length);
      for (const { name, color, ink } of shades) {
        expect(contrast(color, ink)).toBeGreaterThan(3.5);
        expect(zbv).toContain(`--${name}:${color}`);
      }
    }
  });

  it("draws each rank's memory up to its peak, under its limit", () => {
    const plan = samplePlan({ stages: 4, microBatches: 12 });
    const page = renderHtml(plan);
    const step = simulatePlan(plan, { memory: true });
    const section = /<section id="memory-time".*?<\/section>/s.exec(page)![0];
    const charts = [...section.matchAll(/<figure>.*?<\/figure>/gs)].map(([chart]) => chart);
    const { curves, buckets } = dataOf<{ curves: { rank: number; runs: number[] }[]; buckets: number }>(
      page,
      "memory-data",
    );
    expect(charts).toHaveLength(4);
    // One scale for all: the height of the limit and of each peak, bottom up.
    const heightOf = (chart: string, pattern: RegExp) => 1000 - Number(pattern.exec(chart)![1]);
    charts.forEach((chart, rank) => {
      const { peakAllocatedBytes, peakSeconds } = step.pipeline.ranks[rank]!.memory!;
      const { limitBytes } = plan.estimate.memory[rank]!;
      expect(chart).toContain(`at most ${formatBytes(peakAllocatedBytes)} at ${formatSeconds(peakSeconds)}`);
      const limit = heightOf(chart, /class="limit-line" d="M0 (\d+)H/);
      const peak = heightOf(chart, /class="peak" d="M[\d.]+ (\d+)h0"/);
      expect(peak / limit).toBeCloseTo(peakAllocatedBytes / limitBytes, 2);
      // The highest level of the uppermost band is the peak.
      const [top] = [...chart.matchAll(/<path class="memory-[a-z]+" d="([^"]+)"/g)].map(([, d]) => d!);
      const levels = [...top!.matchAll(/V(\d+)/g)].map(([, y]) => 1000 - Number(y));
      expect(Math.max(...levels)).toBe(peak);
      const { runs } = curves[rank]!;
      const drawn = runs.filter((_, i) => i % 3 === 0).reduce((a, b) => a + b, 0);
      expect(drawn).toBe(buckets);
      const most = Math.max(...runs.filter((_, i) => i % 3 === 1));
      expect(most).toBe(Math.round(peakAllocatedBytes / 2 ** 20));
    });
  });

  it("says where each rank waits: bars that fill the step, by cause", () => {
    const plan = samplePlan({ stages: 4, microBatches: 12 });
    const page = renderHtml(plan);
    const step = simulatePlan(plan);
    const section = /<section id="waits".*?<\/section>/s.exec(page)![0];
    const bars = [...section.matchAll(/<svg class="bar".*?<\/svg>/gs)].map(([bar]) => bar);
    expect(bars).toHaveLength(4);
    bars.forEach((bar, rank) => {
      const widths = [...bar.matchAll(/class="(time|wait)-(\w+)" x="[\d.]+" width="([\d.]+)"/g)];
      expect(widths.reduce((sum, [, , , width]) => sum + Number(width), 0)).toBeCloseTo(1000, 0);
      for (const { cause } of step.pipeline.ranks[rank]!.waits) expect(bar).toContain(`"wait-${cause}"`);
      expect(bar).toContain(`aria-label="Rank ${rank}: Computes `);
    });
    expect(section).toContain("waits for a gradient from rank 1, ");
  });

  it("shows the figures and every section, labelled for those who do not see", () => {
    const plan = samplePlan({ status: "feasible" });
    const page = renderHtml(plan);
    for (const id of [
      "timeline",
      "waits",
      "time",
      "memory",
      "memory-time",
      "stages",
      "shardings",
      "rejected",
      "provenance",
    ]) {
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

/** Contrast ratio of two sRGB colours (WCAG 2.2). */
function contrast(one: string, two: string): number {
  const luminance = (color: string) => {
    const [r, g, b] = [1, 3, 5].map((at) => {
      const c = Number.parseInt(color.slice(at, at + 2), 16) / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
  };
  const [dark, light] = [luminance(one), luminance(two)].sort((a, b) => a - b);
  return (light! + 0.05) / (dark! + 0.05);
}
