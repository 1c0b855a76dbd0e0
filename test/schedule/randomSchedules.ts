import type { Action, MemoryModel, Network, ScheduleTable, StageTimes } from "../../src/schedule/index.js";

/** The same numbers on every run: mulberry32. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export interface RandomCase {
  table: ScheduleTable;
  times: StageTimes;
  memory: MemoryModel;
  blocking: boolean;
}

/**
 * A small valid case: the actions in a random order that respects all waiting, dealt to random ranks. What each
 * part of the simulator covers is on in about half of the cases.
 */
export function randomCase(seed: number): RandomCase {
  const random = randomOf(seed);
  const below = (n: number) => Math.floor(random() * n);
  const coin = (chance = 0.5) => random() < chance;
  const pick = <T>(list: readonly T[]): T => list[below(list.length)]!;

  const stages = 1 + below(5);
  const microBatches = 1 + below(4);
  const twoRoutes = stages >= 2 && microBatches >= 2 && coin(0.4);
  const deal = (count: number, least: number) => {
    const items = shuffled([...new Array(count).keys()], random);
    const cut = least + below(count - 2 * least + 1);
    return [items.slice(0, cut), items.slice(cut).sort((a, b) => a - b)] as const;
  };
  const routes = twoRoutes
    ? (() => {
        const [ofStages, ofBatches] = [deal(stages, 1), deal(microBatches, 1)];
        return [0, 1].map((r) => ({ stages: ofStages[r]!, microBatches: ofBatches[r]! }));
      })()
    : [{ stages: [...new Array(stages).keys()], microBatches: [...new Array(microBatches).keys()] }];
  const ranks = 1 + below(stages);
  const home = shuffled([...new Array(stages).keys()], random).map((s) => (s < ranks ? s : below(ranks)));
  const layersOf = twoRoutes && coin() ? stageCopies(routes, stages) : undefined;

  const explicit = coin();
  const blocking = explicit && coin();
  const gathers = coin(0.4);
  const reduces = coin();
  const optimizer = coin();
  const splits = coin() ? 0.5 : 0;
  const pairs = coin() ? 0.4 : 0;

  const lists: Action[][] = Array.from({ length: ranks }, () => []);
  const put = (action: Action) => lists[home[action.stage]!]!.push(action);
  const done = new Set<string>();
  const sentOn = new Map<string, string[]>();
  const posted = new Set<string>();
  const edges = routes.flatMap(({ stages: list }) => list.slice(1).map((to, i) => [list[i]!, to] as const));
  const sourceOf = (gradient: boolean, stage: number) =>
    edges.find(([from, to]) => (gradient ? from : to) === stage)?.[gradient ? 1 : 0];
  const hasCome = (gradient: boolean, stage: number, m: number): boolean => {
    const source = sourceOf(gradient, stage);
    if (source === undefined) return true;
    if (home[source] === home[stage] || !explicit) return done.has(`${gradient ? "B" : "F"} ${source} ${m}`);
    // Its connection must have got to it: all sends before it have their receives, too.
    const list = sentOn.get(`${home[source]} ${home[stage]}`) ?? [];
    const at = list.indexOf(`${gradient} ${stage} ${m}`);
    return at !== -1 && list.slice(0, at + 1).every((key) => posted.has(key));
  };

  interface Work {
    actions: Action[];
    ready: () => boolean;
    after: () => void;
  }
  const pending: Work[] = [];
  const gathered = new Set<number>();
  const unreduced = new Map<number, number>();
  const open = (stage: number) => !gathers || gathered.has(stage);
  for (const { stages: route, microBatches: batches } of routes) {
    for (const stage of route) {
      for (const m of batches) {
        const add = (kind: Action["kind"], ready: () => boolean, mark: string) =>
          pending.push({
            actions: [{ kind, stage, microBatch: m }],
            ready: () => open(stage) && ready(),
            after: () => {
              done.add(`${mark} ${stage} ${m}`);
              if (mark !== "F" && kind !== "backward-input")
                unreduced.set(stage, (unreduced.get(stage) ?? 0) + 1);
              if (mark === "W") return;
              const gradient = mark === "B";
              const target = edges.find(([from, to]) => (gradient ? to : from) === stage)?.[gradient ? 0 : 1];
              if (target === undefined || !explicit || home[target] === home[stage]) return;
              const key = `${gradient} ${target} ${m}`;
              const payload = gradient ? "gradient" : "activation";
              const link = `${home[stage]} ${home[target]}`;
              const send: Action = { kind: "send", stage, microBatch: m, payload };
              const receive: Action = { kind: "receive", stage: target, microBatch: m, payload };
              const sending = () => sentOn.set(link, [...(sentOn.get(link) ?? []), key]);
              if (blocking) {
                pending.push({
                  actions: [send, receive],
                  ready: () => true,
                  after: () => {
                    sending();
                    posted.add(key);
                  },
                });
              } else {
                pending.push({ actions: [send], ready: () => true, after: sending });
              }
            },
          });
        if (explicit && !blocking) {
          for (const gradient of [false, true]) {
            const source = sourceOf(gradient, stage);
            if (source === undefined || home[source] === home[stage]) continue;
            const payload = gradient ? "gradient" : "activation";
            pending.push({
              actions: [{ kind: "receive", stage, microBatch: m, payload }],
              ready: () => true,
              after: () => posted.add(`${gradient} ${stage} ${m}`),
            });
          }
        }
        const isDone = (mark: string) => done.has(`${mark} ${stage} ${m}`);
        add("forward", () => hasCome(false, stage, m), "F");
        const back = () => isDone("F") && hasCome(true, stage, m);
        if (coin(splits)) {
          add("backward-input", back, "B");
          add("backward-weight", () => isDone("B"), "W");
        } else add("backward", back, "B");
      }
    }
  }

  const whole = (kind: Action["kind"], stage: number) => put({ kind, stage, microBatch: -1 });
  const batchesOf = (stage: number) =>
    routes.find((route) => route.stages.includes(stage))!.microBatches.length;
  const groups = [...new Set(Array.from({ length: stages }, (_, s) => layersOf?.[s] ?? s))].map((layers) =>
    [...new Array(stages).keys()].filter((s) => (layersOf?.[s] ?? s) === layers),
  );
  const through = new Map<number, number>();
  const compute = (action: Action) =>
    action.microBatch >= 0 && action.kind !== "send" && action.kind !== "receive";
  while (pending.length) {
    if (gathers && coin(0.6)) {
      for (const stage of [...new Array(stages).keys()]) {
        if (!gathered.has(stage)) {
          if (!coin()) continue;
          gathered.add(stage);
          whole("all-gather", stage);
        } else if (coin(0.1)) {
          gathered.delete(stage);
          whole("reshard", stage);
        }
      }
    }
    const ready = pending.filter((work) => work.ready());
    if (!ready.length) continue;
    const work = pick(ready);
    const taken = [work];
    const [first] = work.actions as [Action];
    if (compute(first) && coin(pairs)) {
      const partner = ready.find(
        (other) =>
          other !== work &&
          compute(other.actions[0]!) &&
          home[other.actions[0]!.stage] === home[first.stage] &&
          other.actions[0]!.microBatch !== first.microBatch,
      );
      if (partner) {
        taken.push(partner);
        first.overlapped = true;
      }
    }
    for (const each of taken) {
      pending.splice(pending.indexOf(each), 1);
      each.actions.forEach(put);
    }
    for (const each of taken) {
      each.after();
      const { kind, stage } = each.actions[0]!;
      if (kind === "backward" || kind === "backward-weight")
        through.set(stage, (through.get(stage) ?? 0) + 1);
    }
    if (!reduces) continue;
    for (const group of groups) {
      const last = group.every((s) => through.get(s) === batchesOf(s));
      const early = group.every((s) => through.get(s) !== batchesOf(s)) && coin(0.15);
      if (group.some((s) => !unreduced.get(s)) || !(last || early)) continue;
      // Copies reduce together as their ranks come by; one order for all keeps the ranks from a circle.
      for (const stage of group) {
        unreduced.set(stage, 0);
        whole("reduce", stage);
      }
    }
  }
  if (optimizer)
    for (const stage of shuffled([...new Array(stages).keys()], random)) whole("optimizer", stage);

  const table: ScheduleTable = {
    name: `random ${seed}`,
    ...{ stages, microBatches, ranks: lists },
    ...(twoRoutes ? { routes } : {}),
    ...(layersOf ? { layersOf } : {}),
    ...(coin(0.2) ? { weightVersions: Array.from({ length: stages }, () => 1 + below(3)) } : {}),
  };
  return {
    table,
    blocking,
    times: randomTimes(table, edges.length, random),
    memory: randomMemory(table, edges.length, random),
  };
}

function randomTimes(table: ScheduleTable, edges: number, random: () => number): StageTimes {
  const { stages } = table;
  const coin = (chance = 0.5) => random() < chance;
  const list = (least: number, most: number, length = stages) =>
    Array.from({ length }, () => least + (most - least) * random());
  const link = () => ({ bytesPerSecond: 0.5 + 3 * random() });
  const links = Array.from({ length: 1 + Math.floor(random() * 3) }, link);
  const way = () => ({
    bytes: coin(0.9) ? 3 * random() : 0,
    latencySeconds: coin() ? 0.5 * random() : 0,
    links: links.map((_, l) => l).filter(() => coin()),
  });
  const network: Network = {
    links,
    boundaries: Array.from({ length: edges }, () => ({ activation: way(), gradient: way() })),
  };
  const transfers = random();
  return {
    forwardSeconds: list(0.2, 3),
    ...(coin() ? { backwardSeconds: list(0.2, 5) } : {}),
    backwardInputSeconds: list(0.2, 3),
    backwardWeightSeconds: list(0.2, 3),
    ...(coin() ? { recomputeSeconds: list(0, 2) } : {}),
    ...(coin() ? { launchSeconds: list(0, 1.5) } : {}),
    ...(coin() ? { overlappedPairFactor: 0.7 + 0.4 * random() } : {}),
    ...(transfers < 0.2 ? {} : transfers < 0.4 ? { transferSeconds: list(0, 2, edges) } : { network }),
    reduceSeconds: list(0, 6),
    gatherSeconds: list(0, 3),
    optimizerSeconds: list(0, 1),
    ...(coin() ? { collectiveSlowdown: { compute: 1 + random(), collective: 1 + random() } } : {}),
  };
}

/** Whole bytes and quarters of them, so that sums are exact in any order. */
function randomMemory(table: ScheduleTable, edges: number, random: () => number): MemoryModel {
  const bytes = () => 4 * Math.floor(random() * 1000);
  return {
    stages: Array.from({ length: table.stages }, () => ({
      parameterBytes: bytes(),
      gradientBytes: bytes(),
      optimizerBytes: bytes(),
      activationBytes: bytes(),
      freedAtInput: Math.floor(random() * 5) / 4,
      forwardWorkspaceBytes: bytes(),
      backwardWorkspaceBytes: bytes(),
      gatheredBytes: bytes(),
      unreducedGradientBytes: bytes(),
    })),
    transferBytes: Array.from({ length: edges }, () => ({ activation: bytes(), gradient: bytes() })),
    contextBytes: bytes(),
    fragmentation: 1 + random(),
  };
}

/** Copies on the two routes: the k-th stage of the shorter one holds the layers of the k-th of the longer one. */
function stageCopies(routes: { stages: number[] }[], stages: number): number[] {
  const layersOf = [...new Array(stages).keys()];
  routes[1]!.stages.forEach((stage, k) => {
    if (k < routes[0]!.stages.length) layersOf[stage] = layersOf[routes[0]!.stages[k]!]!;
  });
  return layersOf;
}

function shuffled<T>(list: T[], random: () => number): T[] {
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [list[i], list[j]] = [list[j]!, list[i]!];
  }
  return list;
}
