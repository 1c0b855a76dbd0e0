import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { checkValue, type Job, jobSchema } from "../../src/contracts/index.js";
import { loadModel } from "../../src/models/index.js";
import { createPlan } from "../../src/plan/index.js";
import {
  scheduleByName,
  scheduleNames,
  scheduleShape,
  simulate,
  simulatePlan,
} from "../../src/schedule/index.js";
import { enumerateConfigurations, enumerateDegrees } from "../../src/search/candidates.js";
import { holdingsOf } from "../../src/search/holdings.js";
import { costModels } from "../../src/search/joint.js";
import { LayerChains } from "../../src/search/layerChains.js";
import { layoutOfTable } from "../../src/search/layout.js";
import { PreparedSchedule } from "../../src/search/preparedSchedule.js";
import { rankMemory } from "../../src/search/pricing.js";
import { chainPasses, scheduleBound } from "../../src/search/scheduleBounds.js";
import { openSchedules } from "../../src/search/scheduleChoices.js";
import { cutBound } from "../../src/search/scheduleProofs.js";
import { StageCosts } from "../../src/search/stageCosts.js";

type Wishes = Omit<Partial<Job>, "schema"> & Pick<Job, "globalBatch" | "sequence">;

function setUp(modelName: string, clusterName: string, wishes: Wishes) {
  const model = loadModel(modelName);
  const cluster = clusterPreset(clusterName);
  const job = checkValue(jobSchema, { schema: "mpopt.job/1", ...wishes }, "job");
  const models = costModels(cluster, job);
  const blocks = model.layers.filter((layer) => layer.kind === "block").length;
  return { model, cluster, job, models, blocks, chains: new LayerChains(model, models) };
}

/** Every cut of so many blocks into stages; the first and the last may hold none where there are several. */
function* cuts(blocks: number, stages: number): Generator<number[]> {
  function* from(boundaries: number[]): Generator<number[]> {
    const stage = boundaries.length - 1;
    const start = boundaries[stage]!;
    if (stage === stages) {
      if (start === blocks) yield boundaries;
      return;
    }
    const mayBeEmpty = stages > 1 && (stage === 0 || stage === stages - 1);
    for (let end = start + (mayBeEmpty ? 0 : 1); end <= blocks; end++) yield* from([...boundaries, end]);
  }
  yield* from([0]);
}

/** Every named schedule with a flush and up to four chunks that exists for so many ranks and micro-batches. */
function tablesFor(ranks: number, microBatches: number, blocks: number) {
  const tables = [];
  for (const name of scheduleNames.filter((each) => each !== "1f1b-async" && each !== "2bw")) {
    for (const chunks of [1, 2, 3, 4]) {
      try {
        const shape = scheduleShape(name, ranks, chunks);
        const stages = shape.placement === "bidirectional" ? ranks : shape.stages;
        if (stages > blocks + 2) continue;
        tables.push(scheduleByName(name, { ranks, microBatches, chunks }));
      } catch {
        // The schedule does not exist for these counts.
      }
    }
  }
  return tables;
}

/** Step time and memory of a cut straight from the simulator; no price of the search is used. */
function price(costs: StageCosts, boundaries: number[], table: ReturnType<typeof scheduleByName>) {
  const layersOf = table.layersOf ?? Array.from({ length: table.stages }, (_, i) => i);
  const stages = costs.layout.rankOfStage.map((_, s) => costs.seconds(s, boundaries[s]!, boundaries[s + 1]!));
  const feet = costs.layout.rankOfStage.map((_, s) => costs.footprint(s, boundaries[s]!, boundaries[s + 1]!));
  const spread = (field: "forward" | "backward" | "backwardWeight") => layersOf.map((s) => stages[s]![field]);
  const weight = spread("backwardWeight");
  const whole = spread("backward");
  const terms = feet.map((foot) => costs.terms({ ...foot, inFlight: 0, recomputedBytes: 0 }));
  const result = simulate(
    table,
    {
      forwardSeconds: spread("forward"),
      backwardSeconds: whole,
      backwardInputSeconds: whole.map((seconds, t) => seconds - weight[t]!),
      backwardWeightSeconds: weight,
    },
    {
      memory: {
        stages: layersOf.map((s) => ({
          parameterBytes: terms[s]!.parameters,
          gradientBytes: terms[s]!.gradients,
          optimizerBytes: terms[s]!.optimizer,
          activationBytes: feet[s]!.savedBytes,
        })),
      },
    },
  );
  return { seconds: result.stepSeconds, ranks: result.ranks, feet, layersOf };
}

describe("rankMemory and PreparedSchedule", () => {
  it("agree with the simulator's own time and memory on every schedule", async () => {
    const { job, models, chains } = setUp("gpt2", "h100-sxm:8x1", { globalBatch: 16, sequence: 512 });
    let compared = 0;
    for (const ranks of [2, 4]) {
      const configuration = {
        tensor: 2,
        pipeline: ranks,
        data: 4 / ranks,
        microBatch: 1,
        microBatches: 16,
        sequenceParallel: true,
        recompute: "none" as const,
        zero: 0 as const,
      };
      expect(job.globalBatch % configuration.data).toBe(0);
      const chain = (await chains.chain(configuration))!;
      for (const table of tablesFor(ranks, 16, 12)) {
        const schedule = new PreparedSchedule(table);
        const costs = new StageCosts(configuration, chain, models, schedule.layout);
        const all = [...cuts(12, schedule.layout.rankOfStage.length)];
        for (let i = 0; i < all.length; i += Math.ceil(all.length / 7)) {
          const boundaries = all[i]!;
          const { seconds, ranks: simulated, layersOf } = price(costs, boundaries, table);
          const times = {
            forward: Float64Array.from(
              costs.layout.rankOfStage,
              (_, s) => costs.seconds(s, boundaries[s]!, boundaries[s + 1]!).forward,
            ),
            backward: Float64Array.from(
              costs.layout.rankOfStage,
              (_, s) => costs.seconds(s, boundaries[s]!, boundaries[s + 1]!).backward,
            ),
            backwardWeight: Float64Array.from(
              costs.layout.rankOfStage,
              (_, s) => costs.seconds(s, boundaries[s]!, boundaries[s + 1]!).backwardWeight,
            ),
          };
          expect(schedule.pipelineSeconds(times) / seconds).toBeCloseTo(1, 12);
          simulated.forEach((rank, r) => {
            const terms = rankMemory(costs, boundaries, schedule.holdings, r);
            const peak = rank.memory!.peakTerms;
            expect(terms.parameters / peak.parameters).toBeCloseTo(1, 9);
            expect(terms.gradients / peak.gradients).toBeCloseTo(1, 9);
            expect(terms.optimizer / peak.optimizer).toBeCloseTo(1, 9);
            // Logits may move the fullest moment away from that of the activations.
            const holdsHead = costs.layout.stagesOfRank[r]!.includes(costs.layout.rankOfStage.length - 1);
            if (holdsHead) expect(terms.activations).toBeLessThanOrEqual(peak.activations * (1 + 1e-9));
            else expect(terms.activations).toBeCloseTo(peak.activations, 0);
            compared++;
          });
          expect(layersOf.length).toBe(table.stages);
        }
      }
    }
    expect(compared).toBeGreaterThan(300);
  });

  it("counts logits and recomputed activations for as long as weight halves wait for them", async () => {
    const { models, chains } = setUp("gpt2", "h100-sxm:8x1", { globalBatch: 16, sequence: 512 });
    const shape = {
      tensor: 1,
      pipeline: 4,
      data: 2,
      microBatch: 1,
      microBatches: 8,
      sequenceParallel: false,
      zero: 0 as const,
    };
    const full = { ...shape, recompute: "full" as const };
    const costs = new StageCosts(full, (await chains.chain(full))!, models);
    const boundaries = [0, 3, 6, 9, 12];
    const last = costs.footprint(3, 9, 12);
    const { activations, logits } = rankMemory(
      costs,
      boundaries,
      holdingsOf(scheduleByName("zb-h1", { ranks: 4, microBatches: 8 })),
      3,
    );
    // The last rank of ZB-H1 puts three weight halves off while the fourth micro-batch is between its passes.
    expect(activations).toBeCloseTo(last.savedBytes + 3 * last.betweenBytes + last.recomputedBytes, 0);
    expect(logits).toBeCloseTo(last.logitsBytes + 3 * last.logitsGradientBytes, 0);
    expect(last.logitsGradientBytes).toBeGreaterThan(0);
    expect(last.betweenBytes).toBeGreaterThan(3 * last.savedBytes);
    const plain = rankMemory(
      costs,
      boundaries,
      holdingsOf(scheduleByName("1f1b", { ranks: 4, microBatches: 8 })),
      3,
    );
    expect(plain).toEqual(costs.memory(3, 9, 12));
  });
});

describe("scheduleBound", () => {
  it("is below every schedule and cut that fits", async () => {
    for (const [name, clusterName, globalBatch] of [
      ["tiny-gpt", "a100-40:4x1", 8],
      ["mini-llama", "h100-sxm:2x2", 12],
    ] as const) {
      const { cluster, job, models, blocks, chains } = setUp(name, clusterName, {
        globalBatch,
        sequence: 256,
      });
      let closest = Number.POSITIVE_INFINITY;
      for (const degrees of enumerateDegrees(cluster, job, blocks)) {
        if (degrees.pipeline === 1) continue;
        for (const configuration of enumerateConfigurations(job, degrees)) {
          if (configuration.zero === 0 && degrees.data > 1) continue;
          const chain = (await chains.chain(configuration))!;
          const passes = chainPasses(configuration, chain);
          const plain = new StageCosts(configuration, chain, models);
          const bounds = new Map<string, number>();
          for (const table of tablesFor(degrees.pipeline, configuration.microBatches, blocks)) {
            const schedule = new PreparedSchedule(table);
            const traits = { split: schedule.split, bidirectional: schedule.layout.copies > 1 };
            const key = JSON.stringify(traits);
            if (!bounds.has(key)) bounds.set(key, scheduleBound(plain, passes, traits));
            const costs = new StageCosts(configuration, chain, models, schedule.layout);
            const all = [...cuts(blocks, schedule.layout.rankOfStage.length)];
            for (let i = 0; i < all.length; i += Math.ceil(all.length / 3)) {
              const { seconds } = price(costs, all[i]!, table);
              const ratio = (seconds + tailSeconds(costs, all[i]!, table)) / bounds.get(key)!;
              expect(ratio).toBeGreaterThan(1 - 1e-9);
              closest = Math.min(closest, ratio);
            }
          }
        }
      }
      expect(closest).toBeLessThan(1.35);
    }
  }, 30_000);
});

describe("cutBound", () => {
  it("is below every cut of its schedule that fits, whatever the memory", async () => {
    const wishes = { globalBatch: 12, sequence: 256 };
    const { blocks, chains, cluster } = setUp("mini-llama", "h100-sxm:4x1", wishes);
    let tight = Number.POSITIVE_INFINITY;
    let forbidden = 0;
    let compared = 0;
    for (const recompute of ["none", "full"] as const) {
      const configuration = {
        tensor: 1,
        pipeline: 4,
        data: 1,
        microBatch: 1,
        microBatches: 12,
        sequenceParallel: false,
        recompute,
        zero: 0 as const,
      };
      const chain = (await chains.chain(configuration))!;
      const passes = chainPasses(configuration, chain);
      for (const table of tablesFor(4, 12, blocks)) {
        const schedule = new PreparedSchedule(table);
        if (schedule.layout.copies > 1) continue;
        const all = [...cuts(blocks, schedule.layout.rankOfStage.length)];
        const needed = (costs: StageCosts, boundaries: number[]) =>
          Math.max(
            ...table.ranks.map((_, r) => costs.reserved(rankMemory(costs, boundaries, schedule.holdings, r))),
          );
        const { models } = setUp("mini-llama", "h100-sxm:4x1", wishes);
        const free = new StageCosts(configuration, chain, models, schedule.layout);
        const bytes = all.map((boundaries) => needed(free, boundaries)).sort((a, b) => a - b);
        const device = cluster.devices[0]!.memoryBytes.value;
        for (const limit of [bytes[0]!, bytes[Math.floor(bytes.length / 4)]!, device]) {
          const memoryFraction = Math.min(1, (limit * (1 + 1e-12)) / device);
          const limited = setUp("mini-llama", "h100-sxm:4x1", {
            ...wishes,
            limits: { memoryFraction, searchSeconds: 60 },
          });
          const costs = new StageCosts(configuration, chain, limited.models, schedule.layout);
          const bound = cutBound(costs, passes, schedule);
          let least = Number.POSITIVE_INFINITY;
          for (const boundaries of all) {
            if (needed(costs, boundaries) > costs.limitBytes) continue;
            const { seconds } = price(costs, boundaries, table);
            least = Math.min(least, seconds + tailSeconds(costs, boundaries, table));
            compared++;
          }
          expect(bound).toBeLessThanOrEqual(least * (1 + 1e-9));
          const traits = { split: schedule.split, bidirectional: false };
          const plain = new StageCosts(configuration, chain, limited.models);
          expect(scheduleBound(plain, passes, traits)).toBeLessThanOrEqual(least * (1 + 1e-9));
          tight = Math.min(tight, least / bound);
          const none = setUp("mini-llama", "h100-sxm:4x1", {
            ...wishes,
            limits: { memoryFraction: (0.2 * limit + 0.8 * 2.5e9) / device, searchSeconds: 60 },
          });
          if (
            cutBound(new StageCosts(configuration, chain, none.models, schedule.layout), passes, schedule) ===
            Number.POSITIVE_INFINITY
          )
            forbidden++;
        }
      }
    }
    expect(compared).toBeGreaterThan(1000);
    expect(tight).toBeLessThan(1.02);
    expect(forbidden).toBeGreaterThan(5);
  }, 30_000);
});

describe("createPlan over schedules", () => {
  it.each([
    ["tiny-gpt", "a100-40:4x1", { globalBatch: 8, sequence: 256, runtime: "torch", pins: { pipeline: 2 } }],
    ["tiny-gpt", "h100-sxm:2x2", { globalBatch: 12, sequence: 256, runtime: "torch", pins: { pipeline: 4 } }],
    [
      "tiny-gpt",
      "a100-40:4x1",
      { globalBatch: 8, sequence: 256, runtime: "megatron", pins: { pipeline: 2, data: 2 } },
    ],
  ] as [string, string, Wishes][])(
    "finds what enumeration of all cuts and named schedules finds, or less: %s on %s",
    async (name, clusterName, wishes) => {
      const { model, cluster, job, models, blocks, chains } = setUp(name, clusterName, wishes);
      const names = new Set(openSchedules(job));
      let least = Number.POSITIVE_INFINITY;
      for (const degrees of enumerateDegrees(cluster, job, blocks)) {
        for (const configuration of enumerateConfigurations(job, degrees)) {
          const chain = await chains.chain(configuration);
          if (!chain) continue;
          for (const table of tablesFor(degrees.pipeline, configuration.microBatches, blocks)) {
            if (!names.has(table.name)) continue;
            const interleaves = table.name === "interleaved" && job.runtime === "megatron";
            if (
              interleaves &&
              (table.stages === table.ranks.length || configuration.microBatches % degrees.pipeline)
            )
              continue;
            const costs = new StageCosts(configuration, chain, models, layoutOfTable(table));
            for (const boundaries of cuts(blocks, table.stages)) {
              const { seconds } = price(costs, boundaries, table);
              const once = tailSeconds(costs, boundaries, table);
              least = Math.min(least, seconds + once);
            }
          }
        }
      }
      const plan = await createPlan({ model, cluster, job });
      const { objective, bound, status, gap } = plan.certificate;
      expect(bound).toBeLessThanOrEqual(least * (1 + 1e-9));
      // Single moves from an even cut find the best of all cuts here; a searched order may beat every named one.
      expect(objective / least).toBeLessThan(1 + 1e-3);
      if (!plan.schedule.actions) expect(objective / least).toBeGreaterThan(1 - 1e-9);
      expect(gap).toBeCloseTo((objective - bound) / objective, 12);
      expect(status === "optimal").toBe(bound >= objective * (1 - 1e-12));
      const simulated = simulatePlan(plan);
      expect(simulated.stepSeconds / plan.estimate.stepSeconds).toBeCloseTo(1, 9);
    },
    30_000,
  );

  const large = { model: loadModel("llama-3.1-8b"), cluster: clusterPreset("h100-sxm:8x2") };
  const job: Wishes = {
    globalBatch: 32,
    sequence: 4096,
    pins: { pipeline: 4, tensor: 2, data: 2, microBatch: 1 },
  };
  const planned = (wishes: Partial<Wishes>) => createPlan({ ...large, job: { ...job, ...wishes } });

  it("leaves 1F1B where another schedule is faster and the runtime executes it", async () => {
    const flush = await planned({ runtime: "torch", pins: { ...job.pins, schedule: "1f1b" } });
    expect(flush.schedule.name).toBe("1f1b");
    expect(flush.certificate.status).toBe("optimal");
    const played = simulatePlan(flush).stepSeconds;
    const torch = await planned({ runtime: "torch" });
    const megatron = await planned({ runtime: "megatron" });
    expect(["1f1b", "interleaved"]).toContain(megatron.schedule.name);
    expect(torch.schedule.name).not.toBe("1f1b");
    expect(megatron.schedule.name).toBe("interleaved");
    expect(megatron.schedule.microBatches % 4).toBe(0);
    expect(megatron.estimate.stepSeconds).toBeLessThan(0.97 * played);
    expect(torch.estimate.stepSeconds).toBeLessThanOrEqual(megatron.estimate.stepSeconds);
    expect(torch.rejected.some(({ plan }) => /, 1f1b$/.test(plan))).toBe(true);
    for (const plan of [torch, megatron]) {
      const { terms, stepSeconds } = plan.estimate;
      const sum = Object.values(terms).reduce((all, seconds) => all + seconds, 0);
      expect(sum / stepSeconds).toBeCloseTo(1, 9);
      expect(plan.certificate.bound).toBeLessThan(plan.certificate.objective);
      expect(plan.certificate.status).toBe("feasible");
    }
  }, 30_000);

  it("does not take a schedule that memory forbids", async () => {
    const pins = { ...job.pins, recompute: "none" as const };
    const at = (memoryFraction: number, schedule: string) =>
      planned({
        runtime: "torch",
        limits: { memoryFraction, searchSeconds: 60 },
        pins: { ...pins, schedule },
      });
    const roomy = await at(0.94, "zb-h2");
    const peak = Math.max(...roomy.estimate.memory.map((entry) => entry.reservedBytes));
    const lean = await at(0.94, "zb-h1");
    const leanPeak = Math.max(...lean.estimate.memory.map((entry) => entry.reservedBytes));
    // ZB-H2 holds nearly twice as many micro-batches.
    expect(leanPeak).toBeLessThan(0.8 * peak);
    const between = (0.94 * (0.4 * peak + 0.6 * leanPeak)) / roomy.estimate.memory[0]!.limitBytes;
    await expect(at(between, "zb-h2")).rejects.toMatchObject({ code: "E_INFEASIBLE" });
    const tight = await at(between, "zb-h1");
    expect(tight.schedule.name).toBe("zb-h1");
    const free = await planned({
      runtime: "torch",
      limits: { memoryFraction: between, searchSeconds: 60 },
      pins,
    });
    expect(free.schedule.name).not.toBe("zb-h2");
    for (const { reservedBytes, limitBytes } of free.estimate.memory) {
      expect(reservedBytes).toBeLessThanOrEqual(limitBytes);
    }
  }, 30_000);

  it("keeps pinned schedules and chunks, and refuses what the runtime does not execute", async () => {
    const pinned = await planned({
      runtime: "torch",
      pins: { ...job.pins, schedule: "Interleaved1F1B", chunks: 2 },
    });
    expect(pinned.schedule.name).toBe("interleaved");
    expect(pinned.stages.map(({ rank, chunk }) => [rank, chunk])).toEqual(
      [0, 1, 2, 3, 4, 5, 6, 7].map((stage) => [stage % 4, Math.floor(stage / 4)]),
    );
    const refused = planned({ runtime: "portable", pins: { schedule: "zbv" } });
    await expect(refused).rejects.toMatchObject({
      code: "E_USAGE",
      message: "Expected a schedule that runtime portable executes (1f1b) but found zbv pinned.",
    });
    await expect(planned({ runtime: "megatron", pins: { schedule: "zig-zag" } })).rejects.toMatchObject({
      code: "E_PLAN_INVALID",
    });
    await expect(planned({ runtime: "portable", pins: { chunks: 2 } })).rejects.toMatchObject({
      code: "E_INFEASIBLE",
      message: expect.stringMatching(/among 1f1b for 2 chunks a rank/),
    });
    expect(
      openSchedules(checkValue(jobSchema, { schema: "mpopt.job/1", ...job, runtime: "any" }, "job")),
    ).not.toContain("2bw");
  }, 30_000);

  it("counts both copies of a bidirectional schedule, and the weight versions of one without a flush", async () => {
    // Without tensor parallelism all plans have the same shardings.
    const pins = { ...job.pins, tensor: 1, data: 4 };
    const flush = await planned({ runtime: "any", pins: { ...pins, schedule: "1f1b" } });
    const held = (plan: typeof flush) =>
      plan.estimate.memory.reduce((sum, { terms }) => sum + terms.parameters, 0);
    const dual = await planned({ runtime: "any", pins: { ...pins, schedule: "dualpipe" } });
    expect(dual.stages.map(({ rank }) => rank)).toEqual([0, 1, 2, 3]);
    expect(held(dual) / held(flush)).toBeCloseTo(2, 6);
    const buffered = await planned({ runtime: "any", pins: { ...pins, schedule: "2bw" } });
    expect(buffered.schedule.name).toBe("2bw");
    expect(held(buffered) / held(flush)).toBeCloseTo(2, 6);
    const folded = await planned({ runtime: "torch", pins: { ...job.pins, schedule: "dualpipev" } });
    for (const plan of [flush, dual, buffered, folded]) {
      simulatePlan(plan, { memory: true }).pipeline.ranks.forEach(({ memory }, rank) => {
        const { allocatedBytes, reservedBytes } = plan.estimate.memory[rank]!;
        expect(memory!.peakAllocatedBytes / allocatedBytes).toBeCloseTo(1, 6);
        expect(memory!.reservedBytes / reservedBytes).toBeCloseTo(1, 6);
      });
    }
  }, 30_000);

  it("gives the same plan for the same input", async () => {
    const make = () => planned({ runtime: "torch", pins: { pipeline: 4 } });
    const [first, second] = [await make(), await make()];
    const timeless = ({ certificate, provenance, ...plan }: typeof first) => plan;
    expect(timeless(second)).toEqual(timeless(first));
  }, 30_000);
});

/** Exposed synchronisation and optimizer of the rank with the longest, one stage's parameters after the other. */
function tailSeconds(
  costs: StageCosts,
  boundaries: number[],
  table: ReturnType<typeof scheduleByName>,
): number {
  const split = table.ranks.some((actions) => actions.some(({ kind }) => kind === "backward-weight"));
  const { stagesOfRank } = costs.layout;
  return stagesOfRank.reduce((longest, stages) => {
    let [parameters, hiding, other] = [0, 0, 0];
    for (const s of stages) {
      const range = [boundaries[s]!, boundaries[s + 1]!] as const;
      parameters += costs.parameters(s, ...range);
      const { backward, backwardWeight } = costs.seconds(s, ...range);
      hiding += split ? backwardWeight : backward;
      other += costs.weightSeconds(s, ...range);
    }
    const { gradientSynchronisation, optimizer } = costs.update.seconds(parameters, hiding, other);
    return Math.max(longest, gradientSynchronisation + optimizer);
  }, 0);
}
