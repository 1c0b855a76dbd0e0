/**
 * Seconds that a product of unknown shape loses to launch, ramp-up and the last wave of tiles. With it, achieved
 * rate = best rate x t / (t + tail), t the time at the best rate, which follows the GEMM efficiencies that SimuMax
 * publishes for A100 (59 % of peak at 24 GFLOP, 69-74 % at 137 GFLOP, 75 % beyond 1 TFLOP).
 */
export const gemmTailSeconds = 22e-6;

/** Same for kernels that are bound by memory: 4-5 us of launch and ramp-up (SimuMax fits 30-40 us for whole operators). */
export const memoryTailSeconds = 5e-6;

/**
 * Rate of moving tokens to their experts and back over that of other passes over memory: fused permutations on B200
 * reach 0.51 and 0.67 of the data sheet's bandwidth (SimuMax configs/system/b200_bf16_ceperm.json, `permute_bwd`,
 * `default`); unfused ones on A100 0.19 and 0.91 of 1600 GB/s.
 */
export const permuteShare = 0.76;

/**
 * Rate of flash attention, forward with heads of 128 and long sequences, over the best matrix product. `fitted` to the
 * 24 rows of SimuMax's configs/system/a100_pcie.json; the 64 of b200_bf16_ceperm.json give the same share
 * (`bench/kernels`).
 */
export const attentionShare = 0.8;

/**
 * Rate of the loss, for the 12 bytes a logit that one reading forward and two backward take, over that of other
 * operators: Megatron-LM's passes over f32 logits move 52 bytes, at 0.81 of 1600 GB/s where others reach 0.91 (SimuMax
 * dense_module.py and configs/system/a100_pcie.json, `ce`).
 */
export const lossShare = 0.2;
