import { MpoptError } from "../../contracts/index.js";
import { checkLayeredGraph, type LayeredGraph, type LayeredVariant } from "../../models/layered.js";
import { divisors } from "../candidates.js";

/** What Piper's drivers set beside the graph. */
export interface PiperOptions {
  devices: number;
  /** Of one device. */
  memoryBytes: number;
  /** Micro-batches in a batch (`mbsInBatch`): data-parallel degrees divide it. */
  batch: number;
  /** Of one device, the same for every kind of traffic. */
  bytesPerSecond: number;
  /** False keeps every stage at one replica. */
  allowData?: boolean;
  /** False keeps every stage at tensor-parallel degree 1. */
  allowTensor?: boolean;
  /** False leaves out recomputed variants. */
  allowRecompute?: boolean;
  signal?: AbortSignal;
}

/**
 * Checks the options, and that the graph says nothing which Piper's cost model cannot hold.
 * @throws MpoptError E_USAGE with one sentence.
 */
export function checkPiperInput(graph: LayeredGraph, options: PiperOptions): void {
  checkLayeredGraph(graph, graph.name);
  const { devices, batch, memoryBytes, bytesPerSecond } = options;
  const whole: [string, number][] = [
    ["devices", devices],
    ["micro-batches in a batch", batch],
  ];
  for (const [name, value] of whole) {
    if (Number.isInteger(value) && value >= 1) continue;
    throw new MpoptError("E_USAGE", `Expected a whole number of at least 1 for ${name} but found ${value}.`);
  }
  const positive: [string, number][] = [
    ["memory bytes", memoryBytes],
    ["bytes per second", bytesPerSecond],
  ];
  for (const [name, value] of positive) {
    if (Number.isFinite(value) && value > 0) continue;
    throw new MpoptError("E_USAGE", `Expected a number above 0 for ${name} but found ${value}.`);
  }
  for (const node of graph.nodes) {
    const what = node.color !== undefined ? "a colour" : node.accelerated === false ? "no accelerator" : "";
    if (what === "") continue;
    throw new MpoptError(
      "E_USAGE",
      `Expected nodes that may go to any stage for the cost model piper but found ${what} at node ${node.id}.`,
    );
  }
}

/** True where the options let a stage use the variant. */
export function isAllowed(variant: LayeredVariant, options: PiperOptions): boolean {
  if (variant.tensor > options.devices) return false;
  if (options.allowTensor === false && variant.tensor !== 1) return false;
  return options.allowRecompute !== false || !variant.recompute;
}

/** Data-parallel degrees in ascending order: divisors of the batch, at most one a device. */
export function dataDegrees({ batch, devices, allowData }: PiperOptions): number[] {
  if (allowData === false) return [1];
  return divisors(batch).filter((degree) => degree <= devices);
}

/** Seconds that all-reducing one parameter byte adds to `d` replicas' sum of stage times: 4 (d - 1) / (B b). */
export function reduceSecondsPerByte(options: PiperOptions): number {
  return 4 / (options.batch * options.bytesPerSecond);
}
