import { type Command, InvalidArgumentError } from "commander";
import { writeFileAtomic } from "../contracts/index.js";
import {
  formatBytes,
  formatPercent,
  formatSeconds,
  plural,
  renderSimulation,
  renderTimeline,
  scheduleTitle,
  traceOf,
  waitSentence,
} from "../report/index.js";
import { writeScheduleCsv } from "../schedule/index.js";
import {
  type Context,
  defineCommand,
  nonNegativeNumber,
  positiveInteger,
  positiveNumber,
} from "./context.js";
import { type Played, parseTimes, play, type SimulateInputs, simulatedNames } from "./simulateInputs.js";

/** Columns for the timeline where stdout is no terminal. */
const defaultColumns = 120;

/** `mpopt simulate`: plays a pipeline schedule in time, a plan's or one alone. */
export function simulateCommand(): Command {
  return defineCommand(
    "simulate",
    "play a pipeline schedule in time: step time, bubbles, memory and waits of every pipeline rank",
    "mpopt simulate --plan plan.json --trace trace.json\n" +
      "  $ mpopt simulate --schedule zbv --ranks 4 --micro-batches 8 --times 1,1,1",
    async (context, _args, options) => {
      const given = options as SimulateInputs & { trace?: string; report?: string; csv?: string };
      const { trace, report, csv } = given;
      const detailed = trace !== undefined || report !== undefined;
      const played = await play(given, context, {
        events: detailed || !context.json,
        transfers: trace !== undefined,
        memoryCurve: detailed,
      });
      const { table } = played.step;
      const rows = csv === undefined ? undefined : writeScheduleCsv(table);
      if (trace !== undefined) {
        const title = played.plan?.name ?? scheduleTitle(table.name);
        writeFileAtomic(trace, `${JSON.stringify(traceOf(title, played.step))}\n`);
        context.note(`Wrote ${trace}; open it in Perfetto or chrome://tracing.`);
      }
      if (report !== undefined) {
        writeFileAtomic(report, renderSimulation(played.step, played.plan));
        context.note(`Wrote ${report}.`);
      }
      if (rows !== undefined) {
        writeFileAtomic(csv!, rows);
        context.note(`Wrote ${csv}; torch.distributed.pipelining and torchtitan read it.`);
      }
      const files = Object.fromEntries(
        Object.entries({ trace, report, csv }).filter(([, path]) => path !== undefined),
      );
      context.result({ ...resultOf(played), ...files });
      if (!context.json) print(context, played);
    },
  )
    .option("--plan <file>", "play a plan's stages: its own schedule unless --schedule or --actions is given")
    .option("--schedule <name>", `one of ${simulatedNames.join(", ")}`)
    .option("--actions <file>", "play an action table in the CSV form of torch.distributed.pipelining")
    .option("--ranks <n>", "pipeline ranks", positiveInteger)
    .option("--chunks <n>", "stages that each rank holds (default: the schedule's own)", positiveInteger)
    .option("--micro-batches <n>", "micro-batches in a step", positiveInteger)
    .option(
      "--group-size <n>",
      "interleaved, interleaved-zb: micro-batches in a row on a chunk",
      positiveInteger,
    )
    .option(
      "--times <f,b,w>",
      "seconds of the forward, backward-input and backward-weight of one micro-batch on one stage, that is on one chunk, " +
        "not on all of a rank; for unequal stages one group each, in the order of the forward pass: 1,1,1/2,2,2 (default: 1,1,1)",
      parseTimes,
    )
    .option("--transfer <s>", "seconds between two ranks, either way (default: 0)", nonNegativeNumber)
    .option("--placement <loop|v>", "searched: stages dealt in turns, or there and back", placement)
    .option("--in-flight <n>", "searched: most stage activations that a rank may hold", positiveInteger)
    .option("--time-limit <s>", "searched: wall-clock seconds (default: 10)", positiveNumber)
    .option("--trace <file>", "write the timeline as a trace for Perfetto")
    .option("--report <file>", "write timeline, waits and memory as one HTML page that needs no network")
    .option("-o, --csv <file>", "write the action table as CSV for torch.distributed.pipelining");
}

function placement(text: string): string {
  if (text === "loop" || text === "v") return text;
  throw new InvalidArgumentError(`Expected loop or v but found "${text}".`);
}

/** The command's JSON document. */
function resultOf({ step, search, plan, peakBytes }: Played): object {
  const { table, pipeline } = step;
  const { steadySecondsPerMicroBatch } = pipeline;
  return {
    schedule: table.name,
    stages: table.stages,
    microBatches: table.microBatches,
    stepSeconds: step.stepSeconds,
    pipelineSeconds: pipeline.stepSeconds,
    ...(plan ? { estimatedStepSeconds: plan.estimate.stepSeconds } : {}),
    bubbleRatio: pipeline.bubbleRatio,
    spanSeconds: pipeline.spanSeconds,
    spanBubbleRatio: pipeline.spanBubbleRatio,
    ...(steadySecondsPerMicroBatch === undefined ? {} : { steadySecondsPerMicroBatch }),
    ...(search
      ? { status: search.status, bound: search.bound, gap: search.gap, searchSeconds: search.cpuSeconds }
      : {}),
    ranks: pipeline.ranks.map((rank, r) => ({
      busySeconds: rank.busySeconds,
      idleSeconds: rank.idleSeconds,
      peakMicroBatches: rank.peakMicroBatches,
      peakBytes: peakBytes[r] ?? null,
      waits: rank.waits,
    })),
  };
}

function print(context: Context, { step, search, plan, peakBytes }: Played): void {
  const { table, pipeline } = step;
  const ranks = pipeline.ranks.length;
  const inPipeline = plan
    ? `of it ${formatSeconds(pipeline.stepSeconds)} in the pipeline, which idles`
    : `${plural(ranks, "rank")} with ${plural(table.stages, "stage")}, which idle`;
  context.print(
    `${scheduleTitle(table.name)}, ${plural(table.microBatches, "micro-batch")}: step ${formatSeconds(step.stepSeconds)}, ` +
      `${inPipeline} ${formatPercent(pipeline.bubbleRatio)}.`,
  );
  if (search) {
    const proof =
      search.status === "optimal"
        ? "Proven optimal"
        : `No schedule of these stages and this memory takes less than ${formatSeconds(search.bound)} in the pipeline (gap ${formatPercent(search.gap)})`;
    context.print(`${proof}; searched for ${formatSeconds(search.cpuSeconds)} of CPU time.`);
  }
  if (pipeline.steadySecondsPerMicroBatch !== undefined) {
    context.print(
      `No flush: once full, the pipeline takes ${formatSeconds(pipeline.steadySecondsPerMicroBatch)} a micro-batch.`,
    );
  }
  const timeline = renderTimeline(pipeline, process.stdout.columns ?? defaultColumns);
  if (timeline.length) {
    const legend =
      "F forward, B backward, I and W its halves, by micro-batch; small on every other chunk; dots: idle";
    context.print(`\n${timeline.join("\n")}\n${legend}`);
  }
  const known = peakBytes.some((bytes) => bytes !== null);
  context.print(
    `\n  rank      busy      idle   share  in flight${known ? "      memory" : ""}  longest wait`,
  );
  pipeline.ranks.forEach(({ busySeconds, idleSeconds, peakMicroBatches, waits }, r) => {
    const idle = pipeline.stepSeconds > 0 ? idleSeconds / pipeline.stepSeconds : 0;
    const bytes = peakBytes[r] ?? null;
    const memory = known ? (bytes === null ? "unknown" : formatBytes(bytes)).padStart(12) : "";
    const wait = waits[0] ? `${waitSentence(waits[0])}: ${formatSeconds(waits[0].seconds)}` : "none";
    context.print(
      `${String(r).padStart(6)}${formatSeconds(busySeconds).padStart(10)}${formatSeconds(idleSeconds).padStart(10)}` +
        `${formatPercent(idle).padStart(8)}${String(peakMicroBatches).padStart(11)}${memory}  ${wait}`,
    );
  });
}
