import { activationRoom, type ChainPasses, leastRankSeconds, leastUpdateSeconds } from "./scheduleBounds.js";
import type { StageCosts } from "./stageCosts.js";

/**
 * Closed forms that put schedules in order before any is made: rough, and never part of a proof.
 */

/**
 * About how long a schedule takes with stages as even as layers allow, without regard to memory: the order in which
 * candidates are visited. After the closed forms of the schedules' papers (see `schedule/named`), end to end.
 */
export function estimateSeconds(
  costs: StageCosts,
  passes: ChainPasses,
  name: string,
  chunks: number,
  bidirectional: boolean,
): number {
  const { pipeline, microBatches } = costs.configuration;
  const { transferSeconds } = costs;
  const extra = 2 * transferSeconds * (chunks - 1);
  const load = leastRankSeconds(passes, pipeline, transferSeconds, bidirectional, extra);
  // Ranks that wait for the pipeline to fill, as many as full ones would be.
  const { total } = passes;
  const ranks = Math.max(0, total.pass / load - 1);
  const forward = (load * total.forward) / total.pass;
  const weight = (load * passes.weightSeconds) / total.pass;
  const whole = load;
  const split = Math.max(forward, load - 2 * weight);
  const bubbles: Record<string, number> = {
    "zb-h1": split,
    "zb-h2": forward,
    zbv: forward / 2,
    dualpipe: forward / 2,
    dualpipev: forward / 2,
    chimera: whole / 2,
    interleaved: whole / chunks,
    "looped-bfs": whole / chunks,
    "interleaved-zb": split / chunks,
  };
  return microBatches * load + ranks * (bubbles[name] ?? whole) + leastUpdateSeconds(costs);
}

/** Stages that early ranks give up to later ones may save this share of what even stages hold. */
const unevenShare = 0.8;

/**
 * Micro-batches that the ranks hold on average at the peak of a schedule, each of all of a rank's layers: after the
 * peaks in the schedules' papers.
 */
function heldMicroBatches(name: string, chunks: number, ranks: number, microBatches: number): number {
  const peaks: Record<string, number> = {
    "1f1b": (ranks + 1) / 2,
    "1f1b-async": (ranks + 1) / 2,
    "2bw": (ranks + 1) / 2,
    gpipe: microBatches,
    interleaved: ranks,
    "looped-bfs": microBatches,
    "zb-h1": ranks,
    "zb-h2": 2 * ranks - 1,
    zbv: ranks,
    "interleaved-zb": ranks - ranks / (2 * chunks),
    dualpipe: ranks + 1,
    dualpipev: ranks,
    chimera: (3 * ranks) / 4,
  };
  return Math.min(microBatches, peaks[name] ?? 1);
}

/**
 * Bytes of saved activations, for one micro-batch of the whole model, that a schedule can be expected to leave no
 * room for with any cut; at most 0 where all fit.
 */
export function excessSavedBytes(
  costs: StageCosts,
  { total }: ChainPasses,
  name: string,
  chunks: number,
): number {
  const { pipeline, microBatches } = costs.configuration;
  const held = unevenShare * heldMicroBatches(name, chunks, pipeline, microBatches);
  return total.savedBytes - activationRoom(costs) / held;
}
