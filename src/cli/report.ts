import type { Command } from "commander";
import { readDocument, writeFileAtomic } from "../contracts/index.js";
import { renderHtml, renderPlan, terminalOptions } from "../report/index.js";
import { defineCommand } from "./context.js";

/** `mpopt report`: a plan as a page, or as a table without `-o`. */
export function reportCommand(): Command {
  return defineCommand(
    "report",
    "write a plan as one HTML page that needs no network; without -o print it as a table",
    "mpopt report plan.json -o report.html",
    (context, [path], options) => {
      const plan = readDocument("plan", path!);
      const output = options.output as string | undefined;
      if (output === undefined) context.print(renderPlan(plan, terminalOptions(process.stdout)));
      else {
        const page = renderHtml(plan);
        writeFileAtomic(output, page);
        context.print(`Wrote ${output}.`);
      }
      context.result({ plan: path, report: output ?? null });
    },
  )
    .argument("<plan>", "the plan file")
    .option("-o, --output <file>", "where to write the page");
}
