import { describe, expect, it } from "vitest";
import { type Configuration, singleDevice } from "../../src/search/configuration.js";
import { LayerChains } from "../../src/search/layerChains.js";
import { setUp } from "./scheduleCases.js";

describe("layers whose shardings are known from other numbers of micro-batches", () => {
  const globalBatch = 512;
  const numbers = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
  const { model, models } = setUp("tiny-gpt", "a100-80:8x1", { globalBatch, sequence: 256, runtime: "any" });
  const shapes: Configuration[] = [2, 4].flatMap((tensor) =>
    [1, 16].flatMap((microBatch) =>
      [true, false].map((sequenceParallel) => ({ ...singleDevice, tensor, microBatch, sequenceParallel })),
    ),
  );

  it("cost as much as layers that are solved for each number by itself", async () => {
    const together = new LayerChains(model, models);
    const chosen = new Set<string>();
    for (const shape of shapes) {
      for (const microBatches of numbers) {
        const configuration = { ...shape, microBatches };
        const alone = await new LayerChains(model, models).chain(configuration);
        // Solved by itself: nothing brackets what is asked for first at both ends.
        const direct = await new LayerChains(model, {
          ...models,
          job: { ...models.job, globalBatch: microBatches },
        }).chain(configuration);
        const shared = await together.chain(configuration);
        for (const chain of [alone, shared]) {
          for (const [i, block] of chain!.blocks.entries()) {
            const wanted = direct!.blocks[i]!;
            const value = (cost: typeof wanted) =>
              cost.forwardSeconds +
              cost.backwardSeconds +
              cost.forwardCommunicationSeconds +
              cost.backwardCommunicationSeconds +
              cost.weightGradientSeconds / microBatches;
            expect(value(block)).toBeCloseTo(value(wanted), 12);
            chosen.add(block.strategies.map(({ split }) => split ?? "-").join());
          }
        }
      }
    }
    expect(chosen.size).toBeGreaterThan(2);
  });

  it("share one chain where nothing differs", async () => {
    const chains = new LayerChains(model, models);
    const made = await Promise.all(
      numbers.map((microBatches) => chains.chain({ ...shapes[0]!, microBatches })),
    );
    expect(new Set(made).size).toBeLessThan(numbers.length);
  });
});
