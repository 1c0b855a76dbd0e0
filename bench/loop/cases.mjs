// Plans of small models for CPU ranks: mixes of data, tensor and pipeline parallelism, ZeRO, recomputation, micro-batch
// and schedule, by what is pinned of each.

/** Plans of two ranks. */
export const twoRanks = [
  { data: 2, microBatch: 1, recompute: "none", zero: 0 },
  { data: 2, microBatch: 4, recompute: "none", zero: 0 },
  { data: 2, microBatch: 4, recompute: "none", zero: 1 },
  { data: 2, microBatch: 2, recompute: "full", zero: 0 },
  { data: 2, microBatch: 4, recompute: "none", zero: 2 },
  { data: 2, microBatch: 2, recompute: "full", zero: 3 },
  { tensor: 2, microBatch: 2, recompute: "none", sequenceParallel: false },
  { tensor: 2, microBatch: 8, recompute: "none", sequenceParallel: false },
  { tensor: 2, microBatch: 4, recompute: "full", sequenceParallel: true },
  { pipeline: 2, microBatch: 1, recompute: "none", schedule: "1f1b" },
  { pipeline: 2, microBatch: 4, recompute: "none", schedule: "1f1b" },
  { pipeline: 2, microBatch: 2, recompute: "full", schedule: "1f1b" },
  { pipeline: 2, microBatch: 2, recompute: "none", schedule: "gpipe" },
  { pipeline: 2, microBatch: 2, recompute: "none", schedule: "interleaved", chunks: 2 },
];

/** Plans of four ranks. */
export const fourRanks = [
  { data: 4, microBatch: 2, recompute: "none", zero: 0 },
  { data: 4, microBatch: 1, recompute: "none", zero: 3 },
  { data: 2, tensor: 2, microBatch: 4, recompute: "none", zero: 0, sequenceParallel: false },
  { tensor: 4, microBatch: 4, recompute: "none", sequenceParallel: false },
  { data: 2, pipeline: 2, microBatch: 2, recompute: "none", zero: 0, schedule: "1f1b" },
  { pipeline: 4, microBatch: 1, recompute: "none", schedule: "1f1b" },
  { pipeline: 4, microBatch: 4, recompute: "none", schedule: "1f1b" },
  { pipeline: 2, tensor: 2, microBatch: 4, recompute: "none", schedule: "1f1b", sequenceParallel: false },
];

/** All degrees that a case leaves out are 1. */
export function pinsOf(wishes) {
  return { data: 1, tensor: 1, pipeline: 1, context: 1, ...wishes };
}

export function nameOf(wishes) {
  return Object.entries(wishes)
    .map(([name, value]) => (typeof value === "string" ? value : `${name} ${value}`))
    .join(", ");
}
