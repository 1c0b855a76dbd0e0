import { readFileSync, statSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { z } from "zod";
import { MpoptError, readText } from "../contracts/index.js";
import { checkProblem } from "./check.js";
import type { Problem } from "./problem.js";

/** The contest writes infinity as 10^18; every finite entry is far below. */
const iopddlInfinity = 1e18;
/** V8 strings end at 512 MiB. */
const maximumTextBytes = 400e6;

const numbers = z.array(z.number());
const schema = z.object({
  problem: z.object({
    name: z.string().optional(),
    nodes: z.object({
      intervals: z.array(z.tuple([z.number(), z.number()])),
      costs: z.array(numbers),
      usages: z.array(numbers),
    }),
    edges: z.object({ nodes: z.array(z.tuple([z.number(), z.number()])), costs: z.array(numbers) }),
    usage_limit: z.number().optional(),
  }),
});

/**
 * Reads a problem of the ASPLOS 2025 contest on intra-operator parallelism (google/iopddl), plain or gzipped.
 * @throws MpoptError E_FILE, E_PARSE or E_FIELD
 */
export function readIopddl(path: string): Problem {
  const text = path.endsWith(".gz") ? readGzip(path) : readText(path);
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw new MpoptError("E_PARSE", `Expected ${path} to hold JSON but it does not parse.`, [String(error)], {
      cause: error,
    });
  }
  const parsed = schema.safeParse(document);
  if (!parsed.success) {
    const { path: field, message } = parsed.error.issues[0]!;
    throw new MpoptError(
      "E_FIELD",
      `Expected an IOPDDL problem in ${path} but ${field.join(".") || "the document"} is wrong: ${message}.`,
    );
  }
  const { nodes, edges, usage_limit: usageLimit } = parsed.data.problem;
  const count = nodes.costs.length;
  for (const [what, found, expected] of [
    ["nodes.usages", nodes.usages.length, count],
    ["nodes.intervals", nodes.intervals.length, count],
    ["edges.costs", edges.costs.length, edges.nodes.length],
  ] as const) {
    if (found === expected) continue;
    throw new MpoptError(
      "E_FIELD",
      `Expected ${expected} entries for ${what} in ${path} but found ${found}.`,
    );
  }
  const finite = (cost: number) => (cost >= iopddlInfinity ? Number.POSITIVE_INFINITY : cost);
  const problem: Problem = {
    nodes: nodes.costs.map((costs, index) => ({
      costs: costs.map(finite),
      usages: nodes.usages[index]!,
      interval: nodes.intervals[index]!,
    })),
    edges: edges.costs.map((costs, index) => {
      const [from, to] = edges.nodes[index]!;
      return { from, to, costs: costs.map(finite) };
    }),
    usageLimit,
  };
  checkProblem(problem);
  return problem;
}

function readGzip(path: string): string {
  const tooLong = () =>
    new MpoptError("E_FILE", `Expected ${path} to unpack to at most 400 MB of text but it holds more.`);
  try {
    if (statSync(path).size > maximumTextBytes) throw tooLong();
    return gunzipSync(readFileSync(path), { maxOutputLength: maximumTextBytes }).toString("utf8");
  } catch (error) {
    if (error instanceof MpoptError) throw error;
    const code = (error as NodeJS.ErrnoException).code ?? "";
    if (code === "ERR_BUFFER_TOO_LARGE") throw tooLong();
    if (code.startsWith("Z_")) {
      throw new MpoptError(
        "E_PARSE",
        `Expected ${path} to hold gzipped JSON but it does not unpack.`,
        [code],
        {
          cause: error,
        },
      );
    }
    const why = code === "ENOENT" ? "it does not exist" : code;
    throw new MpoptError("E_FILE", `Expected a readable file at ${path} but ${why}.`, [], { cause: error });
  }
}
