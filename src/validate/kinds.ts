import type { ContextExchange, Dtype, Runtime, Scaling, Zero } from "../contracts/index.js";

import { type MemoryHabits, plainHabits } from "../cost/memory.js";
import type { OverlapKind } from "../cost/overlap.js";
import type { Kernels } from "../models/graph.js";
import { deepSpeedBrain, deepSpeedHalf, megatronCoreHabits, shardedHabits } from "./habits.js";

/**
 * Kinds of cluster that runs were measured on: the software that the prefix of a row's id stands for, on one GPU. What
 * follows from the prefix alone is written here once; everything else is read from the row.
 */

/** Facts of the training software that no column states. */
export interface Software {
  name: string;
  /** Tells it from another software of the same source. */
  variant?: string;
  /** Launcher whose ways of running a plan are priced. */
  runtime: Extract<Runtime, "megatron" | "torch">;
  /** Whether attention writes its scores (Megatron's fused softmax before flash attention). */
  attention: "flash" | "materialized";
  /** Generation of its flash attention; `vendor` is the fastest that a part's maker ships (cuDNN). */
  flash: "first" | "second" | "vendor";
  /** Dropout of 0.1, Megatron's default of the time. */
  dropout: boolean;
  /** What the sharding stage is where `zero` is blank. */
  zero: Zero;
  /** Whether q, k and v are one product, and both halves of a gated MLP. */
  projections: "fused" | "separate";
  /** Whether norms between tensor-parallel products are split by tokens, where `sp` is blank. */
  sequenceParallel: boolean;
  /** The vocabulary is padded to a multiple of this times the tensor-parallel degree. */
  vocabularyMultiple: number;
  /** Whether it is padded without tensor parallelism as well. */
  padsWhole: boolean;
  /** Whether gradients are reduced while the last backward pass still runs. */
  overlapsGradients: boolean;
  /** Type of the gradients where parameters are bf16; with f16 they are f16. */
  bf16Gradients: Extract<Dtype, "bf16" | "f32">;
  /** Whether bf16 gradients of a micro-batch stay beside their sums (DeepSpeed's BF16_Optimizer). */
  keepsGradients: boolean;
  /** What the loss keeps of the logits: see `Kernels`. */
  loss: NonNullable<Kernels["loss"]>;
  /** Where the weights of a token's experts are applied: see `Kernels`. */
  expertWeights: NonNullable<Kernels["expertWeights"]>;
  /** How operands of narrow products are scaled where `precision` does not say. */
  scaling: Scaling;
  /** Type of activations and parameters where `precision` is blank. */
  dtype: Extract<Dtype, "bf16" | "f16">;
  /** How context-parallel ranks see each other's keys. */
  contextExchange: ContextExchange;
  /** Most leading layers without experts, where models were cut down; as published where absent. */
  denseLayers?: number;
  /** Tensor-parallel degree inside an expert: that of the rest, or 1. */
  expertTensor: "tensor" | "one";
  /** What `selective` recomputation repeats: the core of attention, or every other layer. */
  selective: "attention" | "layers";
  /** The first and the last stage hold one layer less, as embedding and head are there. */
  shortEnds: boolean;
  /** Bytes that the loss moves a logit; what Megatron-LM's passes over f32 logits move where absent. */
  lossBytes?: number;
  /** Tokens with at least so many experts reach them by fused kernels: see `Job.expertDispatch`. */
  fusedDispatchFrom?: number;
  /** Experts are spread over all ranks of a ZeRO group where a row has no degree for them. */
  expertsEverywhere?: boolean;
  /** Shares of communication that hide, where the launcher does something else than most. */
  overlap?: Partial<Record<OverlapKind, number>>;
  /** Bandwidth between nodes that its collectives reach over what a tuned all-reduce reaches; 1 where absent. */
  networkShare?: number;
  /**
   * What the source calls memory: what tensors take at the peak, what the allocator reserved for them, or what the
   * device shows, with the context of driver and libraries.
   */
  memory: "allocated" | "reserved" | "device";
  /** Bytes of the unit that it prints. */
  memoryUnit: number;
  /** What it holds beside a model's tensors, in f16 and in bf16. */
  habits: Readonly<Record<"f16" | "bf16", MemoryHabits>>;
  /** Where these facts come from. */
  source: string;
}

const gibibyte = 2 ** 30;
const always = (habits: MemoryHabits) => ({ f16: habits, bf16: habits });

const unknown: Software = {
  name: "unknown",
  runtime: "megatron",
  attention: "flash",
  flash: "vendor",
  dropout: false,
  zero: 0,
  projections: "fused",
  sequenceParallel: false,
  vocabularyMultiple: 1,
  padsWhole: true,
  overlapsGradients: true,
  bf16Gradients: "f32",
  keepsGradients: false,
  loss: "fused",
  expertWeights: "outputs",
  scaling: "delayed",
  dtype: "bf16",
  contextExchange: "ring",
  expertTensor: "tensor",
  selective: "attention",
  shortEnds: false,
  memory: "reserved",
  memoryUnit: gibibyte,
  habits: always(plainHabits),
  source: "no source is known for this prefix: what most training code does today",
};

/** Megatron-LM and Megatron-DeepSpeed until 2022. */
const megatron: Software = {
  ...unknown,
  name: "Megatron-LM",
  attention: "materialized",
  dropout: true,
  vocabularyMultiple: 128,
  overlapsGradients: false,
  dtype: "f16",
  memory: "device",
  source:
    "Megatron-LM v2: scaled masked softmax kernel, --attention-dropout and --hidden-dropout 0.1, --make-vocab-size-divisible-by 128, gradients reduced after the backward pass (LocalDDP and its own DDP before --overlap-grad-reduce)",
};

/** Megatron-Core with the distributed optimizer, as NVIDIA's recipes run it. */
const megatronCore: Software = {
  ...unknown,
  name: "Megatron-Core",
  zero: 1,
  sequenceParallel: true,
  vocabularyMultiple: 128,
  loss: "inPlace",
  expertWeights: "activations",
  habits: always(megatronCoreHabits),
  source:
    "NVIDIA recipes: Transformer Engine attention and fused cross-entropy, distributed optimizer, sequence parallelism with TP > 1",
};

/**
 * NVIDIA's benchmark recipes (NeMo scripts/performance, Megatron-Bridge perf_recipes, dgxc-benchmarking): gradients are
 * reduced in bf16 (`grad_reduce_in_fp32=False`, `grad_sync_dtype: bf16`), tensor-parallel collectives overlap with
 * products (`tp_comm_overlap`), interleaved pipelines with sends (`overlap_p2p_comm`), and the loss is fused.
 */
const nvidiaRecipe: Software = {
  ...megatronCore,
  bf16Gradients: "bf16",
  lossBytes: 20,
  overlap: { tensor: 0.6, pipelineTransfer: 0.8 },
  source: `${megatronCore.source}; bf16 gradients, tp_comm_overlap, overlap_p2p_comm, fused cross entropy`,
};

const fullySharded: Software = {
  ...unknown,
  name: "PyTorch FSDP",
  runtime: "torch",
  flash: "second",
  zero: 3,
  sequenceParallel: true,
  habits: always(shardedHabits),
  source: "PyTorch FSDP with scaled dot-product or flash attention, no dropout",
};

/**
 * DeepSpeed's ZeRO-3 of early 2021, which Narayanan et al. compare with: parameters are gathered one by one, in
 * collectives over lists of tensors with a synchronisation before each (issue 1069 and pull requests 1188 and 1453 of
 * the repository replaced them). Its rows of 768 and 1,536 GPUs take the same time, which is that of its communication,
 * and the one of 384 takes what hides of it less: `networkShare`, about what one of a node's eight cards carries, and
 * the overlap are fitted to them.
 */
const earlyZero3: Software = {
  ...megatron,
  name: "DeepSpeed ZeRO-3",
  variant: "ZeRO3",
  runtime: "torch",
  zero: 3,
  networkShare: 0.09,
  overlap: { parameterGather: 0.55 },
  source: "Narayanan et al. (SC'21), section 5.2 and table 2: DeepSpeed's ZeRO-3 without tensor parallelism",
};

const internEvo: Software = {
  ...unknown,
  name: "InternEvo",
  flash: "first",
  zero: 1,
  sequenceParallel: true,
  bf16Gradients: "bf16",
  loss: "inPlace",
  lossBytes: 6,
  source:
    "InternEvo (doc/en/install.md of 2023): flash-attention 1.0.5 with its fused loss, rotary and norm; bf16, ZeRO-1 inside groups",
};

const softwareOfPrefix: Readonly<Record<string, Software>> = {
  VTS: {
    ...megatron,
    name: "Megatron-DeepSpeed",
    // Without tensor parallelism the head takes 2.7 times as long a token as with it: 50,257 columns, not 50,304.
    padsWhole: false,
    source: `vTrain's runs of Megatron-DeepSpeed; ${megatron.source}`,
  },
  VTM: {
    ...megatron,
    name: "Megatron-DeepSpeed",
    source: `vTrain's runs of Megatron-DeepSpeed; ${megatron.source}`,
  },
  BLOOM: {
    ...megatron,
    name: "Megatron-DeepSpeed",
    keepsGradients: true,
    // nvidia-smi prints MiB, and "47GB" are 47 thousand of them.
    memoryUnit: 1000 * 2 ** 20,
    habits: { f16: deepSpeedHalf, bf16: deepSpeedBrain },
    source: `BigScience's Megatron-DeepSpeed (tr11-176B-ml), memory from nvidia-smi; ${megatron.source}`,
  },
  SC21T1: megatron,
  SC21T2: megatron,
  MEG20: megatron,
  KOR22: megatron,
  ZB: {
    ...megatron,
    dtype: "bf16",
    shortEnds: true,
    memory: "allocated",
    source: `Qi et al. (ICLR 2024), appendix: Megatron-LM with one layer less in the first and last stage; ${megatron.source}`,
  },
  MPT: {
    ...fullySharded,
    name: "llm-foundry",
    loss: "inPlace",
    flash: "first",
    bf16Gradients: "bf16",
    lossBytes: 34,
    source:
      "llm-foundry of 2023: flash attention in Triton, dropout 0, fused cross entropy of 16-bit logits and, as training metrics, two more in f32; FSDP mixed_precision PURE reduces in bf16, DEFAULT (amp) in f32",
  },
  TITAN: {
    ...fullySharded,
    name: "torchtitan",
    loss: "eager",
    projections: "separate",
    scaling: "current",
    lossBytes: 36,
    source: "torchtitan: FSDP2 reducing in f32, float8 of torchao scaled dynamically; memory is max_reserved",
  },
  FMS: {
    ...fullySharded,
    name: "fms-fsdp",
    loss: "eager",
    selective: "layers",
    bf16Gradients: "bf16",
    lossBytes: 12,
    source:
      "fms-fsdp: selective checkpointing wraps a share of the blocks; its bfSixteen policy reduces in bf16",
  },
  AUTOM: {
    ...fullySharded,
    name: "NeMo Automodel",
    flash: "vendor",
    projections: "separate",
    lossBytes: 12,
    expertsEverywhere: true,
    // DeepEP, by the table.
    fusedDispatchFrom: 1,
    source: "NeMo Automodel: models of Hugging Face under FSDP2",
  },
  NEMO: {
    ...nvidiaRecipe,
    expertTensor: "one",
    // Qwen3's and DeepSeek's recipes set moe_flex_dispatcher_backend, GPT-OSS's keeps alltoall.
    fusedDispatchFrom: 8,
  },
  DGXC: nvidiaRecipe,
  MCOREH100: nvidiaRecipe,
  MCORECI: megatronCore,
  SIMUMAX: {
    ...megatronCore,
    vocabularyMultiple: 1,
    overlapsGradients: false,
    contextExchange: "all-to-all",
    denseLayers: 1,
    expertTensor: "one",
    memory: "allocated",
    source:
      "SimuMax's launchers of Megatron-Core (simu_tools/megatron_scripts): distributed optimizer, no communication overlap, --cp-comm-type a2a, one layer without experts; memory is max_memory_allocated",
  },
  INTERN: internEvo,
  INTERNMEM: { ...internEvo, memory: "device" },
};

/** Source of a row: the part of its id before the last dash. */
export function prefixOf(id: string): string {
  return id.replace(/-[^-]*$/, "");
}

/** Software of a source that differs by the GPU, as its tables were made years apart. */
const softwareOfKind: Readonly<Record<string, Partial<Software>>> = {
  "TITAN/h200-sxm": {
    loss: "compiled",
    lossBytes: 10,
    source: "torchtitan of 2025, which compiles the loss too",
  },
};

/** Software of those rows of a source that shard parameters, where the others ran under something else. */
const shardingSoftware: Readonly<Record<string, Software>> = { SC21T2: earlyZero3 };

/**
 * What is known of the software of a prefix on a part; the general defaults for a prefix that is not known.
 * @param zero the column of that name.
 */
export function softwareOf(prefix: string, part = "", zero = ""): Software {
  if (zero === "3" && Object.hasOwn(shardingSoftware, prefix)) return shardingSoftware[prefix]!;
  const found = Object.hasOwn(softwareOfPrefix, prefix) ? softwareOfPrefix[prefix]! : unknown;
  return { ...found, ...softwareOfKind[`${prefix}/${part}`] };
}

/** Key of a cluster kind: rows of one key share their calibration. */
export function kindKey(prefix: string, gpu: string, { variant }: Pick<Software, "variant"> = {}): string {
  return `${prefix}${variant ? `-${variant}` : ""}/${gpu.replace(/[^\w.-]+/g, "_")}`;
}
