import type { Command } from "commander";
import { MpoptError, writeFileAtomic } from "../contracts/index.js";
import { readIopddl, type Solution, solve } from "../solver/index.js";
import { defineCommand, positiveNumber } from "./context.js";

/** Readers by the name that --format takes. */
const formats = { iopddl: readIopddl };

/** `mpopt solve`: a search problem from a file, without a model or a cluster. */
export function solveCommand(): Command {
  return defineCommand(
    "solve",
    "Solve a strategy-choice problem from a file, with a proven bound.",
    "mpopt solve problem.json.gz --time-limit 60 -o solution.json",
    async (context, [path], options) => {
      const format = options.format as string;
      if (!Object.hasOwn(formats, format)) {
        const known = Object.keys(formats).join(", ");
        throw new MpoptError("E_USAGE", `Expected one of ${known} for --format but found "${format}".`);
      }
      context.progress({ message: `reading ${path}` });
      const problem = formats[format as keyof typeof formats](path!);
      const solution = await solve(problem, {
        seconds: options.timeLimit as number | undefined,
        seed: context.seed,
        signal: context.signal,
        onProgress: ({ objective, bound, seconds }) =>
          context.progress({
            message: `${seconds.toFixed(1)} s  objective ${objective}  bound ${bound}`,
          }),
      });
      context.print(text(solution));
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
      const output = options.output as string | undefined;
      if (output !== undefined) writeFileAtomic(output, `${JSON.stringify(solution.assignment)}\n`);
      const { status, objective, bound, gap, seconds, engine, assignment } = solution;
      context.result({ status, objective, bound, gap, seconds, engine, assignment });
    },
  )
    .argument("<problem>", "the problem's file, plain or .gz")
    .option("--format <name>", `the file's format: ${Object.keys(formats).join(", ")}`, "iopddl")
    .option("--time-limit <seconds>", "stop after this much wall-clock time", positiveNumber)
    .option("-o, --output <file>", "write the assignment to this file");
}

function text(solution: Solution): string {
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
