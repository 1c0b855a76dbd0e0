import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { readAceso } from "../../src/models/aceso.js";
import { solvePiper } from "../../src/search/inter/piper.js";
import { evaluatePiper } from "../../src/search/inter/piperEvaluate.js";

const data = fileURLToPath(new URL("../data/aceso", import.meta.url));
const one = join(data, "gpt_tiny_mbs1_tp1_algo0.csv");
const two = join(data, "gpt_tiny_mbs1_tp2_algo0.csv");
const folder = mkdtempSync(join(tmpdir(), "mpopt-aceso-"));
afterAll(() => rmSync(folder, { recursive: true }));

function written(name: string, change: (text: string) => string): string {
  const path = join(folder, name);
  writeFileSync(path, change(readFileSync(one, "utf8")));
  return path;
}

describe("readAceso", () => {
  test("one file: microseconds, megabytes of 2^20, a chain", () => {
    const graph = readAceso(one, { repeat: 1 });
    expect(graph.nodes).toHaveLength(16);
    expect(graph.edges).toHaveLength(15);
    expect(graph.edges[3]).toEqual({ from: 3, to: 4, bytes: 4 * 2 ** 20 });
    const [kept, recomputed] = graph.nodes[2]!.variants;
    // enc-attention-qkv,240.000,480.000,4.000,4.000,6.000,6.000
    expect(graph.nodes[2]!.name).toBe("enc-attention-qkv (layer 0)");
    expect(kept).toEqual({
      tensor: 1,
      recompute: false,
      forwardSeconds: expect.closeTo(240e-6, 15),
      backwardSeconds: expect.closeTo(480e-6, 15),
      parameterBytes: 6 * 2 ** 20,
      activationBytes: 6 * 2 ** 20,
      fixedBytes: 48 * 2 ** 20,
    });
    expect(recomputed).toMatchObject({ recompute: true, activationBytes: 4 * 2 ** 20 });
    expect(recomputed!.backwardSeconds).toBeCloseTo(720e-6, 15);
    expect(graph.warnings).toEqual([]);
  });

  test("a folder: degrees become variants, layers repeat", () => {
    const graph = readAceso(data, { repeat: 24 });
    expect(graph.nodes).toHaveLength(1 + 13 * 24 + 2);
    expect(graph.nodes.at(-1)!.name).toBe("gpt-post-process");
    expect(graph.nodes[14]!.name).toBe("enc-1st-layernorm (layer 1)");
    expect(new Set(graph.nodes[5]!.variants.map(({ tensor }) => tensor))).toEqual(new Set([1, 2]));
    expect(graph.warnings).toEqual([expect.stringContaining("hold no collectives")]);
    const options = { devices: 16, memoryBytes: 2e9, batch: 64, bytesPerSecond: 10e9 };
    const solution = solvePiper(graph, options);
    expect(solution.status).toBe("optimal");
    expect(evaluatePiper(graph, solution, options)).toBe(solution.objective);
  });

  test("without a number of layers it warns", () => {
    expect(readAceso(one).warnings).toEqual([
      expect.stringContaining("give the number of layers with repeat"),
    ]);
    expect(readAceso(one).nodes).toHaveLength(16);
  });

  test("a family that lists every operator needs no number", () => {
    const path = written("resnet_1B_mbs16_tp1_algo0.csv", (text) => text);
    expect(readAceso(path).warnings).toEqual([]);
    expect(() => readAceso(path, { repeat: 3 })).toThrow(
      /but found resnet_1B, which lists every operator\.$/,
    );
  });

  test("a start-up in a measurement is named", () => {
    const path = written("gpt_slow_mbs1_tp1_algo0.csv", (text) =>
      text.replace("qkv,240.000", "qkv,153021.598"),
    );
    const [warning] = readAceso(path, { repeat: 1 }).warnings;
    expect(warning).toMatch(/enc-attention-qkv on line 4 .* takes 319 times its backward pass/);
  });

  test("what is left open is asked for", () => {
    copyFileSync(one, join(folder, "gpt_large_mbs1_tp1_algo0.csv"));
    copyFileSync(one, join(folder, "gpt_large_mbs2_tp1_algo0.csv"));
    copyFileSync(one, join(folder, "gpt_large_mbs2_tp1_algo1.csv"));
    expect(() => readAceso(folder)).toThrow(/^Expected one model in .* but found .*gpt_large.*\.$/);
    expect(() => readAceso(folder, { profile: "gpt_large" })).toThrow(
      /one micro-batch size .* but found 1, 2\.$/,
    );
    const graph = readAceso(folder, { profile: "gpt_large", microBatch: 2, repeat: 2 });
    expect(graph.name).toBe("gpt_large_mbs2");
    expect(graph.warnings).toEqual([expect.stringContaining("split as in algo0")]);
    expect(() => readAceso(folder, { profile: "bert" })).toThrow(/for profile but found bert\.$/);
    expect(() => readAceso(folder, { profile: "gpt_large", microBatch: 2, algorithm: 3 })).toThrow(
      /one of 0, 1 for algorithm but found 3\.$/,
    );
  });

  test.each<[string, (text: string) => string, RegExp]>([
    ["a missing column", (text) => text.replace("weights", "wights"), /a column weights on line 1/],
    ["an empty file", () => "", /a column op_name on line 1 of .* but found nothing\.$/],
    ["no operators", (text) => text.split("\n")[0]!, /operators in .* but found none\.$/],
    [
      "a text for a figure",
      (text) => text.replace("240.000", "fast"),
      /forward-compute on line 4 .*"fast"\.$/,
    ],
    ["a negative figure", (text) => text.replace("240.000", "-1"), /found "-1"\.$/],
    ["a short line", (text) => text.replace(",240.000", ""), /9 cells on line 4 of .* but found 8\.$/],
    [
      "too few operators",
      (text) => text.split("\n").slice(0, 5).join("\n"),
      /at least 14 operators in .* found 4\.$/,
    ],
  ])("refuses %s in one sentence", (_, change, message) => {
    expect(() => readAceso(written("gpt_bad_mbs1_tp1_algo0.csv", change))).toThrow(message);
  });

  test("refuses files that do not belong together", () => {
    const other = written("gpt_tiny_mbs1_tp4_algo0.csv", (text) =>
      text.replace("enc-MLP-gelu", "enc-MLP-relu"),
    );
    expect(() => readAceso([one, two, other])).toThrow(/row 12 has enc-MLP-gelu and enc-MLP-relu\.$/);
    expect(() => readAceso(join(folder, "none"))).toThrow(/but it does not exist\.$/);
    expect(() => readAceso(one, { repeat: 0 })).toThrow(
      "Expected a whole number of layers to repeat but found 0.",
    );
    expect(() => readAceso([join(data, "NOTICE")])).toThrow(
      /MODEL_SIZE_mbsM_tpT_algoA\.csv but found NOTICE\.$/,
    );
  });
});
