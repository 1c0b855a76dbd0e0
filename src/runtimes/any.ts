import { type RuntimeDescription, searchedSchedule } from "./runtime.js";

/** All that the cost model prices, whether a launcher has it or not. */
export const any: RuntimeDescription = {
  name: "any",
  software: "plain",
  pipeline: true,
  sequenceParallel: [true, false],
  schedules: [
    "gpipe",
    "1f1b",
    "1f1b-async",
    "2bw",
    "interleaved",
    "looped-bfs",
    "interleaved-zb",
    "zb-h1",
    "zb-h2",
    "zbv",
    "dualpipe",
    "dualpipev",
    "chimera",
    searchedSchedule,
  ],
  context: ["ring", "all-to-all"],
  experts: true,
  zero: [1, 0, 2, 3],
  hybrid: true,
  recompute: ["none", "selective", "full"],
  besideWholeLayers: ["none", "selective"],
  offload: ["none", "optimizer", "activations", "both"],
  freeShardings: true,
};
