import { ChunkClimb } from "./chunkClimb.js";
import { type ChunkLabel, chunkObjective, emptyChunkLabel, growChunk, stagesOfChunks } from "./chunkPlan.js";
import { ChunkSearch } from "./chunkSearch.js";
import { bestLinks, spanLink } from "./generalBound.js";
import { WorkBudget } from "./generalBudget.js";
import { comesBefore, type Label, memorySentence } from "./generalLabel.js";
import { type Found, type InterOptions, searchRuns } from "./generalRuns.js";
import { ringSeconds } from "./machine.js";
import type { StageModel } from "./stageModel.js";

/**
 * Several stages a run of devices. The best plan with one stage a run and looped patterns (stage i on run i
 * modulo the number of runs, as in interleaved 1F1B) are improved by local moves; a search over all partial
 * plans then proves the best of them or finds a better one, where the work limit allows it.
 */
export function searchChunks(model: StageModel, options: InterOptions): Found {
  const { labelLimit = 1_000_000, workLimit = 1e8, signal } = options;
  const single = searchRuns(model, { ...options, workLimit: workLimit * 0.3 });
  let best = single.label && replayed(model, single.label);
  const climb = new ChunkClimb(model, new WorkBudget(workLimit * 0.3, signal));
  best = climb.run(best);
  let value = best ? chunkObjective(model, best) : Number.POSITIVE_INFINITY;
  let closest = { excess: Number.POSITIVE_INFINITY, sentence: single.reason };
  const short = (needed: number, limit: number, first: number, width: number) => {
    if (needed - limit >= closest.excess) return;
    closest = { excess: needed - limit, sentence: memorySentence(needed, limit, first, width) };
  };
  const search = (limit: number) => new ChunkSearch(model, new WorkBudget(limit, signal), short);
  const exact = search(workLimit * 0.3).run({ below: value, ties: false, labelLimit });
  if (exact.label) {
    best = exact.label;
    value = chunkObjective(model, best);
  }
  if (!best) {
    const bound = exact.complete ? Number.POSITIVE_INFINITY : leastValue(model);
    return { value, bound, stages: [], reason: closest.sentence };
  }
  const bound = exact.complete ? value : Math.min(value, leastValue(model));
  if (exact.complete) {
    const tied = search(workLimit * 0.1).run({ below: value, ties: true, labelLimit }).label;
    if (tied && comesBefore(tied, best)) best = tied;
  }
  return { value, bound, stages: stagesOfChunks(model, best) };
}

/** A plan with one stage a run in the terms of several. */
function replayed(model: StageModel, label: Label): ChunkLabel | undefined {
  const stages: {
    from: number;
    to: number;
    shape: { tensor: number; replicas: number; recompute: boolean };
  }[] = [];
  let end = model.options.machine.devices;
  for (let each: Label | undefined = label; each; each = each.next) {
    if (!each.stage) {
      end = each.device;
      break;
    }
    const to = each.next?.stage ? each.next.stage.cut : model.cuts - 1;
    stages.push({ from: each.stage.cut, to, shape: each.stage.shape });
  }
  let plan: ChunkLabel | undefined = emptyChunkLabel(end);
  for (const { from, to, shape } of stages.reverse()) {
    plan = plan && growChunk(model, plan, from, to, plan.runs.length, shape, shape.recompute);
  }
  return plan;
}

/**
 * No plan is below this, whatever is put where. All work W spread over all devices is w = W / devices, so some
 * run of d replicas works at least d w on a micro-batch. `step`: with S the least sum of stage times, that run
 * needs m w and the runs before and behind it their largest stages, (S - d w) / v at least, and the gradients
 * that go with d w of work have to be reduced over d replicas. The least over d is the bound.
 */
function leastValue(model: StageModel): number {
  const { machine, objective, microBatches, overlap = 0, chunks = 1 } = model.options;
  const { seconds, deviceSeconds } = model.least(model.cuts - 1);
  const fastest = Math.min(...machine.slowdown);
  const units = machine.slowdown.reduce((sum, slowdown) => sum + fastest / slowdown, 0);
  const spread = deviceSeconds / units;
  if (objective === "steady") return Math.max(spread, model.heaviestSeconds);
  const links = bestLinks(machine);
  let least = Number.POSITIVE_INFINITY;
  const most = Math.max(1, model.mostReplicas(Math.min(...model.tensors), machine.devices));
  for (let replicas = 1; replicas <= most; replicas++) {
    const work = replicas * spread;
    const ring = ringSeconds(model.bytesPerWorkSecond * work, replicas, spanLink(links, replicas));
    const sync = Math.max(0, ring - overlap * work);
    const fill = Math.max(0, seconds - work) / chunks;
    least = Math.min(least, Math.ceil(microBatches / replicas) * work + fill + sync);
  }
  return Math.max(least, seconds, model.heaviestSeconds);
}
