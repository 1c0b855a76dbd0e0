import { loadCluster } from "../cluster/index.js";
import { checkValue, type Job, jobSchema, MpoptError } from "../contracts/index.js";
import { readAceso } from "../models/aceso.js";
import { readDnnPartitioning } from "../models/dnnPartitioning.js";
import { loadModel } from "../models/index.js";
import type { LayeredGraph } from "../models/layered.js";
import { readPipedream } from "../models/pipedream.js";
import { readPiper } from "../models/piper.js";
import { deviceRanges } from "../report/format.js";
import { layeredGraphOf } from "../search/inter/fromModel.js";
import type { InterSolution } from "../search/inter/solution.js";

/** What readers and cost models get from the command line. */
export interface SolveOptions {
  machines?: number[];
  bandwidth?: number[];
  straight?: boolean;
  memory?: number;
  freeTransfers?: boolean;
  contiguous?: boolean;
  devices?: number;
  batch?: number;
  objective?: "steady" | "step";
  chunks?: number;
  timeUnit?: "s" | "ms";
  repeat?: number;
  cluster?: string;
  microBatch?: number;
  seq?: number;
  timeLimit?: number;
}

export interface InterFormat {
  /** Options that reading needs, beside those of the cost model. */
  options: (keyof SolveOptions)[];
  /** The cost model that the format comes from. */
  costModel: string;
  read(path: string, options: SolveOptions): LayeredGraph | Promise<LayeredGraph>;
}

/** Files that hold an inter-operator problem. */
export const interFormats: Readonly<Record<string, InterFormat>> = {
  pipedream: { options: [], costModel: "pipedream", read: (path) => readPipedream(path) },
  "dnn-partitioning": { options: [], costModel: "dnn-partitioning", read: readDnnPartitioning },
  piper: {
    options: ["timeUnit"],
    costModel: "piper",
    read: (path, { timeUnit }) => readPiper(path, { timeUnit }),
  },
  aceso: { options: ["repeat"], costModel: "mpopt", read: (path, { repeat }) => readAceso(path, { repeat }) },
  model: { options: ["cluster", "microBatch", "seq"], costModel: "mpopt", read: readModel },
};

/** Any model that `mpopt plan` reads, priced on a cluster. `--batch` counts micro-batches. */
async function readModel(reference: string, options: SolveOptions): Promise<LayeredGraph> {
  if (options.cluster === undefined) {
    throw new MpoptError(
      "E_USAGE",
      "Expected --cluster for --format model, which prices its layers, but found none.",
    );
  }
  const model = loadModel(reference);
  const { microBatch = 1, batch = 64, seq: sequence = model.reference.sequence } = options;
  const job: Job = checkValue(
    jobSchema,
    { schema: "mpopt.job/1", globalBatch: microBatch * batch, sequence },
    "job",
  );
  return layeredGraphOf(model, loadCluster(options.cluster), job, microBatch);
}

/** `--json` of an inter-operator answer: nodes by the ids of the file. */
export function interDocument(graph: LayeredGraph, solution: InterSolution): object {
  const { stages, ...rest } = solution;
  return {
    ...rest,
    seconds: solution.cpuSeconds,
    stages: stages.map(({ nodes, recomputed, ...stage }) => ({
      ...stage,
      nodes: nodes.map((node) => graph.nodes[node]!.id),
      recomputed: recomputed.map((node) => graph.nodes[node]!.id),
    })),
    warnings: graph.warnings,
  };
}

/** The answer for a person. */
export function interText(solution: InterSolution): string {
  const { status, objective, bound, gap, unit, cpuSeconds, stages, restriction } = solution;
  const short = unit === "seconds" ? "s" : "ms";
  const scale = unit === "seconds" ? 1 : 1000;
  const lines = stages.map((stage, i) => {
    const copies = stage.replicas > 1 ? ` x ${stage.replicas} replicas` : "";
    const split = stage.tensor > 1 ? ` x ${stage.tensor} tensor` : "";
    const recomputed = stage.recomputed.length > 0 ? `, ${stage.recomputed.length} recomputed` : "";
    const word = stage.devices.length === 1 ? "device" : "devices";
    const devices = stage.devices.length > 0 ? ` on ${word} ${deviceRanges(stage.devices)}` : "";
    const gib = (stage.memoryBytes / 2 ** 30).toPrecision(3);
    return `  stage ${i}: ${stage.nodes.length} nodes${copies}${split}${recomputed}${devices}, ${(scale * stage.seconds).toPrecision(6)} ${short}, ${gib} GiB`;
  });
  return [
    `${status}: ${objective.toPrecision(9)} ${short}, bound ${bound.toPrecision(9)}, gap ${(100 * gap).toPrecision(3)} %, ${cpuSeconds.toFixed(2)} CPU s`,
    ...(restriction ? [`  over ${restriction}`] : []),
    ...lines,
  ].join("\n");
}

const binary = ["KiB", "MiB", "GiB", "TiB"].map((name, i) => [name, 1024 ** (i + 1)]);
const decimal = ["kB", "MB", "GB", "TB"].map((name, i) => [name, 1000 ** (i + 1)]);
const units: Readonly<Record<string, number>> = Object.fromEntries([["B", 1], ...binary, ...decimal]);

/** Bytes from `16e9`, `8GiB` or `25GiB/s`. @throws MpoptError E_USAGE. */
export function parseBytes(text: string): number {
  const match = /^([0-9.]+(?:e[+-]?\d+)?)\s*([kKMGT]?i?B)?(?:\/s)?$/.exec(text.trim());
  const unit = match?.[2] === undefined ? 1 : units[match[2]];
  const value = Number(match?.[1]) * (unit ?? Number.NaN);
  if (Number.isFinite(value) && value > 0) return value;
  throw new MpoptError(
    "E_USAGE",
    `Expected a size such as 16e9, 8GiB or 25GB/s but found "${text}": GB is 1e9 bytes, GiB is 2^30.`,
  );
}
