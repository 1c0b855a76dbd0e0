import type { RuntimeDescription } from "./runtime.js";

/**
 * torchtitan: FSDP2 with or without replicas, tensor parallelism with its sequences divided, pipelines by PyTorch's own
 * classes or a CSV. Under a pipeline gradients are reduced behind the last micro-batch and parameters stay whole between
 * passes, which is what ZeRO-1 holds; without one they are sharded (`fsdp_reshard_after_forward`).
 */
export const torchtitan: RuntimeDescription = {
  name: "torchtitan",
  software: "pytorch",
  pipeline: true,
  sequenceParallel: [true],
  schedules: ["1f1b", "gpipe", "interleaved", "looped-bfs", "interleaved-zb", "zbv", "dualpipev"],
  context: [],
  experts: false,
  zero: [0, 1, 2, 3],
  hybrid: true,
  recompute: ["none", "full"],
  besideWholeLayers: [],
  offload: ["none"],
  splitsExperts: () => false,
  shards: ({ pipeline, zero }) => zero === 0 || (pipeline > 1 ? zero === 1 : zero > 1),
};
