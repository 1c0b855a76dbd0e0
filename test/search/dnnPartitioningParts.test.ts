import { describe, expect, it } from "vitest";
import { cutBound, packingBound, volumeBound } from "../../src/search/inter/dnnPartitioningBounds.js";
import { Budget } from "../../src/search/inter/dnnPartitioningBudget.js";
import { cutOrder, linearOrders } from "../../src/search/inter/dnnPartitioningCuts.js";
import { separationCost } from "../../src/search/inter/dnnPartitioningFlow.js";
import { searchIdeals } from "../../src/search/inter/dnnPartitioningIdeals.js";
import { Loads } from "../../src/search/inter/dnnPartitioningLoads.js";
import { type PlacementProblem, placementProblem } from "../../src/search/inter/dnnPartitioningProblem.js";
import { reduceProblem } from "../../src/search/inter/dnnPartitioningReduce.js";
import { randomOf } from "../../src/search/inter/random.js";
import { enumerate, randomGraph } from "./dnnPartitioningRandom.js";

const unlimited = () => new Budget(Number.POSITIVE_INFINITY);
/** Just above and just below a load. */
const [above, below] = [1 + 1e-9, 1 - 1e-9];

/** Every placement of the problem's blocks. */
function* placements({ blocks, devices, processors }: PlacementProblem): Generator<Int32Array> {
  const count = devices + processors;
  for (let code = 0; code < count ** blocks.length; code++) {
    yield Int32Array.from(blocks, (_, block) => Math.floor(code / count ** block) % count);
  }
}

const leastLoad = (problem: PlacementProblem) =>
  [...placements(problem)].reduce(
    (least, deviceOf) => Math.min(least, new Loads(problem, deviceOf).objective() || 0),
    Number.POSITIVE_INFINITY,
  );

const seeds = Array.from({ length: 600 }, (_, seed) => 10_000 + seed);

describe("searchIdeals", () => {
  it("finds a chain exactly where one is below the ceiling, reduced or not", async () => {
    let [found, reducedBlocks] = [0, 0];
    for (const seed of seeds) {
      const graph = randomGraph(seed);
      const best = enumerate(graph, { contiguous: true });
      if (!(best > 0)) continue;
      const problem = placementProblem(graph, { contiguous: true });
      const ceiling = best === Number.POSITIVE_INFINITY ? 1e9 : best * above;
      const reduced = reduceProblem(problem, ceiling, true);
      reducedBlocks += problem.blocks.length - reduced.blocks.length;
      for (const which of [problem, reduced]) {
        const outcome = best === Number.POSITIVE_INFINITY ? "none" : "found";
        expect({ seed, ...(await searchIdeals(which, ceiling, unlimited())) }).toMatchObject({
          seed,
          outcome,
        });
        if (outcome === "none") continue;
        const none = await searchIdeals(which, best * below, unlimited());
        expect({ seed, outcome: none.outcome }).toEqual({ seed, outcome: "none" });
        found++;
      }
    }
    expect(found).toBeGreaterThan(600);
    expect(reducedBlocks).toBeGreaterThan(150);
  });
});

describe("reduceProblem", () => {
  it("keeps the best load of placements that are not contiguous", () => {
    let reducedBlocks = 0;
    for (const seed of seeds) {
      const problem = placementProblem(randomGraph(seed), { contiguous: false });
      if (problem.blocks.length > 6 || problem.devices + problem.processors > 4) continue;
      const best = leastLoad(problem);
      if (!Number.isFinite(best)) continue;
      for (const probe of [false, true]) {
        const reduced = reduceProblem(problem, best * above + 1e-12, probe);
        reducedBlocks += problem.blocks.length - reduced.blocks.length;
        expect({ seed, best: leastLoad(reduced) }).toEqual({ seed, best: expect.closeTo(best, 9) });
      }
    }
    expect(reducedBlocks).toBeGreaterThan(300);
  });
});

describe("bounds", () => {
  it("are never above the best load", () => {
    const closed = { volume: 0, cut: 0, packing: 0 };
    for (const seed of seeds) {
      const graph = randomGraph(seed);
      const best = enumerate(graph, { contiguous: false });
      if (!Number.isFinite(best)) continue;
      const problem = placementProblem(graph, { contiguous: false });
      const bounds = {
        volume: volumeBound(problem),
        cut: cutBound(problem, 0, () => false),
        packing: packingBound(problem, 0, 2 * best + 1),
      };
      for (const [name, bound] of Object.entries(bounds) as [keyof typeof closed, number][]) {
        expect({ seed, name, excess: Math.max(0, bound - best) }).toEqual({ seed, name, excess: 0 });
        if (best > 0 && bound > best * (1 - 1e-4)) closed[name]++;
      }
    }
    // None of them is idle.
    for (const count of Object.values(closed)) expect(count).toBeGreaterThan(20);
  });

  it("a minimum cut is the least load around a block", () => {
    for (const seed of seeds.slice(0, 300)) {
      const problem = placementProblem(randomGraph(seed), { contiguous: false });
      const { blocks, nets, acceleratorMs } = problem;
      const inside = randomOf(seed)(blocks.length);
      const outside = blocks.length > 1 ? (inside + 1) % blocks.length : undefined;
      let least = Number.POSITIVE_INFINITY;
      for (let set = 0; set < 2 ** blocks.length; set++) {
        const holds = (block: number) => ((set >> block) & 1) === 1;
        if (!holds(inside) || (outside !== undefined && holds(outside))) continue;
        let load = 0;
        for (const block of blocks.keys()) if (holds(block)) load += acceleratorMs[block]!;
        for (const { cost, members } of nets) {
          if (members.some(holds) && !members.every(holds)) load += cost;
        }
        least = Math.min(least, load);
      }
      expect({ seed, least: separationCost(problem, inside, outside) }).toEqual({
        seed,
        least: Number.isFinite(least) ? expect.closeTo(least, 9) : least,
      });
    }
  });
});

describe("cutOrder", () => {
  it("prices its stages as the loads say", () => {
    let cuts = 0;
    for (const seed of seeds) {
      const problem = placementProblem(randomGraph(seed), { contiguous: true });
      for (const order of linearOrders(problem)) {
        expect([...order].sort((a, b) => a - b)).toEqual([...problem.blocks.keys()]);
        const cut = cutOrder(problem, order, Number.POSITIVE_INFINITY);
        if (!cut) continue;
        const deviceOf = new Int32Array(problem.blocks.length);
        let [accelerators, processors] = [0, problem.devices];
        for (const { blocks, processor } of cut.stages) {
          const device = processor ? processors++ : accelerators++;
          for (const block of blocks) deviceOf[block] = device;
        }
        expect(new Loads(problem, deviceOf).objective()).toBeCloseTo(cut.load, 9);
        cuts++;
      }
    }
    expect(cuts).toBeGreaterThan(1000);
  });
});
