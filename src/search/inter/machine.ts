import { deviceCount, fastDomains, type LevelGroup, levelGroups } from "../../cluster/index.js";
import { type Cluster, type Device, type Dtype, MpoptError } from "../../contracts/index.js";

/**
 * Devices in a line, as inter-operator planning sees them: neighbours in the line are neighbours on the
 * machine, and a stage takes a run of them.
 */
export interface Machine {
  devices: number;
  /** Bytes that a plan may fill, by device. */
  memoryBytes: Float64Array;
  /** Time of a layer on the device over its time in the graph's tables; 1 is as fast. */
  slowdown: Float64Array;
  /** Innermost first; the last level holds all devices in one group. */
  levels: MachineLevel[];
  /** By device: its domain of fast links, which no tensor-parallel group leaves; one for all where absent. */
  domainOf?: Int32Array;
}

export interface MachineLevel {
  /** Group of each device. */
  groupOf: Int32Array;
  /** By group: the link between its members; the best of them where they have links of their own. */
  latencySeconds: number[];
  bytesPerSecond: number[];
  /**
   * By device, where members have links of their own into the group, as hosts have network cards: two devices
   * meet at the longer latency and the lower bandwidth of theirs.
   */
  own?: { latencySeconds: Float64Array; bytesPerSecond: Float64Array };
}

/** The link between two devices: that of the innermost group that holds both. */
export function linkBetween(machine: Machine, a: number, b: number): { latency: number; bandwidth: number } {
  for (const { groupOf, latencySeconds, bytesPerSecond, own } of machine.levels) {
    const group = groupOf[a]!;
    if (group !== groupOf[b]) continue;
    if (!own) return { latency: latencySeconds[group]!, bandwidth: bytesPerSecond[group]! };
    return {
      latency: Math.max(own.latencySeconds[a]!, own.latencySeconds[b]!),
      bandwidth: Math.min(own.bytesPerSecond[a]!, own.bytesPerSecond[b]!),
    };
  }
  throw new MpoptError("E_FIELD", `Expected a level that joins devices ${a} and ${b} but found none.`);
}

/** Seconds to send bytes from one device to another. */
export function sendSeconds(machine: Machine, bytes: number, a: number, b: number): number {
  if (bytes === 0) return 0;
  const { latency, bandwidth } = linkBetween(machine, a, b);
  return latency + bytes / bandwidth;
}

/** The slowest link of a ring over `count` devices, `stride` apart from `first`. */
export function ringLink(
  machine: Machine,
  first: number,
  count: number,
  stride: number,
): { latency: number; bandwidth: number } {
  let latency = 0;
  let bandwidth = Number.POSITIVE_INFINITY;
  if (count === 1) return { latency, bandwidth };
  for (let i = 0; i < count; i++) {
    const link = linkBetween(machine, first + i * stride, first + ((i + 1) % count) * stride);
    latency = Math.max(latency, link.latency);
    bandwidth = Math.min(bandwidth, link.bandwidth);
  }
  return { latency, bandwidth };
}

/**
 * Seconds of a ring all-reduce over `count` devices: 2 (n - 1) hops of a part of the bytes, each at the pace of
 * the slowest link in the ring (nccl-tests, doc/PERFORMANCE.md).
 */
export function ringSeconds(
  bytes: number,
  count: number,
  link: { latency: number; bandwidth: number },
): number {
  if (count === 1 || bytes === 0) return 0;
  return 2 * (count - 1) * (link.latency + bytes / count / link.bandwidth);
}

/** Extremes over any run of a line, in constant time: for each power of two, those of the runs of that length. */
class Extremes {
  readonly #rows: Float64Array[];
  readonly #pick: (a: number, b: number) => number;

  constructor(values: Float64Array, pick: (a: number, b: number) => number) {
    this.#pick = pick;
    this.#rows = [values];
    for (let length = 2; length <= values.length; length *= 2) {
      const shorter = this.#rows.at(-1)!;
      const half = length / 2;
      this.#rows.push(
        Float64Array.from({ length: values.length - length + 1 }, (_, i) =>
          pick(shorter[i]!, shorter[i + half]!),
        ),
      );
    }
  }

  /** Over the places from `start` up to, not including, `end`. */
  over(start: number, end: number): number {
    const level = 31 - Math.clz32(end - start);
    const row = this.#rows[level]!;
    return this.#pick(row[start]!, row[end - (1 << level)]!);
  }
}

/** A run of devices as one stage sees it. */
export interface DeviceRun {
  slowdown: number;
  memoryBytes: number;
  link: { latency: number; bandwidth: number };
}

/** Runs of devices of one machine, each in constant time whatever its width and whatever the machine. */
export class DeviceRuns {
  /** Devices after which the machine repeats itself; as many as it has where it does not. */
  readonly period: number;
  readonly #machine: Machine;
  readonly #slowdown: Extremes | number;
  readonly #memoryBytes: Extremes | number;
  /** By tensor-parallel degree: the first group out of its domain, of those from each place on. */
  readonly #outside = new Map<number, Int32Array>();
  /** By stride: where each residue's links start, and the links between devices a stride apart. */
  readonly #rings = new Map<number, { starts: Int32Array; latency: Extremes; bandwidth: Extremes }>();

  constructor(machine: Machine) {
    this.#machine = machine;
    const of = (values: Float64Array, pick: (a: number, b: number) => number) =>
      values.every((value) => value === values[0]) ? values[0]! : new Extremes(values, pick);
    this.#slowdown = of(machine.slowdown, Math.max);
    this.#memoryBytes = of(machine.memoryBytes, Math.min);
    this.period =
      typeof this.#slowdown === "number" && typeof this.#memoryBytes === "number"
        ? periodOf(machine)
        : machine.devices;
  }

  /** `replicas` x `tensor` devices from `first`. */
  run(first: number, replicas: number, tensor: number): DeviceRun {
    const end = first + replicas * tensor;
    const slow = this.#slowdown;
    const memory = this.#memoryBytes;
    return {
      slowdown: typeof slow === "number" ? slow : slow.over(first, end),
      memoryBytes: typeof memory === "number" ? memory : memory.over(first, end),
      link: this.#ring(first, replicas, tensor),
    };
  }

  /** Whether all tensor-parallel groups of `replicas` x `tensor` devices from `first` keep to their domains. */
  inDomains(first: number, replicas: number, tensor: number): boolean {
    const { domainOf, devices } = this.#machine;
    if (!domainOf || tensor === 1) return true;
    let outside = this.#outside.get(tensor);
    if (!outside) {
      outside = new Int32Array(devices);
      for (let device = devices - 1; device >= 0; device--) {
        const next = device + tensor;
        const crosses = next <= devices && domainOf[device] !== domainOf[next - 1];
        outside[device] = crosses ? device : (outside[next] ?? devices);
      }
      this.#outside.set(tensor, outside);
    }
    return outside[first]! >= first + replicas * tensor;
  }

  #ring(first: number, replicas: number, tensor: number): { latency: number; bandwidth: number } {
    if (replicas === 1) return noLink;
    const { starts, latency, bandwidth } = this.#links(tensor);
    const at = starts[first % tensor]! + Math.floor(first / tensor);
    const end = at + replicas - 1;
    const back = linkBetween(this.#machine, first + (replicas - 1) * tensor, first);
    return {
      latency: Math.max(latency.over(at, end), back.latency),
      bandwidth: Math.min(bandwidth.over(at, end), back.bandwidth),
    };
  }

  #links(stride: number) {
    let known = this.#rings.get(stride);
    if (!known) {
      const { devices } = this.#machine;
      const starts = new Int32Array(stride);
      const latency: number[] = [];
      const bandwidth: number[] = [];
      for (let residue = 0; residue < stride; residue++) {
        starts[residue] = latency.length;
        for (let a = residue; a + stride < devices; a += stride) {
          const link = linkBetween(this.#machine, a, a + stride);
          latency.push(link.latency);
          bandwidth.push(link.bandwidth);
        }
      }
      known = {
        starts,
        latency: new Extremes(Float64Array.from(latency), Math.max),
        bandwidth: new Extremes(Float64Array.from(bandwidth), Math.min),
      };
      this.#rings.set(stride, known);
    }
    return known;
  }
}

const noLink = { latency: 0, bandwidth: Number.POSITIVE_INFINITY };

/** The group size of the outermost level whose groups are equal in size, and at all levels equal in links. */
function periodOf({ devices, levels }: Machine): number {
  const equal = (list: number[]) => list.every((value) => value === list[0]);
  let period = 1;
  for (const { groupOf, latencySeconds, bytesPerSecond, own } of levels) {
    let size = groupOf.findIndex((group) => group !== groupOf[0]);
    if (size < 0) size = devices;
    const even = groupOf.every((group, device) => group === Math.floor(device / size));
    if (!even || own || !equal(latencySeconds) || !equal(bytesPerSecond) || size % period !== 0)
      return devices;
    if (size === devices) return period;
    period = size;
  }
  return devices;
}

/**
 * A machine of equal devices from counts and link speeds, innermost first: [4, 2] is two hosts of four. Links
 * have no latency, as in the cost models of planners that describe machines so.
 */
export function machineOfLevels(
  counts: readonly number[],
  bytesPerSecond: readonly number[],
  memoryBytes: number,
): Machine {
  const devices = counts.reduce((product, count) => product * count, 1);
  let size = 1;
  const levels = counts.map((count, i): MachineLevel => {
    size *= count;
    const groups = devices / size;
    return {
      groupOf: Int32Array.from({ length: devices }, (_, device) => Math.floor(device / size)),
      latencySeconds: new Array(groups).fill(0),
      bytesPerSecond: new Array(groups).fill(bytesPerSecond[i]!),
    };
  });
  return {
    devices,
    memoryBytes: new Float64Array(devices).fill(memoryBytes),
    slowdown: new Float64Array(devices).fill(1),
    levels,
  };
}

/**
 * A cluster as a machine: memory and speed of every device, hosts of any size, the link of every group. Of the
 * memory, what the driver's context and the allocator's fragmentation leave.
 *
 * The slowdown is the ratio of the best matrix products in one data type; 1 is the kind of the first devices,
 * on which a model's layers are priced.
 * @param memoryFraction share of a device's memory that a plan may fill.
 * @param dtype the type to compare kinds in; where some kind was not measured in it, the first that all were.
 * @throws MpoptError E_FIELD where kinds have no data type in common.
 */
export function machineOf(cluster: Cluster, memoryFraction: number, dtype: Dtype = "bf16"): Machine {
  const devices = deviceCount(cluster);
  const memoryBytes = new Float64Array(devices);
  const slowdown = new Float64Array(devices);
  const slowdowns = slowdownsOf(cluster, dtype);
  const { contextBytes, fragmentation } = cluster.memoryOverheads;
  let at = 0;
  cluster.devices.forEach((kind, index) => {
    for (let i = 0; i < kind.count; i++, at++) {
      const free = kind.memoryBytes.value * memoryFraction - contextBytes.value;
      memoryBytes[at] = Math.max(0, free / fragmentation.value);
      slowdown[at] = slowdowns[index]!;
    }
  });
  const levels = levelGroups(cluster).map((groups) => machineLevel(devices, groups));
  const domains = fastDomains(cluster);
  if (domains.length === 1) return { devices, memoryBytes, slowdown, levels };
  const domainOf = new Int32Array(devices);
  domains.forEach(({ start, end }, domain) => {
    domainOf.fill(domain, start, end);
  });
  return { devices, memoryBytes, slowdown, levels, domainOf };
}

/** Slowdown of each entry of the cluster's devices against the first one. */
function slowdownsOf({ devices, name }: Cluster, dtype: Dtype): number[] {
  if (devices.length === 1) return [1];
  const best = (device: Device, type: Dtype) =>
    device.compute
      .filter((table) => table.operator === "gemm" && table.dtype === type)
      .flatMap((table) => table.points.map((point) => point.rate))
      .reduce((most, rate) => Math.max(most, rate), 0);
  const shared = [dtype, ...comparable].find((type) => devices.every((device) => best(device, type) > 0));
  if (!shared) {
    throw new MpoptError(
      "E_FIELD",
      `${name}: expected gemm tables in a data type that all devices share for field devices but found none.`,
    );
  }
  const reference = best(devices[0]!, shared);
  return devices.map((device) => reference / best(device, shared));
}

const comparable: readonly Dtype[] = ["bf16", "f16", "tf32", "f32", "fp8", "f64"];

function machineLevel(devices: number, groups: readonly LevelGroup[]): MachineLevel {
  const groupOf = new Int32Array(devices);
  const own = { latencySeconds: new Float64Array(devices), bytesPerSecond: new Float64Array(devices) };
  const latencySeconds: number[] = [];
  const bytesPerSecond: number[] = [];
  let equal = true;
  groups.forEach(({ start, end, members }, group) => {
    groupOf.fill(group, start, end);
    for (const { start, end, link } of members) {
      own.latencySeconds.fill(link.latencySeconds.value, start, end);
      own.bytesPerSecond.fill(link.bytesPerSecond.value, start, end);
    }
    latencySeconds.push(own.latencySeconds.subarray(start, end).reduce((a, b) => Math.min(a, b)));
    bytesPerSecond.push(own.bytesPerSecond.subarray(start, end).reduce((a, b) => Math.max(a, b)));
    for (let device = start; device < end; device++) {
      equal &&=
        own.latencySeconds[device] === latencySeconds[group] &&
        own.bytesPerSecond[device] === bytesPerSecond[group];
    }
  });
  return { groupOf, latencySeconds, bytesPerSecond, ...(equal ? {} : { own }) };
}
