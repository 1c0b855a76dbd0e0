import { describe, expect, it } from "vitest";
import type { Plan } from "../../src/contracts/index.js";
import type { FrontierPoint } from "../../src/plan/frontier.js";
import type { WhatIf } from "../../src/plan/whatIf.js";
import {
  baselineFacts,
  comparePlans,
  confidenceOf,
  explainPlan,
  frontierDocument,
  planFacts,
  reliefOf,
  renderExplanation,
  renderFrontier,
  renderHtml,
  renderPlan,
  renderWhatIf,
  savings,
  settingWords,
  shortPlan,
  whatIfDocument,
} from "../../src/report/index.js";
import { samplePlan } from "./samplePlan.js";

const plain = { color: false, width: 100 };
const flat = (text: string) => text.replace(/\s+/g, " ");

/** The sample plan with what stands beside a plan. */
function annotated(): Plan {
  const plan = samplePlan();
  const { stepSeconds, tokensPerSecond } = plan.estimate;
  const faster = (share: number) => ({
    stepSeconds: stepSeconds * (1 - share),
    tokensPerSecond: tokensPerSecond / (1 - share),
  });
  return {
    ...plan,
    cluster: {
      ...plan.cluster,
      dollarsPerHour: { value: 3.6, provenance: "assumed", source: "list" },
      calibration: {
        rows: 1234,
        bias: -0.004,
        p50: 0.021,
        p90: 0.07,
        source: "runs.csv",
        date: "2026-11-20",
      },
    },
    estimate: {
      ...plan.estimate,
      fullAttention: { mfu: plan.estimate.mfu * 1.05, hfu: plan.estimate.hfu * 1.05 },
    },
    baselines: [
      { rule: "sc21", plan: "tensor 8, pipeline 32", stepSeconds: stepSeconds * 1.25, memoryBytes: 6e10 },
      {
        rule: "smallest-degree",
        plan: "tensor 8, pipeline 8",
        memoryBytes: 100 * 2 ** 30,
        reason: "does not fit",
      },
      { rule: "node-tensor", stepSeconds, plan: "tensor 8, pipeline 16" },
    ],
    sensitivity: [
      { change: "all of it beside compute", relieves: ["tensorCommunication"], ideal: true, ...faster(0.12) },
      { change: "a network twice as fast", relieves: ["gradientSynchronisation"], ...faster(0.004) },
      {
        change: "links inside the node twice as fast",
        relieves: ["tensorCommunication", "bubble"],
        ...faster(0.04),
      },
    ],
  };
}

describe("what relieves a plan", () => {
  it("names the remedy of the largest overhead with the gain that was priced, not with a bound", () => {
    const plan = annotated();
    expect(planFacts(plan).overhead!.term).toBe("tensorCommunication");
    expect(reliefOf(plan, "tensorCommunication").saving).toMatchObject({
      change: "links inside the node twice as fast",
      relieves: ["tensor-parallel communication", "pipeline bubble"],
    });
    expect(savings(plan).map(({ share }) => share.toFixed(3))).toEqual(["0.120", "0.040", "0.004"]);
    const text = flat(renderPlan(plan, plain));
    expect(text).toContain(
      "A smaller tensor degree, or faster links between its ranks would relieve it: links inside the node twice as fast would save 4.0 %.",
    );
    expect(text).toMatch(/all of it beside compute 37\.\d+ s saves at most 12\.0 %/);
    expect(text).toMatch(/links inside the node twice as fast 4\d\.\d+ s saves 4\.0 %/);
    // Of a step with twice the tokens the gain is one a token.
    const { stepSeconds, tokensPerSecond } = plan.estimate;
    const doubled = { stepSeconds: 1.9 * stepSeconds, tokensPerSecond: (2 / 1.9) * tokensPerSecond };
    plan.sensitivity = [{ change: "twice the global batch", relieves: ["bubble"], ...doubled }];
    expect(savings(plan)[0]!.words).toBe("saves 5.0 % a token");
  });

  it("has a remedy for every term, and says so for compute where nothing else takes time", () => {
    const plan = annotated();
    for (const { term } of planFacts(plan).time)
      expect(reliefOf(plan, term).remedy).toMatch(/^[A-Z].*[a-z)]$/);
    const { stepSeconds, terms } = plan.estimate;
    for (const term of Object.keys(terms) as (keyof typeof terms)[]) terms[term] = 0;
    terms.compute = stepSeconds;
    expect(flat(renderPlan(plan, plain))).toContain("Nothing but compute takes time. Faster devices");
  });

  it("adds up what is sent and not hidden", () => {
    const plan = annotated();
    const { tensorCommunication, pipelineTransfer, gradientSynchronisation } = plan.estimate.terms;
    plan.estimate.terms.expertCommunication = 1;
    expect(planFacts(plan).exposedCommunication.seconds).toBeCloseTo(
      tensorCommunication + pipelineTransfer + gradientSynchronisation + 1,
      9,
    );
  });
});

describe("rules of thumb", () => {
  it("say how much faster the plan is, or why there is no other", () => {
    const facts = baselineFacts(annotated());
    expect(facts.map(({ verdict }) => verdict)).toEqual([
      "mpopt's plan is 25.0 % faster",
      "does not fit: 100 GiB at the last",
      "mpopt's plan takes as long",
    ]);
    expect(facts[0]!.gain).toBeCloseTo(0.25, 12);
    const slower = annotated();
    slower.baselines![0]!.stepSeconds! /= 2;
    expect(baselineFacts(slower)[0]!.verdict).toBe(
      "mpopt's plan is 37.5 % slower, held by pins or the runtime",
    );
  });

  it("stand in every report", () => {
    const plan = annotated();
    for (const text of [
      renderPlan(plan, plain),
      renderExplanation(plan, explainPlan(plan)),
      renderHtml(plan),
    ]) {
      expect(text.replaceAll("&#39;", "'")).toContain("mpopt's plan is 25.0 % faster");
      expect(text).toContain("tensor 8, pipeline 32");
    }
    expect(renderPlan(samplePlan(), plain)).not.toContain("Rules of thumb");
    expect(renderHtml(samplePlan())).not.toContain('id="baselines"');
  });
});

describe("confidence", () => {
  it("comes from the residuals of the calibration", () => {
    const plan = annotated();
    const { lowSeconds, highSeconds, sentence } = confidenceOf(plan);
    expect(sentence).toContain(
      "90 % of 1,234 calibrated runs were within 7.0 %, half within 2.1 %, −0.4 % on average",
    );
    expect(sentence).toContain("(runs.csv, 2026-11-20)");
    // A run that the prediction misses by 7 % of its own time lies at these ends.
    const { stepSeconds } = plan.estimate;
    expect((stepSeconds - lowSeconds!) / lowSeconds!).toBeCloseTo(0.07, 12);
    expect((highSeconds! - stepSeconds) / highSeconds!).toBeCloseTo(0.07, 12);
    expect(flat(renderPlan(plan, plain))).toContain("90 % of 1,234 calibrated runs were within 7.0 %");
    expect(renderHtml(plan)).toContain("calibrated runs were within 7.0 %");
  });

  it("is refused where nothing was compared", () => {
    expect(confidenceOf(samplePlan())).toMatchObject({ calibrated: false });
    expect(flat(renderPlan(samplePlan(), plain))).toContain("Not calibrated: no measured run stands behind");
  });
});

describe("both conventions of utilisation", () => {
  it("are named where they differ", () => {
    const plan = annotated();
    expect(flat(renderPlan(plan, plain))).toMatch(
      /count causal attention half.*with attention over all pairs of tokens/,
    );
    plan.estimate.fullAttention = { mfu: plan.estimate.mfu, hfu: plan.estimate.hfu };
    expect(renderPlan(plan, plain)).not.toContain("all pairs");
  });
});

describe("choices beyond three axes", () => {
  function wide(): Plan {
    const plan = samplePlan();
    return {
      ...plan,
      mesh: {
        axes: ["pipeline", "data", "context", "tensor"],
        sizes: [16, 4, 4, 8],
        sequenceParallel: true,
        contextExchange: "all-to-all",
        experts: { expert: 16, tensor: 1 },
      },
      optimizer: { name: "adam", zero: 3, shards: 8, offload: "optimizer" },
      job: { ...plan.job, dtypes: { ...plan.job.dtypes, linear: "fp8" } },
      stages: plan.stages.map((stage) => ({ ...stage, recompute: "none" as const, recomputeLayers: 3 })),
    };
  }

  it("are named in every report", () => {
    const plan = wide();
    expect(settingWords(plan)).toEqual([
      "all-to-all for attention",
      "sequence parallel",
      "experts over 16 ranks",
      "ZeRO-3 in groups of 8",
      "optimizer in host memory",
      "fp8 products",
      "1F1B",
    ]);
    const text = renderPlan(plan, plain);
    expect(flat(text)).toContain("pipeline 16 × data 4 × context 4 × tensor 8 = 2,048 devices, all-to-all");
    expect(text).toMatch(/embedding {2}full×3 /);
    const page = renderHtml(plan);
    expect(page).toContain("<b>4</b> context");
    for (const words of ["experts over 16 ranks", "ZeRO-3 in groups of 8", "full × 3", "fp8 products"]) {
      expect(page).toContain(words);
    }
    expect(shortPlan(plan)).toBe(
      "tensor 8 × context 4 × data 4 × pipeline 16 × expert 16, micro-batch 1, ZeRO-3 in groups of 8, recompute full × 3, optimizer in host memory",
    );
  });

  it("count as differences", () => {
    const fields = comparePlans(samplePlan(), wide()).map(({ field }) => field);
    for (const field of [
      "data",
      "context",
      "attention over context",
      "experts",
      "optimizer",
      "offload",
      "dtypes",
      "stage 0",
    ]) {
      expect(fields).toContain(field);
    }
  });

  it("call layers recomputed one by one a lack of memory", () => {
    const plan = wide();
    for (const entry of plan.estimate.memory) entry.reservedBytes = entry.limitBytes / 2;
    expect(planFacts(plan).bindingReason).toContain("16 stages recompute activations to fit");
  });
});

describe("tables of many plans", () => {
  const point = (plan: Plan): FrontierPoint => ({
    plan,
    devices: plan.cluster.devices,
    limitBytes: plan.estimate.memory[0]!.limitBytes,
    memoryBytes: plan.estimate.memory[0]!.reservedBytes,
    stepSeconds: plan.estimate.stepSeconds,
  });

  it("give the frontier with money where it is known, in 80 to 120 columns", () => {
    const points = [annotated(), annotated()].map(point);
    const text = renderFrontier(points, plain);
    // 2,048 devices at $3.6 an hour are $2.048 a second.
    const perStep = 2.048 * points[0]!.stepSeconds;
    expect(text).toContain(`$${perStep.toFixed(2)}`);
    expect(text.split("\n")[0]).toContain("Frontier: 2 plans");
    expect(renderFrontier([point(samplePlan())], plain)).not.toContain("$");
    for (const width of [80, 97, 120]) {
      for (const line of renderFrontier(points, { color: false, width }).split("\n")) {
        expect([...line].length).toBeLessThanOrEqual(width);
        expect(line).toBe(line.trimEnd());
      }
    }
    const [first] = frontierDocument(points);
    expect(first).toMatchObject({
      devices: 2048,
      configuration: { tensor: 8, pipeline: 16, data: 16, context: 1 },
      dollarsPerStep: perStep,
      certificate: { status: "optimal" },
    });
    expect(first!.layers.reduce((a, b) => a + b, 0)).toBe(126);
    expect(JSON.stringify(first).length).toBeLessThan(2000);
  });

  it("give answers to what-if questions relative to the plan, reasons included", () => {
    const base = annotated();
    const other = annotated();
    other.estimate.stepSeconds *= 0.5;
    other.estimate.tokensPerSecond *= 2;
    const answers: WhatIf[] = [
      {
        change: { kind: "gpus", devices: 4096 },
        name: "4096 devices",
        plan: other,
        choices: [{ field: "data", before: "16", after: "32" }],
      },
      {
        change: { kind: "gpus", devices: 8 },
        name: "8 devices",
        choices: [],
        reason: "Expected a plan within 75 GiB.",
      },
    ];
    const text = flat(renderWhatIf(base, answers, plain));
    expect(text).toContain("this plan");
    expect(text).toMatch(/4096 devices 2\d\.\d+ s −50\.0 % .* \+100\.0 %.*data 16 → 32/);
    expect(text).toContain("Expected a plan within 75 GiB.");
    const [first, second] = whatIfDocument(base, answers);
    expect(first).toMatchObject({
      relative: { stepSeconds: 0.5, tokensPerSecond: 2 },
      choices: [{ field: "data" }],
    });
    expect(second).toEqual({
      name: "8 devices",
      change: { kind: "gpus", devices: 8 },
      reason: "Expected a plan within 75 GiB.",
    });
  });

  it("let no name drive the terminal", () => {
    const plan = annotated();
    plan.schedule.name = "zig\u001b[2Jzag";
    plan.baselines![0]!.plan = "evil\u001b[2J";
    expect(renderFrontier([point(plan)], plain)).not.toContain("\u001b");
    expect(renderPlan(plan, plain)).not.toContain("\u001b");
  });
});
