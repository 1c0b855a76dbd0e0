import { type CompiledSchedule, lastComputeKind } from "./compile.js";
import { EventHeap } from "./eventHeap.js";
import { LinkTraffic } from "./linkTraffic.js";
import type { Clock } from "./timeInOrder.js";
import type { FlatTimes } from "./times.js";

/**
 * Start and end of every action by stepping from event to event: for links that connections share, and for
 * gathers and reductions that run beside compute actions. While a rank computes, the collective that it runs is
 * slower by `collectiveSlowdown`, and while it runs a collective, its compute action is slower by
 * `computeSlowdown`; a collective over several ranks is slower as soon as one of them computes. Collectives and
 * transfers do not slow each other.
 * @returns the end of the last action or collective.
 */
export function timeByEvents(schedule: CompiledSchedule, times: FlatTimes, clock: Clock): number {
  const { kind, stage, transfer, output, partner, collective, positionsOfRank } = schedule;
  const { transfers, collectives, blockingSends } = schedule;
  const { stages } = schedule.table;
  const { seconds, pairFactor, collectiveSeconds, computeSlowdown, collectiveSlowdown } = times;
  const { starts, ends, collectiveStarts, collectiveEnds } = clock;
  const ranks = positionsOfRank.length;
  const connections = transfers.sourceRank.length;

  // What the heap holds: each rank's compute action, each collective, each connection, each arrival.
  const firstCollective = ranks;
  const firstConnection = firstCollective + collectives.length;
  const firstArrival = firstConnection + connections;
  const heap = new EventHeap(firstArrival + transfers.length);
  const traffic = new LinkTraffic(schedule, times, clock, heap, firstConnection, firstArrival);

  const cursor = new Int32Array(ranks);
  /** The compute action that the rank is at; -1 while it has none. */
  const running = new Int32Array(ranks).fill(-1);
  const blocked = new Uint8Array(ranks);
  const workLeft = new Float64Array(ranks);
  const workSpeed = new Float64Array(ranks);
  const workSince = new Float64Array(ranks);

  /** Of `collectives.ofRank`: those done, and those that the rank has come to. */
  const queueHead = new Int32Array(ranks);
  const queueEnd = new Int32Array(ranks);
  const moves = new Uint8Array(collectives.length);
  const done = new Uint8Array(collectives.length);
  const movesLeft = Float64Array.from(collectiveSeconds);
  const movesSpeed = new Float64Array(collectives.length);
  const movesSince = new Float64Array(collectives.length);

  let now = 0;
  let makespan = 0;

  const headOf = (r: number): number =>
    queueHead[r]! < queueEnd[r]! ? collectives.ofRank[r]![queueHead[r]!]! : -1;

  const paceCompute = (r: number): void => {
    if (running[r] === -1) return;
    const head = headOf(r);
    const wanted = head !== -1 && moves[head] ? 1 / computeSlowdown : 1;
    if (wanted === workSpeed[r]) return;
    workLeft[r] = Math.max(0, workLeft[r]! - (now - workSince[r]!) * workSpeed[r]!);
    workSince[r] = now;
    workSpeed[r] = wanted;
    heap.set(r, now + workLeft[r]! / wanted);
  };

  const paceCollective = (c: number): void => {
    if (c === -1 || !moves[c]) return;
    let wanted = 1;
    for (const r of collectives.ranks[c]!) if (running[r] !== -1) wanted = 1 / collectiveSlowdown;
    if (wanted === movesSpeed[c]) return;
    movesLeft[c] = Math.max(0, movesLeft[c]! - (now - movesSince[c]!) * movesSpeed[c]!);
    movesSince[c] = now;
    movesSpeed[c] = wanted;
    heap.set(firstCollective + c, now + movesLeft[c]! / wanted);
  };

  const tryCollective = (c: number): void => {
    if (c === -1 || moves[c]) return;
    for (const r of collectives.ranks[c]!) if (headOf(r) !== c) return;
    moves[c] = 1;
    collectiveStarts[c] = now;
    movesSince[c] = now;
    paceCollective(c);
    for (const r of collectives.ranks[c]!) paceCompute(r);
  };

  const isReady = (i: number): boolean => {
    const t = transfer[i]!;
    const c = collective[i]!;
    return (t === -1 || traffic.hasArrived(t)) && (c === -1 || done[c] === 1);
  };

  /** Lets a rank go on until it computes, waits or is through. */
  const advance = (r: number): void => {
    const list = positionsOfRank[r]!;
    while (running[r] === -1 && !blocked[r] && cursor[r]! < list.length) {
      const i = list[cursor[r]!]!;
      const code = kind[i]!;
      const other = partner[i]!;
      if (code <= lastComputeKind) {
        if (!isReady(i) || (other !== -1 && !isReady(other))) return;
        let duration = seconds[code * stages + stage[i]!]!;
        if (other !== -1) {
          duration = pairFactor * (duration + seconds[kind[other]! * stages + stage[other]!]!);
          starts[other] = now;
        }
        starts[i] = now;
        running[r] = i;
        workLeft[r] = duration;
        workSpeed[r] = 0;
        workSince[r] = now;
        paceCompute(r);
        paceCollective(headOf(r));
        return;
      }
      starts[i] = ends[i] = now;
      if (other !== -1) blocked[r] = 1;
      else cursor[r] = cursor[r]! + 1;
      if (output[i] !== -1) traffic.handOver(output[i]!, now);
      else if (schedule.entersQueue[i]) {
        queueEnd[r] = queueEnd[r]! + 1;
        tryCollective(headOf(r));
      }
    }
  };

  const endCompute = (r: number): void => {
    const i = running[r]!;
    const other = partner[i]!;
    ends[i] = now;
    running[r] = -1;
    cursor[r] = cursor[r]! + (other === -1 ? 1 : 2);
    if (output[i] !== -1) traffic.handOver(output[i]!, now);
    if (other !== -1) {
      ends[other] = now;
      if (output[other] !== -1) traffic.handOver(output[other]!, now);
    }
    makespan = now;
    advance(r);
    paceCollective(headOf(r));
  };

  const endCollective = (c: number): void => {
    const members = collectives.ranks[c]!;
    collectiveEnds[c] = now;
    done[c] = 1;
    moves[c] = 0;
    makespan = now;
    for (const r of members) queueHead[r] = queueHead[r]! + 1;
    for (const r of members) tryCollective(headOf(r));
    for (const r of members) {
      paceCompute(r);
      advance(r);
    }
  };

  const arrive = (t: number): void => {
    traffic.arrive(t, now);
    const connection = transfers.connection[t]!;
    const target = transfers.targetRank[connection]!;
    const producer = transfers.producer[t]!;
    if (blockingSends && transfers.posted[t] !== -1) {
      const source = transfers.sourceRank[connection]!;
      ends[producer] = ends[transfers.posted[t]!] = now;
      for (const r of [source, target]) {
        blocked[r] = 0;
        cursor[r] = cursor[r]! + 1;
      }
      makespan = now;
      advance(source);
    }
    advance(target);
  };

  for (let r = 0; r < ranks; r++) advance(r);
  while (heap.size > 0) {
    const thing = heap.pop();
    now = heap.timeOf(thing);
    if (thing < firstCollective) endCompute(thing);
    else if (thing < firstConnection) endCollective(thing - firstCollective);
    else if (thing < firstArrival) traffic.finish(thing - firstConnection, now);
    else arrive(thing - firstArrival);
  }
  // Gathers and reductions end after the rank has gone on.
  for (let c = 0; c < collectives.length; c++) {
    for (const i of collectives.positions[c]!) ends[i] = collectiveEnds[c]!;
  }
  return makespan;
}
