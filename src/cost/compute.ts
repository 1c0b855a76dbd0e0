import {
  type ComputeTable,
  type Device,
  type Dtype,
  MpoptError,
  type Provenance,
  weakestProvenance,
} from "../contracts/index.js";
import { type CurvePoint, interpolateLog } from "./interpolate.js";
import type { AttentionShape, GemmShape } from "./shapes.js";

/** Work of one operator on one device, after sharding. */
export interface Work {
  /** Which of the device's curves prices it. */
  kind: ComputeTable["operator"];
  /** The operator's name: curves that carry one serve that operator alone. */
  name?: string;
  dtype: Dtype;
  flops: number;
  /** Bytes read and written. */
  bytes: number;
  /** Of a matrix product, where it is known. */
  shape?: GemmShape;
  /** Of flash attention, where it is known. */
  attention?: AttentionShape;
}

export type Pass = "forward" | "backward";

interface Curve {
  points: CurvePoint[];
  provenance: Provenance;
}

/**
 * Time of operators on one kind of device: a roofline whose two roofs are the device's measured or assumed
 * curves of achieved rate against size (Williams et al. 2009, with size-dependent roofs).
 */
export class ComputeModel {
  readonly device: Device;
  readonly #curves = new Map<string, Curve>();
  readonly #calls = new Map<string, Curve | undefined>();
  readonly #used = new Set<Provenance>();

  constructor(device: Device) {
    this.device = device;
  }

  /** Weakest provenance of the curves that were asked so far. */
  get provenance(): Provenance {
    return weakestProvenance(this.#used);
  }

  /**
   * Seconds of one kernel.
   * @throws MpoptError E_FIELD when the device has no curve that could price it.
   */
  seconds(work: Work): number {
    if (work.flops === 0 && work.bytes === 0) return 0;
    const byFlops = countsFlops(work.kind);
    const memoryKind = byFlops ? "elementwise" : work.kind;
    const memory = work.bytes > 0 ? work.bytes / this.#rate(memoryKind, work.dtype, work.bytes) : 0;
    if (!byFlops) return memory;
    const compute = work.flops > 0 ? work.flops / this.#rate(work.kind, work.dtype, work.flops) : 0;
    return Math.max(compute, memory);
  }

  /**
   * Seconds of one pass of an operator as a framework calls it, with the work of the whole pass; undefined where
   * no curve of whole calls was measured for the operator, the pass and the type. Below the smallest size that
   * was measured, the time is that size's: the call itself takes it.
   */
  callSeconds(work: Work, pass: Pass): number | undefined {
    const key = `${work.kind}/${work.name}/${work.dtype}/${pass}`;
    if (!this.#calls.has(key)) this.#calls.set(key, this.#findCall(work, pass));
    const curve = this.#calls.get(key);
    if (!curve) return undefined;
    const size = countsFlops(work.kind) ? work.flops : work.bytes;
    if (size === 0) return 0;
    this.#used.add(curve.provenance);
    return Math.max(size, curve.points[0]!.x) / interpolateLog(curve.points, size);
  }

  /** Whole-call seconds of a kernel that takes `seconds`: a host that computes too spends the call's time on top. */
  withCall(seconds: number, pass: Pass): number {
    const { type, launchSeconds, callSeconds } = this.device;
    if (type === "cpu" && callSeconds) return seconds + callSeconds[pass].value;
    return Math.max(seconds, launchSeconds.value);
  }

  /** What splitting an operator over devices adds to its call on the host; 0 where the host runs ahead. */
  shardedCallSeconds(pass: Pass): number {
    const { type, callSeconds } = this.device;
    return type === "cpu" ? (callSeconds?.sharded?.[pass].value ?? 0) : 0;
  }

  /** Data-sheet peak that utilisation is measured against, FLOPs per second. */
  peak(dtype: Dtype): number {
    const { peakFlopsPerSecond } = this.device;
    const peak = peakFlopsPerSecond[dtype] ?? peakFlopsPerSecond.bf16 ?? peakFlopsPerSecond.f32;
    if (!peak) {
      throw new MpoptError(
        "E_FIELD",
        `Expected a peak rate in ${dtype}, bf16 or f32 for device ${this.device.kind} but found none.`,
      );
    }
    return peak.value;
  }

  #rate(kind: Work["kind"], dtype: Dtype, work: number): number {
    const key = `${kind}/${dtype}`;
    let curve = this.#curves.get(key);
    if (!curve) {
      curve = this.#find(kind, dtype);
      this.#curves.set(key, curve);
    }
    this.#used.add(curve.provenance);
    return interpolateLog(curve.points, work);
  }

  #findCall({ kind, name, dtype }: Work, pass: Pass): Curve | undefined {
    const tables = this.device.compute.filter(
      (table) =>
        table.operator === kind &&
        table.includesCall === true &&
        table.dtype === dtype &&
        (table.pass ?? pass) === pass &&
        (table.name ?? name) === name,
    );
    const table = tables.find((each) => each.name !== undefined) ?? tables[0];
    return table ? { points: curvePoints(table), provenance: table.provenance } : undefined;
  }

  /** Curves of kernels that stand for both passes and for all operators of their kind. */
  #find(kind: Work["kind"], dtype: Dtype): Curve {
    const tables = this.device.compute.filter(
      (table) => !table.includesCall && table.pass !== "backward" && table.name === undefined,
    );
    const substitutes: readonly ComputeTable["operator"][] =
      kind === "attention"
        ? ["attention", "gemm"]
        : kind === "gemm"
          ? ["gemm"]
          : [kind, ...(usual[kind] ?? []), "elementwise", "copy", "reduction"];
    for (const operator of substitutes) {
      const ofKind = tables.filter((table) => table.operator === operator);
      const table = ofKind.find((each) => each.dtype === dtype) ?? closestWidth(ofKind, dtype);
      if (!table) continue;
      const exact = table.operator === kind && table.dtype === dtype;
      return {
        points: curvePoints(table),
        // A curve that stands in for another one is an assumption, however well it was measured.
        provenance: exact || table.unit === "byte" ? table.provenance : "assumed",
      };
    }
    throw new MpoptError(
      "E_FIELD",
      `Expected a compute table for ${kind} or a substitute on device ${this.device.kind} but found none.`,
      ["Run `mpopt profile` again, or use a cluster preset."],
    );
  }
}

/** The general kind whose kernel does the same with memory. */
const usual: Partial<Record<Work["kind"], ComputeTable["operator"][]>> = {
  normalization: ["reduction"],
  loss: ["reduction"],
  embedding: ["copy"],
};

function countsFlops(kind: Work["kind"]): boolean {
  return kind === "gemm" || kind === "attention";
}

function curvePoints(table: ComputeTable): CurvePoint[] {
  return table.points.map(({ work, rate }) => ({ x: work, y: rate })).sort((a, b) => a.x - b.x);
}

function closestWidth(tables: readonly ComputeTable[], dtype: Dtype): ComputeTable | undefined {
  const sixteen = dtype === "bf16" || dtype === "f16";
  const preference: Dtype[] = sixteen ? ["bf16", "f16", "f32"] : ["f32", "tf32", "bf16"];
  for (const candidate of preference) {
    const table = tables.find((each) => each.dtype === candidate);
    if (table) return table;
  }
  return tables[0];
}
