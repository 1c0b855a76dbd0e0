import type { Architecture, Plan } from "../contracts/index.js";
import { correctedRouters } from "./modelFacts.js";
import { pythonCall, pythonString } from "./pythonText.js";

/**
 * Python that builds a model in torchtitan: its blocks of Llama 3, Qwen 3 (dense or with experts, with or without norms
 * of queries and keys, so also Mistral, Mixtral and Qwen 2.5) and DeepSeek-V3 (latent attention), put together from the
 * configurations of torchtitan/models/common.
 */

/** The torchtitan model whose blocks an architecture is built of. */
function baseOf({ family, latent, experts, queryKeyNorm, attentionBias }: Architecture): {
  package: string;
  model: string;
  block: string;
  parallelize: string;
  rope: string;
  /** Whether Hugging Face's names and shapes of this architecture are the model's own. */
  adapts: boolean;
} {
  if (latent) {
    return {
      package: "deepseek_v3",
      model: "DeepSeekV3",
      block: "DeepSeekV3TransformerBlock",
      parallelize: "parallelize_deepseekv3",
      rope: "ComplexRoPE",
      adapts: family === "deepseek_v3",
    };
  }
  if (family === "llama" && !experts && !queryKeyNorm && !attentionBias) {
    return {
      package: "llama3",
      model: "Llama3",
      block: "Llama3TransformerBlock",
      parallelize: "parallelize_llama",
      rope: "ComplexRoPE",
      adapts: true,
    };
  }
  return {
    package: "qwen3",
    model: "Qwen3",
    block: "Qwen3TransformerBlock",
    parallelize: "parallelize_qwen3",
    rope: "CosSinRoPE",
    adapts: family === "qwen3" || family === "qwen3_moe",
  };
}

/** Imports that `modelSource` needs, one statement each. */
export function modelImports(architecture: Architecture): string[] {
  const { experts, tiedEmbeddings, latent } = architecture;
  const base = baseOf(architecture);
  const parts = [
    "get_attention_config",
    "make_ffn_config",
    ...(latent ? [] : ["make_gqa_config"]),
    ...(experts ? ["make_moe_config", "make_routed_experts_config", "make_router_config"] : []),
  ];
  const at = `torchtitan.models.${base.package}`;
  return [
    "from torch import nn",
    ...(experts ? ["from torchtitan.components.optimizer import register_moe_load_balancing_hook"] : []),
    "from torchtitan.distributed.pipeline_parallel import pipeline_llm",
    `from torchtitan.models.common import ${base.rope}, Embedding, Linear, RMSNorm`,
    `from torchtitan.models.common.config_utils import (\n${parts.map((part) => `    ${part},\n`).join("")})`,
    ...(tiedEmbeddings ? ["from torchtitan.models.common.param_init import skip_param_init"] : []),
    ...(latent ? [`from ${at} import make_mla_attention_config`] : []),
    `from ${at}.model import ${base.model}Model, ${base.block}`,
    `from ${at}.parallelize import ${base.parallelize}`,
    ...(base.adapts ? [`from ${at}.state_dict_adapter import ${base.model}StateDictAdapter`] : []),
    "from torchtitan.protocols.model_spec import ModelSpec",
  ];
}

/** Python functions that describe the model; the last, `model`, returns its ModelSpec. */
export function modelSource(architecture: Architecture, plan: Plan): string {
  const { hidden, layers, vocabulary, normEpsilon = 1e-5, tiedEmbeddings } = architecture;
  const base = baseOf(architecture);
  const embedding = tiedEmbeddings ? "skip_param_init" : "partial(nn.init.normal_, std=0.02)";
  const width = String(hidden);
  const rows = {
    num_embeddings: String(vocabulary),
    embedding_dim: width,
    param_init: `{"weight": ${embedding}}`,
  };
  const columns = { in_features: width, out_features: String(vocabulary), param_init: "LINEAR" };
  const config = pythonCall(
    `${base.model}Model.Config`,
    {
      dim: width,
      vocab_size: String(vocabulary),
      ...(tiedEmbeddings ? { enable_weight_tying: "True" } : {}),
      tok_embeddings: pythonCall("Embedding.Config", rows, 8),
      norm: `norm(${hidden})`,
      lm_head: pythonCall("Linear.Config", columns, 8),
      layers: `[layer(index) for index in range(${layers})]`,
    },
    4,
  );
  const spec = pythonCall(
    "ModelSpec",
    {
      name: pythonString(base.package),
      flavor: pythonString(plan.model.name),
      model: "config",
      parallelize_fn: base.parallelize,
      pipelining_fn: "pipeline_llm",
      post_optimizer_build_fn: architecture.experts ? "register_moe_load_balancing_hook" : "None",
      state_dict_adapter: base.adapts ? `${base.model}StateDictAdapter` : "None",
    },
    4,
  );
  return `# Initial values: normal, those of projections back to the residual narrower by the depth of the model.
LINEAR = {"weight": partial(nn.init.trunc_normal_, std=0.02), "bias": nn.init.zeros_}
RESIDUAL = {
    "weight": partial(nn.init.trunc_normal_, std=0.02 / (2 * ${layers}) ** 0.5),
    "bias": nn.init.zeros_,
}


def norm(width):
    return RMSNorm.Config(normalized_shape=width, eps=${normEpsilon}, param_init={"weight": nn.init.ones_})


${attention(architecture, base.rope, plan)}


${layer(architecture, base.block, plan)}


def model() -> ModelSpec:
    config = ${config}
    return ${spec}
`;
}

function attention(architecture: Architecture, rope: string, plan: Plan): string {
  const { hidden, heads, keyValueHeads, headSize, latent, ropeTheta = 10000 } = architecture;
  const positions = {
    dim: String(latent?.ropeHeadSize ?? headSize),
    max_context_length: String(Math.max(architecture.maxSequence, plan.batch.sequence)),
    theta: pythonFloat(ropeTheta),
  };
  const rotary = pythonCall(`${rope}.Config`, positions, 8);
  if (latent) {
    return `def attention(index):
    return ${pythonCall(
      "make_mla_attention_config",
      {
        layer_id: "index",
        dim: String(hidden),
        n_heads: String(heads),
        q_lora_rank: String(latent.queryRank),
        kv_lora_rank: String(latent.keyValueRank),
        qk_nope_head_dim: String(latent.noRopeHeadSize),
        qk_rope_head_dim: String(latent.ropeHeadSize),
        v_head_dim: String(latent.valueHeadSize),
        attn_backend: '"flex"',
        linear_init: "LINEAR",
        norm_init: '{"weight": nn.init.ones_}',
        depth_init: "lambda _: RESIDUAL",
        rope: rotary,
      },
      4,
    )}`;
  }
  const config = pythonCall(
    "make_gqa_config",
    {
      dim: String(hidden),
      n_heads: String(heads),
      n_kv_heads: String(keyValueHeads),
      head_dim: String(headSize),
      fuse_qkv: "True",
      wqkv_param_init: "LINEAR",
      wo_param_init: "RESIDUAL",
      inner_attention: 'get_attention_config("flex")',
      rope: rotary,
      ...(architecture.queryKeyNorm ? { qk_norm: `norm(${headSize})` } : {}),
    },
    4,
  );
  if (!architecture.attentionBias) return `def attention(_):\n    return ${config}`;
  return `def attention(_):
    config = ${config}
    config.qkv_linear.wqkv.bias = True
    return config`;
}

function layer(architecture: Architecture, block: string, plan: Plan): string {
  const { hidden, ffn, experts } = architecture;
  const dense = feedForward(hidden, ffn);
  const values = {
    attention: "attention(index)",
    attention_norm: `norm(${hidden})`,
    ffn_norm: `norm(${hidden})`,
  };
  if (!experts) {
    const config = pythonCall(`${block}.Config`, { ...values, feed_forward: "feed_forward()" }, 4);
    return `def feed_forward():\n    return ${dense}\n\n\ndef layer(index):\n    return ${config}`;
  }
  const { denseLayers, every = 1 } = experts;
  if (denseLayers === 0 && every === 1) {
    const config = pythonCall(`${block}.Config`, { ...values, moe: "mixture()" }, 4);
    return `${mixture(architecture, experts, plan)}\n\n\ndef layer(index):\n    return ${config}`;
  }
  const sparse = every > 1 ? ` and (index - ${denseLayers}) % ${every} == 0` : "";
  const both = { ...values, feed_forward: "None if sparse else feed_forward()" };
  const config = pythonCall(`${block}.Config`, { ...both, moe: "mixture() if sparse else None" }, 4);
  return `def feed_forward():
    return ${dense}


${mixture(architecture, experts, plan)}


def layer(index):
    sparse = index >= ${denseLayers}${sparse}
    return ${config}`;
}

function feedForward(hidden: number, ffn: number, indent = 4): string {
  const init = { w1_param_init: "LINEAR", w2w3_param_init: "RESIDUAL" };
  return pythonCall("make_ffn_config", { dim: String(hidden), hidden_dim: String(ffn), ...init }, indent);
}

function mixture(
  { hidden, family }: Architecture,
  experts: NonNullable<Architecture["experts"]>,
  plan: Plan,
): string {
  const { routed, topK, ffn, shared, sharedFfn } = experts;
  const fused = plan.job.expertDispatch === "fused" && (plan.mesh.experts?.expert ?? 1) > 1;
  const counts = { dim: String(hidden), num_experts: String(routed), top_k: String(topK) };
  // Scores of the chosen experts add up to 1, but for a single one, which would be 1 whatever its score.
  const normed = topK > 1 && family !== "deepseek_v2";
  const router = pythonCall(
    "make_router_config",
    {
      ...counts,
      gate_param_init: "LINEAR",
      score_func: correctedRouters.has(family) ? '"sigmoid"' : '"softmax"',
      route_norm: normed ? "True" : "False",
    },
    8,
  );
  const weights = '{"w1_EFD": LINEAR["weight"], "w2_EDF": RESIDUAL["weight"], "w3_EFD": LINEAR["weight"]}';
  const routedExperts = pythonCall(
    "make_routed_experts_config",
    {
      ...counts,
      hidden_dim: String(ffn),
      param_init: weights,
      comm_backend: fused ? '"deepep"' : '"standard"',
    },
    8,
  );
  const config = pythonCall(
    "make_moe_config",
    {
      num_experts: String(routed),
      router,
      routed_experts: routedExperts,
      ...(shared > 0 ? { shared_experts: feedForward(hidden, sharedFfn, 8) } : {}),
    },
    4,
  );
  return `def mixture():\n    return ${config}`;
}

/** A number that Python reads as a float. */
function pythonFloat(value: number): string {
  return Number.isInteger(value) ? `${value}.0` : String(value);
}
