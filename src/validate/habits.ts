import { type MemoryHabits, plainHabits } from "../cost/memory.js";

/** What the software of measured runs holds beside a model's tensors: see `MemoryHabits`. */

/** Elements of DeepSpeed's `allgather_bucket_size` and `reduce_bucket_size`, which the runs left at their defaults. */
const bucketElements = 5e8;

/**
 * DeepSpeed's ZeRO-1 in f16 (0.6, `stage_1_and_2.py`): `step` flattens the gradients of the rank's share and casts them
 * to f32. Gradients and parameters are copied to buckets of 16 bits for their collectives.
 */
export const deepSpeedHalf: MemoryHabits = {
  ...plainHabits,
  updateBytes: { share: 2 + 4, whole: 0 },
  bucketBytes: 2 * 2 * bucketElements,
};

/**
 * DeepSpeed's BF16_Optimizer (0.6.2, `bf16_optimizer.py`, `PipelineEngine._bf16_reduce_grads`): the sums of gradients
 * are one f32 tensor, all of which is cast to bf16 to be reduced. Parameters are gathered through a bucket.
 */
export const deepSpeedBrain: MemoryHabits = {
  ...plainHabits,
  updateBytes: { share: 0, whole: 2 },
  bucketBytes: 2 * bucketElements,
};

/** Megatron-Core with Transformer Engine and gradient accumulation fusion. */
export const megatronCoreHabits: MemoryHabits = { ...plainHabits, fusedWeightGradients: true };

/** PyTorch FSDP over parameters in f32. */
export const shardedHabits: MemoryHabits = { ...plainHabits, storesMasters: true };
