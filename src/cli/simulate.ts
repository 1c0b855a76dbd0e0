import type { Command } from "commander";
import { readDocument, writeFileAtomic } from "../contracts/index.js";
import { formatBytes, formatPercent, formatSeconds, scheduleTitle, traceOf } from "../report/index.js";
import { simulatePlan } from "../schedule/index.js";
import { defineCommand } from "./context.js";

/** `mpopt simulate`: runs a plan's schedule in time. */
export function simulateCommand(): Command {
  return defineCommand(
    "simulate",
    "run a plan's pipeline schedule in time: step time, bubbles and memory of every pipeline rank",
    "mpopt simulate --plan plan.json --trace trace.json",
    (context, _args, options) => {
      const plan = readDocument("plan", options.plan as string);
      const tracePath = options.trace as string | undefined;
      const step = simulatePlan(plan, { events: tracePath !== undefined });
      const peakBytes = new Map(
        plan.estimate.memory.map((entry) => [entry.pipelineRank, entry.reservedBytes]),
      );
      const ranks = step.pipeline.ranks.map((rank, index) => ({
        busySeconds: rank.busySeconds,
        idleSeconds: rank.idleSeconds,
        peakMicroBatches: rank.peakMicroBatches,
        peakBytes: peakBytes.get(index) ?? null,
      }));
      if (tracePath !== undefined) {
        writeFileAtomic(tracePath, `${JSON.stringify(traceOf(plan, step))}\n`);
        context.note(`Wrote ${tracePath}; open it in Perfetto or chrome://tracing.`);
      }
      const { pipeline } = step;
      context.result({
        stepSeconds: step.stepSeconds,
        pipelineSeconds: pipeline.stepSeconds,
        estimatedStepSeconds: plan.estimate.stepSeconds,
        bubbleRatio: pipeline.bubbleRatio,
        ranks,
        ...(tracePath === undefined ? {} : { trace: tracePath }),
      });
      context.print(
        `${scheduleTitle(plan.schedule.name)}, ${plan.schedule.microBatches} micro-batches: step ${formatSeconds(step.stepSeconds)}, ` +
          `of it ${formatSeconds(pipeline.stepSeconds)} in the pipeline, which idles ${formatPercent(pipeline.bubbleRatio)}.\n`,
      );
      context.print("  rank      busy      idle   share  in flight      memory");
      ranks.forEach((rank, index) => {
        const idle = pipeline.stepSeconds > 0 ? rank.idleSeconds / pipeline.stepSeconds : 0;
        context.print(
          `${String(index).padStart(6)}${formatSeconds(rank.busySeconds).padStart(10)}${formatSeconds(rank.idleSeconds).padStart(10)}` +
            `${formatPercent(idle).padStart(8)}${String(rank.peakMicroBatches).padStart(11)}` +
            `${(rank.peakBytes === null ? "unknown" : formatBytes(rank.peakBytes)).padStart(12)}`,
        );
      });
    },
  )
    .requiredOption("--plan <file>", "the plan to simulate")
    .option("--trace <file>", "write the timeline as a trace for Perfetto");
}
