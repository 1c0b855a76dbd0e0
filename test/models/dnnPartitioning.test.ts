import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { MpoptError } from "../../src/contracts/index.js";
import { readDnnPartitioning } from "../../src/models/dnnPartitioning.js";

const bert = "test/data/dnn-partitioning/bert_l-3_inference.json";
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "mpopt-dnn-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

function write(document: unknown): string {
  const path = join(folder, "graph.json");
  writeFileSync(path, typeof document === "string" ? document : JSON.stringify(document));
  return path;
}

const node = (id: number, fields: object = {}) => ({
  id,
  supportedOnFpga: true,
  cpuLatency: 10,
  fpgaLatency: 1,
  isBackwardNode: false,
  ...fields,
});

const small = (fields: object = {}) => ({
  maxSizePerFPGA: 1e9,
  maxFPGAs: 2,
  maxCPUs: 1,
  nodes: [node(7), node(3, { isBackwardNode: 1, supportedOnFpga: 0, colorClass: 4, size: 5, name: "loss" })],
  edges: [{ sourceId: 7, destId: 3, cost: 2, size: 8 }],
  ...fields,
});

function failure(document: unknown): MpoptError {
  try {
    readDnnPartitioning(write(document));
  } catch (error) {
    if (error instanceof MpoptError) return error;
    throw error;
  }
  throw new Error("Nothing was wrong.");
}

describe("readDnnPartitioning", () => {
  it("reads times in milliseconds and flags of both kinds", () => {
    const graph = readDnnPartitioning(write(small()));
    expect(graph).toMatchObject({
      name: "graph",
      format: "dnn-partitioning",
      header: { devices: 2, processors: 1, memoryBytes: 1e9 },
      edges: [{ from: 0, to: 1, bytes: 8, seconds: 0.002 }],
    });
    expect(graph.nodes[0]).toMatchObject({ id: "7", name: "7", backward: false, accelerated: true });
    expect(graph.nodes[0]!.color).toBeUndefined();
    expect(graph.nodes[0]!.variants).toHaveLength(1);
    expect(graph.nodes[0]!.variants[0]).toMatchObject({ forwardSeconds: 0.001, backwardSeconds: 0 });
    expect(graph.nodes[1]).toMatchObject({
      id: "3",
      name: "loss",
      backward: true,
      accelerated: false,
      color: 4,
    });
    expect(graph.nodes[1]).toMatchObject({ processorSeconds: 0.01 });
    expect(graph.nodes[1]!.variants[0]).toMatchObject({ backwardSeconds: 0.001, fixedBytes: 5 });
  });

  // Sums that the authors' tools print for one accelerator.
  it.each([
    ["bert24_training", 64, 110, 0.217813],
    ["gnmt_training", 192, 244, 0.520453],
    ["bert_l-3_inference", 235, 250, 0.0493525689],
  ])("reads %s", (name, nodes, edges, seconds) => {
    const graph = readDnnPartitioning(`test/data/dnn-partitioning/${name}.json`);
    expect(graph.nodes).toHaveLength(nodes);
    expect(graph.edges).toHaveLength(edges);
    const total = graph.nodes.reduce((sum, { variants: [only] }) => {
      return sum + only!.forwardSeconds + only!.backwardSeconds;
    }, 0);
    expect(total).toBeCloseTo(seconds, 9);
  });

  it("warns of units that do not go together", () => {
    // Sizes over costs of the published layer graphs are 2 TB/s, those of the operator graphs 2 GB/s.
    const layers = readDnnPartitioning("test/data/dnn-partitioning/gnmt_training.json");
    expect(layers.warnings.join()).toMatch(/2150 GB\/s .* milliseconds/);
    expect(readDnnPartitioning(bert).warnings).toEqual([]);
    const edge = { sourceId: 7, destId: 3 };
    const slow = readDnnPartitioning(write(small({ edges: [{ ...edge, cost: 2000 }] })));
    expect(slow.warnings).toEqual([
      expect.stringMatching(/^Compute takes 1000 times less than all transfers/),
    ]);
    const fast = readDnnPartitioning(write(small({ edges: [{ ...edge, cost: 0.002 }] })));
    expect(fast.warnings).toEqual([
      expect.stringMatching(/^Compute takes 1000 times more than all transfers/),
    ]);
    expect(readDnnPartitioning(write(small({ edges: [{ ...edge, cost: 0 }] }))).warnings).toEqual([]);
  });

  it.each<[string, unknown, string, RegExp]>([
    ["a truncated file", readFileSync(bert, "utf8").slice(0, 5000), "E_PARSE", /truncated/],
    ["an empty file", "", "E_PARSE", /empty/],
    ["another document", [1, 2], "E_FIELD", /object/],
    ["no nodes", small({ nodes: [], edges: [] }), "E_FIELD", /nodes/],
    [
      "a missing latency",
      small({ nodes: [{ ...node(7), fpgaLatency: undefined }] }),
      "E_FIELD",
      /fpgaLatency/,
    ],
    ["a missing device count", small({ maxFPGAs: undefined }), "E_FIELD", /maxFPGAs/],
    ["half a device", small({ maxFPGAs: 1.5 }), "E_FIELD", /maxFPGAs/],
    [
      "a flag in words",
      small({ nodes: [node(7, { supportedOnFpga: "False" })] }),
      "E_FIELD",
      /true, false, 0 or 1/,
    ],
    ["a negative time", small({ nodes: [node(7), node(3, { cpuLatency: -1 })] }), "E_FIELD", /cpuLatency/],
    [
      "a negative cost",
      small({ edges: [{ sourceId: 7, destId: 3, cost: -2 }] }),
      "E_FIELD",
      /edges\[0\]\.cost/,
    ],
    [
      "a node twice",
      small({ nodes: [node(7), node(3), node(7)] }),
      "E_FIELD",
      /each node once but found 7 twice/,
    ],
    [
      "a dangling edge",
      small({ edges: [{ sourceId: 7, destId: 9, cost: 1 }] }),
      "E_FIELD",
      /7 → 9 has an unknown end/,
    ],
    [
      "a cycle",
      small({
        nodes: [node(1), node(2), node(3)],
        edges: [
          { sourceId: 1, destId: 2, cost: 1 },
          { sourceId: 2, destId: 3, cost: 1 },
          { sourceId: 3, destId: 2, cost: 1 },
        ],
      }),
      "E_FIELD",
      /without cycles but found 2 → 3 → 2/,
    ],
    ["an edge to itself", small({ edges: [{ sourceId: 7, destId: 7, cost: 1 }] }), "E_FIELD", /7 → 7/],
    [
      "a backward edge into the forward pass",
      small({ edges: [{ sourceId: 3, destId: 7, cost: 1 }] }),
      "E_FIELD",
      /backward to a forward node .* 3 → 7/,
    ],
    [
      "two costs of one tensor",
      small({
        nodes: [node(1), node(2), node(3)],
        edges: [
          { sourceId: 1, destId: 2, cost: 1 },
          { sourceId: 1, destId: 3, cost: 2 },
        ],
      }),
      "E_FIELD",
      /one cost on all edges out of node 1 .* 1 and 2 ms/,
    ],
  ])("refuses %s in one sentence", (_, document, code, message) => {
    const error = failure(document);
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(error.message).toMatch(/\.$/);
    expect(error.message).not.toMatch(/\n/);
  });

  it("names a missing file", () => {
    expect(() => readDnnPartitioning(join(folder, "nowhere.json"))).toThrow(/does not exist/);
  });
});
