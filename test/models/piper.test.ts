import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { readPiper } from "../../src/models/piper.js";

const bert = fileURLToPath(new URL("../data/piper/bert32a100.json", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "mpopt-piper-"));
afterAll(() => rmSync(folder, { recursive: true }));

// biome-ignore lint/suspicious/noExplicitAny: tests break the document in ways that a type would forbid.
type Document = any;

/** Three nodes in a chain, with more than two variants at degree 1. */
function chain(): Document {
  const variant = (id: string, time: number, before: number[], after: number[]) => ({
    id,
    timePerSample: time,
    parameterSize: 10,
    memoryUsageA: 20,
    memoryUsageB: 30,
    syncTimeFw: Object.fromEntries(before.map((it) => [it, 1])),
    syncTimeBw: Object.fromEntries(after.map((it) => [it, 2])),
  });
  const node = (id: number, before: number[], after: number[]) => ({
    id,
    name: `layer ${id}`,
    TMPCs: {
      1: [
        variant("vanilla", 0.3, before, after),
        variant("activation recomp", 0.4, before, after),
        variant("selective recomp", 0.35, before, after),
      ],
      4: [variant("vanilla", 0.1, before, after)],
    },
  });
  return {
    maxMemoryPerDevice: 1e10,
    maxDevices: 8,
    mbsInBatch: 16,
    bandwidth: 1e9,
    nodes: [node(7, [], [8]), node(8, [7], [9]), node(9, [8], [])],
    edges: [
      { sourceId: 7, destId: 8, communicationCost: 1e8 },
      { sourceId: 8, destId: 9, communicationCost: 2e8 },
    ],
  };
}

let files = 0;
function read(document: Document, options?: { timeUnit?: "s" | "ms" }) {
  const path = join(folder, `${files++}.json`);
  writeFileSync(path, typeof document === "string" ? document : JSON.stringify(document));
  return readPiper(path, options);
}

function changed(change: (document: Document) => void): Document {
  const document = chain();
  change(document);
  return document;
}

describe("readPiper", () => {
  test("reads BERT-32 as published", () => {
    const graph = readPiper(bert);
    expect(graph.name).toBe("bert32a100");
    expect(graph.nodes).toHaveLength(37);
    expect(graph.edges).toHaveLength(67);
    expect(graph.header).toEqual({
      devices: 10,
      memoryBytes: 80e9,
      bytesPerSecond: 25e9,
      microBatches: 1920,
    });
    expect(graph.warnings).toEqual([]);
    const source = JSON.parse(readFileSync(bert, "utf8"));
    const seconds = (it: Document) => it.TMPCs["1"][0].timePerSample;
    const written = source.nodes.reduce((sum: number, node: Document) => sum + seconds(node), 0);
    const of = (tensor: number, recompute: boolean) =>
      graph.nodes.map(
        ({ variants }) => variants.find((it) => it.tensor === tensor && it.recompute === recompute)!,
      );
    const sum = of(1, false).reduce((total, { forwardSeconds }) => total + forwardSeconds, 0);
    expect(sum).toBe(written);
    expect(sum).toBeCloseTo(0.973, 3);
    const layer = of(2, true)[3]!;
    expect(layer).toMatchObject({
      activationBytes: 48234496,
      fixedBytes: 470367488,
      parameterBytes: 88510080,
    });
    expect(layer.syncBytes!.forward.get("4")).toBe(16777216);
  });

  test("takes any number of variants a degree, and options of ids and units", () => {
    const graph = read(chain());
    expect(graph.nodes[0]!.variants.map((it) => [it.tensor, it.recompute, it.forwardSeconds])).toEqual([
      [1, false, 0.3],
      [1, true, 0.4],
      [1, true, 0.35],
      [4, false, 0.1],
    ]);
    expect(graph.edges).toEqual([
      { from: 0, to: 1, bytes: 1e8 },
      { from: 1, to: 2, bytes: 2e8 },
    ]);
    expect(graph.nodes.map(({ id, name }) => [id, name])).toEqual([
      ["7", "layer 7"],
      ["8", "layer 8"],
      ["9", "layer 9"],
    ]);
  });

  test("milliseconds beside bytes per second are scaled, with a warning", () => {
    const inMilliseconds = JSON.parse(readFileSync(bert, "utf8"));
    for (const node of inMilliseconds.nodes) {
      for (const variant of Object.values<Document[]>(node.TMPCs).flat()) variant.timePerSample *= 1000;
    }
    const detected = read(inMilliseconds);
    expect(detected.warnings).toEqual([expect.stringContaining("they were taken as milliseconds")]);
    const first = (graph: typeof detected) => graph.nodes[3]!.variants[0]!.forwardSeconds;
    expect(first(detected)).toBeCloseTo(0.030492, 12);
    const kept = read(inMilliseconds, { timeUnit: "s" });
    expect(first(kept)).toBeCloseTo(30.492, 9);
    expect(kept.warnings).toEqual([expect.stringContaining("they were taken as seconds")]);
    const forced = readPiper(bert, { timeUnit: "ms" });
    expect(first(forced)).toBeCloseTo(0.030492e-3, 15);
    expect(forced.warnings).toEqual([expect.stringContaining("look like seconds")]);
    expect(read(inMilliseconds, { timeUnit: "ms" }).warnings).toEqual([]);
  });

  test("takes the README's name of the batch, with a warning", () => {
    const graph = read(
      changed((it) => {
        it.maxBatchSize = it.mbsInBatch;
        delete it.mbsInBatch;
      }),
    );
    expect(graph.header.microBatches).toBe(16);
    expect(graph.warnings).toEqual(["The batch was read from maxBatchSize; Piper's code reads mbsInBatch."]);
  });

  test.each<[string, Document, RegExp]>([
    ["a truncated file", '{"nodes": [', /^Expected .*\.json to hold JSON but found a truncated one\.$/],
    ["no nodes", changed((it) => (it.nodes = [])), /field nodes/],
    ["a node twice", changed((it) => it.nodes.push(it.nodes[0])), /found node 7 twice\.$/],
    [
      "a dangling edge",
      changed((it) => (it.edges[0].destId = 99)),
      /an edge from 7 to 99, one of which is no node\.$/,
    ],
    ["an edge twice", changed((it) => it.edges.push(it.edges[0])), /the edge from 7 to 8 twice\.$/],
    [
      "a missing key",
      changed((it) => delete it.nodes[1].TMPCs[4][0].syncTimeFw[7]),
      /syncTimeFw of node 8 .*see 7/,
    ],
    [
      "a needless key",
      changed((it) => (it.nodes[2].TMPCs[1][2].syncTimeBw[7] = 1)),
      /syncTimeBw of node 9 .*see 7/,
    ],
    [
      "an odd degree",
      changed((it) => (it.nodes[0].TMPCs.two = [])),
      /the tensor-parallel degree "two" at node 7/,
    ],
    ["no variants", changed((it) => (it.nodes[0].TMPCs = {})), /no entry in TMPCs of node 7/],
    ["a negative time", changed((it) => (it.nodes[0].TMPCs[1][0].timePerSample = -1)), /timePerSample/],
    ["a text for a size", changed((it) => (it.edges[0].communicationCost = "1")), /communicationCost/],
    [
      "a cycle",
      changed((it) => {
        it.edges.push({ sourceId: 9, destId: 7, communicationCost: 1 });
        for (const variant of Object.values<Document[]>(it.nodes[0].TMPCs).flat()) variant.syncTimeFw[9] = 1;
        for (const variant of Object.values<Document[]>(it.nodes[2].TMPCs).flat()) variant.syncTimeBw[7] = 1;
      }),
      /without cycles but found 7 → 8 → 9 → 7\.$/,
    ],
  ])("refuses %s in one sentence", (_, document, message) => {
    expect(() => read(document)).toThrow(message);
  });

  test("refuses a file that is not there", () => {
    expect(() => readPiper(join(folder, "none.json"))).toThrow(/but it does not exist\.$/);
  });
});
