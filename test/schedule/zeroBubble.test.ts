import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { jobSchema } from "../../src/contracts/index.js";
import { stateBytes } from "../../src/cost/memory.js";
import { importHuggingFace } from "../../src/models/index.js";
import { compileSchedule, scheduleByName, simulate } from "../../src/schedule/index.js";
import { costModels } from "../../src/search/joint.js";
import { LayerChains } from "../../src/search/layerChains.js";
import { UpdateCosts } from "../../src/search/updateCosts.js";

interface Prediction {
  id: string;
  stepError: number;
  memoryError: number;
}

interface Published {
  rowsOf(text: string): unknown[];
  predict(library: object, rows: unknown[], parameters: object): Promise<Prediction[]>;
  misordered(predictions: Prediction[]): { wrong: string[][]; pairs: number };
}

const library = {
  clusterPreset,
  jobSchema,
  stateBytes,
  importHuggingFace,
  compileSchedule,
  scheduleByName,
  simulate,
  costModels,
  LayerChains,
  UpdateCosts,
};
const read = (path: string) => readFileSync(new URL(path, import.meta.url), "utf8");

it("predicts the order, the time and the memory of four published schedules in six settings", async () => {
  const module: string = "../../bench/schedule/published.mjs";
  const { rowsOf, predict, misordered }: Published = await import(module);
  const { parameters } = JSON.parse(read("../../bench/results/schedule/zero-bubble.json"));
  const predictions = await predict(library, rowsOf(read("../data/schedules/zeroBubble.csv")), parameters);
  expect(predictions).toHaveLength(24);
  expect(misordered(predictions)).toEqual({ wrong: [], pairs: 36 });
  for (const { id, stepError, memoryError } of predictions) {
    expect(Math.abs(stepError), `step time of ${id}`).toBeLessThan(0.05);
    expect(Math.abs(memoryError), `memory of ${id}`).toBeLessThan(0.05);
  }
});
