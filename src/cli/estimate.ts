import { readDocument } from "../contracts/index.js";
import { estimatePlan } from "../plan/index.js";
import { formatSeconds } from "../report/index.js";
import { defineCommand } from "./context.js";
import { requireInputs } from "./inputs.js";

export const estimateCommand = () =>
  defineCommand(
    "estimate",
    "price a given plan on a cluster, without a search",
    "mpopt estimate --plan plan.json --cluster h200-sxm:8x16",
    (context, _args, options) => {
      const path = options.plan as string;
      const plan = readDocument("plan", path);
      const { model, cluster } = requireInputs(plan, options);
      const estimate = estimatePlan(plan, model, cluster);
      const fits = estimate.memory.every((entry) => entry.reservedBytes <= entry.limitBytes);
      context.print(
        `${plan.name}, placed as in ${path} on ${cluster.name}: ${formatSeconds(estimate.stepSeconds)} a step (${estimate.provenance}), ` +
          `planned ${formatSeconds(plan.estimate.stepSeconds)}; memory ${fits ? "fits" : "does not fit"}.`,
      );
      context.result({ ...estimate, fits });
    },
  )
    .requiredOption("--plan <plan>", "a mpopt.plan/1 file")
    .option("--model <model>", "model (default: the plan's own source)")
    .option("--cluster <cluster>", "cluster to price it on (default: the plan's own source)");
