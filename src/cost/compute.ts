import { attentionShare } from "../cluster/kernelShares.js";
import {
  bytesPerElement,
  type ComputeTable,
  type Device,
  type Dtype,
  MpoptError,
  type Provenance,
  weakestProvenance,
} from "../contracts/index.js";
import { attentionSeconds } from "./attention.js";
import { gemmSeconds } from "./gemm.js";
import { type CurvePoint, interpolateLog, interpolateScattered, type ScatteredPoint } from "./interpolate.js";
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
  table: ComputeTable;
  points: CurvePoint[];
  provenance: Provenance;
}

/** How far a shape may be from a measured one, in logarithms of its sides, to be called measured: a factor of 2. */
const measuredDistance = Math.log(2);

/**
 * Time of operators on one kind of device: a roofline whose two roofs are the device's measured or assumed
 * curves of achieved rate against size (Williams et al. 2009, with size-dependent roofs). Where a GPU states its
 * multiprocessors, matrix products and flash attention are priced by their shapes, and products that were
 * measured correct the price of those near them. `device.efficiency` multiplies every rate of a kernel.
 */
export class ComputeModel {
  readonly device: Device;
  readonly #curves = new Map<string, Curve>();
  readonly #calls = new Map<string, Curve | undefined>();
  readonly #corrections = new Map<Dtype, ScatteredPoint[]>();
  readonly #used = new Set<Provenance>();

  /** Whether any whole call of a framework was measured. */
  readonly timesCalls: boolean;

  constructor(device: Device) {
    this.device = device;
    this.timesCalls = device.compute.some((table) => table.includesCall === true);
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
    const { shape, attention } = work;
    const multiprocessors = this.device.type === "cpu" ? undefined : this.device.multiprocessors;
    if (multiprocessors && work.kind === "gemm" && shape && work.flops > 0) {
      return this.#gemmSeconds(work, shape, multiprocessors.value);
    }
    if (multiprocessors && work.kind === "attention" && attention && work.flops > 0) {
      return this.#attentionSeconds(work, attention, multiprocessors.value);
    }
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
    const curve = this.#curve(kind, dtype);
    return interpolateLog(curve.points, work) * this.#efficiency(kind);
  }

  #curve(kind: Work["kind"], dtype: Dtype): Curve {
    const key = `${kind}/${dtype}`;
    let curve = this.#curves.get(key);
    if (!curve) {
      curve = this.#find(kind, dtype);
      this.#curves.set(key, curve);
    }
    this.#used.add(curve.provenance);
    return curve;
  }

  #efficiency(kind: Work["kind"]): number {
    const factor = this.device.efficiency?.[countsFlops(kind) ? (kind as "gemm" | "attention") : "memory"];
    if (!factor) return 1;
    this.#used.add(factor.provenance);
    return factor.value;
  }

  /** Rate of the largest passes over memory. */
  #memoryRate(dtype: Dtype): number {
    return this.#curve("elementwise", dtype).points.at(-1)!.y * this.#efficiency("elementwise");
  }

  #gemmSeconds({ dtype, bytes }: Work, shape: GemmShape, multiprocessors: number): number {
    const curve = this.#curve("gemm", dtype);
    const roofs = {
      flopsPerSecond: bestRate(curve) * this.#efficiency("gemm"),
      bytesPerSecond: this.#memoryRate(dtype),
      multiprocessors,
    };
    // The operator counts one write of a result in its own type; a sum in f32 is read and written.
    const more = shape.accumulates ? 8 - Math.max(2, bytesPerElement[dtype]) : 0;
    const moved = bytes + (bytes > 0 ? more * shape.m * shape.n * (shape.groups ?? 1) : 0);
    const seconds = gemmSeconds(shape, moved, roofs);
    const corrections = this.#correctionsOf(curve, dtype, multiprocessors);
    if (corrections.length === 0) {
      // The model of shapes is fitted, whatever the rate that it starts from.
      this.#used.add("fitted");
      return seconds;
    }
    const groups = Math.cbrt(Math.max(1, shape.groups ?? 1));
    const place = [shape.m * groups, shape.n * groups, shape.k * groups].map(Math.log);
    const { value, distance } = interpolateScattered(corrections, place);
    if (distance > measuredDistance) this.#used.add("fitted");
    return seconds * Math.exp(value);
  }

  /** Logarithms of measured over modelled seconds at the shapes that were measured; none for an assumed table. */
  #correctionsOf({ table, points }: Curve, dtype: Dtype, multiprocessors: number): ScatteredPoint[] {
    let known = this.#corrections.get(dtype);
    if (known) return known;
    known = [];
    if (table.provenance === "measured") {
      const roofs = {
        flopsPerSecond: Math.max(...points.map(({ y }) => y)),
        bytesPerSecond: this.#curve("elementwise", dtype).points.at(-1)!.y,
        multiprocessors,
      };
      for (const { work, rate, shape } of table.points) {
        const side = Math.cbrt(work / 2);
        const { m = side, n = side, k = side } = shape ?? {};
        const bytes = bytesPerElement[table.dtype] * (m * k + k * n + m * n);
        const modelled = gemmSeconds({ m, n, k }, bytes, roofs);
        known.push({ place: [m, n, k].map(Math.log), value: Math.log(work / rate / modelled) });
      }
    }
    this.#corrections.set(dtype, known);
    return known;
  }

  #attentionSeconds({ dtype, flops, bytes }: Work, shape: AttentionShape, multiprocessors: number): number {
    const curve = this.#curve("attention", dtype);
    this.#used.add("fitted");
    const share = curve.table.operator === "gemm" ? attentionShare : 1;
    return attentionSeconds(shape, flops, bytes, {
      flopsPerSecond: share * bestRate(curve) * this.#efficiency("attention"),
      bytesPerSecond: this.#memoryRate(dtype),
      multiprocessors,
    });
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
    return table ? { table, points: curvePoints(table), provenance: table.provenance } : undefined;
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
        table,
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

/** The largest rate that a curve shows. */
function bestRate({ points }: Curve): number {
  return points.reduce((best, { y }) => Math.max(best, y), 0);
}

function curvePoints(table: ComputeTable): CurvePoint[] {
  return table.points.map(({ work, rate }) => ({ x: work, y: rate })).sort((a, b) => a.x - b.x);
}

/** Narrow products run in 16 bit where a device has no faster unit for them. */
const substitutes: Partial<Record<Dtype, readonly Dtype[]>> = {
  bf16: ["bf16", "f16", "f32"],
  f16: ["bf16", "f16", "f32"],
  fp8: ["bf16", "f16", "f32"],
  fp4: ["fp8", "bf16", "f16", "f32"],
};

function closestWidth(tables: readonly ComputeTable[], dtype: Dtype): ComputeTable | undefined {
  for (const candidate of substitutes[dtype] ?? ["f32", "tf32", "bf16"]) {
    const table = tables.find((each) => each.dtype === candidate);
    if (table) return table;
  }
  return tables[0];
}
