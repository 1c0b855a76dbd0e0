import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findPython } from "../../src/launch/index.js";
import { addTransfers, scheduleByName, writeScheduleCsv } from "../../src/schedule/index.js";
import {
  type Comparison,
  compare,
  expectSameCurve,
  exportedPlan,
  type PlanFile,
  writePlan,
} from "./compare.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

const python = await findPython();
const withTorch = describe.skipIf(!python?.torch);
if (!python?.torch)
  console.warn("Skipped the schedules' training: no Python with PyTorch (see MPOPT_PYTHON).");

const folder = mkdtempSync(join(tmpdir(), "mpopt schedules "));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Case extends PlanWishes {
  /** Without the exported `schedule.csv`. */
  alone?: boolean;
}

const lines = (csv: string) => csv.trimEnd().split("\n");
const zeroBubble = scheduleByName("zb-h1", { ranks: 2, microBatches: 4 });

const twoRanks: Record<string, Case> = {
  // PyTorch has no class of this name, so that only the launcher can bring its actions.
  "zb-h1, llama, uneven, the plan alone": {
    schedule: "zb-h1",
    pipeline: 2,
    layersPerStage: [2, 1],
    alone: true,
  },
  "zbv, the plan alone": { schedule: "zbv", pipeline: 2, layers: 4, alone: true },
  "interleaved, llama, uneven, one stage without layers": {
    schedule: "interleaved",
    pipeline: 2,
    layersPerStage: [1, 0, 2, 1],
  },
  "interleaved, three chunks": { schedule: "interleaved", pipeline: 2, chunks: 3, layers: 6 },
  "zbv, gpt2 tied on one rank": { schedule: "zbv", pipeline: 2, layers: 4, family: "gpt2" },
  "interleaved-zb, full recompute": {
    schedule: "interleaved-zb",
    pipeline: 2,
    layers: 4,
    recompute: "full",
  },
  "interleaved, two layers of each stage recomputed": {
    schedule: "interleaved",
    pipeline: 2,
    layersPerStage: [1, 3, 2, 1],
    recomputeLayers: 2,
  },
  "zbv, a layer of each stage recomputed": {
    schedule: "zbv",
    pipeline: 2,
    layersPerStage: [2, 1, 1, 2],
    recomputeLayers: 1,
  },
  "dualpipev, bf16": { schedule: "dualpipev", pipeline: 2, layers: 4, parameters: "bf16" },
  "actions with transfers": {
    schedule: "searched",
    pipeline: 2,
    layers: 3,
    actions: lines(writeScheduleCsv(addTransfers(zeroBubble))),
  },
};

const fourRanks: Record<string, Case> = {
  "interleaved, gpt2 tied": {
    schedule: "interleaved",
    pipeline: 4,
    layers: 8,
    microBatches: 8,
    micro: 1,
    family: "gpt2",
  },
  "zb-h1": { schedule: "zb-h1", pipeline: 4, layers: 4, microBatches: 6 },
  "dualpipev, unevenly": {
    schedule: "dualpipev",
    pipeline: 4,
    layersPerStage: [1, 1, 1, 2, 1, 1, 2, 0],
    microBatches: 8,
  },
  "zbv, tensor 2, sequence parallel, selective recompute": {
    schedule: "zbv",
    pipeline: 2,
    tensor: 2,
    sequenceParallel: true,
    recompute: "selective",
    layers: 4,
  },
  "interleaved-zb, data 2, ZeRO-1, llama tied": {
    schedule: "interleaved-zb",
    pipeline: 2,
    data: 2,
    zero: 1,
    tied: true,
    layers: 4,
  },
};

for (const [title, cases] of [
  ["two ranks", twoRanks],
  ["four ranks", fourRanks],
] as const) {
  withTorch(`the loss under a schedule equals the unsharded model's: ${title}`, () => {
    const files: PlanFile[] = [];
    let results: Comparison[] = [];
    beforeAll(async () => {
      for (const [name, { alone, ...wishes }] of Object.entries(cases)) {
        files.push((alone ? writePlan : exportedPlan)(folder, name, makePlan(wishes)));
      }
      results = await compare(files, { steps: 20, learningRate: 2e-3 });
    }, 410_000);

    test.each(Object.entries(cases).map(([name, wishes], i) => [name, wishes, i] as const))(
      "%s",
      (_name, wishes, i) => {
        const result = results[i]!;
        expect(result.reference).toHaveLength(20);
        expectSameCurve(result, 1e-4);
        // Each rank keeps the modules of its own stages, under their names, and no other.
        const { plan } = files[i]!;
        for (const [rank, { names, forwards }] of result.ranks.entries()) {
          // Split backwards too recompute a block once.
          let passes = 0;
          for (const { devices, layers, recomputeLayers = 0 } of plan.stages) {
            const blocks = layers.end - layers.start;
            if (devices.includes(rank))
              passes += blocks + (wishes.recompute === "full" ? blocks : recomputeLayers);
          }
          expect(forwards).toBe(passes * plan.schedule.microBatches);
          const modules = plan.stages.flatMap((stage) => (stage.devices.includes(rank) ? stage.modules : []));
          const held = (module: string) => names.some((name) => name.startsWith(`${module}.`));
          // A tied head has no name of its own beside the embedding.
          const tied =
            plan.model.architecture!.tiedEmbeddings &&
            (held("transformer.wte") || held("model.embed_tokens"));
          expect(modules.filter((module) => !held(module) && !(tied && module === "lm_head"))).toEqual([]);
          expect(names.filter((name) => !modules.some((module) => name.startsWith(`${module}.`)))).toEqual(
            [],
          );
        }
      },
    );
  });
}
