import {
  type ComputeTable,
  type Device,
  type Dtype,
  MpoptError,
  type Provenance,
  weakestProvenance,
} from "../contracts/index.js";
import { type CurvePoint, interpolateLog } from "./interpolate.js";

/** Work of one operator on one device, after sharding. */
export interface Work {
  /** Which of the device's curves prices it. */
  kind: "gemm" | "attention" | "elementwise" | "reduction" | "copy";
  dtype: Dtype;
  flops: number;
  /** Bytes read and written. */
  bytes: number;
}

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
  readonly #used = new Set<Provenance>();

  constructor(device: Device) {
    this.device = device;
  }

  /** Weakest provenance of the curves that were asked so far. */
  get provenance(): Provenance {
    return weakestProvenance(this.#used);
  }

  /**
   * Seconds of one call.
   * @throws MpoptError E_FIELD when the device has no curve that could price it.
   */
  seconds(work: Work): number {
    if (work.flops === 0 && work.bytes === 0) return 0;
    const memoryKind = work.kind === "gemm" || work.kind === "attention" ? "elementwise" : work.kind;
    const memory = work.bytes > 0 ? work.bytes / this.#rate(memoryKind, work.dtype, work.bytes) : 0;
    if (work.kind !== "gemm" && work.kind !== "attention") return memory;
    const compute = work.flops > 0 ? work.flops / this.#rate(work.kind, work.dtype, work.flops) : 0;
    return Math.max(compute, memory);
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

  #find(kind: Work["kind"], dtype: Dtype): Curve {
    const tables = this.device.compute;
    const substitutes: readonly ComputeTable["operator"][] =
      kind === "attention"
        ? ["attention", "gemm"]
        : kind === "gemm"
          ? ["gemm"]
          : [kind, "elementwise", "copy", "reduction"];
    for (const operator of substitutes) {
      const ofKind = tables.filter((table) => table.operator === operator);
      const table = ofKind.find((each) => each.dtype === dtype) ?? closestWidth(ofKind, dtype);
      if (!table) continue;
      const exact = table.operator === kind && table.dtype === dtype;
      return {
        points: table.points.map(({ work, rate }) => ({ x: work, y: rate })).sort((a, b) => a.x - b.x),
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

function closestWidth(tables: readonly ComputeTable[], dtype: Dtype): ComputeTable | undefined {
  const sixteen = dtype === "bf16" || dtype === "f16";
  const preference: Dtype[] = sixteen ? ["bf16", "f16", "f32"] : ["f32", "tf32", "bf16"];
  for (const candidate of preference) {
    const table = tables.find((each) => each.dtype === candidate);
    if (table) return table;
  }
  return tables[0];
}
