import type { PlanWishes } from "./planFactory.js";

/** Plans that `train.test.ts` trains, by the number of ranks: over few steps, or over many with few micro-batches. */

export const twoRanks: Record<string, PlanWishes> = {
  "llama, data 2": { data: 2 },
  "llama, data 2, ZeRO-1": { data: 2, zero: 1 },
  "llama, tensor 2": { tensor: 2, microBatches: 2 },
  "llama, tensor 2, sequence parallel, odd vocabulary": {
    tensor: 2,
    sequenceParallel: true,
    vocabulary: 97,
    microBatches: 2,
  },
  "llama, pipeline 2, 3 layers unevenly": { pipeline: 2, layersPerStage: [1, 2] },
  "gpt2 tied, tensor 2, sequence parallel, full recompute": {
    family: "gpt2",
    tensor: 2,
    sequenceParallel: true,
    recompute: "full",
    microBatches: 2,
  },
  "gpt2 tied, pipeline 2": { family: "gpt2", pipeline: 2 },
  "llama, pipeline 2, GPipe, full recompute": { pipeline: 2, schedule: "gpipe", recompute: "full" },
  "llama, data 2, ZeRO-2": { data: 2, zero: 2 },
  "llama, data 2, ZeRO-3, odd vocabulary": { data: 2, zero: 3, vocabulary: 97 },
  "gpt2 tied, data 2, ZeRO-3, full recompute": { data: 2, zero: 3, family: "gpt2", recompute: "full" },
  "gpt2 tied from the meta device, data 2, ZeRO-3": { name: "meta", data: 2, zero: 3, family: "gpt2" },
  "llama from the meta device, data 2, ZeRO-1": { name: "meta", data: 2, zero: 1 },
  "llama, data 2, the first of 3 layers recomputed": { data: 2, layers: 3, recomputeLayers: 1 },
  "llama, data 2, ZeRO-3, a layer recomputed whole beside selective": {
    data: 2,
    zero: 3,
    layers: 3,
    recomputeLayers: 1,
    recompute: "selective",
  },
};

export const fourRanks: Record<string, PlanWishes> = {
  "llama tied, pipeline 2, data 2, ZeRO-1": { pipeline: 2, data: 2, zero: 1, tied: true },
  "llama, data 2, tensor 2, ZeRO-1, selective recompute": {
    data: 2,
    tensor: 2,
    zero: 1,
    sequenceParallel: true,
    recompute: "selective",
    layers: 1,
    microBatches: 2,
  },
  "gpt2 tied, pipeline 2, tensor 2": {
    family: "gpt2",
    pipeline: 2,
    tensor: 2,
    sequenceParallel: true,
    microBatches: 3,
  },
  "llama, data 4, ZeRO-1 in groups of 2": { data: 4, zero: 1, shards: 2, microBatches: 2 },
  "llama, data 4, ZeRO-2 in groups of 2": { data: 4, zero: 2, shards: 2, microBatches: 2 },
  "llama tied, pipeline 2, data 2, ZeRO-3": { data: 2, zero: 3, pipeline: 2, tied: true },
  "llama, pipeline 2, data 2, ZeRO-2, GPipe": { data: 2, zero: 2, pipeline: 2, schedule: "gpipe" },
  "gpt2 tied, data 2, tensor 2, ZeRO-2": { data: 2, zero: 2, tensor: 2, family: "gpt2", microBatches: 2 },
};

// Small where tensor ranks are: DTensor's calls take most of the processors' time.
export const longOnTwoRanks: Record<string, PlanWishes> = withTwo({
  "llama, data 2, ZeRO-1, bf16 over f32 weights": { data: 2, zero: 1, parameters: "bf16" },
  "llama, data 2, ZeRO-3, bf16 over f32 weights": { data: 2, zero: 3, parameters: "bf16" },
  "llama, pipeline 2, bf16 over f32 weights": { pipeline: 2, parameters: "bf16", layersPerStage: [1, 2] },
  "gpt2 tied, data 2, ZeRO-2, selective recompute": {
    data: 2,
    zero: 2,
    family: "gpt2",
    recompute: "selective",
  },
  "gpt2 tied, tensor 2, sequence parallel": {
    tensor: 2,
    sequenceParallel: true,
    family: "gpt2",
    microBatches: 1,
  },
  "gpt2 tied, interleaved, unevenly": {
    schedule: "interleaved",
    pipeline: 2,
    layersPerStage: [2, 1, 0, 1],
    family: "gpt2",
  },
});

export const longOnFourRanks: Record<string, PlanWishes> = withTwo({
  "llama, data 2, tensor 2, ZeRO-3, sequence parallel, selective recompute": {
    data: 2,
    zero: 3,
    tensor: 2,
    sequenceParallel: true,
    recompute: "selective",
    layers: 1,
  },
  "gpt2 tied, data 2, tensor 2, ZeRO-3, full recompute": {
    data: 2,
    zero: 3,
    tensor: 2,
    family: "gpt2",
    recompute: "full",
    microBatches: 1,
  },
  "llama tied, data 4, ZeRO-3 in groups of 2, full recompute": {
    data: 4,
    zero: 3,
    shards: 2,
    tied: true,
    recompute: "full",
    microBatches: 1,
  },
  "llama, pipeline 2 unevenly, data 2, ZeRO-3, a layer of each stage recomputed": {
    data: 2,
    zero: 3,
    pipeline: 2,
    layersPerStage: [1, 2],
    recomputeLayers: 1,
  },
  "gpt2 tied, interleaved unevenly, tensor 2, full recompute": {
    schedule: "interleaved",
    pipeline: 2,
    tensor: 2,
    layersPerStage: [2, 1, 0, 1],
    family: "gpt2",
    recompute: "full",
  },
  "llama tied, interleaved, data 2, ZeRO-1": {
    schedule: "interleaved",
    pipeline: 2,
    data: 2,
    zero: 1,
    layers: 4,
    tied: true,
  },
  "llama, data 2, tensor 2, ZeRO-1, bf16 over f32 weights": {
    data: 2,
    zero: 1,
    tensor: 2,
    parameters: "bf16",
    layers: 1,
  },
});

/** Two micro-batches, as few as a pipeline of two ranks fills itself with. */
function withTwo(cases: Record<string, PlanWishes>): Record<string, PlanWishes> {
  return Object.fromEntries(
    Object.entries(cases).map(([name, wishes]) => [name, { microBatches: 2, ...wishes }]),
  );
}
