import { MpoptError } from "../contracts/index.js";
import { readDnnPartitioning } from "../models/dnnPartitioning.js";
import type { LayeredGraph } from "../models/layered.js";
import { readPipedream, unitsWarning } from "../models/pipedream.js";
import { readPiper } from "../models/piper.js";
import { solveDnnPartitioning } from "../search/inter/dnnPartitioning.js";
import { solvePipedream } from "../search/inter/pipedream.js";
import { solvePiper } from "../search/inter/piper.js";
import type { InterSolution } from "../search/inter/solution.js";
import type { Context } from "./context.js";

/** What a format's solver gets from the command line. */
export interface SolveOptions {
  machines?: number[];
  bandwidth?: number[];
  straight?: boolean;
  memory?: number;
  freeTransfers?: boolean;
  contiguous?: boolean;
  devices?: number;
  batch?: number;
  timeUnit?: "s" | "ms";
  timeLimit?: number;
}

export interface InterFormat {
  /** Options that the format knows, by their command-line names. */
  options: (keyof SolveOptions)[];
  read(path: string, options: SolveOptions): LayeredGraph;
  solve(graph: LayeredGraph, options: SolveOptions, context: Context): InterSolution | Promise<InterSolution>;
}

function needed<T>(value: T | undefined, option: string, format: string): T {
  if (value !== undefined) return value;
  throw new MpoptError("E_USAGE", `Expected ${option} for --format ${format} but found none.`);
}

/** Inter-operator problems in the files and the terms of other planners. */
export const interFormats: Readonly<Record<string, InterFormat>> = {
  pipedream: {
    options: ["machines", "bandwidth", "straight", "memory", "freeTransfers"],
    read: (path) => readPipedream(path),
    solve: (graph, options, { signal, note }) => {
      const machines = needed(options.machines, "--machines", "pipedream");
      const bandwidths = needed(options.bandwidth, "--bandwidth", "pipedream");
      const warning = unitsWarning(graph, bandwidths[0]!);
      if (warning) note(warning);
      return solvePipedream(graph, {
        machines,
        bandwidths,
        straight: options.straight,
        freeTransfers: options.freeTransfers,
        memoryBytes: options.memory,
        signal,
      });
    },
  },
  "dnn-partitioning": {
    options: ["contiguous", "devices", "memory", "timeLimit"],
    read: (path) => readDnnPartitioning(path),
    solve: (graph, options, { signal, progress }) =>
      solveDnnPartitioning(graph, {
        contiguous: options.contiguous ?? true,
        devices: options.devices,
        memoryBytes: options.memory,
        timeLimitSeconds: options.timeLimit,
        signal,
        onProgress: ({ objective, bound, seconds }) =>
          progress({ message: `${seconds.toFixed(1)} s  objective ${objective} ms  bound ${bound} ms` }),
      }),
  },
  piper: {
    options: ["devices", "memory", "batch", "bandwidth", "timeUnit"],
    read: (path, options) => readPiper(path, { timeUnit: options.timeUnit }),
    solve: (graph, options, { signal }) => {
      const { header } = graph;
      return solvePiper(graph, {
        devices: needed(options.devices ?? header.devices, "--devices", "piper"),
        memoryBytes: needed(options.memory ?? header.memoryBytes, "--memory", "piper"),
        batch: needed(options.batch ?? header.microBatches, "--batch", "piper"),
        bytesPerSecond: needed(options.bandwidth?.[0] ?? header.bytesPerSecond, "--bandwidth", "piper"),
        signal,
      });
    },
  },
};

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
    const gib = (stage.memoryBytes / 2 ** 30).toPrecision(3);
    return `  stage ${i}: ${stage.nodes.length} nodes${copies}${split}${recomputed}, ${(scale * stage.seconds).toPrecision(6)} ${short}, ${gib} GiB`;
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
