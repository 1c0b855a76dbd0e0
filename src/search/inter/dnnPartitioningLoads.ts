import type { PlacementProblem } from "./dnnPartitioningProblem.js";

/**
 * A placement and its loads in milliseconds, kept up to date move by move. Devices 0 to `devices` - 1 are
 * accelerators, the rest processors.
 */
export class Loads {
  readonly count: number;
  readonly load: Float64Array;
  readonly bytes: Float64Array;
  readonly deviceOf: Int32Array;
  /** Blocks of each net on each device: [net * count + device]. */
  readonly #inside: Int32Array;

  constructor(
    readonly problem: PlacementProblem,
    deviceOf: ArrayLike<number>,
  ) {
    const { devices, processors, blocks, nets } = problem;
    this.count = devices + processors;
    this.load = new Float64Array(this.count);
    this.bytes = new Float64Array(this.count);
    this.deviceOf = Int32Array.from(deviceOf);
    this.#inside = new Int32Array(nets.length * this.count);
    for (let block = 0; block < blocks.length; block++) {
      const device = deviceOf[block]!;
      this.load[device]! += this.time(block, device);
      this.bytes[device]! += problem.bytes[block]!;
      for (const net of problem.netsOf[block]!) this.#inside[net * this.count + device]!++;
    }
    for (const [net, { cost, members }] of nets.entries()) {
      for (let device = 0; device < devices; device++) {
        const held = this.#inside[net * this.count + device]!;
        if (held > 0 && held < members.length) this.load[device]! += cost;
      }
    }
  }

  time(block: number, device: number): number {
    const { devices, acceleratorMs, processorMs } = this.problem;
    return device < devices ? acceleratorMs[block]! : processorMs[block]!;
  }

  /** Load of the block's device once the block has left it. */
  without(block: number): number {
    const device = this.deviceOf[block]!;
    const { devices, nets, netsOf } = this.problem;
    let load = this.load[device]! - this.time(block, device);
    if (device >= devices) return load;
    for (const net of netsOf[block]!) {
      const { cost, members } = nets[net]!;
      const held = this.#inside[net * this.count + device]!;
      if (held === members.length) load += cost;
      else if (held === 1) load -= cost;
    }
    return load;
  }

  /** Load of another device once the block is on it; Infinity where its memory does not hold the block. */
  withBlock(block: number, device: number): number {
    const { devices, bytes, memoryBytes } = this.problem;
    if (device < devices && this.bytes[device]! + bytes[block]! > memoryBytes)
      return Number.POSITIVE_INFINITY;
    return this.#unlimited(block, device);
  }

  move(block: number, to: number): void {
    const from = this.deviceOf[block]!;
    if (from === to) return;
    const [left, gained] = [this.without(block), this.withBlock(block, to)];
    this.load[from] = left;
    this.load[to] = gained === Number.POSITIVE_INFINITY ? this.#unlimited(block, to) : gained;
    this.bytes[from]! -= this.problem.bytes[block]!;
    this.bytes[to]! += this.problem.bytes[block]!;
    for (const net of this.problem.netsOf[block]!) {
      this.#inside[net * this.count + from]!--;
      this.#inside[net * this.count + to]!++;
    }
    this.deviceOf[block] = to;
  }

  /** As `withBlock`, with no regard to memory: a move that a later one takes back may break it. */
  #unlimited(block: number, device: number): number {
    const { devices, nets, netsOf } = this.problem;
    let load = this.load[device]! + this.time(block, device);
    if (device >= devices) return load;
    for (const net of netsOf[block]!) {
      const { cost, members } = nets[net]!;
      const held = this.#inside[net * this.count + device]!;
      if (held === 0) load += cost;
      else if (held === members.length - 1) load -= cost;
    }
    return load;
  }

  /** Largest load; Infinity where a memory does not hold its blocks. */
  objective(): number {
    let most = 0;
    for (let device = 0; device < this.count; device++) {
      if (device < this.problem.devices && this.bytes[device]! > this.problem.memoryBytes) {
        return Number.POSITIVE_INFINITY;
      }
      most = Math.max(most, this.load[device]!);
    }
    return most;
  }
}
