import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { solveCommand } from "../../src/cli/solve.js";
import { captureCommand } from "../cli/captured.js";

const example = new URL("data/iopddl-example.json", import.meta.url).pathname;
const captured = captureCommand();
const run = (...args: string[]) => solveCommand().parseAsync(args, { from: "user" });

test("prints one JSON document and writes the contest's form", async () => {
  const solution = join(captured.folder, "solution.json");
  await run(example, "--json", "-o", solution);
  const document = JSON.parse(captured.out);
  expect(document).toMatchObject({ status: "optimal", objective: 445, engine: expect.any(String) });
  expect(document.gap).toBeLessThanOrEqual(1e-8);
  expect(JSON.parse(readFileSync(solution, "utf8"))).toEqual(document.assignment);
});

test("prints text for a person", async () => {
  await run(example, "--time-limit", "20");
  expect(captured.out).toMatch(/status {6}optimal\nobjective {3}445\n/);
});

test("an unknown format lists what exists, exit 2", async () => {
  await run(example, "--format", "metis");
  expect(captured.err).toContain(
    'Expected one of iopddl, pipedream, dnn-partitioning, piper, aceso, model for --format but found "metis".',
  );
  expect(process.exitCode).toBe(2);
});

test("infeasible is exit 1 and leaves no file", async () => {
  const text = readFileSync(example, "utf8").replace('"usage_limit": 50', '"usage_limit": 5');
  const problem = join(captured.folder, "tight.json");
  writeFileSync(problem, text);
  const solution = join(captured.folder, "solution.json");
  await run(problem, "--json", "-o", solution);
  expect(JSON.parse(captured.out.slice(captured.out.indexOf("{"))).error.code).toBe("E_INFEASIBLE");
  expect(process.exitCode).toBe(1);
  expect(existsSync(solution)).toBe(false);
});
