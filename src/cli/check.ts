import { MpoptError, readDocument } from "../contracts/index.js";
import { checkPlan } from "../plan/index.js";
import { defineCommand } from "./context.js";
import { type LoadedInputs, loadInputs } from "./inputs.js";

export const checkCommand = () =>
  defineCommand(
    "check",
    "verify a plan: every layer once, degrees, divisibility, memory, certificate",
    "mpopt check plan.json",
    (context, [path], options) => {
      const plan = readDocument("plan", path!);
      const inputs: LoadedInputs = loadInputs(plan, options);
      for (const remark of inputs.remarks) context.note(remark);
      const violations = checkPlan(plan, inputs);
      context.result({ valid: violations.length === 0, priced: inputs.complete, violations });
      if (violations.length > 0) {
        for (const violation of violations) context.print(`✗ ${violation.message}`);
        if (context.json) process.exitCode = 1;
        else
          throw new MpoptError(
            "E_PLAN_INVALID",
            `${path}: expected a valid plan but found ${violations.length} broken invariants.`,
          );
        return;
      }
      const depth = inputs.complete
        ? "its own fields, the model, and the price on the cluster"
        : "its own fields";
      context.print(`${path} holds all invariants (${depth}).`);
    },
  )
    .argument("<plan>", "a mpopt.plan/1 file")
    .option("--model <model>", "model to check against (default: the plan's own source)")
    .option("--cluster <cluster>", "cluster to price it on (default: the plan's own source)");
