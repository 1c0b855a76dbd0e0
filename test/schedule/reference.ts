import type {
  Action,
  BoundaryTransfer,
  MemoryModel,
  ScheduleTable,
  StageTimes,
} from "../../src/schedule/index.js";

/**
 * A slow, literal discrete-event simulation, written apart from the product from the definitions in its
 * documentation: a clock and a list of everything under way. At each moment all that can start is started, the
 * speed of everything is worked out afresh, and the clock moves on to the first end.
 */
export interface ReferenceResult {
  finished: boolean;
  makespan: number;
  /** Start and end by `kind stage microBatch`, compute actions only. */
  actions: Map<string, [number, number]>;
  busy: number[];
  /** Seconds by `cause` or `cause rank`, one map a rank. */
  waits: Map<string, number>[];
  /** Peak of micro-batches between forward and backward (or its weight half), by rank. */
  peak: number[];
  /** By rank: bytes held from a moment on, wherever they change. */
  memory: [number, number][][];
}

interface Job {
  left: number;
  speed: () => number;
  end: () => void;
}

interface Move {
  key: string;
  source: number;
  target: number;
  way: BoundaryTransfer | null;
  delay: number;
  bytes: number;
  received: boolean;
  handedAt: number;
  readyAt: number;
  state: "waiting" | "moving" | "flying" | "arrived";
  arrivedAt: number;
  gradient: boolean;
}

interface Collective {
  reduces: boolean;
  seconds: number;
  members: Map<number, number>;
  moving: boolean;
  endedAt: number;
}

const name = (kind: string, stage: number, microBatch: number) => `${kind} ${stage} ${microBatch}`;
const computes = new Set(["forward", "backward", "backward-input", "backward-weight", "optimizer"]);

export function reference(
  table: ScheduleTable,
  times: StageTimes,
  options: { blocking?: boolean; memory?: MemoryModel } = {},
): ReferenceResult {
  const routes = table.routes ?? [
    {
      stages: [...new Array(table.stages).keys()],
      microBatches: [...new Array(table.microBatches).keys()],
    },
  ];
  const edges = routes.flatMap(({ stages }) => stages.slice(1).map((to, i) => [stages[i]!, to] as const));
  const home = new Map<number, number>();
  table.ranks.forEach((list, rank) => {
    for (const action of list) home.set(action.stage, rank);
  });
  const explicit = table.ranks.some((list) => list.some(({ kind }) => kind === "send"));
  const blocking = explicit && options.blocking === true;

  const jobs = new Set<Job>();
  const moves = new Map<string, Move>();
  const connections = new Map<string, Move[]>();
  const collectives = new Map<string, Collective>();
  const turns = new Map<string, number>();
  const lastGather = new Map<number, Collective>();
  const lastReduce = new Map<number, Collective>();
  const queues: Collective[][] = table.ranks.map(() => []);
  const actions = new Map<string, [number, number]>();
  const next = table.ranks.map(() => 0);
  const working = table.ranks.map(() => false);
  const stuckOn: (Move | null)[] = table.ranks.map(() => null);
  const freeSince = table.ranks.map(() => 0);
  const busy = table.ranks.map(() => 0);
  const peak = table.ranks.map(() => 0);
  const waits = table.ranks.map(() => new Map<string, number>());
  const memory: [number, number][][] = table.ranks.map(() => []);
  const holding = new Map<string, { rank: number; bytes: number }>();
  let now = 0;
  let makespan = 0;

  const { memory: model } = options;
  const hold = (key: string, rank: number, bytes = 0) => void holding.set(key, { rank, bytes });
  const drop = (key: string) => void holding.delete(key);

  /** The transfer that brings an action its input, made up where it is first spoken of. */
  const moveFor = (gradient: boolean, stage: number, microBatch: number): Move | null => {
    const edge = edges.findIndex(([from, to]) => (gradient ? from : to) === stage);
    if (edge === -1) return null;
    const other = edges[edge]![gradient ? 1 : 0];
    const [source, target] = [home.get(other)!, home.get(stage)!];
    if (source === target) return null;
    const key = name(gradient ? "gradient" : "activation", stage, microBatch);
    if (!moves.has(key)) {
      const both = times.network?.boundaries[edge];
      const buffers = model?.transferBytes?.[edge];
      moves.set(key, {
        ...{ key, source, target, gradient, received: !explicit },
        way: both ? (gradient ? both.gradient : both.activation) : null,
        delay: times.transferSeconds?.[edge] ?? 0,
        bytes: (gradient ? buffers?.gradient : buffers?.activation) ?? 0,
        ...{ handedAt: 0, readyAt: 0, state: "waiting", arrivedAt: 0 },
      });
    }
    return moves.get(key)!;
  };
  const nextStage = (gradient: boolean, stage: number) => {
    const edge = edges.find(([from, to]) => (gradient ? to : from) === stage);
    return edge?.[gradient ? 0 : 1];
  };
  const handOver = (move: Move) => {
    move.handedAt = now;
    const key = `${move.source} ${move.target}`;
    connections.set(key, [...(connections.get(key) ?? []), move]);
    hold(`out ${move.key}`, move.source, move.bytes);
  };
  const usersOf = (link: number) =>
    [...moves.values()].filter(
      ({ state, way }) => state === "moving" && way!.bytes > 0 && way!.links.includes(link),
    ).length;

  const startMove = (move: Move) => {
    const { way } = move;
    move.readyAt = now;
    if (!explicit) hold(`in ${move.key}`, move.target, move.bytes);
    const fly = (seconds: number) => {
      move.state = "flying";
      begin(
        seconds,
        () => 1,
        () => {
          move.state = "arrived";
          move.arrivedAt = now;
          drop(`out ${move.key}`);
        },
      );
    };
    if (!way) fly(move.delay);
    else {
      move.state = "moving";
      const shares = () =>
        Math.min(...way.links.map((l) => times.network!.links[l]!.bytesPerSecond / usersOf(l)));
      begin(way.links.length && way.bytes > 0 ? way.bytes : 0, shares, () => fly(way.latencySeconds));
    }
  };

  const begin = (left: number, speed: () => number, end: () => void) => {
    const job: Job = {
      left,
      speed,
      end: () => {
        jobs.delete(job);
        end();
      },
    };
    jobs.add(job);
  };

  const secondsOf = ({ kind, stage }: Action): number => {
    const at = (list?: ArrayLike<number>) => list?.[stage] ?? 0;
    const { backwardSeconds, backwardInputSeconds, backwardWeightSeconds } = times;
    const whole = backwardSeconds
      ? at(backwardSeconds)
      : at(backwardInputSeconds) + at(backwardWeightSeconds);
    const plain = {
      forward: at(times.forwardSeconds),
      backward: at(times.recomputeSeconds) + whole,
      "backward-input": at(times.recomputeSeconds) + at(backwardInputSeconds),
      "backward-weight": at(backwardWeightSeconds),
      optimizer: at(times.optimizerSeconds),
    }[kind as string]!;
    return Math.max(plain, at(times.launchSeconds));
  };

  /** When what an action needs came, and why it came so late; null where it has not. */
  const needOf = (action: Action): { at: number; parts: [string, number][] }[] | null => {
    const { kind, stage, microBatch } = action;
    const needs: { at: number; parts: [string, number][] }[] = [];
    if (kind === "forward" || kind === "backward" || kind === "backward-input") {
      const gradient = kind !== "forward";
      const move = moveFor(gradient, stage, microBatch);
      if (move) {
        if (move.state !== "arrived") return null;
        const cause = `${gradient ? "gradient" : "activation"} ${move.source}`;
        needs.push({
          at: move.arrivedAt,
          parts: [
            [cause, move.handedAt],
            [`link ${move.source}`, move.arrivedAt],
          ],
        });
      }
    }
    const collective = (kind === "optimizer" ? lastReduce : lastGather).get(stage);
    if (collective) {
      if (collective.endedAt < 0) return null;
      const cause = kind === "optimizer" ? "reduction" : "gather";
      needs.push({ at: collective.endedAt, parts: [[cause, collective.endedAt]] });
    }
    return needs;
  };
  const wait = (rank: number, parts: [string, number][], until: number) => {
    let since = freeSince[rank]!;
    for (const [cause, end] of parts) {
      const turn = Math.min(Math.max(since, end), until);
      if (turn > since) waits[rank]!.set(cause, (waits[rank]!.get(cause) ?? 0) + turn - since);
      since = turn;
    }
  };

  const startCompute = (rank: number, step: Action[]) => {
    const since = now;
    working[rank] = true;
    for (const { kind, stage, microBatch } of step) {
      const each = model?.stages[stage];
      if (kind === "forward") {
        hold(`saved ${stage} ${microBatch}`, rank, each?.activationBytes);
        hold(`work ${stage} ${microBatch}`, rank, each?.forwardWorkspaceBytes);
        drop(`in ${name("activation", stage, microBatch)}`);
      } else if (kind === "backward" || kind === "backward-input") {
        hold(`work back ${stage} ${microBatch}`, rank, each?.backwardWorkspaceBytes);
      }
      if (kind === "backward" || kind === "backward-weight") {
        hold(`unreduced ${stage} ${turns.get(`r${stage}`) ?? 0}`, rank, each?.unreducedGradientBytes);
      }
    }
    const total = step.reduce((sum, action) => sum + secondsOf(action), 0);
    const paired = step.length === 2 ? total * (times.overlappedPairFactor ?? 1) : total;
    const speed = () => (queues[rank]![0]?.moving ? 1 / (times.collectiveSlowdown?.compute ?? 1) : 1);
    begin(paired, speed, () => {
      working[rank] = false;
      freeSince[rank] = makespan = now;
      next[rank]! += step.length;
      busy[rank]! += now - since;
      for (const { kind, stage, microBatch } of step) {
        actions.set(name(kind, stage, microBatch), [since, now]);
        const each = model?.stages[stage];
        if (kind === "forward") drop(`work ${stage} ${microBatch}`);
        else drop(`work back ${stage} ${microBatch}`);
        if (kind === "backward" || kind === "backward-weight") drop(`saved ${stage} ${microBatch}`);
        if (kind === "backward-input") {
          const left = (each?.activationBytes ?? 0) * (1 - (each?.freedAtInput ?? 0));
          hold(`saved ${stage} ${microBatch}`, rank, left);
        }
        if (kind === "optimizer" || kind === "backward-weight") continue;
        const gradient = kind !== "forward";
        if (gradient) drop(`in ${name("gradient", stage, microBatch)}`);
        const target = nextStage(gradient, stage);
        if (target === undefined || explicit) continue;
        const move = moveFor(gradient, target, microBatch);
        if (move) handOver(move);
      }
    });
  };

  const comeToCollective = (rank: number, { kind, stage }: Action) => {
    const reduces = kind === "reduce";
    const turn = turns.get(`${kind[0]}${stage}`) ?? 0;
    turns.set(`${kind[0]}${stage}`, turn + 1);
    const layers = table.layersOf?.[stage];
    const copies = table.ranks.flatMap((list, r) => {
      const same = (s: number) => s === stage || (layers !== undefined && table.layersOf![s] === layers);
      const found = new Set(list.filter((a) => a.kind === "reduce" && same(a.stage)).map((a) => a.stage));
      return [...found].map((s) => ({ r, s }));
    });
    const parts = reduces ? copies : [{ r: rank, s: stage }];
    const key = `${kind} ${parts.map(({ s }) => s).join()} ${turn}`;
    if (!collectives.has(key)) {
      const list = reduces ? times.reduceSeconds : times.gatherSeconds;
      const members = new Map<number, number>();
      for (const { r } of parts) members.set(r, (members.get(r) ?? 0) + 1);
      const seconds = Math.max(...parts.map(({ s }) => list?.[s] ?? 0));
      collectives.set(key, { reduces, seconds, members, moving: false, endedAt: -1 });
    }
    const collective = collectives.get(key)!;
    collective.members.set(rank, collective.members.get(rank)! - 1);
    if (collective.members.get(rank) === 0) queues[rank]!.push(collective);
    (reduces ? lastReduce : lastGather).set(stage, collective);
    if (!reduces) hold(`gathered ${stage}`, rank, model?.stages[stage]?.gatheredBytes);
    else ends.set(collective, [...(ends.get(collective) ?? []), `unreduced ${stage} ${turn}`]);
  };
  const ends = new Map<Collective, string[]>();

  /** Lets a rank take its next step if it can; true where it did. */
  const step = (rank: number): boolean => {
    const list = table.ranks[rank]!;
    const action = list[next[rank]!];
    if (working[rank] || stuckOn[rank] || !action) return false;
    if (computes.has(action.kind)) {
      const both = action.overlapped ? [action, list[next[rank]! + 1]!] : [action];
      const needs = both.map(needOf);
      if (needs.some((need) => need === null)) return false;
      const flat = needs.flatMap((need) => need!);
      const latest = flat.reduce((a, b) => (b.at > a.at ? b : a), {
        at: -1,
        parts: [] as [string, number][],
      });
      if (now > freeSince[rank]!) wait(rank, latest.parts, now);
      startCompute(rank, both);
      return true;
    }
    if (action.kind === "send" || action.kind === "receive") {
      const isSend = action.kind === "send";
      const gradient = action.payload === "gradient";
      const stage = isSend ? nextStage(gradient, action.stage)! : action.stage;
      const move = moveFor(gradient, stage, action.microBatch)!;
      if (isSend) handOver(move);
      else {
        move.received = true;
        hold(`in ${move.key}`, move.target, move.bytes);
      }
      if (blocking) {
        stuckOn[rank] = move;
        return true;
      }
    } else if (action.kind === "reshard") drop(`gathered ${action.stage}`);
    else comeToCollective(rank, action);
    next[rank]!++;
    return true;
  };

  const settle = (): void => {
    for (let changed = true; changed; ) {
      changed = false;
      table.ranks.forEach((_, rank) => {
        const stuck = stuckOn[rank];
        if (stuck?.state === "arrived") {
          const isSource = stuck.source === rank;
          const cause = isSource ? "receive" : stuck.gradient ? "gradient" : "activation";
          const other = isSource ? stuck.target : stuck.source;
          wait(
            rank,
            [
              [`${cause} ${other}`, stuck.readyAt],
              [`link ${other}`, now],
            ],
            now,
          );
          stuckOn[rank] = null;
          freeSince[rank] = makespan = now;
          next[rank]!++;
          changed = true;
        }
        while (step(rank)) changed = true;
      });
      for (const list of connections.values()) {
        for (const move of times.network ? list.slice(0, 1) : list) {
          if (move.state === "waiting" && move.received) {
            startMove(move);
            changed = true;
          }
        }
        if (times.network && list[0] && (list[0].state === "flying" || list[0].state === "arrived")) {
          list.shift();
          changed = true;
        }
      }
      queues.forEach((queue) => {
        const first = queue[0];
        if (!first || first.moving) return;
        if (![...first.members.keys()].every((rank) => queues[rank]![0] === first)) return;
        first.moving = true;
        const slow = 1 / (times.collectiveSlowdown?.collective ?? 1);
        const speed = () => ([...first.members.keys()].some((rank) => working[rank]) ? slow : 1);
        begin(first.seconds, speed, () => {
          first.moving = false;
          first.endedAt = makespan = now;
          for (const rank of first.members.keys()) queues[rank]!.shift();
          for (const key of ends.get(first) ?? []) drop(key);
        });
        changed = true;
      });
    }
  };

  const observe = () => {
    const sums = table.ranks.map((_, rank) => {
      let sum = model?.contextBytes ?? 0;
      model?.stages.forEach((each, stage) => {
        if (home.get(stage) !== rank) return;
        const versions = table.weightVersions?.[stage] ?? 1;
        sum += each.parameterBytes * versions + (each.gradientBytes ?? 0) + (each.optimizerBytes ?? 0);
      });
      return sum;
    });
    const counts = table.ranks.map(() => 0);
    for (const [key, { rank, bytes }] of holding) {
      sums[rank]! += bytes;
      if (key.startsWith("saved")) counts[rank]!++;
    }
    table.ranks.forEach((_, rank) => {
      peak[rank] = Math.max(peak[rank]!, counts[rank]!);
      const curve = memory[rank]!;
      if (curve.at(-1)?.[0] === now) curve.pop();
      if (curve.at(-1)?.[1] !== sums[rank]) curve.push([now, sums[rank]!]);
    });
  };

  settle();
  while (jobs.size) {
    const list = [...jobs].map((job) => ({ job, speed: job.speed() }));
    observe();
    const spans = list.map(({ job, speed }) => (job.left === 0 ? 0 : job.left / speed));
    const span = Math.min(...spans);
    list.forEach(({ job, speed }, i) => {
      job.left = spans[i] === span ? 0 : job.left - span * speed;
    });
    now += span;
    list.forEach(({ job }, i) => {
      if (spans[i] === span) job.end();
    });
    settle();
  }
  observe();
  table.ranks.forEach((_, rank) => {
    if (makespan > freeSince[rank]!) waits[rank]!.set("end", makespan - freeSince[rank]!);
  });
  const finished = table.ranks.every((list, rank) => next[rank] === list.length);
  return { finished, makespan, actions, busy, waits, peak, memory };
}
