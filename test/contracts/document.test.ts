import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { clusterPreset } from "../../src/cluster/index.js";
import {
  checkDocument,
  contracts,
  documentHash,
  MpoptError,
  readDocument,
  serialize,
  writeFileAtomic,
} from "../../src/contracts/index.js";

const folder = mkdtempSync(join(tmpdir(), "mpopt-contracts-"));
const cluster = clusterPreset("a100-80:4x2");

function messageOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(MpoptError);
    return `${(error as MpoptError).code} ${(error as MpoptError).message}`;
  }
  throw new Error("expected a failure");
}

function file(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

describe("documents", () => {
  it("survive a round trip through a file", () => {
    const path = join(folder, "cluster.json");
    writeFileAtomic(path, serialize(cluster));
    expect(readDocument("cluster", path)).toEqual(cluster);
    expect(documentHash(readDocument("cluster", path))).toBe(documentHash(cluster));
  });

  it("hash the same whatever the order of their fields, and differently when a value changes", () => {
    const reversed = Object.fromEntries(Object.entries(cluster).reverse());
    expect(documentHash(reversed)).toBe(documentHash(cluster));
    expect(documentHash({ ...cluster, name: "other" })).not.toBe(documentHash(cluster));
  });

  it.each([
    [
      "missing file",
      () => join(folder, "absent.json"),
      /^E_FILE Expected a readable file at .*absent\.json but it does not exist\.$/,
    ],
    ["folder", () => folder, /^E_FILE Expected a file at .* but found a folder\.$/],
    [
      "empty file",
      () => file("empty.json", ""),
      /^E_PARSE Expected .*empty\.json to hold JSON but found an empty file\.$/,
    ],
    [
      "truncated file",
      () => file("cut.json", serialize(cluster).slice(0, 500)),
      /^E_PARSE Expected .*cut\.json to hold JSON but found a truncated one\.$/,
    ],
    ["text", () => file("text.json", "hello"), /^E_PARSE .*something else\.$/],
    [
      "other contract",
      () => file("model.json", JSON.stringify({ schema: "mpopt.model/1" })),
      /^E_FIELD .*: expected "mpopt\.cluster\/1" for field schema but found "mpopt\.model\/1"\.$/,
    ],
    [
      "future version",
      () => file("future.json", JSON.stringify({ ...cluster, schema: "mpopt.cluster/2" })),
      /^E_VERSION .*: expected mpopt\.cluster\/1 but found mpopt\.cluster\/2, which another version of mpopt wrote\.$/,
    ],
    [
      "missing field",
      () => file("less.json", JSON.stringify({ ...cluster, overlap: undefined })),
      /^E_FIELD .*: expected an object for field overlap but found nothing\.$/,
    ],
    [
      "wrong kind deep inside",
      () => {
        const broken = structuredClone(cluster) as { devices: { count: unknown }[] };
        broken.devices[0]!.count = "eight";
        return file("kind.json", JSON.stringify(broken));
      },
      /^E_FIELD .*: expected a number for field devices\[0\]\.count but found "eight"\.$/,
    ],
  ])("refuse a %s in one sentence", (_name, path, wanted) => {
    expect(messageOf(() => readDocument("cluster", path()))).toMatch(wanted);
  });

  it("refuse unknown fields in a job, where they would be typing errors", () => {
    const job = { schema: "mpopt.job/1", globalBatch: 8, sequence: 16, pins: { tensr: 2 } };
    expect(messageOf(() => checkDocument("job", job, "job.json"))).toBe(
      'E_FIELD job.json: expected no field "tensr" for field pins but found an object.',
    );
  });
});

describe("writeFileAtomic", () => {
  it("leaves nothing behind when it cannot write", () => {
    const occupied = join(folder, "occupied");
    writeFileAtomic(join(occupied, "file"), "x");
    expect(messageOf(() => writeFileAtomic(occupied, "y"))).toMatch(/^E_FILE Expected to write/);
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
    expect(existsSync(join(occupied, "file"))).toBe(true);
  });
});

describe("the published JSON Schemas", () => {
  it.each(Object.values(contracts))("$name is what the contract says", ({ name, major, schema }) => {
    const published = JSON.parse(
      readFileSync(new URL(`../../schema/${name}-${major}.json`, import.meta.url), "utf8"),
    );
    const { title, ...rest } = published;
    expect(title).toBe(`${name}/${major}`);
    expect(rest).toEqual(JSON.parse(JSON.stringify(z.toJSONSchema(schema, { io: "input" }))));
  });
});
