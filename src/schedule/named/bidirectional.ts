import type { Action, ScheduleTable } from "../actions.js";
import { requireEven, requireMicroBatches, type ScheduleOptions } from "./options.js";

/**
 * Two pipelines in opposite directions over the same ranks: rank i holds stage i of the one and the stage with
 * the layers p - 1 - i of the other, p + (p - 1 - i). Each takes half of the micro-batches, the first the larger.
 */
function twoRoutes(ranks: number, microBatches: number): Pick<ScheduleTable, "routes" | "layersOf"> {
  const first = Math.ceil(microBatches / 2);
  const count = (length: number, from: number) => Array.from({ length }, (_, i) => from + i);
  return {
    routes: [
      { stages: count(ranks, 0), microBatches: count(first, 0) },
      { stages: count(ranks, ranks), microBatches: count(microBatches - first, first) },
    ],
    layersOf: [...count(ranks, 0), ...count(ranks, 0)],
  };
}

/**
 * Chimera (Li and Hoefler, SC'21, sections 3.1 and 3.5): two pipelines in opposite directions, both in the order
 * of 1F1B, merged so that with equal forwards and backwards they never meet. With D ranks, forward j of a unit's
 * D / 2 runs on stage s in slot s + 2 j, its backward in slot 2 D - 1 - s + 2 j; units of D micro-batches follow each
 * other every 2 D slots ("direct concatenation").
 * @throws MpoptError E_USAGE for an odd number of ranks and for fewer than 2 micro-batches.
 */
export function chimera({ ranks, microBatches }: ScheduleOptions): ScheduleTable {
  requireEven("chimera", "ranks", ranks);
  requireMicroBatches("chimera", microBatches, 2, "directions");
  const half = ranks / 2;
  const { routes, layersOf } = twoRoutes(ranks, microBatches);
  return {
    name: "chimera",
    stages: 2 * ranks,
    microBatches,
    ranks: Array.from({ length: ranks }, (_, rank) => {
      const slots: { slot: number; action: Action }[] = [];
      routes!.forEach((route, direction) => {
        const depth = direction === 0 ? rank : ranks - 1 - rank;
        const stage = route.stages[depth]!;
        route.microBatches.forEach((microBatch, i) => {
          const start = Math.floor(i / half) * 2 * ranks + (i % half) * 2;
          slots.push({ slot: start + depth, action: { kind: "forward", stage, microBatch } });
          slots.push({
            slot: start + 2 * ranks - 1 - depth,
            action: { kind: "backward", stage, microBatch },
          });
        });
      });
      return slots.sort((a, b) => a.slot - b.slot).map(({ action }) => action);
    }),
    routes,
    layersOf,
  };
}

/**
 * DualPipe (DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.2.1, figure 5 and table 2, and the order
 * of its published runtime): micro-batches enter at both ends, and in the steady state every rank runs a forward
 * of one direction side by side with a backward of the other.
 * @throws MpoptError E_USAGE for an odd number of ranks or micro-batches and for m < 2p.
 */
export function dualPipe({ ranks, microBatches }: ScheduleOptions): ScheduleTable {
  requireEven("dualpipe", "ranks", ranks);
  requireEven("dualpipe", "micro-batches", microBatches);
  requireMicroBatches("dualpipe", microBatches, 2 * ranks, "stages");
  const half = microBatches / 2;
  return {
    name: "dualpipe",
    stages: 2 * ranks,
    microBatches,
    ranks: Array.from({ length: ranks }, (_, rank) => {
      const onward = { stage: rank, firstMicroBatch: 0 };
      const reverse = { stage: 2 * ranks - 1 - rank, firstMicroBatch: half };
      const own = rank < ranks / 2 ? ([onward, reverse] as const) : ([reverse, onward] as const);
      return dualPipeRank(ranks / 2, Math.min(rank, ranks - 1 - rank), half, own);
    }),
    ...twoRoutes(ranks, microBatches),
  };
}

/**
 * DualPipeV, DualPipe cut in half: the second half of each direction is folded back onto the first half of the
 * ranks, so that rank i holds the stages i and 2p - 1 - i of one pipeline and every layer once (DeepSeek-AI's
 * DualPipe repository, after Qi et al., "Cut-in-half"; PyTorch's ScheduleDualPipeV).
 * @throws MpoptError E_USAGE for m < 2p.
 */
export function dualPipeV({ ranks, microBatches }: ScheduleOptions): ScheduleTable {
  requireMicroBatches("dualpipev", microBatches, 2 * ranks, "stages");
  return {
    name: "dualpipev",
    stages: 2 * ranks,
    microBatches,
    ranks: Array.from({ length: ranks }, (_, rank) =>
      dualPipeRank(ranks, rank, microBatches, [
        { stage: rank, firstMicroBatch: 0 },
        { stage: 2 * ranks - 1 - rank, firstMicroBatch: 0 },
      ]),
    ),
  };
}

/**
 * One rank of DualPipe, `depth` ranks from the end of a half pipeline of `half` ranks.
 * @param microBatches through each of the two stages.
 * @param stages the one that micro-batches pass first, and the other.
 */
function dualPipeRank(
  half: number,
  depth: number,
  microBatches: number,
  stages: readonly [{ stage: number; firstMicroBatch: number }, { stage: number; firstMicroBatch: number }],
): Action[] {
  const actions: Action[] = [];
  const forwards: [number, number] = [0, 0];
  const backwards: [number, number] = [0, 0];
  const weights: Action[] = [];
  const forward = (side: 0 | 1): Action => {
    const { stage, firstMicroBatch } = stages[side];
    return { kind: "forward", stage, microBatch: firstMicroBatch + forwards[side]++ };
  };
  const backward = (side: 0 | 1, split = false): Action => {
    const { stage, firstMicroBatch } = stages[side];
    const microBatch = firstMicroBatch + backwards[side]++;
    if (split) weights.push({ kind: "backward-weight", stage, microBatch });
    return { kind: split ? "backward-input" : "backward", stage, microBatch };
  };
  const weight = () => {
    const waiting = weights.shift();
    if (waiting) actions.push(waiting);
  };
  const overlap = (side: 0 | 1, other: 0 | 1) =>
    actions.push({ ...forward(side), overlapped: true }, backward(other));

  const toMiddle = half - 1 - depth;
  for (let i = 0; i < 2 * toMiddle; i++) actions.push(forward(0));
  for (let i = 0; i <= depth; i++) actions.push(forward(0), forward(1));
  for (let i = 0; i < toMiddle; i++) {
    actions.push(backward(1, true));
    weight();
    actions.push(forward(1));
  }
  for (let i = 0; i < microBatches - 2 * half + depth + 1; i++) {
    // In the middle the first backward follows its forward at once: side by side they would wait longer.
    if (i === 0 && toMiddle === 0) actions.push(forward(0), backward(1));
    else overlap(0, 1);
    overlap(1, 0);
  }
  for (let i = 0; i < toMiddle; i++) {
    actions.push(backward(1));
    overlap(1, 0);
  }
  // The second half of the last depth + 1 rounds splits its backwards, to fill the end with weight halves.
  for (let i = 0; i < 2 * (depth + 1); i++) actions.push(backward(i % 2 === 0 ? 1 : 0, i > depth));
  for (let i = 0; i < toMiddle; i++) {
    weight();
    actions.push(backward(0, true));
  }
  while (weights.length) weight();
  return actions;
}
