import { describe, expect, it } from "vitest";
import { scheduleByName } from "../../src/schedule/index.js";
import { singleDevice } from "../../src/search/configuration.js";
import { holdingsOf } from "../../src/search/holdings.js";
import { PreparedSchedule } from "../../src/search/preparedSchedule.js";
import { priceChain } from "../../src/search/pricedLayer.js";
import { rankMemory } from "../../src/search/pricing.js";
import { chainPasses, scheduleBound } from "../../src/search/scheduleBounds.js";
import { cutBound } from "../../src/search/scheduleProofs.js";
import { Space } from "../../src/search/space.js";
import { StageCosts } from "../../src/search/stageCosts.js";
import { cuts, price, setUp, tablesFor, tailSeconds } from "./scheduleCases.js";

describe("rankMemory and PreparedSchedule", () => {
  it("agree with the simulator's own time and memory on every schedule", async () => {
    const { job, models, chains } = setUp("gpt2", "h100-sxm:8x1", { globalBatch: 16, sequence: 512 });
    let compared = 0;
    for (const ranks of [2, 4]) {
      const configuration = {
        ...singleDevice,
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
      ...singleDevice,
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
      const { model, cluster, job, models, blocks, chains } = setUp(name, clusterName, {
        globalBatch,
        sequence: 256,
      });
      let closest = Number.POSITIVE_INFINITY;
      const space = new Space(model, cluster, job);
      for (const degrees of space.degrees()) {
        if (degrees.pipeline === 1) continue;
        for (const configuration of space.all(degrees)) {
          if (configuration.zero === 0 && degrees.data > 1) continue;
          const chain = (await chains.chain(configuration))!;
          const plain = new StageCosts(configuration, chain, models);
          const passes = chainPasses(plain.chain);
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
    const { blocks, chains, cluster, models } = setUp("mini-llama", "h100-sxm:4x1", wishes);
    let tight = Number.POSITIVE_INFINITY;
    let forbidden = 0;
    let compared = 0;
    for (const recompute of ["none", "full"] as const) {
      const configuration = {
        ...singleDevice,
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
      const passes = chainPasses(priceChain(chain, configuration, models));
      for (const table of tablesFor(4, 12, blocks)) {
        const schedule = new PreparedSchedule(table);
        if (schedule.layout.copies > 1) continue;
        const all = [...cuts(blocks, schedule.layout.rankOfStage.length)];
        const needed = (costs: StageCosts, boundaries: number[]) =>
          Math.max(
            ...table.ranks.map((_, r) => costs.reserved(rankMemory(costs, boundaries, schedule.holdings, r))),
          );
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
