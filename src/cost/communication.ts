import { type Crossing, crossings, type EvenLevel, evenLevels, type Group } from "../cluster/index.js";
import {
  type Cluster,
  type CollectiveCurve,
  type Link,
  type Provenance,
  weakestProvenance,
} from "../contracts/index.js";
import { type CurvePoint, interpolateLog } from "./interpolate.js";

const collectives = ["allReduce", "reduceScatter", "allGather", "allToAll"] as const;
export type Collective = (typeof collectives)[number];

/** One number for each group of a cluster with fewer than 2^24 devices: searches ask millions of times. */
function groupKey({ size, stride }: Group): number {
  return size * 2 ** 24 + stride;
}

/** Latency and bandwidth that a group sees. */
interface Path {
  /** Sum of the latencies of the n - 1 hops of one pass around the ring. */
  ringLatencySeconds: number;
  /** Latency of one pass up a tree: a chain inside each unit of the outermost level, a binary tree over the units. */
  treeLatencySeconds: number;
  /** Latency of one hop over the slowest level. */
  hopLatencySeconds: number;
  /** That of a ring: the least over the levels of what all ranks of a unit put through together. */
  bytesPerSecond: number;
  /** For each byte that a rank holds, the seconds an all-to-all keeps the busiest level's link. */
  exchangeSecondsPerByte: number;
  /** Levels that the group crosses, innermost first. */
  crossed: readonly Crossing[];
}

/**
 * Rate of an all-to-all over that of a reduce-scatter inside a node; fitted: SimuMax's configs/system/b200_bf16_ceperm.json
 * gives 0.597 and 0.673 of the link.
 */
const exchangeShare = 0.887;

/**
 * Ways that NCCL moves data: short messages with flags inside the data, at a part of the bandwidth, and long ones with a
 * handshake a step, at more latency. `fitted` to all-reduces over 8 GPUs (stas00/ml-engineering): on A100 44 us for
 * 32 KiB, 61 us for 256 KiB and 102 us for 1 to 4 MiB; on B200 48, 48 and 96 us.
 */
const protocols = [
  { latency: 1, bandwidth: 0.2 },
  { latency: 2.1, bandwidth: 1 },
] as const;

/** Messages to other ranks that are under way at once, as NCCL's point-to-point channels; assumed. */
const parallelMessages = 8;

/**
 * Time of collectives and transfers on a cluster, by the alpha-beta model per topology level, and by measured curves
 * where a level has them. Ring and tree volumes are those of NCCL (nccl-tests, doc/PERFORMANCE.md): an all-reduce
 * moves 2 (n - 1) / n times the data through every rank, the others (n - 1) / n.
 */
export class CommunicationModel {
  readonly #levels: readonly EvenLevel[];
  readonly #paths = new Map<number, Path>();
  readonly #curves = new Map<number, LevelCurves | undefined>();
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
    const own = this.#curvesOf(collective, group);
    if (own) return this.#curveSeconds(own, bytes, n);
    const allReduce = collective === "allReduce" ? undefined : this.#curvesOf("allReduce", group);
    if (allReduce?.curves[0].link) return this.#derivedSeconds(collective, allReduce, bytes, n);
    const path = this.#path(group);
    const pass = ((n - 1) / n) * (bytes / path.bytesPerSecond);
    const ring = fastest(path.ringLatencySeconds, pass);
    switch (collective) {
      case "allReduce":
        return 2 * Math.min(ring, fastest(path.treeLatencySeconds, bytes / path.bytesPerSecond));
      case "reduceScatter":
      case "allGather":
        return ring;
      case "allToAll":
        return fastest(exchangeLatency(path.hopLatencySeconds, n), bytes * path.exchangeSecondsPerByte);
    }
  }

  /**
   * Seconds of an all-to-all of tokens that go to `copies` ranks each, every token once to each rank and once to each
   * group of ranks further out, which hands it on (DeepSeek-AI, DeepEP; NVIDIA, HybridEP). Copies are spread evenly: of
   * n places, n (1 - (1 - 1 / n)^copies) get one.
   * @param bytes what one rank holds of all copies.
   */
  dispatchSeconds(bytes: number, copies: number, group: Group): number {
    const n = group.size;
    if (n <= 1 || bytes <= 0) return 0;
    const { crossed, hopLatencySeconds } = this.#path(group);
    const secondsPerByte = crossed.reduce((most, { level, units, ranksPerUnit }) => {
      const places = n / ranksPerUnit;
      const reached = places * (1 - (1 - 1 / places) ** copies);
      const leaving = (reached / copies) * (1 - 1 / units);
      return Math.max(most, leaving / (level.link.bytesPerSecond.value * exchangeShare));
    }, 0);
    return fastest(exchangeLatency(hopLatencySeconds, n), bytes * secondsPerByte);
  }

  /** Seconds to send `bytes` from a rank to the one `stride` ranks away. */
  transferSeconds(bytes: number, stride: number): number {
    if (bytes <= 0) return 0;
    const crossed = crossings(this.#levels, { size: 2, stride });
    const outermost = crossed[crossed.length - 1] ?? { level: this.#levels[0]! };
    return this.#linkSeconds(outermost.level.link, bytes);
  }

  /** The curves of a collective where the group stays inside one level that has any, the closest number of ranks first. */
  #curvesOf(collective: Collective, group: Group): LevelCurves | undefined {
    const key = groupKey(group) * collectives.length + collectives.indexOf(collective);
    if (!this.#curves.has(key)) {
      const crossed = crossings(this.#levels, group);
      const level = crossed.length === 1 ? crossed[0]!.level : undefined;
      const distance = (curve: CollectiveCurve) => Math.abs(Math.log(curve.ranks / group.size));
      const [first, ...others] = (level?.collectives ?? [])
        .filter((curve) => curve.collective === collective)
        .sort((a, b) => distance(a) - distance(b))
        .map((curve) => ({ ...curve, points: curve.points.map((at) => ({ x: at.bytes, y: at.seconds })) }));
      this.#curves.set(key, level && first ? { curves: [first, ...others], link: level.link } : undefined);
    }
    return this.#curves.get(key);
  }

  #curveSeconds({ curves, link }: LevelCurves, bytes: number, n: number): number {
    const [curve] = curves;
    const [first] = curve.points as [CurvePoint];
    // Below its smallest size a curve goes on like the one of the level that reaches lowest.
    const lower = curves.reduce((a, b) => (b.points[0]!.x < a.points[0]!.x ? b : a));
    const below = bytes < first.x && lower !== curve;
    this.#used.add(curve.ranks === n && !below ? curve.provenance : "fitted");
    const ratio = lower === curve ? 1 : first.y / timeOf(lower, first.x);
    const seconds = below ? ratio * timeOf(lower, bytes) : timeOf(curve, bytes);
    const smallest = ratio * lower.points[0]!.y;
    return this.#scaled(curve, link, Math.min(smallest, seconds), seconds, n);
  }

  /**
   * The time of the smallest message is latency, which a ring pays once a hop, n - 1 times; the rest is volume,
   * (n - 1) / n of the bytes. Both follow the level's link where it is not the one that was measured.
   */
  #scaled({ ranks, link: measured }: Curve, link: Link, latency: number, seconds: number, n: number) {
    let hops = (n - 1) / (ranks - 1);
    let volume = (n - 1) / n / ((ranks - 1) / ranks);
    if (measured) {
      const slower = link.latencySeconds.value / measured.latencySeconds.value;
      const narrower = measured.bytesPerSecond.value / link.bytesPerSecond.value;
      if (slower !== 1 || narrower !== 1) this.#use(link);
      hops *= slower;
      volume *= narrower;
    }
    if (hops === 1 && volume === 1) return seconds;
    return latency * hops + (seconds - latency) * volume;
  }

  /**
   * A ring all-reduce is a reduce-scatter and an all-gather of equal time. One that the switch adds up is faster
   * than a ring (NVLink SHARP), which the others keep to; an all-to-all sends as much as they do, in many messages.
   */
  #derivedSeconds(collective: Collective, allReduce: LevelCurves, bytes: number, n: number): number {
    const half = this.#curveSeconds(allReduce, bytes, n) / 2;
    this.#used.add("fitted");
    const pass = ((n - 1) / n) * (bytes / allReduce.link.bytesPerSecond.value);
    return Math.max(half, collective === "allToAll" ? pass / exchangeShare : pass);
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
   * so a unit of k ranks enters the level above with k times one rank's bandwidth. In an all-to-all each rank has
   * its own link at every level alone, for the share of its bytes that leaves the unit there.
   */
  #path(group: Group): Path {
    const key = groupKey(group);
    const known = this.#paths.get(key);
    if (known) return known;
    let ringLatencySeconds = 0;
    let treeLatencySeconds = 0;
    let hopLatencySeconds = 0;
    let exchangeSecondsPerByte = 0;
    let bytesPerSecond = Number.POSITIVE_INFINITY;
    let unitsAbove = 1;
    const crossed = crossings(this.#levels, group);
    for (const { level, units, ranksPerUnit } of [...crossed].reverse()) {
      this.#use(level.link);
      const latency = level.link.latencySeconds.value;
      const rate = level.link.bytesPerSecond.value;
      ringLatencySeconds += unitsAbove * (units - 1) * latency;
      treeLatencySeconds += latency * (unitsAbove === 1 ? Math.ceil(Math.log2(units)) : units - 1);
      hopLatencySeconds = Math.max(hopLatencySeconds, latency);
      bytesPerSecond = Math.min(bytesPerSecond, ranksPerUnit * rate);
      const leaving = (ranksPerUnit * (units - 1)) / group.size;
      exchangeSecondsPerByte = Math.max(exchangeSecondsPerByte, leaving / (rate * exchangeShare));
      unitsAbove *= units;
    }
    const path = {
      ringLatencySeconds,
      treeLatencySeconds,
      hopLatencySeconds,
      bytesPerSecond,
      exchangeSecondsPerByte,
      crossed,
    };
    this.#paths.set(key, path);
    return path;
  }

  #use(link: Link): void {
    this.#used.add(link.bytesPerSecond.provenance);
    this.#used.add(link.latencySeconds.provenance);
  }
}

/** A curve with its points as seconds over bytes. */
interface Curve extends Omit<CollectiveCurve, "points"> {
  points: CurvePoint[];
}

/** Curves of one collective at one level, and the level's link. */
interface LevelCurves {
  /** The one that serves the group first. */
  curves: [Curve, ...Curve[]];
  link: Link;
}

/** Seconds under the protocol that takes least. */
function fastest(latencySeconds: number, volumeSeconds: number): number {
  let least = Number.POSITIVE_INFINITY;
  for (const { latency, bandwidth } of protocols) {
    least = Math.min(least, latency * latencySeconds + volumeSeconds / bandwidth);
  }
  return least;
}

/** Seconds until the last of n - 1 messages is under way and there. */
function exchangeLatency(hopLatencySeconds: number, n: number): number {
  return hopLatencySeconds * Math.ceil((n - 1) / parallelMessages);
}

/**
 * Seconds of `bytes` over the curve's own ranks: the smallest time below its points, and beyond the largest message
 * the rate of the last two points goes on.
 */
function timeOf({ points }: Curve, bytes: number): number {
  const last = points[points.length - 1]!;
  if (bytes <= last.x) return interpolateLog(points, bytes);
  const before = points[points.length - 2] ?? { x: 0, y: 0 };
  const slope = Math.max(0, (last.y - before.y) / (last.x - before.x));
  return last.y + slope * (bytes - last.x);
}
