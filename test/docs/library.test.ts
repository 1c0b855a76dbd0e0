import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { findPython } from "../../src/launch/index.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const python = await findPython({ ...process.env }, undefined, root);
const addon = existsSync(join(root, "build/native/Release/mpopt_native.node"));
/** One folder for a page: its later snippets read what the earlier ones wrote. */
const folder = mkdtempSync(join(tmpdir(), "mpopt-library-"));
mkdirSync(join(folder, "node_modules"));
// A package of its own, whatever lies in the folders above.
writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "consumer", type: "module" }));
symlinkSync(resolve(root), join(folder, "node_modules/mpopt"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function snippetsOf(page: string): { title: string; code: string }[] {
  const text = readFileSync(join(root, page), "utf8");
  return [...text.matchAll(/^```(?:js|ts)\n(.*?)^```$/gms)].map(({ 1: code, index }) => ({
    title: `${page}:${text.slice(0, index).split("\n").length + 1}`,
    code: code!,
  }));
}

/** Why a snippet cannot run here, or undefined. */
function lacks(code: string): string | undefined {
  if (/\b(profile\(|cluster\.json)/.test(code) && !addon) return "the native addon is missing";
  if (/\blaunch\(/.test(code) && !python?.torch) return "PyTorch is missing";
  return undefined;
}

describe("every snippet of the library's pages", () => {
  const snippets = ["docs/library.md", "README.md"].flatMap(snippetsOf);

  for (const { title, code } of snippets) {
    const missing = lacks(code);
    it.skipIf(missing)(`runs: ${title}${missing ? ` (skipped: ${missing})` : ""}`, () => {
      const file = join(folder, "snippet.mjs");
      writeFileSync(file, code);
      const done = spawnSync(process.execPath, [file], {
        cwd: folder,
        encoding: "utf8",
        env: { ...process.env, ...(python ? { MPOPT_PYTHON: python.executable } : {}) },
      });
      expect(done.status, done.stdout + done.stderr).toBe(0);
      const said = /\/\/ (E_[A-Z]+)/.exec(code)?.[1];
      if (said) expect(done.stdout).toContain(said);
      if (code.includes("exitCode")) expect(done.stdout).toMatch(/^0 /m);
    });
  }

  it("is found at all", () => {
    expect(snippets.length).toBeGreaterThan(7);
  });
});
