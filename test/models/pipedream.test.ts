import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { readPipedream, unitsWarning } from "../../src/models/pipedream.js";

const fields = (
  forward: number | string,
  backward: number | string,
  activation: string,
  parameters: string,
) =>
  `forward_compute_time=${forward}, backward_compute_time=${backward}, activation_size=${activation}, ` +
  `parameter_size=${parameters}`;
const node = (id: string, name = "Layer") => `${id} -- ${name} -- ${fields(1, 2, "1000000.000", "4.000")}`;

describe("readPipedream", () => {
  test.each([
    ["alexnet", 22 - 1, 0.085321],
    ["vgg16", 40 - 1, 0.672535],
    ["resnet50", 192 - 1, 0.443419],
    ["gnmt", 0, 0.089416],
  ])("%s", (model, edges, seconds) => {
    const graph = readPipedream(join(import.meta.dirname, `../data/pipedream/${model}.txt`));
    expect(graph.name).toBe(model);
    const total = graph.nodes.reduce(
      (sum, { variants }) => sum + variants[0]!.forwardSeconds + variants[0]!.backwardSeconds,
      0,
    );
    expect(total).toBeCloseTo(seconds, 9);
    expect(graph.nodes.some(({ name }) => name.startsWith("Input"))).toBe(false);
    if (edges > 0) expect(graph.edges.length).toBeGreaterThanOrEqual(edges);
    expect(graph.warnings).toEqual([]);
  });

  test("takes what both dialects write", () => {
    const graph = readPipedream(
      [
        `node2 -- Conv2d(3, 64, a=(1, 1)) -- ${fields("0.500", 1, "9216", "512")}  `,
        `node1 -- Input0 -- ${fields(600, 0, "77.000", "0.000")}`,
        `node4 -- __getitem__(0) -- ${fields(0, 0, "0.0", "0")}`,
        `node3 -- Split -- ${fields(1, 1.5, "[602112; 4004.0]", "0.000")}\r`,
        `node5 -- Sum -- ${fields(1, 1, "[]", "0")}`,
        "\tnode1 -- node2",
        "  node2 -- node3 ",
        "    node3 -- node4",
        "",
        "\tnode3 -- node5",
      ].join("\n"),
    );
    expect(graph.nodes.map(({ id }) => id)).toEqual(["node2", "node3", "node5"]);
    expect(graph.nodes[0]).toMatchObject({
      name: "Conv2d(3, 64, a=(1, 1))",
      variants: [
        { forwardSeconds: 0.0005, backwardSeconds: 0.001, parameterBytes: 512, activationBytes: 9216 },
      ],
    });
    expect(graph.nodes[1]!.variants[0]!.activationBytes).toBe(606116);
    expect(graph.nodes[2]!.variants[0]!.activationBytes).toBe(0);
    expect(graph.edges).toEqual([
      { from: 0, to: 1, bytes: 9216 },
      { from: 1, to: 2, bytes: 606116 },
    ]);
    expect(graph.stageIds).toBeUndefined();
  });

  test("keeps inner nodes called Input and __getitem__, and nodes that removal lays open", () => {
    const graph = readPipedream(
      [
        node("a"),
        node("b", "Input2"),
        node("c", "__getitem__(1)"),
        node("d", "__getitem__(0)"),
        "\ta -- b",
        "\tb -- c",
        "\tc -- d",
      ].join("\n"),
    );
    // Only d is a sink when the sinks are looked up, as in PipeDream.
    expect(graph.nodes.map(({ id }) => id)).toEqual(["a", "b", "c"]);
  });

  test("reads stage ids and names repeated edges", () => {
    const graph = readPipedream(
      `${node("a")} -- stage_id=0\n${node("b")} -- stage_id=1\n\ta -- b\n\ta -- b\n`,
    );
    expect(graph.stageIds).toEqual([0, 1]);
    expect(graph.edges).toHaveLength(1);
    expect(graph.warnings).toEqual(["Line 4 repeats the edge a -- b; it counts once."]);
  });

  test.each([
    [
      "a cycle",
      `${node("a")}\n${node("b")}\n\ta -- b\n\tb -- a\n`,
      "a graph without cycles but found a → b → a",
    ],
    [
      "a dangling edge",
      `${node("a")}\n\ta -- b\n`,
      "Expected edges between nodes of the profile but line 2 names b, which no node line defines.",
    ],
    [
      "a negative time",
      `a -- A -- ${fields(-1, 0, "0", "0")}\n`,
      "Expected a number of at least 0 for forward_compute_time of a on line 1 of the profile but found -1.",
    ],
    [
      "a negative item of a list",
      `a -- A -- ${fields(1, 0, "[3; -4]", "0")}\n`,
      "for activation_size of a on line 1 of the profile but found -4.",
    ],
    [
      "a word for a number",
      `a -- A -- ${fields("fast", 0, "0", "0")}\n`,
      'Expected forward_compute_time=NUMBER on line 1 of the profile but found "forward_compute_time=fast".',
    ],
    [
      "NaN",
      `a -- A -- ${fields("nan", 0, "0", "0")}\n`,
      'on line 1 of the profile but found "forward_compute_time=nan".',
    ],
    [
      "fields in another order",
      `a -- A -- backward_compute_time=1, forward_compute_time=1, activation_size=1, parameter_size=1\n`,
      'Expected forward_compute_time=NUMBER on line 1 of the profile but found "backward_compute_time=1".',
    ],
    [
      "a missing field",
      "a -- A -- forward_compute_time=1\n",
      "Expected the four fields forward_compute_time",
    ],
    ["a line without fields", "a -- A\n", 'Expected a node "ID -- DESCRIPTION -- forward_compute_time'],
    ["half an edge", `${node("a")}\n\ta --\n`, 'Expected an edge "FROM -- TO" on line 2 of the profile'],
    ["a stage that is no number", `${node("a")} -- stage_id=x\n`, "Expected stage_id=NUMBER on line 1"],
    [
      "a node twice",
      `${node("a")}\n${node("a")}\n`,
      "Expected each node once in the profile but found a again",
    ],
    ["nothing", "\n\n", "Expected node lines"],
    ["inputs alone", `${node("a", "Input")}\n`, "expected at least one node but found none"],
  ])("%s", (_, text, message) => {
    expect(() => readPipedream(text)).toThrow(message);
  });

  test("names the file", () => {
    const path = join(mkdtempSync(join(tmpdir(), "mpopt-")), "graph.txt");
    writeFileSync(path, `${node("a")}\n\ta -- b\n`);
    expect(() => readPipedream(path)).toThrow(`between nodes of ${path} but line 2 names b`);
    expect(() => readPipedream(`${path}.missing`)).toThrow("it does not exist");
  });

  test("warns of units that differ by a thousand", () => {
    const text = (milliseconds: number) => `a -- A -- ${fields(milliseconds, 0, "100000000", "0")}\n`;
    expect(readPipedream(text(10)).warnings).toEqual([]);
    expect(readPipedream(text(0.01)).warnings[0]).toMatch(
      /1000 times more: check that times are in millisec/,
    );
    expect(readPipedream(text(10_000)).warnings[0]).toMatch(/1000 times less/);
    expect(unitsWarning(readPipedream(text(10)), 12)).toMatch(/bandwidths in bytes per second/);
  });
});
