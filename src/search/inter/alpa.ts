import { MpoptError } from "../../contracts/index.js";
import { checkLayeredGraph, type LayeredGraph, topologicalOrder } from "../../models/layered.js";
import type { InterSolution, InterStage } from "./solution.js";

/**
 * Stage assignment in Alpa's own cost model (alpa-projects/alpa, stage_construction.py), so that plans can be
 * compared like for like.
 *
 * Layers stand in program order and are cut into stages of consecutive layers, each on one submesh: 1, 2, 4, ...
 * devices of a host, or n whole hosts. A submesh of w devices runs dp x mp = w: tensor parallelism mp takes the
 * layers' variant of that degree, data parallelism splits the micro-batch. With B micro-batches
 *   t_s = sum (forward + backward) / dp + all-reduce of the gradients / B,  T = sum t_s + (B - 1) max t_s,
 * transfers between stages are free, and all devices are used. A stage with k later stages holds the
 * activations of k + 1 micro-batches.
 */
export interface AlpaOptions {
  hosts: number;
  /** A power of two, as Alpa demands. */
  devicesPerHost: number;
  /** Bytes per second inside a host and between hosts; the latency of both is left out, as in Alpa's tables. */
  bandwidths: [inside: number, between: number];
  microBatches: number;
  /** Of one device. */
  memoryBytes?: number;
  signal?: AbortSignal;
}

interface Config {
  devices: number;
  data: number;
  tensor: number;
}

const none = Number.POSITIVE_INFINITY;

/** Alpa's submeshes: powers of two inside a host, then whole hosts. */
export function submeshes({ hosts, devicesPerHost }: AlpaOptions): number[] {
  const sizes: number[] = [];
  for (let size = 1; size <= devicesPerHost; size *= 2) sizes.push(size);
  for (let n = 2; n <= hosts; n++) sizes.push(n * devicesPerHost);
  return sizes;
}

/** Seconds and bytes of the layers [start, end) of an order under one configuration; undefined without the variant. */
export function alpaStage(
  graph: LayeredGraph,
  nodes: readonly number[],
  config: Pick<Config, "data" | "tensor">,
  options: AlpaOptions,
): { seconds: number; fixedBytes: number; activationBytes: number } | undefined {
  const { data, tensor } = config;
  const bandwidth = options.bandwidths[data * tensor > options.devicesPerHost ? 1 : 0];
  let compute = 0;
  let gradients = 0;
  let fixedBytes = 0;
  let activationBytes = 0;
  for (const node of nodes) {
    const variant = graph.nodes[node]!.variants.find((each) => each.tensor === tensor && !each.recompute);
    if (!variant) return undefined;
    compute += variant.forwardSeconds + variant.backwardSeconds;
    gradients += variant.parameterBytes;
    fixedBytes += variant.fixedBytes;
    activationBytes += variant.activationBytes / data;
  }
  const reduce = (2 * (data - 1) * gradients) / data / bandwidth;
  return { seconds: compute / data + reduce / options.microBatches, fixedBytes, activationBytes };
}

/**
 * The best plan in Alpa's model, exactly: for a cap on t the least sum by dynamic programming over (first
 * layer, devices, stages), for caps from the least bottleneck upwards until none can pay for itself.
 * @throws MpoptError E_USAGE for hosts that are no power of two, E_CANCELLED.
 */
export function solveAlpa(graph: LayeredGraph, options: AlpaOptions): InterSolution {
  const cpu = process.cpuUsage();
  checkLayeredGraph(graph, graph.name);
  const { hosts, devicesPerHost, microBatches } = options;
  if (!Number.isInteger(Math.log2(devicesPerHost))) {
    throw new MpoptError(
      "E_USAGE",
      `Expected a power of two devices a host for Alpa's model but found ${devicesPerHost}.`,
    );
  }
  const order = topologicalOrder(graph)!;
  const search = new AlpaSearch(graph, order, options);
  const found = search.best(microBatches);
  const used = process.cpuUsage(cpu);
  const common = {
    unit: "seconds" as const,
    cpuSeconds: (used.user + used.system) / 1e6,
    restriction: "consecutive layers of the program order on Alpa's submeshes, all devices used",
  };
  if (!found) {
    return {
      ...common,
      status: "infeasible",
      objective: none,
      bound: none,
      gap: 0,
      stages: [],
      reason: `No cut of ${order.length} layers over ${hosts} hosts of ${devicesPerHost} devices fits the memory.`,
    };
  }
  return {
    ...common,
    status: "optimal",
    objective: found.value,
    bound: found.value,
    gap: 0,
    stages: found.stages,
  };
}

class AlpaSearch {
  readonly #order: number[];
  readonly #options: AlpaOptions;
  readonly #configs: Config[];
  readonly #devices: number;
  /** By start, end and configuration. */
  readonly #costs: ({ seconds: number; fixedBytes: number; activationBytes: number } | undefined)[];

  constructor(graph: LayeredGraph, order: number[], options: AlpaOptions) {
    this.#order = order;
    this.#options = options;
    this.#devices = options.hosts * options.devicesPerHost;
    const degrees = new Set(graph.nodes.flatMap((node) => node.variants.map(({ tensor }) => tensor)));
    this.#configs = submeshes(options).flatMap((devices) =>
      [...degrees]
        .filter((tensor) => devices % tensor === 0)
        .map((tensor) => ({ devices, tensor, data: devices / tensor })),
    );
    const layers = order.length;
    this.#costs = new Array((layers + 1) * (layers + 1) * this.#configs.length);
    for (let start = 0; start < layers; start++) {
      for (let end = start + 1; end <= layers; end++) {
        this.#configs.forEach((config, c) => {
          this.#costs[this.#at(start, end, c)] = alpaStage(graph, order.slice(start, end), config, options);
        });
      }
    }
  }

  #at(start: number, end: number, config: number): number {
    return (start * (this.#order.length + 1) + end) * this.#configs.length + config;
  }

  best(microBatches: number): { value: number; stages: InterStage[] } | undefined {
    const free = this.#least(none);
    if (!free) return undefined;
    const times = new Set<number>();
    for (const cost of this.#costs) if (cost) times.add(cost.seconds);
    const caps = [...times].sort((a, b) => a - b);
    // Caps that no cut keeps come first: bisection finds their end.
    let first = 0;
    for (let high = caps.length - 1; first < high; ) {
      const middle = (first + high) >> 1;
      if (this.#least(caps[middle]!)) high = middle;
      else first = middle + 1;
    }
    let best: { value: number; stages: InterStage[] } | undefined;
    for (const cap of caps.slice(first)) {
      this.#options.signal?.throwIfAborted();
      // A larger cap saves at most what separates a sum from the free one.
      if (best && free.sum + (microBatches - 1) * cap >= best.value) break;
      const found = this.#least(cap);
      if (!found) continue;
      const value = found.sum + (microBatches - 1) * Math.max(...found.stages.map((stage) => stage.seconds));
      if (!best || value < best.value) best = { value, stages: found.stages };
    }
    return best;
  }

  /** Least sum with every stage at most `cap`. */
  #least(cap: number): { sum: number; stages: InterStage[] } | undefined {
    const layers = this.#order.length;
    const devices = this.#devices;
    const mostStages = Math.min(layers, devices);
    const width = devices + 1;
    // sums[s][start][d]: layers from `start` on d devices in s stages.
    let sums = new Float64Array((layers + 1) * width).fill(none);
    sums[layers * width] = 0;
    const choices: Int32Array[] = [];
    let best = none;
    let bestStages = 0;
    for (let stages = 1; stages <= mostStages; stages++) {
      const next = new Float64Array((layers + 1) * width).fill(none);
      const choice = new Int32Array((layers + 1) * width).fill(-1);
      for (let start = layers - 1; start >= 0; start--) {
        for (let end = start + 1; end <= layers; end++) {
          for (const [c, config] of this.#configs.entries()) {
            const cost = this.#costs[this.#at(start, end, c)];
            if (!cost || cost.seconds > cap || !this.#fits(cost, stages - 1)) continue;
            for (let d = config.devices; d <= devices; d++) {
              const value = cost.seconds + sums[end * width + d - config.devices]!;
              if (value >= next[start * width + d]!) continue;
              next[start * width + d] = value;
              choice[start * width + d] = end * this.#configs.length + c;
            }
          }
        }
      }
      choices.push(choice);
      sums = next;
      if (sums[devices]! < best) {
        best = sums[devices]!;
        bestStages = stages;
      }
    }
    return best === none ? undefined : { sum: best, stages: this.#stages(choices, bestStages) };
  }

  #fits(cost: { fixedBytes: number; activationBytes: number }, later: number): boolean {
    const { memoryBytes = none } = this.#options;
    return cost.fixedBytes + cost.activationBytes * (later + 1) <= memoryBytes;
  }

  #stages(choices: readonly Int32Array[], count: number): InterStage[] {
    const stages: InterStage[] = [];
    const width = this.#devices + 1;
    let start = 0;
    let left = this.#devices;
    for (let stage = count; stage > 0; stage--) {
      const chosen = choices[stage - 1]![start * width + left]!;
      const end = Math.floor(chosen / this.#configs.length);
      const c = chosen % this.#configs.length;
      const { devices, data, tensor } = this.#configs[c]!;
      const cost = this.#costs[this.#at(start, end, c)]!;
      stages.push({
        nodes: this.#order.slice(start, end),
        replicas: data,
        tensor,
        recomputed: [],
        devices: Array.from({ length: devices }, (_, i) => i),
        seconds: cost.seconds,
        memoryBytes: cost.fixedBytes + cost.activationBytes * stage,
      });
      start = end;
      left -= devices;
    }
    placeLargestFirst(stages);
    return stages;
  }
}

/** Alpa fills the cluster row by row with the largest submeshes first, which always tiles it. */
function placeLargestFirst(stages: InterStage[]): void {
  let first = 0;
  const bySize = [...stages].sort((a, b) => b.devices.length - a.devices.length);
  for (const stage of bySize) {
    stage.devices = stage.devices.map((_, i) => first + i);
    first += stage.devices.length;
  }
}

/** T of a plan, from its stages alone; Infinity where a stage cannot run or does not fit. */
export function evaluateAlpa(
  graph: LayeredGraph,
  stages: readonly InterStage[],
  options: AlpaOptions,
): number {
  const times = stages.map((stage, s) => {
    const cost = alpaStage(graph, stage.nodes, { data: stage.replicas, tensor: stage.tensor }, options);
    const { memoryBytes = none } = options;
    const held = cost ? cost.fixedBytes + cost.activationBytes * (stages.length - s) : none;
    return cost && held <= memoryBytes ? cost.seconds : none;
  });
  if (times.includes(none)) return none;
  const sum = times.reduce((all, seconds) => all + seconds, 0);
  return sum + (options.microBatches - 1) * Math.max(...times);
}
