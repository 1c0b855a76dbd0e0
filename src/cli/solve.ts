import { type Command, InvalidArgumentError } from "commander";
import { MpoptError, writeFileAtomic } from "../contracts/index.js";
import { readIopddl, type Solution, solve } from "../solver/index.js";
import { type Context, defineCommand, positiveInteger, positiveNumber } from "./context.js";
import { interDocument, interFormats, interText, parseBytes, type SolveOptions } from "./solveFormats.js";
import { costModels } from "./solveModels.js";

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
  objective: "--objective",
  chunks: "--chunks",
  timeUnit: "--time-unit",
  repeat: "--repeat",
  cluster: "--cluster",
  microBatch: "--micro-batch",
  seq: "--seq",
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
      const options = given as Given;
      const costModel = options.costModel ?? interFormats[format]?.costModel;
      if (costModel !== undefined && !Object.hasOwn(costModels, costModel)) {
        throw new MpoptError(
          "E_USAGE",
          `Expected one of ${Object.keys(costModels).join(", ")} for --cost-model but found "${costModel}".`,
        );
      }
      refuseForeignOptions(format, costModel, options);
      if (format === "iopddl") await solveIntra(context, path!, options);
      else await solveInter(context, path!, format, costModel!, options);
    },
  )
    .argument("<problem>", "the problem's file (iopddl: plain or .gz)")
    .option("--format <name>", `the file's format: ${formatNames.join(", ")}`, "iopddl")
    .option(
      "--cost-model <name>",
      `price plans as ${Object.keys(costModels).join(", ")} (default: the format's)`,
    )
    .option("--time-limit <seconds>", "stop after this much wall-clock time", positiveNumber)
    .option("--machines <n,n>", "pipedream, alpa, mpopt: machines by level, innermost first", integers)
    .option("--bandwidth <b,b>", "bytes per second, by level where there are several", sizes)
    .option("--straight", "pipedream: no replication")
    .option("--free-transfers", "pipedream: activations cost nothing to send")
    .option("--contiguous", "dnn-partitioning: stages are contiguous (default)")
    .option("--no-contiguous", "dnn-partitioning: a device may hold any nodes")
    .option("--non-contiguous", "same as --no-contiguous")
    .option("--devices <n>", "dnn-partitioning, piper: accelerators (default: the file's)", positiveInteger)
    .option("--memory <bytes>", "memory of one device, 16e9 or 8GiB (default: the file's)", size)
    .option(
      "--batch <n>",
      "piper, alpa, mpopt: micro-batches in a step (default: the file's)",
      positiveInteger,
    )
    .option("--objective <name>", "mpopt: step (fill, drain, synchronisation) or steady", objective)
    .option("--chunks <n>", "mpopt: stages that one device may hold (default: 1)", positiveInteger)
    .option("--time-unit <unit>", "piper: s or ms, where the file's times are ambiguous")
    .option("--repeat <n>", "aceso: how often the profiled layer repeats", positiveInteger)
    .option(
      "--cluster <cluster>",
      "model, mpopt: cluster file, or PART:GPUSxNODES, hosts that differ joined by +",
    )
    .option("--micro-batch <n>", "model: sequences in one micro-batch", positiveInteger)
    .option("--seq <n>", "model: tokens in one sequence", positiveInteger)
    .option("-o, --output <file>", "write the answer to this file");
}

type Given = SolveOptions & { output?: string; costModel?: string; nonContiguous?: boolean };

/** An option that neither the format nor the cost model knows would be ignored in silence. */
function refuseForeignOptions(format: string, costModel: string | undefined, options: Given): void {
  if (options.nonContiguous) options.contiguous = false;
  if (format === "iopddl" && costModel !== undefined) {
    throw new MpoptError(
      "E_USAGE",
      "Expected no --cost-model for --format iopddl, whose costs are in the file.",
    );
  }
  const known: (keyof SolveOptions)[] =
    format === "iopddl"
      ? ["timeLimit"]
      : [...new Set([...interFormats[format]!.options, ...costModels[costModel!]!.options])];
  for (const [name, flag] of Object.entries(formatOptions)) {
    const key = name as keyof SolveOptions;
    if (options[key] === undefined || known.includes(key)) continue;
    const model = costModel && costModel !== format ? ` with the cost model ${costModel}` : "";
    throw new MpoptError("E_USAGE", `Expected options of --format ${format}${model} but found ${flag}.`, [
      `It knows ${known.map((each) => formatOptions[each]).join(", ")}.`,
    ]);
  }
}

async function solveInter(
  context: Context,
  path: string,
  format: string,
  costModel: string,
  options: Given,
): Promise<void> {
  const graph = await interFormats[format]!.read(path, options);
  for (const warning of graph.warnings) context.note(warning);
  const solution = await costModels[costModel]!.solve(graph, options, context);
  if (solution.stages.length === 0) {
    throw new MpoptError(
      solution.status === "infeasible" ? "E_INFEASIBLE" : "E_SOLVER",
      `Expected a plan within the limits of ${path} but found none.`,
      solution.reason ? [solution.reason] : [],
    );
  }
  const document = { costModel, ...interDocument(graph, solution) };
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

function objective(text: string): "steady" | "step" {
  if (text === "steady" || text === "step") return text;
  throw new InvalidArgumentError(`Expected steady or step but found "${text}".`);
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
