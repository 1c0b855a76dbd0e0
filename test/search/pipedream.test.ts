import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type LayeredGraph, neighbours, topologicalOrder } from "../../src/models/layered.js";
import { readPipedream } from "../../src/models/pipedream.js";
import { type PipedreamOptions, solvePipedream } from "../../src/search/inter/pipedream.js";
import {
  checkPlacement,
  evaluatePipedream,
  type PipedreamPlan,
} from "../../src/search/inter/pipedreamEvaluate.js";
import { randomOf } from "../../src/search/inter/random.js";
import { layeredGraph } from "./pipedreamBrute.js";
import {
  dataParallelSeconds,
  type PublishedRow,
  published,
  settings,
  states,
  variants,
} from "./pipedreamPublished.js";

const profiles = join(import.meta.dirname, "../data/pipedream");
const graphs = Object.fromEntries(
  (["alexnet", "vgg16", "resnet50", "gnmt"] as const).map((model) => [
    model,
    readPipedream(join(profiles, `${model}.txt`)),
  ]),
) as Record<PublishedRow["model"], LayeredGraph>;
const optionsOf = (row: Pick<PublishedRow, "setting" | "variant">): PipedreamOptions => ({
  ...settings[row.setting],
  ...variants[row.variant],
});

/** The nodes of PipeDream's state, or undefined where the table does not list it. */
function stateNodes(model: PublishedRow["model"], state: number): Set<number> | undefined {
  const graph = graphs[model];
  if (!states[model]) return new Set(topologicalOrder(graph)!.slice(0, state));
  const maximal = states[model][state];
  if (!maximal) return undefined;
  const { before } = neighbours(graph);
  const nodes = new Set<number>();
  const open = maximal.map((id) => graph.nodes.findIndex((node) => node.id === `node${id}`));
  while (open.length > 0) {
    const node = open.pop()!;
    nodes.add(node);
    open.push(...before[node]!);
  }
  return nodes;
}

/** A plan of the table, or undefined where it names a state that the table does not list. */
function publishedPlan({ model, setting, plan }: PublishedRow): PipedreamPlan | undefined {
  const levels = plan.split(" / ").map((level) =>
    level.split(" ").map((stage) => {
      const [end, replicas = 1] = stage.split("x").map(Number) as [number, number?];
      return { end, replicas };
    }),
  );
  let done = new Set<number>();
  const stages: PipedreamPlan["stages"] = [];
  for (const { end } of levels.at(-1)!) {
    const nodes = stateNodes(model, end);
    if (!nodes) return undefined;
    const place = levels.map((list) => {
      const stage = list.findIndex((other) => other.end >= end);
      return { stage, replicas: list[stage]!.replicas };
    });
    const added = [...nodes].filter((node) => !done.has(node));
    stages.push({ nodes: added, levels: place.reverse() });
    done = nodes;
  }
  return { stages, machines: settings[setting].machines };
}

describe("PipeDream's published results", () => {
  test.each(published)("$model $setting $variant", (row) => {
    const graph = graphs[row.model];
    const options = optionsOf(row);
    const solution = solvePipedream(graph, options);
    expect(solution.status).toBe("optimal");
    expect(solution.restriction).toBe("");
    if (!row.invalid) expect(solution.objective).toBeLessThanOrEqual(row.seconds * (1 + 1e-9));
    // An evaluator that shares nothing with the search finds the same value.
    const value = evaluatePipedream(graph, solution, options);
    expect(Math.abs(value / solution.objective - 1)).toBeLessThanOrEqual(1e-9);
    const plan = publishedPlan(row);
    if (plan && !row.invalid) {
      expect(Math.abs(evaluatePipedream(graph, plan, options) / row.seconds - 1)).toBeLessThanOrEqual(1e-9);
    }
  });

  test("plans of the table are evaluated", () => {
    // The four models' plans, except straight ones over branches, whose states the table does not list.
    expect(published.filter((row) => publishedPlan(row) !== undefined).length).toBeGreaterThanOrEqual(78);
  });

  test.each(dataParallelSeconds)("data parallelism of %s on %s", (model, setting, seconds) => {
    const { machines, bandwidths } = settings[setting];
    const nodes = graphs[model].nodes.map((_, node) => node);
    const levels = machines.map((replicas) => ({ stage: 0, replicas }));
    const value = evaluatePipedream(graphs[model], { stages: [{ nodes, levels }], machines }, { bandwidths });
    expect(Math.abs(value / seconds - 1)).toBeLessThanOrEqual(1e-9);
  });

  test("the peak of 1F1B is the table's", () => {
    // Where our plan is theirs, so is its memory.
    const row = published.find(({ plan }) => plan === "17x3 40")!;
    const { stages } = solvePipedream(graphs.vgg16, optionsOf(row));
    expect(stages.map(({ replicas }) => replicas)).toEqual([3, 1]);
    expect(Math.max(...stages.map(({ memoryBytes }) => memoryBytes)) / 1e9).toBeCloseTo(26.1, 1);
  });
});

describe("memory", () => {
  const models = ["alexnet", "vgg16", "resnet50", "gnmt"] as const;
  const every = models.flatMap((model) =>
    (Object.keys(settings) as PublishedRow["setting"][]).map((setting) => [model, setting] as const),
  );
  test.each(every)("the plan of %s on %s fits 16 GB with 1F1B", (model, setting) => {
    const options = { ...settings[setting], memoryBytes: 16e9 };
    const solution = solvePipedream(graphs[model], options);
    expect(solution.status).toBe("optimal");
    for (const stage of solution.stages) expect(stage.memoryBytes).toBeLessThanOrEqual(16e9);
    // The evaluator counts memory on its own, and is infinite where a stage does not fit.
    const value = evaluatePipedream(graphs[model], solution, options);
    expect(Math.abs(value / solution.objective - 1)).toBeLessThanOrEqual(1e-9);
  });

  test.each([
    ["resnet50", "A4x4"],
    ["gnmt", "B2x8"],
    ["alexnet", "F16"],
  ] as const)("plans of %s on %s fit 1F1B within a limit", (model, setting) => {
    const free = solvePipedream(graphs[model], settings[setting]);
    const peak = Math.max(...free.stages.map(({ memoryBytes }) => memoryBytes));
    const options = { ...settings[setting], memoryBytes: peak * 0.85 };
    const solution = solvePipedream(graphs[model], options);
    expect(solution.objective).toBeGreaterThanOrEqual(free.objective);
    expect(solution.objective).toBeLessThan(Number.POSITIVE_INFINITY);
    expect(evaluatePipedream(graphs[model], solution, options)).toBeCloseTo(solution.objective, 9);
    for (const stage of solution.stages) expect(stage.memoryBytes).toBeLessThanOrEqual(options.memoryBytes);
  });

  test("infeasible names the least memory that has a plan", () => {
    const options = { ...settings["F4-12"], memoryBytes: 4e9 };
    const { status, stages, reason } = solvePipedream(graphs.vgg16, options);
    expect(status).toBe("infeasible");
    expect(stages).toEqual([]);
    const least = Number(/the least that any plan needs is ([\d.]+) GB/.exec(reason!)![1]) * 1e9;
    expect(solvePipedream(graphs.vgg16, { ...options, memoryBytes: least * 1.001 }).status).toBe("optimal");
    expect(solvePipedream(graphs.vgg16, { ...options, memoryBytes: least * 0.998 }).status).toBe(
      "infeasible",
    );
  });

  test("PipeDream's test lets plans through that do not fit", () => {
    const options = { ...settings["F4-12"], memoryBytes: 16e9, peerMemory: true };
    const { stages } = solvePipedream(graphs.vgg16, options);
    expect(Math.max(...stages.map(({ memoryBytes }) => memoryBytes))).toBeGreaterThan(25e9);
  });
});

describe("solvePipedream", () => {
  test("gives the same plan for the same input", () => {
    const solve = () => {
      const { cpuSeconds: _, ...rest } = solvePipedream(graphs.gnmt, settings.A4x4);
      return rest;
    };
    expect(solve()).toEqual(solve());
  });

  test("prefers the least sum of stage times, then the least traffic", () => {
    // The first layer decides; the others take no time, and only one cut sends little.
    const graph = layeredGraph(
      [
        [1, 0, 5e9],
        [0, 0, 1e9],
        [0, 0, 5e9],
      ],
      [
        [0, 1],
        [1, 2],
      ],
    );
    const options = { machines: [2], bandwidths: [100e9], straight: true };
    const { stages, objective } = solvePipedream(graph, options);
    expect(objective).toBe(1);
    expect(stages.map(({ nodes }) => nodes)).toEqual([[0, 1], [2]]);
    // Equal bottlenecks: a last stage of two copies would take 0.5 + 0.5.
    const pair = layeredGraph(
      [
        [1, 0, 0],
        [1, 0, 0],
        [1, 0, 0],
      ],
      [
        [0, 1],
        [1, 2],
      ],
    );
    const three = solvePipedream(pair, { machines: [3], bandwidths: [1e9] });
    expect(three.objective).toBe(1);
    expect(three.stages.map(({ replicas }) => replicas)).toEqual([3]);
  });

  test("uses fewer machines where asked and faster", () => {
    const options = { ...settings.A4x4, straight: true };
    const all = solvePipedream(graphs.alexnet, options);
    const fewer = solvePipedream(graphs.alexnet, { ...options, fewerMachines: true });
    expect(all.objective).toBeCloseTo(0.0531628032, 12);
    // One server of four devices is faster than four.
    expect(fewer.objective).toBeCloseTo(0.032171, 12);
    expect(fewer.machines.every((n, level) => n <= options.machines[level]!)).toBe(true);
    expect(evaluatePipedream(graphs.alexnet, fewer, options)).toBeCloseTo(fewer.objective, 12);
  });

  test("says why a straight pipeline is too long", () => {
    const graph = layeredGraph([[1, 0, 0]], []);
    const { reason } = solvePipedream(graph, { machines: [2, 2], bandwidths: [1e9, 1e9], straight: true });
    expect(reason).toBe("Expected at least 4 nodes for a straight pipeline of 4 stages but found 1.");
  });

  test("stops when cancelled, and refuses contradictory options", () => {
    const signal = AbortSignal.abort();
    expect(() => solvePipedream(graphs.alexnet, { ...settings.A4x4, signal })).toThrow(/cancelled/);
    const one = layeredGraph([[1, 0, 0]], []);
    const solve = (options: PipedreamOptions) => () => solvePipedream(one, options);
    expect(solve({ machines: [4, 4], bandwidths: [1e9] })).toThrow(
      "each of the 2 levels of machines but found 1",
    );
    expect(solve({ machines: [0], bandwidths: [1e9] })).toThrow("of at least 1 but found 0");
    expect(solve({ machines: [], bandwidths: [] })).toThrow("at least one level");
    expect(solve({ machines: [1], bandwidths: [-1] })).toThrow("bandwidth above 0");
    expect(solve({ machines: [1], bandwidths: [1], peerMemory: true })).toThrow("memory limit");
  });

  test("the coarse searches before the exact one do not change its value", () => {
    const random = randomOf(3);
    const shapes = [[4], [7], [2, 2], [3, 2], [2, 3], [4, 2]];
    for (let i = 0; i < 24; i++) {
      const length = 50 + random(50);
      const some = 1 + random(1000);
      const figures = Array.from({ length }, (): [number, number, number] => [
        random(some) / some,
        random(50) * 1e7,
        random(50) * 1e7,
      ]);
      const edges = figures.slice(1).map((_, node): [number, number] => [node, node + 1]);
      const machines = shapes[i % shapes.length]!;
      const options = {
        machines,
        bandwidths: [10e9, 1e9].slice(0, machines.length),
        straight: random(3) === 0,
      };
      const { objective } = solvePipedream(layeredGraph(figures, edges), options);
      const expected = chainValue(figures, options);
      expect(Math.abs(objective / expected - 1), `case ${i}`).toBeLessThanOrEqual(1e-9);
    }
  });
});

/** PipeDream's recursion on a chain, without bounds. */
function chainValue(figures: [number, number, number][], options: PipedreamOptions): number {
  const { machines, bandwidths, straight } = options;
  const length = figures.length;
  const sums = (at: number) => {
    const list = [0];
    for (const figure of figures) list.push(list.at(-1)! + figure[at]!);
    return list;
  };
  const seconds = sums(0);
  const weights = sums(1);
  const tables = machines.map(() => new Map<number, number>());
  const value = (level: number, begin: number, end: number, p: number): number => {
    if (level < 0) return seconds[end]! - seconds[begin]!;
    const key = (begin * (length + 1) + end) * 32 + p;
    const known = tables[level]!.get(key);
    if (known !== undefined) return known;
    const bandwidth = bandwidths[level]!;
    const below = level > 0 ? machines[level - 1]! : 1;
    const stage = (from: number, m: number, share: number) => {
      const reduce = (4 * (m - 1) * (weights[end]! - weights[from]!)) / (bandwidth * m * share);
      return (value(level - 1, from, end, below) + reduce) / m;
    };
    const sent = (cut: number, m: number) => (2 * figures[cut - 1]![2]) / (bandwidth * m);
    let best = straight && p > 1 ? Number.POSITIVE_INFINITY : stage(begin, p, below);
    for (let from = begin + 1; from < end; from++) {
      for (let m = 1; m < (straight ? Math.min(2, p) : p); m++) {
        const crossing = Math.max(sent(from, m), end < length ? sent(end, m) : 0);
        best = Math.min(best, Math.max(value(level, begin, from, p - m), stage(from, m, 1), crossing));
      }
    }
    tables[level]!.set(key, best);
    return best;
  };
  return value(machines.length - 1, 0, length, machines.at(-1)!);
}

describe("checkPlacement and evaluatePipedream", () => {
  const graph = layeredGraph(
    [
      [1, 0, 0],
      [1, 0, 0],
    ],
    [[0, 1]],
  );
  const stage = (nodes: number[], index: number) => ({ nodes, levels: [{ stage: index, replicas: 1 }] });
  test("refuse plans that are none", () => {
    const check =
      (...stages: number[][]) =>
      () =>
        checkPlacement(graph, { stages: stages.map(stage) });
    expect(check([0, 1])).not.toThrow();
    expect(check([0], [1])).not.toThrow();
    expect(check([0], [0, 1])).toThrow("Expected node n0 in one stage but found it in stages 0 and 1.");
    expect(check([0])).toThrow("Expected node n1 in one stage but found it in none.");
    expect(check([1], [0])).toThrow("n0 → n1 leads from stage 1 to stage 0");
    expect(check([0, 1], [])).toThrow("Expected at least one node in stage 1");
    expect(check([0, 1, 2])).toThrow("found index 2");
    const plan = { stages: [stage([0], 0), stage([1], 1)], machines: [3] };
    expect(() => evaluatePipedream(graph, plan, { bandwidths: [1] })).toThrow("all 3 machines");
  });
});
