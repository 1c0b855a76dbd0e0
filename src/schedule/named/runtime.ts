import type { Runtime } from "../../contracts/index.js";
import { scheduleNames } from "./index.js";

/**
 * Schedules without a flush: weights are updated while micro-batches are in flight, which changes what is trained.
 * Nobody gets them without asking.
 */
export const asynchronousSchedules: ReadonlySet<string> = new Set(["1f1b-async", "2bw"]);

/** The name of schedules that were searched for a plan; their actions stand in the plan. */
export const searchedSchedule = "searched";

/**
 * What each runtime executes. Megatron-LM has 1F1B and its interleaved form built in; PyTorch's pipeline runtime
 * loads any table of one route as CSV (`_PipelineScheduleRuntime` of torch.distributed.pipelining); `portable` is
 * what all of them share.
 */
const executed: Readonly<Record<Runtime, readonly string[]>> = {
  portable: ["1f1b"],
  megatron: ["1f1b", "interleaved"],
  torch: [
    "1f1b",
    "gpipe",
    "interleaved",
    "looped-bfs",
    "interleaved-zb",
    "zb-h1",
    "zb-h2",
    "zbv",
    "dualpipev",
    searchedSchedule,
  ],
  any: [...scheduleNames, searchedSchedule],
};

/** Names of the schedules that a runtime executes, `searched` among them where it takes any table. */
export function schedulesOfRuntime(runtime: Runtime): readonly string[] {
  return executed[runtime];
}

/**
 * Why a runtime does not execute a schedule of so many ranks, chunks a rank and micro-batches, in a clause that
 * follows "but"; undefined where it does.
 */
export function runtimeRefusal(
  runtime: Runtime,
  name: string,
  { ranks, chunks, microBatches }: { ranks: number; chunks: number; microBatches: number },
): string | undefined {
  if (!executed[runtime].includes(name)) {
    return `runtime ${runtime} executes ${executed[runtime].join(", ")}`;
  }
  if (runtime !== "megatron" || name !== "interleaved") return undefined;
  // `validate_args` and `forward_backward_pipelining_with_interleaving` of Megatron-LM.
  if (ranks < 2 || chunks < 2) return "Megatron-LM interleaves at least 2 chunks over at least 2 ranks";
  if (microBatches % ranks !== 0) {
    return `Megatron-LM interleaves a multiple of ${ranks} micro-batches, one a rank`;
  }
  return undefined;
}
