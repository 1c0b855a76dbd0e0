import { clusterPreset } from "../../src/cluster/index.js";
import { checkValue, type Job, jobSchema } from "../../src/contracts/index.js";
import { loadModel } from "../../src/models/index.js";
import { scheduleByName, scheduleNames, scheduleShape, simulate } from "../../src/schedule/index.js";
import { costModels } from "../../src/search/joint.js";
import { LayerChains } from "../../src/search/layerChains.js";
import type { StageCosts } from "../../src/search/stageCosts.js";

/** What a test wants of a job. */
export type Wishes = Omit<Partial<Job>, "schema"> & Pick<Job, "globalBatch" | "sequence">;

/** A model, a cluster and a job with the models that price them. */
export function setUp(modelName: string, clusterName: string, wishes: Wishes) {
  const model = loadModel(modelName);
  const cluster = clusterPreset(clusterName);
  const job = checkValue(jobSchema, { schema: "mpopt.job/1", ...wishes }, "job");
  const models = costModels(cluster, job);
  const blocks = model.layers.filter((layer) => layer.kind === "block").length;
  return { model, cluster, job, models, blocks, chains: new LayerChains(model, models) };
}

/** Every cut of so many blocks into stages; the first and the last may hold none where there are several. */
export function* cuts(blocks: number, stages: number): Generator<number[]> {
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
export function tablesFor(ranks: number, microBatches: number, blocks: number) {
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
export function price(costs: StageCosts, boundaries: number[], table: ReturnType<typeof scheduleByName>) {
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

/** Exposed synchronisation and optimizer of the rank with the longest, one stage's parameters after the other. */
export function tailSeconds(
  costs: StageCosts,
  boundaries: number[],
  table: ReturnType<typeof scheduleByName>,
): number {
  const split = table.ranks.some((actions) => actions.some(({ kind }) => kind === "backward-weight"));
  const { stagesOfRank } = costs.layout;
  return stagesOfRank.reduce((longest, stages) => {
    const parameters = { dense: 0, expert: 0 };
    let [hiding, other] = [0, 0];
    for (const s of stages) {
      const range = [boundaries[s]!, boundaries[s + 1]!] as const;
      const { dense, expert } = costs.parameters(s, ...range);
      parameters.dense += dense;
      parameters.expert += expert;
      const { backward, backwardWeight } = costs.seconds(s, ...range);
      hiding += split ? backwardWeight : backward;
      other += costs.weightSeconds(s, ...range);
    }
    const { gradientSynchronisation, optimizer } = costs.update.seconds(parameters, hiding, other);
    return Math.max(longest, gradientSynchronisation + optimizer);
  }, 0);
}
