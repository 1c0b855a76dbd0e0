import { type RuntimeDescription, searchedSchedule } from "./runtime.js";

/**
 * Plain PyTorch, as `apply_plan.py` applies a plan. Its pipeline runtime loads any table of one route as CSV
 * (`_PipelineScheduleRuntime` of torch.distributed.pipelining).
 */
export const torch: RuntimeDescription = {
  name: "torch",
  software: "pytorch",
  pipeline: true,
  sequenceParallel: [true, false],
  schedules: [
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
  context: [],
  experts: false,
  zero: [1, 0, 2, 3],
  hybrid: true,
  recompute: ["none", "selective", "full"],
  besideWholeLayers: ["none", "selective"],
  offload: ["none"],
  /** Dense layers only. */
  splitsExperts: () => false,
  /** Gradients and parameters, where they need not be gathered for schedules of several stages. */
  shards: ({ pipeline, zero }) => zero < 2 || pipeline === 1,
};
