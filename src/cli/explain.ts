import type { Command } from "commander";
import { readDocument } from "../contracts/index.js";
import { explainPlan, renderExplanation } from "../report/index.js";
import { defineCommand } from "./context.js";

/** `mpopt explain`: why a plan is as it is. */
export function explainCommand(): Command {
  return defineCommand(
    "explain",
    "say why a plan is as it is: what binds, where the time goes, what the alternatives cost",
    "mpopt explain plan.json",
    (context, [path]) => {
      const plan = readDocument("plan", path!);
      const explanation = explainPlan(plan);
      context.print(renderExplanation(plan, explanation));
      context.result(explanation);
    },
  ).argument("<plan>", "the plan file");
}
