import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { diffCommand } from "../../src/cli/diff.js";
import { explainCommand } from "../../src/cli/explain.js";
import { reportCommand } from "../../src/cli/report.js";
import { simulateCommand } from "../../src/cli/simulate.js";
import { serialize } from "../../src/contracts/index.js";
import { samplePlan } from "./samplePlan.js";

let folder: string;
let planPath: string;
let otherPath: string;
const plan = samplePlan({ stages: 4, microBatches: 12, data: 2, layers: 30 });

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "mpopt-report-"));
  planPath = join(folder, "plan.json");
  otherPath = join(folder, "other.json");
  writeFileSync(planPath, serialize(plan));
  writeFileSync(otherPath, serialize(samplePlan({ stages: 4, microBatches: 24, data: 2, layers: 30 })));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a command as the program would, and returns what it wrote and its exit code. */
async function run(command: Command, ...args: string[]) {
  const out: string[] = [];
  const errors: string[] = [];
  const { stdout, stderr } = process;
  const writes = [stdout.write, stderr.write] as const;
  stdout.write = ((text: string) => out.push(text) > 0) as typeof stdout.write;
  stderr.write = ((text: string) => errors.push(text) > 0) as typeof stderr.write;
  const before = process.exitCode;
  process.exitCode = undefined;
  try {
    await command.parseAsync(args, { from: "user" });
    return { out: out.join(""), errors: errors.join(""), exitCode: Number(process.exitCode ?? 0) };
  } finally {
    process.exitCode = before;
    [stdout.write, stderr.write] = writes;
  }
}

describe("mpopt simulate", () => {
  it("prints one JSON document that agrees with the plan, and writes the trace", async () => {
    const trace = join(folder, "trace.json");
    const { out, exitCode } = await run(simulateCommand(), "--plan", planPath, "--trace", trace, "--json");
    const result = JSON.parse(out);
    expect(exitCode).toBe(0);
    expect(result.stepSeconds).toBeCloseTo(plan.estimate.stepSeconds, 9);
    expect(result.bubbleRatio).toBeGreaterThan(0);
    expect(result.ranks).toHaveLength(4);
    expect(result.ranks.map((rank: { peakBytes: number }) => rank.peakBytes)).toEqual(
      plan.estimate.memory.map((entry) => entry.reservedBytes),
    );
    expect(result.ranks[0].peakMicroBatches).toBe(4);
    expect(JSON.parse(readFileSync(trace, "utf8")).traceEvents.length).toBeGreaterThan(2 * 4 * 12);
  });

  it("prints a row a rank for a person", async () => {
    const { out } = await run(simulateCommand(), "--plan", planPath);
    expect(out).toContain("1F1B, 12 micro-batches: step");
    expect(out.trimEnd().split("\n")).toHaveLength(7);
  });

  it("refuses an unknown schedule with one sentence and leaves no trace behind", async () => {
    const path = join(folder, "unknown.json");
    const trace = join(folder, "none.json");
    writeFileSync(path, serialize({ ...plan, schedule: { name: "zigzag", microBatches: 12 } }));
    const { out, exitCode } = await run(simulateCommand(), "--plan", path, "--trace", trace, "--json");
    expect(exitCode).toBe(1);
    expect(JSON.parse(out).error).toMatchObject({
      code: "E_PLAN_INVALID",
      message: 'Expected a known pipeline schedule but found "zigzag".',
    });
    expect(readdirSync(folder)).not.toContain("none.json");
  });
});

describe("mpopt report, explain and diff", () => {
  it("report writes the page, or prints the table without -o", async () => {
    const output = join(folder, "page", "report.html");
    const written = await run(reportCommand(), planPath, "-o", output, "--json");
    expect(JSON.parse(written.out)).toEqual({ plan: planPath, report: output });
    expect(readFileSync(output, "utf8")).toMatch(/^<!doctype html>[\s\S]*<\/html>\n$/);
    const printed = await run(reportCommand(), planPath);
    expect(printed.out).toContain("Time of one step");
    expect(printed.out).not.toContain("\u001b");
  });

  it("report of a broken plan names the file and the field, and writes nothing", async () => {
    const path = join(folder, "broken.json");
    writeFileSync(path, serialize({ ...plan, batch: { ...plan.batch, micro: 0 } }));
    const output = join(folder, "broken.html");
    const { errors, exitCode } = await run(reportCommand(), path, "-o", output);
    expect(exitCode).toBe(1);
    expect(errors).toContain(`${path}: expected more than 0 for field batch.micro but found 0.`);
    expect(readdirSync(folder)).not.toContain("broken.html");
  });

  it("explain says what binds", async () => {
    const { out } = await run(explainCommand(), planPath, "--json");
    expect(["memory", "time"]).toContain(JSON.parse(out).binding);
    expect((await run(explainCommand(), planPath)).out).toContain("Nearest alternatives");
  });

  it("diff lists what changed", async () => {
    const { out } = await run(diffCommand(), planPath, otherPath, "--json");
    const fields = JSON.parse(out).differences.map((difference: { field: string }) => difference.field);
    expect(fields).toContain("micro-batches");
    expect(fields).not.toContain("tensor");
    expect((await run(diffCommand(), planPath, planPath)).out).toBe("The plans are the same.\n");
  });
});
