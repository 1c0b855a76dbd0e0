import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { parseBytes } from "../../src/cli/solveFormats.js";

const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const data = (path: string) => fileURLToPath(new URL(`../data/${path}`, import.meta.url));

beforeAll(() => {
  if (!existsSync(main))
    throw new Error("Run `npm run build` first: these tests call the built command line.");
});

function solve(...args: string[]) {
  const done = spawnSync(process.execPath, [main, "solve", ...args, "--quiet"], { encoding: "utf8" });
  return { ...done, json: () => JSON.parse(done.stdout) };
}

describe("mpopt solve in the terms of other planners", () => {
  it("pipedream: VGG-16 on four servers of four", () => {
    const args = ["--format", "pipedream", "--machines", "4,4", "--bandwidth", "12e9,1.25e9", "--json"];
    const answer = solve(data("pipedream/vgg16.txt"), ...args).json();
    expect(answer).toMatchObject({ status: "optimal", unit: "seconds" });
    expect(answer.objective).toBeLessThanOrEqual(0.0668887521333 * (1 + 1e-9));
    const nodes = answer.stages.flatMap((stage: { nodes: string[] }) => stage.nodes);
    expect(new Set(nodes).size).toBe(nodes.length);
    expect(nodes).toHaveLength(40);
  });

  it("pipedream: a memory limit of 16 GB holds on every stage", () => {
    const args = [
      "--format",
      "pipedream",
      "--machines",
      "16",
      "--bandwidth",
      "1.25GB/s",
      "--memory",
      "16e9",
      "--json",
    ];
    const answer = solve(data("pipedream/vgg16.txt"), ...args);
    if (answer.status !== 0) expect(answer.json().error.code).toBe("E_INFEASIBLE");
    else for (const stage of answer.json().stages) expect(stage.memoryBytes).toBeLessThanOrEqual(16e9);
  });

  it("piper: BERT-32 on 64 devices", () => {
    const args = [
      "--format",
      "piper",
      "--devices",
      "64",
      "--memory",
      "8GiB",
      "--batch",
      "1920",
      "--bandwidth",
      "25GiB/s",
    ];
    const answer = solve(data("piper/bert32a100.json"), ...args, "--json").json();
    expect(answer.status).toBe("optimal");
    expect(answer.objective).toBeLessThanOrEqual(0.0202005502945 * (1 + 1e-9));
  });

  it("dnn-partitioning: GNMT, contiguous, into a file", () => {
    const output = join(mkdtempSync(join(tmpdir(), "mpopt-solve-")), "answer.json");
    const done = solve(
      data("dnn-partitioning/gnmt_training.json"),
      "--format",
      "dnn-partitioning",
      "-o",
      output,
    );
    expect(done.status).toBe(0);
    expect(done.stdout).toMatch(/^optimal: 107\.004/);
    expect(JSON.parse(readFileSync(output, "utf8")).unit).toBe("milliseconds");
  });

  it("alpa and mpopt price a PipeDream profile too, each in its own model", () => {
    const args = [
      "--format",
      "pipedream",
      "--machines",
      "4,2",
      "--bandwidth",
      "12e9,1.25e9",
      "--batch",
      "32",
      "--json",
    ];
    const ask = (model: string) => solve(data("pipedream/vgg16.txt"), ...args, "--cost-model", model).json();
    for (const model of ["alpa", "mpopt"]) {
      const answer = ask(model);
      expect(answer).toMatchObject({ costModel: model, status: "optimal" });
      const nodes = answer.stages.flatMap((stage: { nodes: string[] }) => stage.nodes);
      expect(new Set(nodes).size).toBe(40);
    }
    // Transfers are free in Alpa's model, but every device must be used.
    const devices = ask("alpa").stages.flatMap((stage: { devices: number[] }) => stage.devices);
    expect(devices).toHaveLength(8);
  });

  it("any model, on a cluster", () => {
    const args = [
      "--format",
      "model",
      "--cluster",
      "h100-sxm:4x2",
      "--batch",
      "32",
      "--seq",
      "2048",
      "--json",
    ];
    const answer = solve("mini-llama", ...args).json();
    expect(answer).toMatchObject({ costModel: "mpopt", status: "optimal" });
    expect(answer.stages.flatMap((stage: { nodes: string[] }) => stage.nodes)).toHaveLength(10);
  });

  it.each([
    [
      ["--format", "pipedream", "--cost-model", "magic"],
      2,
      /Expected one of mpopt, pipedream, .* for --cost-model/,
    ],
    [
      ["--format", "pipedream", "--cost-model", "alpa", "--straight"],
      2,
      /with the cost model alpa but found --straight/,
    ],
    [
      ["--format", "pipedream", "--cost-model", "mpopt", "--cluster", "h100-sxm:4x1", "--memory", "8GiB"],
      2,
      /found both/,
    ],
    [["--format", "model"], 2, /Expected --cluster for --format model/],
    [["--format", "piper", "--machines", "4"], 2, /Expected options of --format piper but found --machines/],
    [["--format", "pipedream", "--machines", "4"], 2, /Expected --bandwidth for the cost model pipedream/],
    [["--format", "pipedream", "--machines", "4", "--bandwidth", "fast"], 2, /Expected a size such as 16e9/],
    [["--format", "metis"], 2, /Expected one of iopddl, pipedream/],
  ])("refuses %j", (args, status, message) => {
    const done = solve(data("pipedream/vgg16.txt"), ...args);
    expect(done.status).toBe(status);
    expect(done.stderr).toMatch(message);
  });
});

describe("parseBytes", () => {
  it.each([
    ["16e9", 16e9],
    ["8GiB", 8 * 2 ** 30],
    ["25GiB/s", 25 * 2 ** 30],
    ["1.25 GB", 1.25e9],
    ["512", 512],
  ])("reads %s", (text, bytes) => {
    expect(parseBytes(text)).toBe(bytes);
  });

  it.each(["", "-4", "8gib", "4 G", "1e", "NaN"])("refuses %j", (text) => {
    expect(() => parseBytes(text)).toThrow(/Expected a size/);
  });
});
