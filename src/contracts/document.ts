import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { z } from "zod";
import { clusterSchema } from "./cluster.js";
import { MpoptError } from "./errors.js";
import { jobSchema } from "./job.js";
import { modelSchema } from "./model.js";
import { planSchema } from "./plan.js";
import { runSchema } from "./run.js";

/** Every contract by its name; the major version is part of the name that a file carries. */
export const contracts = {
  model: { name: "mpopt.model", major: 1, schema: modelSchema },
  cluster: { name: "mpopt.cluster", major: 1, schema: clusterSchema },
  job: { name: "mpopt.job", major: 1, schema: jobSchema },
  plan: { name: "mpopt.plan", major: 1, schema: planSchema },
  run: { name: "mpopt.run", major: 1, schema: runSchema },
} as const;

export type ContractName = keyof typeof contracts;
export type Contract<N extends ContractName> = z.infer<(typeof contracts)[N]["schema"]>;

/** Largest text that is read as one string; V8 strings end at 512 MiB. */
const maximumTextBytes = 400e6;

/**
 * Reads a text file.
 * @throws MpoptError E_FILE when it cannot be read.
 */
export function readText(path: string): string {
  try {
    const stats = statSync(path);
    if (stats.isDirectory()) throw new MpoptError("E_FILE", `Expected a file at ${path} but found a folder.`);
    if (stats.size > maximumTextBytes) {
      throw new MpoptError(
        "E_FILE",
        `Expected ${path} to be at most 400 MB but it has ${Math.round(stats.size / 1e6)} MB.`,
      );
    }
    return readFileSync(path, "utf8");
  } catch (error) {
    if (error instanceof MpoptError) throw error;
    const code = (error as NodeJS.ErrnoException).code;
    const why =
      code === "ENOENT" ? "it does not exist" : code === "EACCES" ? "permission denied" : String(code);
    throw new MpoptError("E_FILE", `Expected a readable file at ${path} but ${why}.`, [], { cause: error });
  }
}

/**
 * Reads a file as JSON.
 * @throws MpoptError E_FILE or E_PARSE.
 */
export function readJson(path: string): unknown {
  const text = readText(path);
  try {
    return JSON.parse(text);
  } catch (error) {
    const truncated = /end of JSON input|Unterminated/.test(String(error));
    const found = text.trim() === "" ? "an empty file" : truncated ? "a truncated one" : "something else";
    throw new MpoptError("E_PARSE", `Expected ${path} to hold JSON but found ${found}.`, [String(error)], {
      cause: error,
    });
  }
}

function describe(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (Array.isArray(value) && value.some((each) => typeof each !== "number")) {
    return `a list of ${value.length}`;
  }
  if (typeof value === "object" && !Array.isArray(value)) return "an object";
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function valueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  let value = root;
  for (const key of path) value = (value as Record<PropertyKey, unknown> | undefined)?.[key];
  return value;
}

function fieldName(path: readonly PropertyKey[]): string {
  return path
    .map((key, i) => (typeof key === "number" ? `[${key}]` : i ? `.${String(key)}` : String(key)))
    .join("");
}

/** What a failed check expected, without the half-sentence about what was found. */
function expectation(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case "invalid_type":
      return `${/^[aeiou]/.test(issue.expected) ? "an" : "a"} ${issue.expected}`;
    case "invalid_value":
      return `one of ${issue.values.map((value) => JSON.stringify(value)).join(", ")}`;
    case "too_small":
      return `${issue.inclusive ? "at least" : "more than"} ${issue.minimum}`;
    case "too_big":
      return `${issue.inclusive ? "at most" : "less than"} ${issue.maximum}`;
    case "unrecognized_keys":
      return `no field ${issue.keys.map((key) => `"${key}"`).join(", ")}`;
    default:
      return issue.message;
  }
}

/**
 * Checks a value against a schema.
 * @param where the file, or the words that name the value in an error.
 * @throws MpoptError E_FIELD with the first failing field, what was expected and what was found.
 */
export function checkValue<S extends z.ZodType>(schema: S, value: unknown, where: string): z.infer<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [first, ...others] = result.error.issues;
  const path = first!.path;
  const field = path.length ? `field ${fieldName(path)}` : "the document";
  throw new MpoptError(
    "E_FIELD",
    `${where}: expected ${expectation(first!)} for ${field} but found ${describe(valueAt(value, path))}.`,
    others.slice(0, 5).map((issue) => `${fieldName(issue.path)}: expected ${expectation(issue)}`),
  );
}

/**
 * Checks that a value is a document of the wanted contract.
 * @throws MpoptError E_VERSION for a newer major, E_FIELD for anything else that does not fit.
 */
export function checkDocument<N extends ContractName>(
  contract: N,
  value: unknown,
  where: string,
): Contract<N> {
  const { name, major, schema } = contracts[contract];
  const found = (value as { schema?: unknown } | null)?.schema;
  const match = typeof found === "string" ? /^(mpopt\.[a-z]+)\/(\d+)$/.exec(found) : null;
  if (!match || match[1] !== name) {
    throw new MpoptError(
      "E_FIELD",
      `${where}: expected "${name}/${major}" for field schema but found ${describe(found)}.`,
    );
  }
  if (Number(match[2]) !== major) {
    throw new MpoptError(
      "E_VERSION",
      `${where}: expected ${name}/${major} but found ${found}, which another version of mpopt wrote.`,
      ["Install the version of mpopt that reads it, or write the file again with this one."],
    );
  }
  return checkValue(schema, value, where) as Contract<N>;
}

/** Reads and checks a document; see `checkDocument` for the errors. */
export function readDocument<N extends ContractName>(contract: N, path: string): Contract<N> {
  return checkDocument(contract, readJson(path), path);
}

/**
 * Writes a file so that a reader sees the old content or the new one, never a part: a temporary file beside
 * it, then a rename.
 * @throws MpoptError E_FILE.
 */
export function writeFileAtomic(path: string, content: string | Uint8Array, mode?: number): void {
  const folder = dirname(path);
  const temporary = join(folder, `.${basename(path)}.${process.pid}.tmp`);
  try {
    mkdirSync(folder, { recursive: true });
    writeFileSync(temporary, content, mode === undefined ? {} : { mode });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    const code = (error as NodeJS.ErrnoException).code;
    throw new MpoptError("E_FILE", `Expected to write ${path} but the system answered ${code}.`, [], {
      cause: error,
    });
  }
}

/** The text of a document as mpopt writes it. */
export function serialize(document: unknown): string {
  return `${JSON.stringify(document, null, 1)}\n`;
}

/** SHA-256 over a document's fields in sorted order, so that formatting does not matter. */
export function documentHash(document: unknown): string {
  const sorted = JSON.stringify(document, (_key, value: unknown) =>
    value && typeof value === "object" && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)))
      : value,
  );
  return createHash("sha256").update(sorted).digest("hex");
}
