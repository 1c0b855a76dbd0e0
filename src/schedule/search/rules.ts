import type { ListRule } from "./list.js";
import { type FlatSchedule, jobOrder } from "./problem.js";
import type { Random } from "./random.js";

/** Priorities by kind alone: backwards first (as in 1F1B) or forwards first (as in GPipe); weights fill. */
function byKind(flat: FlatSchedule, backwardFirst: boolean): Float64Array {
  const rank = backwardFirst ? [1, 0, 2] : [0, 1, 2];
  return Float64Array.from({ length: flat.operations }, (_, op) => {
    return rank[Math.floor(op / flat.microBatches) % flat.kinds]!;
  });
}

/** How many micro-batches stage 0 of each rank runs ahead: `scale` for each stage from its first to the end. */
function depths(flat: FlatSchedule, scale: () => number): Float64Array {
  return Float64Array.from({ length: flat.ranks }, (_, rank) => {
    const first = flat.chainsOfRank[rank]![0];
    if (first === undefined) return 1;
    return Math.max(1, Math.round((flat.stages - first / flat.kinds) * scale()));
  });
}

/**
 * The same where memory alone decides, none where it does not. A rank with several stages that fills its memory
 * with first forwards lets micro-batches through one by one; `scale` 1 keeps room for each one's whole way.
 */
function roomDepths(flat: FlatSchedule, scale: number): Float64Array {
  return Float64Array.from({ length: flat.ranks }, (_, rank) => {
    const forwards = flat.chainsOfRank[rank]!.filter((chain) => chain % flat.kinds === 0);
    const bytes = forwards.reduce((sum, chain) => sum + flat.bytes[chain]!, 0);
    if (forwards.length < 2 || bytes === 0) return Number.POSITIVE_INFINITY;
    return Math.max(1, Math.round((scale * flat.limit[rank]!) / bytes));
  });
}

/** The orders of 1F1B, of zero bubble with once and twice its depth, and of GPipe, as far as memory lets them. */
export function plainRules(flat: FlatSchedule): ListRule[] {
  const none = new Float64Array(flat.ranks).fill(Number.POSITIVE_INFINITY);
  const room = roomDepths(flat, 1);
  const rules: ListRule[] = [];
  for (const scale of [1, 1.5, 2]) {
    for (const weightPatience of [0, 1]) {
      rules.push({
        priority: byKind(flat, true),
        patience: 0,
        weightPatience,
        depth: depths(flat, () => scale),
      });
    }
  }
  const depthsToTry = room.every((depth) => depth === Number.POSITIVE_INFINITY) ? [none] : [none, room];
  for (const depth of depthsToTry) {
    for (const backwardFirst of [true, false]) {
      rules.push({ priority: byKind(flat, backwardFirst), patience: 0, weightPatience: 0.5, depth });
    }
  }
  return rules;
}

/**
 * A random rule. Half of them give each operation a due date in a periodic schedule of the busiest rank's
 * round: micro-batch k is due k rounds after micro-batch 0, which passes the stages at a random pace. The
 * others run backwards first with a random depth on each rank.
 */
export function randomRule(flat: FlatSchedule, random: Random): ListRule {
  const { microBatches: m, kinds, seconds, load } = flat;
  const patience = random() < 0.5 ? 0 : random();
  const weightPatience = random();
  if (random() < 0.5) {
    const scale = () => 0.8 + 1.4 * random();
    const depth = depths(flat, scale);
    const room = roomDepths(flat, 0.8 + 0.8 * random());
    for (let r = 0; r < flat.ranks; r++) depth[r] = Math.min(depth[r]!, room[r]!);
    return { priority: byKind(flat, true), patience, weightPatience, depth };
  }
  // Where memory leaves the ranks waiting, rounds take longer than the busiest rank's.
  const slow = random() < 0.3 ? 1 + 3 * random() : 1;
  const round = (slow * load.reduce((a, b) => Math.max(a, b), 0)) / m;
  const pace = 0.8 + 1.2 * random();
  const weightDelay = 3 * random() * flat.ranks * round;
  const due = new Float64Array(flat.chains);
  let now = 0;
  for (const chain of jobOrder(flat)) {
    if (chain % kinds === 2) {
      due[chain] = due[chain - 1]! + weightDelay;
    } else {
      due[chain] = now;
      now += pace * seconds[chain]!;
    }
  }
  const priority = Float64Array.from({ length: flat.operations }, (_, op) => {
    return (op % m) * round + due[Math.floor(op / m)]!;
  });
  return { priority, patience, weightPatience, depth: roomDepths(flat, 0.8 + 0.8 * random()) };
}

/** A rule from windows: what must start first goes first; `share` of the earliest start and noise vary it. */
export function windowRule(
  flat: FlatSchedule,
  earliest: Float64Array,
  latest: Float64Array,
  random: Random | undefined,
): ListRule {
  const { microBatches: m, seconds, load } = flat;
  const round = load.reduce((a, b) => Math.max(a, b), 0) / m;
  const share = random && random() < 0.5 ? 0.3 * random() : 0;
  const noise = random ? 1.5 * random() * random() * round : 0;
  const priority = Float64Array.from(latest, (end, op) => {
    const start = end - seconds[Math.floor(op / m)]!;
    return (1 - share) * start + share * earliest[op]! + (random ? noise * random() : 0);
  });
  const kind = random ? random() : 0;
  return {
    priority,
    patience: kind < 1 / 3 ? 0 : kind < 2 / 3 ? 1 : random!(),
    weightPatience: random ? random() : 0.5,
    depth: roomDepths(flat, random ? 0.8 + 0.8 * random() : 1),
  };
}
