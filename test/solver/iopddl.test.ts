import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, expect, test } from "vitest";
import { readIopddl, solve } from "../../src/solver/index.js";

const example = new URL("data/iopddl-example.json", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "mpopt-iopddl-"));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

test("the contest's example costs 445", async () => {
  for (const engine of ["auto", "highs"] as const) {
    const solution = await solve(readIopddl(example), { engine });
    expect(solution).toMatchObject({ status: "optimal", objective: 445 });
    expect(solution.bound).toBeGreaterThan(444.999);
  }
});

test("reads gzip and any order of keys", () => {
  const { problem } = JSON.parse(readFileSync(example, "utf8"));
  const turned = JSON.stringify({ problem: Object.fromEntries(Object.entries(problem).reverse()) });
  expect(readIopddl(file("turned.json.gz", gzipSync(turned)))).toEqual(readIopddl(example));
});

test("10^18 is forbidden", () => {
  const text = readFileSync(example, "utf8").replace("[55, 65]", "[55, 1000000000000000000]");
  expect(readIopddl(file("infinity.json", text)).nodes[1]!.costs).toEqual([55, Number.POSITIVE_INFINITY]);
});

test.each([
  ["a missing file", () => join(folder, "none.json"), "E_FILE"],
  ["a missing gzip", () => join(folder, "none.json.gz"), "E_FILE"],
  ["truncated JSON", () => file("cut.json", readFileSync(example, "utf8").slice(0, 200)), "E_PARSE"],
  ["a broken gzip", () => file("cut.json.gz", gzipSync("{}").subarray(0, 10)), "E_PARSE"],
  ["another document", () => file("other.json", "{}"), "E_FIELD"],
  [
    "a table too short",
    () => file("table.json", readFileSync(example, "utf8").replace("[30, 40]", "[30]")),
    "E_FIELD",
  ],
])("%s is one sentence", (_what, path, code) => {
  expect(() => readIopddl(path())).toThrowError(expect.objectContaining({ code }));
});
