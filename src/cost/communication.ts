import { crossings, type EvenLevel, evenLevels, type Group } from "../cluster/index.js";
import {
  type Cluster,
  type CollectiveCurve,
  type Link,
  type Provenance,
  weakestProvenance,
} from "../contracts/index.js";
import { interpolateLog } from "./interpolate.js";

export type Collective = "allReduce" | "reduceScatter" | "allGather" | "allToAll";

/** Latency and bandwidth that one ring over a group sees. */
interface Path {
  /** Sum of the latencies of the n - 1 hops of one pass around the ring. */
  ringLatencySeconds: number;
  /** Latency of one hop of a tree over the group's slowest level. */
  hopLatencySeconds: number;
  bytesPerSecond: number;
}

/**
 * Time of collectives and transfers on a cluster, by the alpha-beta model per topology level.
 * Ring and tree volumes are those of NCCL (nccl-tests, doc/PERFORMANCE.md): an all-reduce moves
 * 2 (n - 1) / n times the data through every rank, the others (n - 1) / n.
 */
export class CommunicationModel {
  readonly #levels: readonly EvenLevel[];
  readonly #paths = new Map<string, Path>();
  readonly #curves = new Map<string, CollectiveCurve | undefined>();
  readonly #used = new Set<Provenance>();

  /** @throws MpoptError E_INFEASIBLE where groups of one level differ in size or links. */
  constructor(cluster: Cluster) {
    this.#levels = evenLevels(cluster);
  }

  /** Weakest provenance of the links that were asked so far; `measured` when nothing was asked. */
  get provenance(): Provenance {
    return weakestProvenance(this.#used);
  }

  /**
   * Seconds of one collective.
   * @param bytes the whole tensor: what an all-reduce leaves on every rank, what an all-gather produces,
   *   what a reduce-scatter starts from, what one rank holds before an all-to-all.
   */
  collectiveSeconds(collective: Collective, bytes: number, group: Group): number {
    const n = group.size;
    if (n <= 1 || bytes <= 0) return 0;
    const measured = this.#measuredCurve(collective, group);
    if (measured) return scaledCurve(measured, bytes, n);
    const path = this.#path(group);
    const pass = ((n - 1) / n) * (bytes / path.bytesPerSecond);
    switch (collective) {
      case "allReduce": {
        const ring = 2 * (path.ringLatencySeconds + pass);
        const tree = 2 * (Math.ceil(Math.log2(n)) * path.hopLatencySeconds + bytes / path.bytesPerSecond);
        return Math.min(ring, tree);
      }
      case "reduceScatter":
      case "allGather":
      case "allToAll":
        return path.ringLatencySeconds + pass;
    }
  }

  /** Seconds to send `bytes` from a rank to the one `stride` ranks away. */
  transferSeconds(bytes: number, stride: number): number {
    if (bytes <= 0) return 0;
    const crossed = crossings(this.#levels, { size: 2, stride });
    const outermost = crossed[crossed.length - 1] ?? { level: this.#levels[0]! };
    return this.#linkSeconds(outermost.level.link, bytes);
  }

  /**
   * The curve of the collective where the group stays inside one level that has any: of the curves, the one
   * whose number of ranks is closest.
   */
  #measuredCurve(collective: Collective, group: Group): CollectiveCurve | undefined {
    const key = `${collective}/${group.size}/${group.stride}`;
    if (!this.#curves.has(key)) {
      const crossed = crossings(this.#levels, group);
      const curves = crossed.length === 1 ? (crossed[0]!.level.collectives ?? []) : [];
      const distance = (curve: CollectiveCurve) => Math.abs(Math.log(curve.ranks / group.size));
      const [closest] = curves
        .filter((curve) => curve.collective === collective)
        .sort((a, b) => distance(a) - distance(b));
      this.#curves.set(key, closest);
    }
    const curve = this.#curves.get(key);
    if (curve) this.#used.add(curve.ranks === group.size ? curve.provenance : "fitted");
    return curve;
  }

  #linkSeconds(link: Link, bytes: number): number {
    this.#use(link);
    const { points } = link;
    const model = link.latencySeconds.value + bytes / link.bytesPerSecond.value;
    if (points.length < 2 || bytes > points[points.length - 1]!.bytes) return model;
    return interpolateLog(
      points.map((point) => ({ x: point.bytes, y: point.seconds })),
      bytes,
    );
  }

  /**
   * A ring passes every level that the group crosses. All ranks that share a unit have their own links upward,
   * so a unit of k ranks enters the level above with k times one rank's bandwidth.
   */
  #path(group: Group): Path {
    const key = `${group.size}/${group.stride}`;
    const known = this.#paths.get(key);
    if (known) return known;
    let ringLatencySeconds = 0;
    let hopLatencySeconds = 0;
    let bytesPerSecond = Number.POSITIVE_INFINITY;
    let unitsAbove = 1;
    const crossed = crossings(this.#levels, group);
    for (const { level, units, ranksPerUnit } of [...crossed].reverse()) {
      this.#use(level.link);
      const latency = level.link.latencySeconds.value;
      ringLatencySeconds += unitsAbove * (units - 1) * latency;
      hopLatencySeconds = Math.max(hopLatencySeconds, latency);
      bytesPerSecond = Math.min(bytesPerSecond, ranksPerUnit * level.link.bytesPerSecond.value);
      unitsAbove *= units;
    }
    const path = { ringLatencySeconds, hopLatencySeconds, bytesPerSecond };
    this.#paths.set(key, path);
    return path;
  }

  #use(link: Link): void {
    this.#used.add(link.bytesPerSecond.provenance);
    this.#used.add(link.latencySeconds.provenance);
  }
}

/**
 * Seconds of a collective of `bytes` over n ranks, from a curve measured over others. The time of the smallest
 * message is latency, which a ring pays once a hop, n - 1 times; the rest is volume, (n - 1) / n of the bytes.
 * Beyond the largest message the rate of the last two points goes on.
 */
function scaledCurve({ points, ranks }: CollectiveCurve, bytes: number, n: number): number {
  const first = points[0]!;
  const last = points[points.length - 1]!;
  const before = points[points.length - 2] ?? { bytes: 0, seconds: 0 };
  const slope = Math.max(0, (last.seconds - before.seconds) / (last.bytes - before.bytes));
  const seconds =
    bytes > last.bytes
      ? last.seconds + slope * (bytes - last.bytes)
      : interpolateLog(
          points.map((point) => ({ x: point.bytes, y: point.seconds })),
          bytes,
        );
  if (n === ranks) return seconds;
  const latency = Math.min(first.seconds, seconds);
  const volume = (n - 1) / n / ((ranks - 1) / ranks);
  return (latency * (n - 1)) / (ranks - 1) + (seconds - latency) * volume;
}
