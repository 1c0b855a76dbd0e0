import { type Command, InvalidArgumentError } from "commander";
import { MpoptError, writeFileAtomic } from "../contracts/index.js";
import { readIopddl, type Solution, solve } from "../solver/index.js";
import { type Context, defineCommand, positiveInteger, positiveNumber } from "./context.js";
import {
  type InterFormat,
  interDocument,
  interFormats,
  interText,
  parseBytes,
  type SolveOptions,
} from "./solveFormats.js";

const formatNames = ["iopddl", ...Object.keys(interFormats)];

/** Options that only some formats have, by the name in the code. */
const formatOptions: Readonly<Record<keyof SolveOptions, string>> = {
  machines: "--machines",
  bandwidth: "--bandwidth",
  straight: "--straight",
  memory: "--memory",
  freeTransfers: "--free-transfers",
  contiguous: "--contiguous",
  devices: "--devices",
  batch: "--batch",
  timeUnit: "--time-unit",
  timeLimit: "--time-limit",
};

/** `mpopt solve`: a search problem from a file, without a model or a cluster. */
export function solveCommand(): Command {
  return defineCommand(
    "solve",
    "Solve a problem in another planner's file format, with a proven bound.",
    "mpopt solve vgg16.txt --format pipedream --machines 4,4 --bandwidth 12e9,1.25e9",
    async (context, [path], given) => {
      const format = given.format as string;
      if (!formatNames.includes(format)) {
        throw new MpoptError(
          "E_USAGE",
          `Expected one of ${formatNames.join(", ")} for --format but found "${format}".`,
        );
      }
      const options = given as SolveOptions & { output?: string };
      refuseForeignOptions(format, options);
      if (format === "iopddl") await solveIntra(context, path!, options);
      else await solveInter(context, path!, interFormats[format]!, options);
    },
  )
    .argument("<problem>", "the problem's file (iopddl: plain or .gz)")
    .option("--format <name>", `the file's format: ${formatNames.join(", ")}`, "iopddl")
    .option("--time-limit <seconds>", "stop after this much wall-clock time", positiveNumber)
    .option("--machines <n,n>", "pipedream: machines by level, innermost first", integers)
    .option("--bandwidth <b,b>", "bytes per second; pipedream: by level, innermost first", sizes)
    .option("--straight", "pipedream: no replication")
    .option("--free-transfers", "pipedream: activations cost nothing to send")
    .option("--contiguous", "dnn-partitioning: stages are contiguous (default)")
    .option("--no-contiguous", "dnn-partitioning: a device may hold any nodes")
    .option("--non-contiguous", "same as --no-contiguous")
    .option("--devices <n>", "dnn-partitioning, piper: accelerators (default: the file's)", positiveInteger)
    .option("--memory <bytes>", "memory of one device, 16e9 or 8GiB (default: the file's)", size)
    .option("--batch <n>", "piper: micro-batches in a batch (default: the file's)", positiveInteger)
    .option("--time-unit <unit>", "piper: s or ms, where the file's times are ambiguous")
    .option("-o, --output <file>", "write the answer to this file");
}

/** An option that the format does not know would be ignored in silence. */
function refuseForeignOptions(format: string, options: SolveOptions & { nonContiguous?: boolean }): void {
  if (options.nonContiguous) options.contiguous = false;
  const known: (keyof SolveOptions)[] = format === "iopddl" ? ["timeLimit"] : interFormats[format]!.options;
  for (const [name, flag] of Object.entries(formatOptions)) {
    const key = name as keyof SolveOptions;
    if (options[key] === undefined || known.includes(key)) continue;
    throw new MpoptError("E_USAGE", `Expected options of --format ${format} but found ${flag}.`, [
      `It knows ${known.map((each) => formatOptions[each]).join(", ")}.`,
    ]);
  }
}

async function solveInter(
  context: Context,
  path: string,
  format: InterFormat,
  options: SolveOptions & { output?: string },
): Promise<void> {
  const graph = format.read(path, options);
  for (const warning of graph.warnings) context.note(warning);
  const solution = await format.solve(graph, options, context);
  if (solution.stages.length === 0) {
    throw new MpoptError(
      solution.status === "infeasible" ? "E_INFEASIBLE" : "E_SOLVER",
      `Expected a plan within the limits of ${path} but found none.`,
      solution.reason ? [solution.reason] : [],
    );
  }
  const document = interDocument(graph, solution);
  if (options.output !== undefined) {
    writeFileAtomic(options.output, `${JSON.stringify(document, null, 1)}\n`);
  }
  context.print(interText(solution));
  context.result(document);
}

async function solveIntra(
  context: Context,
  path: string,
  options: SolveOptions & { output?: string },
): Promise<void> {
  context.progress({ message: `reading ${path}` });
  const solution = await solve(readIopddl(path), {
    seconds: options.timeLimit,
    seed: context.seed,
    signal: context.signal,
    onProgress: ({ objective, bound, seconds }) =>
      context.progress({ message: `${seconds.toFixed(1)} s  objective ${objective}  bound ${bound}` }),
  });
  context.print(intraText(solution));
  if (solution.status === "infeasible") {
    throw new MpoptError(
      "E_INFEASIBLE",
      `Expected an assignment within the limits of ${path} but there is none.`,
      [`${solution.engine} proved it in ${solution.seconds.toFixed(2)} s.`],
    );
  }
  if (solution.status === "unknown") {
    throw new MpoptError(
      "E_SOLVER",
      `Expected an assignment for ${path} but none was found in ${solution.seconds.toFixed(1)} s.`,
      ["Give it more time with --time-limit.", `Every assignment costs at least ${solution.bound}.`],
    );
  }
  // The contest's form: one array, the strategy of each node.
  if (options.output !== undefined) {
    writeFileAtomic(options.output, `${JSON.stringify(solution.assignment)}\n`);
  }
  const { status, objective, bound, gap, seconds, engine, assignment } = solution;
  context.result({ status, objective, bound, gap, seconds, engine, assignment });
}

function intraText(solution: Solution): string {
  const { status, objective, bound, gap, seconds, engine, assignment } = solution;
  const shown =
    assignment.slice(0, 40).join(" ") + (assignment.length > 40 ? ` ... (${assignment.length})` : "");
  return [
    `status      ${status}`,
    `objective   ${objective}`,
    `bound       ${bound}`,
    `gap         ${(gap * 100).toPrecision(3)} %`,
    `seconds     ${seconds.toFixed(2)}`,
    `engine      ${engine}`,
    `assignment  ${shown}`,
  ].join("\n");
}

function integers(text: string): number[] {
  return text.split(",").map(positiveInteger);
}

function size(text: string): number {
  try {
    return parseBytes(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

function sizes(text: string): number[] {
  return text.split(",").map(size);
}
