import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { readPiper } from "../../src/models/piper.js";
import { solvePiper } from "../../src/search/inter/piper.js";
import { evaluatePiper, evaluatePiperStages } from "../../src/search/inter/piperEvaluate.js";
import { idealTable } from "../../src/search/inter/piperIdeals.js";
import type { PiperOptions } from "../../src/search/inter/piperModel.js";
import type { InterStage } from "../../src/search/inter/solution.js";

const data = (name: string) => fileURLToPath(new URL(`../data/piper/${name}`, import.meta.url));
const bert = readPiper(data("bert32a100.json"));

interface Published {
  devices: number;
  memoryGiB: number;
  variant: "full" | "no DP" | "no TP" | "no recompute";
  tps: number | null;
  cpuSeconds: number;
}

const published: Published[] = JSON.parse(readFileSync(data("published.json"), "utf8"));

function optionsOf({ devices, memoryGiB, variant }: Omit<Published, "tps" | "cpuSeconds">): PiperOptions {
  return {
    devices,
    memoryBytes: memoryGiB * 2 ** 30,
    batch: 1920,
    bytesPerSecond: 25 * 2 ** 30,
    allowData: variant !== "no DP",
    allowTensor: variant !== "no TP",
    allowRecompute: variant !== "no recompute",
  };
}

describe("BERT-32 against Piper", () => {
  test("has every published row", () => expect(published).toHaveLength(65));

  for (const row of published) {
    const name = `${row.devices} devices of ${row.memoryGiB} GiB, ${row.variant}`;
    test(`${name}: ${row.tps ?? "out of memory"}`, () => {
      const options = optionsOf(row);
      const solution = solvePiper(bert, options);
      if (row.tps === null) {
        expect(solution.status).toBe("infeasible");
        expect(solution.reason).toMatch(/do not hold the model; \d+ MiB a device/);
        return;
      }
      expect(solution.status).toBe("optimal");
      expect(solution.restriction).toBe("");
      expect(solution.bound).toBe(solution.objective);
      expect(solution.objective).toBeLessThanOrEqual(row.tps * (1 + 1e-9));
      // Piper's greedy choice of recomputed layers is exact on layers that are alike, so none can be beaten.
      expect(solution.objective).toBeGreaterThanOrEqual(row.tps * (1 - 1e-9));
      const evaluated = evaluatePiper(bert, solution, options);
      expect(Math.abs(evaluated - solution.objective)).toBeLessThanOrEqual(1e-9 * evaluated);
    });
  }
});

describe("more devices", () => {
  test.each([1024, 2048])("%d devices are proven optimal in seconds", (devices) => {
    for (const memoryGiB of [2, 8, 80]) {
      const options = optionsOf({ devices, memoryGiB, variant: "full" });
      const solution = solvePiper(bert, options);
      expect(solution.status).toBe("optimal");
      expect(solution.cpuSeconds).toBeLessThan(10);
      expect(evaluatePiper(bert, solution, options)).toBe(solution.objective);
      const half = solvePiper(bert, { ...options, devices: devices / 2 });
      expect(solution.objective).toBeLessThanOrEqual(half.objective);
    }
  });

  test("the same input gives the same plan", () => {
    const options = optionsOf({ devices: 64, memoryGiB: 2, variant: "full" });
    const { cpuSeconds: _, ...first } = solvePiper(bert, options);
    const { cpuSeconds: __, ...second } = solvePiper(bert, options);
    expect(second).toEqual(first);
  });
});

describe("what does not fit", () => {
  test("the memory named as enough is enough, and a little less is not", () => {
    const options = optionsOf({ devices: 8, memoryGiB: 2, variant: "full" });
    const { reason } = solvePiper(bert, options);
    const [, mebibytes, devices] = /; (\d+) MiB a device, or (\d+) devices would\.$/.exec(reason!)!;
    const memoryBytes = Number(mebibytes) * 2 ** 20;
    expect(solvePiper(bert, { ...options, memoryBytes }).status).toBe("optimal");
    expect(solvePiper(bert, { ...options, memoryBytes: memoryBytes * 0.998 }).status).toBe("infeasible");
    expect(solvePiper(bert, { ...options, devices: Number(devices) }).status).toBe("optimal");
  });

  test("a layer that fits on no device is named", () => {
    const options = {
      ...optionsOf({ devices: 8, memoryGiB: 1, variant: "no TP" as const }),
      memoryBytes: 2e8,
    };
    expect(solvePiper(bert, options).reason).toMatch(
      /^Node 1 alone needs 4\d+ bytes a device, more than the 2/,
    );
  });
});

describe("the call", () => {
  const options = optionsOf({ devices: 8, memoryGiB: 8, variant: "full" });
  test.each([
    [{ devices: 0 }, "Expected a whole number of at least 1 for devices but found 0."],
    [{ batch: 1.5 }, "Expected a whole number of at least 1 for micro-batches in a batch but found 1.5."],
    [{ memoryBytes: -1 }, "Expected a number above 0 for memory bytes but found -1."],
    [{ bytesPerSecond: Number.NaN }, "Expected a number above 0 for bytes per second but found NaN."],
  ])("refuses %o", (change, message) => {
    expect(() => solvePiper(bert, { ...options, ...change })).toThrow(message);
  });

  test("refuses what the cost model cannot hold", () => {
    const [first, ...rest] = bert.nodes;
    expect(() => solvePiper({ ...bert, nodes: [{ ...first!, color: 1 }, ...rest] }, options)).toThrow(
      "but found a colour at node 0",
    );
  });

  test("stops when asked to", () => {
    const signal = AbortSignal.abort();
    expect(() => solvePiper(bert, { ...options, signal })).toThrow("The search was stopped.");
  });
});

describe("the evaluator", () => {
  const options = optionsOf({ devices: 32, memoryGiB: 2, variant: "full" });
  const { stages } = solvePiper(bert, options);
  const broken = (change: (stages: InterStage[]) => void) => {
    const copy = structuredClone(stages);
    change(copy);
    return () => evaluatePiperStages(bert, copy, options);
  };

  test("agrees with the published time of a published plan", () => {
    // 37:8:1:0 at 80 GiB on 8 devices.
    const all = { nodes: bert.nodes.map((_, i) => i), replicas: 8, tensor: 1, recomputed: [] };
    const stage = { ...all, devices: [], seconds: 0, memoryBytes: 0 };
    const roomy = optionsOf({ devices: 8, memoryGiB: 80, variant: "full" });
    expect(evaluatePiper(bert, { stages: [stage] }, roomy)).toBeCloseTo(0.12200726935, 11);
  });

  test.each<[string, (stages: InterStage[]) => void]>([
    ["in two", (it) => it[0]!.nodes.push(it[1]!.nodes[0]!)],
    ["in none", (it) => it[0]!.nodes.pop()],
    ["backwards", (it) => it.reverse()],
    ["at most 32 devices", (it) => (it[0]!.replicas = 64)],
    ["replicas that divide the batch", (it) => (it[0]!.replicas = 0.5)],
    [
      "bytes in stage",
      (it) => {
        for (const stage of it) Object.assign(stage, { recomputed: [], variants: undefined });
      },
    ],
    [
      "a variant of degree 3",
      (it) => {
        for (const stage of it) Object.assign(stage, { replicas: 1, tensor: 1 });
        it[0]!.tensor = 3;
      },
    ],
  ])("refuses a plan: %s", (message, change) => {
    expect(broken(change)).toThrow(message);
  });
});

describe("graphs with too many cuts", () => {
  test("fewer cuts are looked at, and the restriction says so", () => {
    const all = idealTable(bert);
    expect(all.count).toBe(43);
    expect(all.upper.length).toBe(890);
    expect(all.restriction).toBe("");
    const some = idealTable(bert, { ideals: 41, pairs: 1e6 });
    expect(some.count).toBeLessThan(43);
    expect(some.restriction).toMatch(/^stages between \d+ cuts$/);
    const line = idealTable(bert, { ideals: 20, pairs: 1e6 });
    expect(line.count).toBe(38);
    expect(line.restriction).toBe("stages contiguous in one linear order");
  });
});
