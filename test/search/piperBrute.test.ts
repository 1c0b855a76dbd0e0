import { describe, expect, test } from "vitest";
import type { LayeredGraph, LayeredVariant } from "../../src/models/layered.js";
import { solvePiper } from "../../src/search/inter/piper.js";
import { evaluatePiperStages } from "../../src/search/inter/piperEvaluate.js";
import type { PiperOptions } from "../../src/search/inter/piperModel.js";
import { randomOf } from "./piperRandom.js";

/** A small DAG with every feature, and options that are often just out of reach. */
function randomCase(seed: number): { graph: LayeredGraph; options: PiperOptions } {
  const { whole, real } = randomOf(seed);
  const count = 1 + whole(5);
  // Small whole figures make ties; real ones make every sum differ.
  const figure = whole(2) === 0 ? () => whole(6) : () => real() * 6;
  const chance = 1 + whole(3);
  const edges: LayeredGraph["edges"] = [];
  for (let to = 1; to < count; to++) {
    for (let from = 0; from < to; from++)
      if (whole(chance + 1) === 0) edges.push({ from, to, bytes: figure() });
  }
  // Shuffled, so that the order of the nodes is no order of the graph.
  const place = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = whole(i + 1);
    [place[i], place[j]] = [place[j]!, place[i]!];
  }
  for (const edge of edges) {
    edge.from = place[edge.from]!;
    edge.to = place[edge.to]!;
  }
  const sharedFigures = whole(2) === 0;
  const nodes = place.map((_, node) => {
    const variants: LayeredVariant[] = [];
    for (const tensor of [1, 2, 3]) {
      if (variants.length > 0 && whole(3) === 0) continue;
      const parameterBytes = figure();
      const sync = (ids: string[]) => new Map(ids.map((id) => [id, figure()]));
      const before = edges.filter(({ to }) => to === node).map(({ from }) => `n${from}`);
      const after = edges.filter(({ from }) => from === node).map(({ to }) => `n${to}`);
      const syncBytes = { forward: sync(before), backward: sync(after) };
      for (let i = whole(3); i >= 0; i--) {
        variants.push({
          tensor,
          recompute: i > 0,
          forwardSeconds: figure(),
          backwardSeconds: figure(),
          parameterBytes: sharedFigures ? parameterBytes : figure(),
          activationBytes: figure(),
          fixedBytes: figure(),
          syncBytes: sharedFigures ? syncBytes : { forward: sync(before), backward: sync(after) },
        });
      }
    }
    return { id: `n${node}`, name: "", variants };
  });
  return {
    graph: { name: "random", format: "piper", nodes, edges, header: {}, warnings: [] },
    options: {
      devices: 1 + whole(7),
      memoryBytes: 1 + real() * count * 15,
      batch: [1, 2, 3, 4, 6, 12][whole(6)]!,
      bytesPerSecond: 0.2 + real() * 10,
      allowData: whole(5) > 0,
      allowTensor: whole(5) > 0,
      allowRecompute: whole(5) > 0,
    },
  };
}

/** The least TPS by trying every sequence of stages, every degree and every variant; infinite for none. */
function enumerate(graph: LayeredGraph, options: PiperOptions): number {
  const { devices, batch, memoryBytes, bytesPerSecond } = options;
  const count = graph.nodes.length;
  const everything = 2 ** count - 1;
  const has = (set: number, node: number) => (set >> node) % 2 === 1;
  const closed = (set: number) => graph.edges.every(({ from, to }) => !has(set, to) || has(set, from));
  const known = new Map<string, number>();
  const stageSeconds = (set: number, d: number, t: number, inFlight: number): number => {
    const key = `${set} ${d} ${t} ${inFlight}`;
    const before = known.get(key);
    if (before !== undefined) return before;
    const members = graph.nodes.map((_, node) => node).filter((node) => has(set, node));
    let best = Number.POSITIVE_INFINITY;
    const pick = (at: number, compute: number, traffic: number, parameters: number, memory: number): void => {
      if (at === members.length) {
        if (memory > memoryBytes) return;
        const seconds =
          compute / d + (traffic / d + (4 * (d - 1) * parameters) / (d * batch)) / bytesPerSecond;
        best = Math.min(best, seconds);
        return;
      }
      const node = members[at]!;
      for (const variant of graph.nodes[node]!.variants) {
        if (variant.tensor !== t || (options.allowRecompute === false && variant.recompute)) continue;
        let crossing = 0;
        for (const { from, to, bytes } of graph.edges) {
          if (to === node && !has(set, from)) {
            crossing += 2 * (bytes + variant.syncBytes!.forward.get(`n${from}`)!);
          }
          if (from === node && !has(set, to)) {
            crossing += 2 * (bytes + variant.syncBytes!.backward.get(`n${to}`)!);
          }
        }
        pick(
          at + 1,
          compute + variant.forwardSeconds + variant.backwardSeconds,
          traffic + crossing,
          parameters + variant.parameterBytes,
          memory + variant.activationBytes * inFlight + variant.fixedBytes,
        );
      }
    };
    pick(0, 0, 0, 0, 0);
    known.set(key, best);
    return best;
  };
  const search = (left: number, used: number, replicas: number): number => {
    if (left === 0) return 0;
    let best = Number.POSITIVE_INFINITY;
    for (let rest = (left - 1) & left; ; rest = (rest - 1) & left) {
      if (closed(rest)) {
        for (let d = 1; d <= (options.allowData === false ? 1 : devices); d++) {
          if (batch % d !== 0 || replicas + d > batch) continue;
          for (const t of options.allowTensor === false ? [1] : [1, 2, 3]) {
            if (used + d * t > devices) continue;
            const seconds = stageSeconds(left & ~rest, d, t, Math.ceil((replicas + d) / d));
            if (seconds < best)
              best = Math.min(best, Math.max(seconds, search(rest, used + d * t, replicas + d)));
          }
        }
      }
      if (rest === 0) return best;
    }
  };
  return search(everything, 0, 0);
}

describe("against enumeration", () => {
  const cases = 2000;
  test(`equals it on ${cases} random graphs`, () => {
    let feasible = 0;
    for (let seed = 0; seed < cases; seed++) {
      const { graph, options } = randomCase(seed);
      const solution = solvePiper(graph, options);
      const best = enumerate(graph, options);
      if (best === Number.POSITIVE_INFINITY) {
        expect(solution.status, `seed ${seed}`).toBe("infeasible");
        expect(solution.reason).toMatch(/\.$/);
        continue;
      }
      feasible += 1;
      expect(solution.status, `seed ${seed}`).toBe("optimal");
      expect(Math.abs(solution.objective - best), `seed ${seed}`).toBeLessThanOrEqual(1e-10 * best);
      const figures = evaluatePiperStages(graph, solution.stages, options);
      expect(Math.max(...figures.map(({ seconds }) => seconds))).toBe(solution.objective);
    }
    // Neither side of the border is rare.
    expect(feasible).toBeGreaterThan(cases / 4);
    expect(feasible).toBeLessThan(cases * 0.95);
  });
});
