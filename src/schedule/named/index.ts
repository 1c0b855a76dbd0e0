import { MpoptError } from "../../contracts/index.js";
import type { ScheduleTable } from "../actions.js";
import { chimera, dualPipe, dualPipeV } from "./bidirectional.js";
import {
  asynchronousOneForwardOneBackward,
  doubleBufferedWeights,
  gpipe,
  oneForwardOneBackward,
} from "./flush.js";
import { interleaved, interleavedZeroBubble, loopedBreadthFirst } from "./interleaved.js";
import { requireCount, type ScheduleOptions } from "./options.js";
import { zeroBubbleH1, zeroBubbleH2, zeroBubbleV } from "./zeroBubble.js";

export { chimera, dualPipe, dualPipeV } from "./bidirectional.js";
export {
  asynchronousOneForwardOneBackward,
  doubleBufferedWeights,
  gpipe,
  oneForwardOneBackward,
} from "./flush.js";
export { interleaved, interleavedZeroBubble, loopedBreadthFirst } from "./interleaved.js";
export type { ScheduleOptions } from "./options.js";
export { zeroBubbleH1, zeroBubbleH2, zeroBubbleV } from "./zeroBubble.js";

/**
 * How a schedule lays its stages on p ranks. `loop`: stage s on rank s mod p. `v`: up the ranks and back, stage s
 * on rank s, then on 2p - 1 - s. `bidirectional`: as `v`, but the stages from p on are a second pipeline over
 * copies of the same layers.
 */
export type Placement = "loop" | "v" | "bidirectional";

export interface ScheduleShape {
  placement: Placement;
  /** Stages that each rank holds. */
  chunks: number;
  /** Stages of all routes together. */
  stages: number;
  /** Rank of each stage. */
  rankOfStage: number[];
}

interface Family {
  make(options: ScheduleOptions): ScheduleTable;
  placement: Placement;
  /** Stages a rank; undefined where the caller chooses. */
  chunks?: number;
}

const onePerRank = (make: (stages: number, microBatches: number) => ScheduleTable): Family => ({
  make: ({ ranks, microBatches }) => make(ranks, microBatches),
  placement: "loop",
  chunks: 1,
});

const families: Readonly<Record<string, Family>> = {
  gpipe: onePerRank(gpipe),
  "1f1b": onePerRank(oneForwardOneBackward),
  "1f1b-async": onePerRank(asynchronousOneForwardOneBackward),
  "2bw": onePerRank(doubleBufferedWeights),
  interleaved: { make: interleaved, placement: "loop" },
  "looped-bfs": { make: loopedBreadthFirst, placement: "loop" },
  "zb-h1": { make: zeroBubbleH1, placement: "loop", chunks: 1 },
  "zb-h2": { make: zeroBubbleH2, placement: "loop", chunks: 1 },
  zbv: { make: zeroBubbleV, placement: "v", chunks: 2 },
  "interleaved-zb": { make: interleavedZeroBubble, placement: "loop" },
  dualpipe: { make: dualPipe, placement: "bidirectional", chunks: 2 },
  dualpipev: { make: dualPipeV, placement: "v", chunks: 2 },
  chimera: { make: chimera, placement: "bidirectional", chunks: 2 },
};

/** Names of PyTorch's classes (`get_schedule_class` of torch.distributed.pipelining), where they differ. */
const aliases: Readonly<Record<string, string>> = {
  interleaved1f1b: "interleaved",
  loopedbfs: "looped-bfs",
  interleavedzerobubble: "interleaved-zb",
  zbvzerobubble: "zbv",
};

/** Names that `scheduleByName` knows, PyTorch's aliases aside. */
export const scheduleNames: readonly string[] = Object.keys(families);

/**
 * The schedule's own name for a name in any case or PyTorch's.
 * @throws MpoptError E_PLAN_INVALID for an unknown name.
 */
export function canonicalScheduleName(name: string): string {
  const lower = name.toLowerCase();
  const key = Object.hasOwn(aliases, lower) ? aliases[lower]! : lower;
  if (!Object.hasOwn(families, key)) {
    throw new MpoptError("E_PLAN_INVALID", `Expected a known pipeline schedule but found "${name}".`, [
      `Known schedules: ${scheduleNames.join(", ")}.`,
    ]);
  }
  return key;
}

/**
 * The schedule that a plan names; case does not matter, and PyTorch's class names do as well.
 * @throws MpoptError E_PLAN_INVALID for an unknown name; E_USAGE for counts below 1 and where the schedule cannot
 * be made for the counts, with the requirement.
 */
export function scheduleByName(name: string, options: ScheduleOptions): ScheduleTable {
  const key = canonicalScheduleName(name);
  const { chunks } = scheduleShape(key, options.ranks, options.chunks);
  requireCount("micro-batches", options.microBatches);
  if (options.groupSize !== undefined && key !== "interleaved" && key !== "interleaved-zb") {
    throw new MpoptError(
      "E_USAGE",
      `Expected no group size for ${key}, which has no groups, but found ${options.groupSize}.`,
    );
  }
  return families[key]!.make({ ...options, chunks });
}

/**
 * How a schedule places its stages, and the chunks of each rank where they are not free.
 * @throws MpoptError as `canonicalScheduleName`.
 */
export function schedulePlacement(name: string): Pick<ScheduleShape, "placement"> & { chunks?: number } {
  return families[canonicalScheduleName(name)]!;
}

/**
 * How the schedule of that name lays out its stages.
 * @param chunks by default the schedule's own, 2 where it is free.
 * @throws MpoptError E_PLAN_INVALID for an unknown name; E_USAGE for counts below 1 and chunks that do not fit.
 */
export function scheduleShape(name: string, ranks: number, chunks?: number): ScheduleShape {
  const key = canonicalScheduleName(name);
  const { placement, chunks: own } = families[key]!;
  requireCount("ranks", ranks);
  if (chunks !== undefined) requireCount("chunks", chunks);
  if (own !== undefined && chunks !== undefined && chunks !== own) {
    throw new MpoptError(
      "E_USAGE",
      `Expected ${own} chunk${own === 1 ? "" : "s"} a rank for ${key} but found ${chunks}.`,
      placement === "bidirectional" ? ["One chunk a direction."] : [],
    );
  }
  const each = chunks ?? own ?? 2;
  const stages = ranks * each;
  const rankOfStage = Array.from({ length: stages }, (_, stage) =>
    placement === "loop" || stage < ranks ? stage % ranks : 2 * ranks - 1 - stage,
  );
  return { placement, chunks: each, stages, rankOfStage };
}
