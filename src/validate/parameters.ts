import type { Cluster, Device, Level, Link, Quantity } from "../contracts/index.js";
import { overlapOf } from "../cost/overlap.js";
import type { RunInputs } from "./types.js";

/**
 * The quantities of a cluster that runs may correct: physical ones only, one value for all runs of a kind. A fit
 * moves each along its own coordinate, on which its prior is Gaussian.
 */
export interface Parameter {
  /** Path in the cluster document. */
  name: string;
  /** `log`: ln v. `share`: ln(v / (1 - v)). `excess`: ln(v - 1). */
  coordinate: "log" | "share" | "excess";
  /** Standard deviation of the prior along the coordinate. */
  sigma: number;
  /** The same on processors, where a probe says less of training: ranks share cores, caches and memory. */
  processorSigma?: number;
  /**
   * Shifts along the coordinate that a fit may begin with beside none: for quantities that no run depends on
   * where they are small.
   */
  starts?: readonly number[];
  /** True for what the GPU and its links do whatever software runs on them. */
  hardware: boolean;
  /** Value before the fit; undefined where the cluster has no such thing. */
  start: (cluster: Cluster) => number | undefined;
  /** Values that stay physical. */
  limits: (cluster: Cluster) => readonly [number, number];
  /** Whether a run of such a configuration can say something about it. */
  informed: (run: RunInputs) => boolean;
  write: (cluster: Cluster, quantity: Quantity) => Cluster;
}

const coordinates: Readonly<
  Record<Parameter["coordinate"], { to: (value: number) => number; from: (x: number) => number }>
> = {
  log: { to: Math.log, from: Math.exp },
  share: { to: (value) => Math.log(value / (1 - value)), from: (x) => 1 / (1 + Math.exp(-x)) },
  excess: { to: (value) => Math.log(value - 1), from: (x) => 1 + Math.exp(x) },
};

const firstDevice = (cluster: Cluster): Device => cluster.devices[0]!;

/** A parameter of one cluster, with its prior along its coordinate. */
export interface PlacedParameter {
  parameter: Parameter;
  mean: number;
  lower: number;
  upper: number;
}

/** Where a parameter stands on a cluster; undefined where the cluster has no such quantity. */
export function placed(parameter: Parameter, cluster: Cluster): PlacedParameter | undefined {
  const start = parameter.start(cluster);
  if (start === undefined) return undefined;
  const [least, most] = parameter.limits(cluster);
  const { to } = coordinates[parameter.coordinate];
  const mean = to(Math.min(most, Math.max(least, start)));
  return { parameter, mean, lower: to(least), upper: to(most) };
}

/** Standard deviation of the prior on a cluster. */
export function sigmaOn({ sigma, processorSigma = sigma }: Parameter, cluster: Cluster): number {
  return firstDevice(cluster).type === "cpu" ? processorSigma : sigma;
}

/** Value at a place of a parameter's coordinate. */
export function valueAt({ coordinate }: Parameter, x: number): number {
  return coordinates[coordinate].from(x);
}

function withDevice(cluster: Cluster, change: (device: Device) => Partial<Device>): Cluster {
  return { ...cluster, devices: cluster.devices.map((device) => ({ ...device, ...change(device) })) };
}

/** Rate of the best point of the tables of an operator. */
function bestRate(device: Device, operator: string): number {
  return device.compute
    .filter((table) => table.operator === operator && (table.dtype === "bf16" || table.dtype === "f16"))
    .reduce((best, { points }) => Math.max(best, ...points.map(({ rate }) => rate)), 0);
}

/** Factor on tables that brings their best rate to the data sheet's. */
function headroom(best: number, peak: number | undefined): number {
  return best > 0 && peak ? Math.max(1, peak / best) : 1;
}

/** On processors the host's calls are part of the measured curves, and nothing is sent beside them. */
const onProcessor = ({ hardware }: RunInputs) => hardware.part === "cpu";
/** How far training may be from what probes of a processor showed: ranks share caches, memory and clocks. */
const processorShares = [0.2, 1.5] as const;

type Efficiency = keyof NonNullable<Device["efficiency"]>;

function efficiency(
  kind: Efficiency,
  sigma: number,
  least: number,
  most: (device: Device) => number,
): Parameter {
  return {
    name: `devices[].efficiency.${kind}`,
    coordinate: "log",
    sigma,
    processorSigma: Math.max(sigma, 0.4),
    hardware: true,
    start: (cluster) => firstDevice(cluster).efficiency?.[kind]?.value ?? 1,
    limits: (cluster) =>
      firstDevice(cluster).type === "cpu" ? processorShares : [least, most(firstDevice(cluster))],
    informed: () => true,
    write: (cluster, quantity) =>
      withDevice(cluster, (device) => ({ efficiency: { ...device.efficiency, [kind]: quantity } })),
  };
}

/**
 * Host seconds of one call where a cluster states none: CPython and the dispatcher of an eager framework take 5 to
 * 30 us a call, the backward half of that (no Python there).
 */
const usualCallSeconds = { forward: 15e-6, backward: 10e-6 };

function callSeconds(pass: "forward" | "backward"): Parameter {
  return {
    name: `devices[].callSeconds.${pass}`,
    coordinate: "log",
    sigma: 0.7,
    // A host that keeps ahead of the device takes no time that shows.
    starts: [Math.log(3), Math.log(8)],
    hardware: false,
    start: (cluster) => firstDevice(cluster).callSeconds?.[pass].value ?? usualCallSeconds[pass],
    limits: () => [1e-6, 2e-4],
    informed: (run) => !onProcessor(run),
    write: (cluster, quantity) =>
      withDevice(cluster, ({ callSeconds: known }) => {
        const usual = (value: number): Quantity => ({
          value,
          provenance: "assumed",
          source: "typical time of a call of an eager framework",
        });
        const forward = known?.forward ?? usual(usualCallSeconds.forward);
        const backward = known?.backward ?? usual(usualCallSeconds.backward);
        return { callSeconds: { ...known, forward, backward, [pass]: quantity } };
      }),
  };
}

/** Levels are told apart by place: the innermost, the outermost, and what lies between. */
type Place = "node" | "domain" | "network";

function indexOf({ topology: { levels } }: Cluster, place: Place): number | undefined {
  if (place === "node") return 0;
  if (place === "network") return levels.length > 1 ? levels.length - 1 : undefined;
  return levels.length > 2 ? 1 : undefined;
}

function link(
  place: Place,
  field: "bytesPerSecond" | "latencySeconds",
  sigma: number,
  factor: number,
): Parameter {
  const known = (cluster: Cluster): Link | undefined => {
    const index = indexOf(cluster, place);
    return index === undefined ? undefined : cluster.topology.levels[index]!.link;
  };
  return {
    name: `topology.levels[${place}].link.${field}`,
    coordinate: "log",
    sigma,
    processorSigma: Math.max(sigma, 0.5),
    hardware: true,
    start: (cluster) => known(cluster)?.[field].value,
    limits: (cluster) => {
      const { value } = known(cluster)![field];
      return [value / factor, value * factor];
    },
    informed: ({ nodes, configuration: { tensor, data, pipeline, context, expert } }) =>
      place === "node" ? tensor * data * pipeline * context * expert > 1 : nodes > 1,
    write: (cluster, quantity) => {
      const at = indexOf(cluster, place);
      const levels = cluster.topology.levels.map((level, i): Level => {
        if (i !== at || !level.link) return level;
        // Measured points would keep the figures that the fit replaces.
        return { ...level, link: { ...level.link, points: [], [field]: quantity } };
      });
      return { ...cluster, topology: { levels } };
    },
  };
}

type Overlap = keyof Cluster["overlap"];

function overlap(kind: Overlap, sigma: number, informed: Parameter["informed"]): Parameter {
  return {
    name: `overlap.${kind}`,
    coordinate: "share",
    sigma,
    hardware: false,
    start: (cluster) => overlapOf(cluster, kind),
    limits: () => [0.02, 0.98],
    informed: (run) => !onProcessor(run) && informed(run),
    write: (cluster, quantity) => ({ ...cluster, overlap: { ...cluster.overlap, [kind]: quantity } }),
  };
}

/** Every quantity that `calibrate` may fit. Spreads are those between published runs of one part. */
export const parameters: readonly Parameter[] = [
  efficiency("gemm", 0.12, 0.4, (device) =>
    headroom(
      bestRate(device, "gemm"),
      device.peakFlopsPerSecond.bf16?.value ?? device.peakFlopsPerSecond.f16?.value,
    ),
  ),
  efficiency("attention", 0.3, 0.2, (device) =>
    headroom(
      bestRate(device, "attention"),
      device.peakFlopsPerSecond.bf16?.value ?? device.peakFlopsPerSecond.f16?.value,
    ),
  ),
  efficiency("memory", 0.2, 0.3, (device) =>
    headroom(
      device.compute
        .filter(({ operator }) => operator === "elementwise")
        .reduce((best, { points }) => Math.max(best, ...points.map(({ rate }) => rate)), 0),
      device.memoryBytesPerSecond.value,
    ),
  ),
  callSeconds("forward"),
  callSeconds("backward"),
  {
    name: "devices[].launchSeconds",
    coordinate: "log",
    sigma: 0.4,
    hardware: true,
    start: (cluster) => firstDevice(cluster).launchSeconds.value,
    limits: () => [1e-6, 2.5e-5],
    informed: (run) => !onProcessor(run),
    write: (cluster, quantity) => withDevice(cluster, () => ({ launchSeconds: quantity })),
  },
  link("node", "bytesPerSecond", 0.15, 2.5),
  link("node", "latencySeconds", 0.5, 6),
  link("domain", "bytesPerSecond", 0.2, 2.5),
  link("domain", "latencySeconds", 0.5, 6),
  link("network", "bytesPerSecond", 0.3, 4),
  link("network", "latencySeconds", 0.5, 6),
  overlap("gradientReduction", 1.2, ({ configuration: { data, context } }) => data * context > 1),
  overlap("pipelineTransfer", 1, ({ configuration: { pipeline } }) => pipeline > 1),
  overlap("parameterGather", 1, ({ configuration: { zero, data } }) => zero === 3 && data > 1),
  overlap("contextExchange", 1, ({ configuration: { context } }) => context > 1),
  overlap("expertExchange", 1, ({ configuration: { expert } }) => expert > 1),
  overlap("tensor", 1, ({ configuration: { tensor } }) => tensor > 1),
  {
    name: "stepSeconds",
    coordinate: "log",
    sigma: 0.8,
    hardware: false,
    // Loss scaling, clipping and logging of a step take the host a few milliseconds.
    start: (cluster) => cluster.stepSeconds?.value || 2e-3,
    limits: () => [1e-5, 0.5],
    informed: () => true,
    write: (cluster, quantity) => ({ ...cluster, stepSeconds: quantity }),
  },
  {
    name: "microBatchSeconds",
    coordinate: "log",
    sigma: 0.8,
    hardware: false,
    // Averaging the loss and keeping the schedule's books takes Python about as long as fifty calls.
    start: (cluster) => cluster.microBatchSeconds?.value || 5e-4,
    limits: () => [1e-6, 2e-2],
    informed: () => true,
    write: (cluster, quantity) => ({ ...cluster, microBatchSeconds: quantity }),
  },
  {
    name: "expertImbalance",
    coordinate: "excess",
    sigma: 0.8,
    hardware: false,
    // With auxiliary losses the busiest rank takes a tenth more than the mean.
    start: (cluster) => Math.max(1.01, cluster.expertImbalance?.value ?? 1.1),
    limits: () => [1.005, 2.5],
    informed: ({ configuration: { expert } }) => expert > 1,
    write: (cluster, quantity) => ({ ...cluster, expertImbalance: quantity }),
  },
  {
    name: "memoryOverheads.contextBytes",
    coordinate: "log",
    sigma: 0.5,
    hardware: false,
    start: (cluster) => cluster.memoryOverheads.contextBytes.value,
    limits: () => [2e8, 1.2e10],
    informed: ({ software }) => software.memory === "device",
    write: (cluster, quantity) => ({
      ...cluster,
      memoryOverheads: { ...cluster.memoryOverheads, contextBytes: quantity },
    }),
  },
  {
    name: "memoryOverheads.fragmentation",
    coordinate: "excess",
    sigma: 0.8,
    hardware: false,
    start: (cluster) => Math.max(1.005, cluster.memoryOverheads.fragmentation.value),
    limits: () => [1.001, 1.35],
    informed: ({ software }) => software.memory !== "allocated",
    write: (cluster, quantity) => ({
      ...cluster,
      memoryOverheads: { ...cluster.memoryOverheads, fragmentation: quantity },
    }),
  },
];
