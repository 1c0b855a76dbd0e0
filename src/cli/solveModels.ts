import { loadCluster } from "../cluster/index.js";
import { defaultMemoryFraction, MpoptError } from "../contracts/index.js";
import type { LayeredGraph } from "../models/layered.js";
import { unitsWarning } from "../models/pipedream.js";
import { solveAlpa } from "../search/inter/alpa.js";
import { solveDnnPartitioning } from "../search/inter/dnnPartitioning.js";
import { solveInter } from "../search/inter/general.js";
import { type Machine, machineOf, machineOfLevels } from "../search/inter/machine.js";
import { solvePipedream } from "../search/inter/pipedream.js";
import { solvePiper } from "../search/inter/piper.js";
import type { InterSolution } from "../search/inter/solution.js";
import type { Context } from "./context.js";
import type { SolveOptions } from "./solveFormats.js";

/** A cost model that plans can be compared in, with the search that is exact for it. */
export interface CostModel {
  /** Options that the model reads. */
  options: (keyof SolveOptions)[];
  solve(graph: LayeredGraph, options: SolveOptions, context: Context): InterSolution | Promise<InterSolution>;
}

/** Micro-batches in a step where neither the caller nor the file says. */
const defaultMicroBatches = 64;

function needed<T>(value: T | undefined, option: string, model: string): T {
  if (value !== undefined) return value;
  throw new MpoptError("E_USAGE", `Expected ${option} for the cost model ${model} but found none.`);
}

function levelsOf(options: SolveOptions, model: string): { machines: number[]; bandwidths: number[] } {
  const machines = needed(options.machines, "--machines", model);
  const bandwidths = needed(options.bandwidth, "--bandwidth", model);
  if (machines.length === bandwidths.length) return { machines, bandwidths };
  throw new MpoptError(
    "E_USAGE",
    `Expected as many values for --machines as for --bandwidth but found ${machines.length} and ${bandwidths.length}.`,
  );
}

function machineFrom(options: SolveOptions, { note }: Context): Machine {
  const { cluster, machines: counts, bandwidth, memory } = options;
  if (cluster !== undefined) {
    if (counts ?? bandwidth ?? memory) {
      throw new MpoptError(
        "E_USAGE",
        "Expected either --cluster or --machines, --bandwidth and --memory but found both.",
      );
    }
    const loaded = loadCluster(cluster);
    const machine = machineOf(loaded, defaultMemoryFraction);
    let first = 0;
    for (const { kind, count } of loaded.devices) {
      const slowdown = machine.slowdown[first]!;
      if (slowdown !== 1) {
        note(
          `Layers take ${slowdown.toPrecision(3)} times as long on ${kind} (devices ${first} to ${first + count - 1}) as on ${loaded.devices[0]!.kind}, by their best matrix products.`,
        );
      }
      first += count;
    }
    return machine;
  }
  const { machines, bandwidths } = levelsOf(options, "mpopt");
  return machineOfLevels(machines, bandwidths, options.memory ?? Number.POSITIVE_INFINITY);
}

export const costModels: Readonly<Record<string, CostModel>> = {
  mpopt: {
    options: ["machines", "bandwidth", "memory", "batch", "cluster", "objective", "chunks"],
    solve: (graph, options, context) =>
      solveInter(graph, {
        machine: machineFrom(options, context),
        microBatches: options.batch ?? graph.header.microBatches ?? defaultMicroBatches,
        objective: options.objective ?? "step",
        chunks: options.chunks,
        signal: context.signal,
      }),
  },
  pipedream: {
    options: ["machines", "bandwidth", "straight", "memory", "freeTransfers"],
    solve: (graph, options, { signal, note }) => {
      const { machines, bandwidths } = levelsOf(options, "pipedream");
      const warning = unitsWarning(graph, bandwidths[0]!);
      if (warning && !graph.warnings.includes(warning)) note(warning);
      const { straight, freeTransfers, memory: memoryBytes } = options;
      return solvePipedream(graph, { machines, bandwidths, straight, freeTransfers, memoryBytes, signal });
    },
  },
  "dnn-partitioning": {
    options: ["contiguous", "devices", "memory", "timeLimit"],
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
    options: ["devices", "memory", "batch", "bandwidth"],
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
  alpa: {
    options: ["machines", "bandwidth", "memory", "batch"],
    solve: (graph, options, { signal }) => {
      const { machines, bandwidths } = levelsOf(options, "alpa");
      if (machines.length > 2) {
        throw new MpoptError(
          "E_USAGE",
          `Expected devices a host and hosts for --machines with the cost model alpa but found ${machines.length} levels.`,
        );
      }
      return solveAlpa(graph, {
        devicesPerHost: machines[0]!,
        hosts: machines[1] ?? 1,
        bandwidths: [bandwidths[0]!, bandwidths[1] ?? bandwidths[0]!],
        microBatches: options.batch ?? graph.header.microBatches ?? defaultMicroBatches,
        memoryBytes: options.memory ?? graph.header.memoryBytes,
        signal,
      });
    },
  },
};
