import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { presetConfig } from "../../src/models/index.js";

/** The built command line, as a user calls it. */
const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

beforeAll(() => {
  if (!existsSync(main))
    throw new Error("Run `npm run build` first: these tests call the built command line.");
});

function mpopt(folder: string, ...args: string[]) {
  const done = spawnSync(process.execPath, [main, ...args], {
    cwd: folder,
    encoding: "utf8",
    maxBuffer: 64e6,
  });
  return {
    status: done.status,
    stdout: done.stdout,
    stderr: done.stderr,
    json: () => JSON.parse(done.stdout),
  };
}

function newFolder(): string {
  return mkdtempSync(join(tmpdir(), "mpopt-e2e-"));
}

const plan405b = [
  "plan",
  "--model",
  "llama-3.1-405b",
  "--cluster",
  "h100-sxm:8x256",
  "--global-batch",
  "2048",
  "--seq",
  "8192",
];

describe("plan → check → export", () => {
  it("plans Llama 3.1 405B on 2,048 GPUs, with every layer once and memory under the limit", () => {
    const folder = newFolder();
    const planned = mpopt(folder, ...plan405b, "--json", "-o", "plan.json");
    expect(planned.status).toBe(0);
    const plan = planned.json();
    expect(plan.certificate).toMatchObject({ status: "optimal", gap: 0 });
    const placed = plan.stages.flatMap(({ layers }: { layers: { start: number; end: number } }) =>
      Array.from({ length: layers.end - layers.start }, (_, i) => layers.start + i),
    );
    expect(placed).toEqual(Array.from({ length: 126 }, (_, i) => i));
    for (const entry of plan.estimate.memory)
      expect(entry.reservedBytes).toBeLessThanOrEqual(entry.limitBytes);

    const checked = mpopt(folder, "check", "plan.json", "--json");
    expect(checked.json()).toEqual({ valid: true, priced: true, violations: [] });
    const exported = mpopt(folder, "export", "plan.json", "--to", "megatron", "-o", "run");
    expect(exported.status).toBe(0);
    const layout = /--pipeline-model-parallel-layout '([^']*)'/.exec(
      readFileSync(join(folder, "run/train.sh"), "utf8"),
    )![1]!;
    expect(layout.replace(/[^t]/g, "")).toHaveLength(126);
    const estimate = mpopt(
      folder,
      "estimate",
      "--plan",
      "plan.json",
      "--cluster",
      "h200-sxm:8x256",
      "--json",
    );
    expect(estimate.json().fits).toBe(true);
  });

  it("checks a spoilt plan and says what is wrong", () => {
    const folder = newFolder();
    mpopt(
      folder,
      "plan",
      "--model",
      "gpt2",
      "--cluster",
      "a100-40:2x1",
      "--global-batch",
      "8",
      "-o",
      "plan.json",
    );
    const plan = JSON.parse(readFileSync(join(folder, "plan.json"), "utf8"));
    plan.stages[0].layers.end -= 1;
    writeFileSync(join(folder, "plan.json"), JSON.stringify(plan));
    const checked = mpopt(folder, "check", "plan.json");
    expect(checked.status).toBe(1);
    expect(checked.stdout).toMatch(/Expected every layer in exactly one stage but layer \d+ is in 0\./);
  });

  it("plans from files that import and a preset's own document make", () => {
    const folder = newFolder();
    writeFileSync(join(folder, "config.json"), JSON.stringify(presetConfig("mistral-7b")));
    expect(mpopt(folder, "import", "config.json", "-o", "model.json").status).toBe(0);
    const planned = mpopt(
      folder,
      "plan",
      "--model",
      "model.json",
      "--cluster",
      "h100-sxm:8x1",
      "--global-batch",
      "64",
      "--json",
    );
    expect(planned.json().model.parameterCount).toBe(7_241_732_096);
  });
});

describe("bad input gets one sentence, the right exit code, and leaves no file", () => {
  const common = ["--global-batch", "8", "-o", "out.json"];
  const cases: [string, (folder: string) => string[], number, RegExp][] = [
    [
      "an unknown architecture",
      (folder) => {
        writeFileSync(join(folder, "config.json"), JSON.stringify({ model_type: "whisper" }));
        return ["plan", "--model", "config.json", "--cluster", "h100-sxm", ...common];
      },
      1,
      /whisper/,
    ],
    [
      "a config without a needed field",
      (folder) => {
        const { hidden_size: _gone, ...config } = presetConfig("mistral-7b") as Record<string, unknown>;
        writeFileSync(join(folder, "config.json"), JSON.stringify(config));
        return ["plan", "--model", "config.json", "--cluster", "h100-sxm", ...common];
      },
      1,
      /config\.json.*hidden_size/,
    ],
    [
      "a truncated JSON",
      (folder) => {
        writeFileSync(join(folder, "config.json"), '{"model_type": "llama", "hidden');
        return ["plan", "--model", "config.json", "--cluster", "h100-sxm", ...common];
      },
      1,
      /config\.json to hold JSON but found a truncated one/,
    ],
    [
      "a cluster file from a future version",
      (folder) => {
        writeFileSync(join(folder, "cluster.json"), '{"schema": "mpopt.cluster/7"}');
        return ["plan", "--model", "gpt2", "--cluster", "cluster.json", ...common];
      },
      1,
      /expected mpopt\.cluster\/1 but found mpopt\.cluster\/7/,
    ],
    [
      "a batch that nothing divides",
      () => [
        "plan",
        "--model",
        "gpt2",
        "--cluster",
        "h100-sxm:8x256",
        "--global-batch",
        "7",
        "-o",
        "out.json",
      ],
      1,
      /Expected a global batch that some data-parallel degree divides but found 7/,
    ],
    [
      "a model that fits nowhere",
      () => ["plan", "--model", "llama-3.1-405b", "--cluster", "a100-40:8x1", ...common],
      1,
      /Expected a plan within 37\.6 GiB a device but the smallest one found needs/,
    ],
    [
      "a negative batch",
      () => ["plan", "--model", "gpt2", "--cluster", "h100-sxm", "--global-batch", "-4"],
      2,
      /at least 1/,
    ],
    ["no model", () => ["plan", "--cluster", "h100-sxm", ...common], 2, /--model/],
    [
      "an unknown runtime",
      () => ["plan", "--model", "gpt2", "--cluster", "h100-sxm", "--runtime", "x", ...common],
      2,
      /portable/,
    ],
    ["an unknown preset", () => ["plan", "--model", "gpt5", "--cluster", "h100-sxm", ...common], 2, /gpt5/],
    [
      "a sequence beyond learned positions",
      () => ["plan", "--model", "gpt2", "--cluster", "h100-sxm", "--seq", "4096", ...common],
      2,
      /1024/,
    ],
    ["an unknown command", () => ["plann"], 2, /plann/],
  ];

  it.each(cases)("%s", (_name, prepare, status, message) => {
    const folder = newFolder();
    const args = prepare(folder);
    const before = readdirSync(folder);
    const done = mpopt(folder, ...args, "--quiet");
    expect(done.stderr).toMatch(message);
    expect(done.status).toBe(status);
    expect(done.stderr.split("\n")[0]).not.toMatch(/\n| {4}at /);
    expect(readdirSync(folder)).toEqual(before);
    if (args[0] !== "plan") return;
    const asJson = mpopt(folder, ...args, "--json", "--quiet");
    expect(asJson.status).toBe(status);
    expect(asJson.json().error.message).toMatch(message);
    expect(readdirSync(folder)).toEqual(before);
  });
});

describe("every command", () => {
  it("answers --help with an example", () => {
    const help = mpopt(newFolder(), "--help").stdout;
    const names = [...help.matchAll(/^ {2}([a-z-]+) /gm)]
      .map((match) => match[1]!)
      .filter((name) => name !== "help" && !name.startsWith("-"));
    expect(names.length).toBeGreaterThanOrEqual(14);
    for (const name of names) {
      const own = mpopt(newFolder(), name, "--help");
      expect(own.status).toBe(0);
      expect(own.stdout).toMatch(/Example:\n {2}\$ mpopt /);
    }
  });
});
