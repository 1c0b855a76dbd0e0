import { type Architecture, axisSize, MpoptError, type Plan } from "../contracts/index.js";
import type { Flag } from "./megatronFlag.js";
import { hasExperts } from "./modelFacts.js";

/** A field of ConfigContainer by its path, and its value in Hydra's grammar. */
export type Override = readonly [key: string, value: string];

/** Fields of one flag, from its values. */
type Fields = (...values: string[]) => Override[];

const value =
  (key: string): Fields =>
  (found) => [[key, found!]];
const always =
  (key: string, set: string): Fields =>
  () => [[key, set]];
const nothing: Fields = () => [];
/** Quoted: a layout holds bars, and names of types must stay strings. */
const text =
  (key: string): Fields =>
  (found) => [[key, `"${found}"`]];

/** Fields that say how work is divided, computed and summed: flags of `megatronParallel.ts` and `megatron.ts`. */
const divisionFields: Readonly<Record<string, Fields>> = {
  "--tensor-model-parallel-size": value("model.tensor_model_parallel_size"),
  "--pipeline-model-parallel-size": value("model.pipeline_model_parallel_size"),
  "--pipeline-model-parallel-layout": text("model.pipeline_model_parallel_layout"),
  "--microbatch-group-size-per-virtual-pipeline-stage": value("model.microbatch_group_size_per_vp_stage"),
  "--sequence-parallel": always("model.sequence_parallel", "true"),
  "--context-parallel-size": value("model.context_parallel_size"),
  "--cp-comm-type": text("model.cp_comm_type"),
  "--expert-model-parallel-size": value("model.expert_model_parallel_size"),
  "--expert-tensor-parallel-size": value("model.expert_tensor_parallel_size"),
  "--use-distributed-optimizer": () => [
    ["ddp.use_distributed_optimizer", "true"],
    ["optimizer.use_distributed_optimizer", "true"],
  ],
  "--num-distributed-optimizer-instances": value("ddp.num_distributed_optimizer_instances"),
  "--overlap-grad-reduce": always("ddp.overlap_grad_reduce", "true"),
  "--overlap-param-gather": always("ddp.overlap_param_gather", "true"),
  "--use-precision-aware-optimizer": always("optimizer.use_precision_aware_optimizer", "true"),
  "--optimizer-cpu-offload": always("optimizer.optimizer_cpu_offload", "true"),
  "--optimizer-offload-fraction": value("optimizer.optimizer_offload_fraction"),
  "--recompute-granularity": text("model.recompute_granularity"),
  "--recompute-method": text("model.recompute_method"),
  "--recompute-num-layers": value("model.recompute_num_layers"),
  "--recompute-modules": (...modules) => [["model.recompute_modules", `[${modules.join(",")}]`]],
  "--micro-batch-size": value("train.micro_batch_size"),
  "--global-batch-size": value("train.global_batch_size"),
  // The named precision holds these; see `precisionOf`.
  "--bf16": nothing,
  "--fp16": nothing,
  "--fp8-format": nothing,
  "--fp8-recipe": nothing,
  "--moe-token-dispatcher-type": text("model.moe_token_dispatcher_type"),
  "--moe-flex-dispatcher-backend": text("model.moe_flex_dispatcher_backend"),
  "--moe-expert-capacity-factor": value("model.moe_expert_capacity_factor"),
  "--moe-pad-expert-input-to-capacity": always("model.moe_pad_expert_input_to_capacity", "true"),
  "--seq-length": (length) => [
    ["dataset.seq_length", length!],
    ["model.seq_length", length!],
  ],
  "--mtp-num-layers": value("model.mtp_num_layers"),
  "--optimizer": text("optimizer.optimizer"),
  "--transformer-impl": text("model.transformer_impl"),
  // Megatron-Bridge has Megatron-Core's models alone, and its own default of this.
  "--use-mcore-models": nothing,
  "--attention-backend": nothing,
};

/** Fields that describe the model: the other flags of `megatronModel.ts`. A recipe of the model holds them. */
const modelFields: Readonly<Record<string, Fields>> = {
  "--num-layers": value("model.num_layers"),
  "--hidden-size": value("model.hidden_size"),
  "--ffn-hidden-size": value("model.ffn_hidden_size"),
  "--num-attention-heads": value("model.num_attention_heads"),
  "--kv-channels": value("model.kv_channels"),
  // The provider takes as many positions as the sequence has.
  "--max-position-embeddings": nothing,
  "--normalization": text("model.normalization"),
  // The tokenizer without one adds a token of its own.
  "--vocab-size": (size) => [
    ["model.vocab_size", size!],
    ["tokenizer.vocab_size", String(Number(size) - 1)],
  ],
  "--make-vocab-size-divisible-by": (by) => [
    ["model.make_vocab_size_divisible_by", by!],
    ["model.should_pad_vocab", "true"],
  ],
  "--attention-dropout": value("model.attention_dropout"),
  "--hidden-dropout": value("model.hidden_dropout"),
  "--norm-epsilon": value("model.layernorm_epsilon"),
  "--apply-layernorm-1p": always("model.layernorm_zero_centered_gamma", "true"),
  "--group-query-attention": nothing,
  "--num-query-groups": value("model.num_query_groups"),
  "--swiglu": () => [
    ["model.gated_linear_unit", "true"],
    ["model.activation_func", "silu"],
  ],
  "--quick-geglu": () => [
    ["model.gated_linear_unit", "true"],
    ["model.activation_func", "quick_gelu"],
  ],
  "--squared-relu": always("model.activation_func", "squared_relu"),
  "--no-bias-gelu-fusion": always("model.bias_activation_fusion", "false"),
  "--position-embedding-type": text("model.position_embedding_type"),
  "--rotary-base": value("model.rotary_base"),
  "--rotary-percent": value("model.rotary_percent"),
  "--untie-embeddings-and-output-weights": always("model.share_embeddings_and_output_weights", "false"),
  "--disable-bias-linear": always("model.add_bias_linear", "false"),
  "--add-qkv-bias": always("model.add_qkv_bias", "true"),
  "--qk-layernorm": always("model.qk_layernorm", "true"),
  "--window-size": (sizes) => [["model.window_size", `[${sizes}]`]],
  "--window-attn-skip-freq": value("model.window_attn_skip_freq"),
  "--num-experts": value("model.num_moe_experts"),
  "--moe-router-topk": value("model.moe_router_topk"),
  "--moe-ffn-hidden-size": value("model.moe_ffn_hidden_size"),
  "--moe-grouped-gemm": always("model.moe_grouped_gemm", "true"),
  "--moe-router-dtype": text("model.moe_router_dtype"),
  "--moe-router-pre-softmax": always("model.moe_router_pre_softmax", "true"),
  "--moe-router-score-function": text("model.moe_router_score_function"),
  "--moe-router-enable-expert-bias": always("model.moe_router_enable_expert_bias", "true"),
  "--moe-shared-expert-intermediate-size": value("model.moe_shared_expert_intermediate_size"),
  "--moe-shared-expert-gate": always("model.moe_shared_expert_gate", "true"),
  // Megatron-LM evaluates a Python expression; a field takes the list itself, see `overridesOf`.
  "--moe-layer-freq": nothing,
  // Latent attention comes with its recipe alone.
  "--multi-latent-attention": nothing,
  "--kv-lora-rank": nothing,
  "--q-lora-rank": nothing,
  "--qk-head-dim": nothing,
  "--qk-pos-emb-head-dim": nothing,
  "--v-head-dim": nothing,
};

/** Overrides that turn a recipe into the plan: each field once, also where the plan leaves it at its default. */
export function overridesOf(plan: Plan, flags: readonly Flag[]): Override[] {
  const { architecture } = plan.model;
  const known = architecture !== undefined && recipeOf(architecture) !== undefined;
  const result = new Map<string, string>(defaults(plan, known));
  for (const [name, ...values] of flags) {
    const fields = divisionFields[name] ?? modelFields[name];
    if (!fields) {
      throw new MpoptError(
        "E_LOSSY",
        `Expected flags with fields in Megatron-Bridge but found ${name}, which has none.`,
      );
    }
    if (known && !divisionFields[name]) continue;
    for (const [key, set] of fields(...values)) result.set(key, set);
  }
  const { experts, layers } = architecture ?? { layers: 0 };
  if (experts && !known) {
    const sparse = Array.from({ length: layers }, (_, layer) => Number(hasExperts(experts, layer)));
    result.set("model.moe_layer_freq", sparse.includes(0) ? `[${sparse.join(",")}]` : "1");
  }
  return [...result];
}

/** What a recipe may have set otherwise. */
function defaults(plan: Plan, known: boolean): Override[] {
  const ranks = axisSize(plan, "pipeline");
  const chunks = plan.stages.length / ranks;
  const open: Override[] = [
    ["model.tensor_model_parallel_size", "1"],
    ["model.pipeline_model_parallel_size", "1"],
    ["model.virtual_pipeline_model_parallel_size", chunks > 1 ? String(chunks) : "null"],
    ["model.pipeline_model_parallel_layout", "null"],
    ["model.context_parallel_size", "1"],
    ["model.expert_model_parallel_size", "1"],
    ["model.sequence_parallel", "false"],
    ["model.recompute_granularity", "null"],
    ["model.recompute_method", "null"],
    ["model.recompute_num_layers", "null"],
    ["ddp.use_distributed_optimizer", "false"],
    ["ddp.overlap_grad_reduce", "false"],
    ["ddp.overlap_param_gather", "false"],
    ["ddp.num_distributed_optimizer_instances", "1"],
    ["optimizer.use_distributed_optimizer", "false"],
    ["mixed_precision", precisionOf(plan)],
  ];
  if (!known) return open;
  return [
    ...open,
    ["model.num_layers_in_first_pipeline_stage", "null"],
    ["model.num_layers_in_last_pipeline_stage", "null"],
    ["model.account_for_embedding_in_pipeline_split", "false"],
    ["model.account_for_loss_in_pipeline_split", "false"],
    ["model.mtp_num_layers", "null"],
    ["ddp.use_megatron_fsdp", "false"],
    ["comm_overlap", "null"],
  ];
}

/** One of the names that megatron/bridge/training/mixed_precision.py registers. */
function precisionOf({ job, cluster }: Plan): string {
  const { parameters, linear, scaling = "delayed" } = job.dtypes;
  const base = parameters === "f16" ? "fp16" : "bf16";
  if (linear !== "fp8") return `${base}_mixed`;
  if (scaling === "block") {
    return `${base}_with_${/^g?b\d{3}/i.test(cluster.deviceKind) ? "mxfp8" : "fp8_subchannel_scaling"}_mixed`;
  }
  return `${base}_with_fp8_${scaling === "delayed" ? "delayed" : "current"}_scaling_mixed`;
}

/** Dimensions that tell models apart, and the recipe of each (megatron/bridge/recipes). */
const recipes: Readonly<Record<string, string>> = {
  "16x2048x32x8x8192x128256": "llama32_1b_pretrain_config",
  "28x3072x24x8x8192x128256": "llama32_3b_pretrain_config",
  "32x4096x32x8x14336x128256": "llama31_8b_pretrain_config",
  "80x8192x64x8x28672x128256": "llama31_70b_pretrain_config",
  "126x16384x128x8x53248x128256": "llama31_405b_pretrain_config",
  "80x8192x64x8x29568x152064": "qwen25_72b_pretrain_config",
  "48x2048x32x4x6144x151936": "qwen3_30b_a3b_pretrain_config",
  "94x4096x64x4x12288x151936": "qwen3_235b_a22b_pretrain_config",
  "60x5120x128x128x12288x102400": "deepseek_v2_pretrain_config",
  "61x7168x128x128x18432x129280": "deepseek_v3_pretrain_config",
};

/** The recipe of a model with these dimensions; undefined where none is known. */
export function recipeOf(architecture: Architecture): string | undefined {
  const { layers, hidden, heads, keyValueHeads, ffn, vocabulary, family, maxSequence } = architecture;
  const key = [layers, hidden, heads, keyValueHeads, ffn, vocabulary].join("x");
  const recipe = Object.hasOwn(recipes, key) ? recipes[key]! : undefined;
  if (!recipe?.startsWith(family.replace(/_moe$/, "").replace("qwen2", "qwen25"))) return undefined;
  // Llama 3 differs from 3.1 in its positions.
  return maxSequence === 8192 ? recipe.replace("llama31", "llama3") : recipe;
}
