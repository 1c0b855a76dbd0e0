import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { findPython } from "../../src/launch/index.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const main = join(root, "dist/cli/main.js");
const python = await findPython({ ...process.env, PATH: process.env.PATH }, undefined, root);

const data = join(root, "test/data");
/** What the pages take for given, by the name that they use. */
const given: Record<string, string> = {
  "example.json": join(root, "test/solver/data/iopddl-example.json"),
  "resnet50.txt": join(data, "pipedream/resnet50.txt"),
  "vgg16.txt": join(data, "pipedream/vgg16.txt"),
  "bert24.json": join(data, "dnn-partitioning/bert24_training.json"),
  "bert32.json": join(data, "piper/bert32a100.json"),
  "runs.csv": join(data, "validation/runs.csv"),
  "earlier.csv": join(data, "validation/runs.csv"),
  "more.csv": join(data, "validation/runs.csv"),
};

function pagesBelow(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".md"))
    .map((name) => `${folder}/${name}`)
    .sort();
}

/** Lines of shell blocks, and of blocks of no language, that call mpopt; those that go on are joined. */
function commandsOf(page: string): string[] {
  const text = readFileSync(join(root, page), "utf8");
  const blocks = [...text.matchAll(/^```(\w*)\n(.*?)^```$/gms)].filter(([, language]) =>
    ["", "sh"].includes(language!),
  );
  return blocks
    .flatMap(([, , block]) => block!.replaceAll(/\\\n\s*/g, " ").split("\n"))
    .map((line) => line.trim().replace(/\s+#.*$/, ""))
    .filter((line) => /^(npx )?mpopt /.test(line));
}

/** Words as a shell would make them; the pages use no more than quotes and one redirection. */
function run(line: string, folder: string): { status: number | null; output: string } {
  const [, command, target] = /^(?:npx )?mpopt (.*?)(?: > (\S+))?$/.exec(line)!;
  const words = [...command!.matchAll(/'([^']*)'|"([^"]*)"|(\S+)/g)].map(
    ([, single, double, bare]) => single ?? double ?? bare!,
  );
  const done = spawnSync(process.execPath, [main, ...words], {
    cwd: folder,
    encoding: "utf8",
    maxBuffer: 64e6,
    env: { ...process.env, ...(python ? { MPOPT_PYTHON: python.executable } : {}) },
  });
  if (target) writeFileSync(join(folder, target), done.stdout);
  return { status: done.status, output: done.stdout + done.stderr };
}

describe("every command of the documentation", () => {
  for (const page of pagesBelow("docs")) {
    const commands = commandsOf(page);
    if (commands.length === 0) continue;
    const trains = commands.some((line) => /^(npx )?mpopt (launch|quickstart)/.test(line));
    it.skipIf(trains && !python?.torch)(
      `runs: ${page}${trains && !python?.torch ? " (skipped: PyTorch is missing)" : ""}`,
      () => {
        const folder = mkdtempSync(join(tmpdir(), "mpopt-docs-"));
        try {
          for (const [name, path] of Object.entries(given)) copyFileSync(path, join(folder, name));
          for (const line of commands) {
            const { status, output } = run(line, folder);
            expect(status, `${line}\n${output.slice(-2000)}`).toBe(0);
          }
        } finally {
          rmSync(folder, { recursive: true, force: true });
        }
      },
      600_000,
    );
  }

  it("is found at all", () => {
    expect(pagesBelow("docs").flatMap(commandsOf).length).toBeGreaterThan(30);
  });
});

describe("links between pages", () => {
  it("lead to files of the repository", () => {
    const missing: string[] = [];
    for (const page of [...pagesBelow("docs"), "README.md", "examples/README.md", "native/README.md"]) {
      const text = readFileSync(join(root, page), "utf8");
      for (const [, target] of text.matchAll(/\]\((?!https?:|#)([^)#\s]+)/g)) {
        const path = join(root, page, "..", target!);
        try {
          readFileSync(path);
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== "EISDIR") missing.push(`${page}: ${target}`);
        }
      }
    }
    expect(missing).toEqual([]);
  });
});
