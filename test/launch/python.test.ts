import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { findPython } from "../../src/launch/index.js";

const folder = mkdtempSync(join(tmpdir(), "mpopt python "));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A stand-in for an interpreter that answers with a version and, where given, PyTorch's. */
function fake(path: string, version: string, torch?: string): string {
  const file = join(folder, path);
  mkdirSync(join(file, ".."), { recursive: true });
  const lines = [version, torch].filter((each) => each !== undefined).map((each) => `'"${each}"'`);
  writeFileSync(file, `#!/bin/sh\nprintf '%s\\n' ${lines.join(" ")}\n`, { mode: 0o755 });
  return file;
}

const chosen = fake("chosen python", "3.13.1", "2.13.0");
const bare = fake("bare", "3.10.0");
const inEnvironment = fake("env/bin/python", "3.12.0", "2.9.0");
const onPath = fake("bin/python3", "3.9.0", "2.5.0");
const inFolder = fake("project/.venv/bin/python", "3.11.0", "2.8.0");
const PATH = join(folder, "bin");
const VIRTUAL_ENV = join(folder, "env");

const find = (environment: NodeJS.ProcessEnv, project = "none") =>
  findPython(environment, undefined, join(folder, project));

test("MPOPT_PYTHON, then ./.venv, then VIRTUAL_ENV, then the PATH", async () => {
  const found = await find({ MPOPT_PYTHON: chosen, VIRTUAL_ENV, PATH });
  expect(found).toEqual({ executable: chosen, version: "3.13.1", torch: "2.13.0" });
  expect((await find({ VIRTUAL_ENV, PATH }, "project"))?.executable).toBe(inFolder);
  expect((await find({ VIRTUAL_ENV, PATH }))?.executable).toBe(inEnvironment);
  expect((await find({ PATH }))?.executable).toBe(onPath);
});

test("one with PyTorch is preferred, one without it is better than none", async () => {
  expect((await find({ MPOPT_PYTHON: bare, VIRTUAL_ENV, PATH }))?.executable).toBe(inEnvironment);
  const without = await find({ MPOPT_PYTHON: bare, PATH: "/nowhere" });
  expect(without).toEqual({ executable: bare, version: "3.10.0" });
  expect(await find({ MPOPT_PYTHON: "/nowhere/python", PATH: "/nowhere" })).toBeUndefined();
});
