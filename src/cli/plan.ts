import { loadCluster } from "../cluster/index.js";
import { serialize, version, writeFileAtomic } from "../contracts/index.js";
import { lossyFor } from "../launch/index.js";
import { loadModel } from "../models/index.js";
import { planFrontier } from "../plan/frontier.js";
import { createPlan } from "../plan/index.js";
import { planWhatIf } from "../plan/whatIf.js";
import {
  frontierDocument,
  renderFrontier,
  renderPlan,
  renderWhatIf,
  terminalOptions,
  whatIfDocument,
} from "../report/index.js";
import { defineCommand } from "./context.js";
import {
  addPlanOptions,
  checkPlanOptions,
  jobOfOptions,
  type PlanCommandOptions,
  parseDevices,
} from "./planOptions.js";

/** `mpopt plan`: the best plan with its proof, and on request the frontier and other questions beside it. */
export const planCommand = () =>
  addPlanOptions(
    defineCommand(
      "plan",
      "find the fastest plan that fits, with a proof",
      "mpopt plan --model llama-3.1-70b --cluster h100-sxm:8x16 --global-batch 256 --seq 8192 -o plan.json",
      async (context, _args, given) => {
        const options = given as unknown as PlanCommandOptions;
        checkPlanOptions(options);
        const devices = options.devices === undefined ? undefined : parseDevices(options.devices);
        const model = loadModel(options.model);
        const cluster = loadCluster(options.cluster);
        const request = {
          model,
          cluster,
          job: jobOfOptions(options, model, cluster),
          seed: context.seed,
          version,
          lossyFor,
          dollarsPerHour: options.dollarsPerHour,
          signal: context.signal,
          onProgress: context.progress,
        };
        const plan = await createPlan(request);
        if (options.output) writeFileAtomic(options.output, serialize(plan));
        const terminal = terminalOptions(process.stdout);
        context.print(renderPlan(plan, terminal));
        const document: Record<string, unknown> = {};
        if (options.frontier) {
          const points = await planFrontier({ ...request, devices, known: [plan] });
          context.print(`\n${renderFrontier(points, terminal)}`);
          document.frontier = frontierDocument(points);
        }
        if (options.whatIf) {
          const answers = await planWhatIf(plan, options.whatIf, request);
          context.print(`\n${renderWhatIf(plan, answers, terminal)}`);
          document.whatIf = whatIfDocument(plan, answers);
        }
        if (options.output) context.print(`\nWritten to ${options.output}.`);
        context.result(Object.keys(document).length > 0 ? { plan, ...document } : plan);
      },
    ),
  );
