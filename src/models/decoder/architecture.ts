import type { Architecture } from "../../contracts/index.js";
import type { DecoderLayer, DecoderSpec } from "./spec.js";

/** The dimensions of a decoder, for launchers that build the model from flags. */
export function architectureOf(c: DecoderSpec): Architecture {
  const bounded = c.layers.find((layer) => layer.window !== undefined);
  return {
    family: c.family,
    hidden: c.hidden,
    ffn: c.layers.find((layer) => !layer.experts)?.ffn ?? c.layers[0]!.ffn,
    layers: c.layers.length,
    heads: c.heads,
    keyValueHeads: c.latent ? c.heads : c.keyValueHeads,
    headSize: c.latent ? c.latent.noRopeHeadSize + c.latent.ropeHeadSize : c.headSize,
    vocabulary: c.vocabulary,
    maxSequence: c.maxSequence,
    gated: c.gated,
    activation: c.activation,
    norm: c.norm,
    normEpsilon: c.epsilon,
    tiedEmbeddings: c.tied,
    positions: c.positions,
    ...(c.positions === "rotary" && c.ropeTheta !== undefined ? { ropeTheta: c.ropeTheta } : {}),
    ...(c.rotaryFraction === undefined ? {} : { rotaryFraction: c.rotaryFraction }),
    attentionBias: c.bias.qkv,
    mlpBias: c.bias.mlp,
    ...(bounded && { [bounded.chunked ? "attentionChunk" : "slidingWindow"]: bounded.window }),
    ...(bounded && fullAttentionEvery(c)),
    ...(c.parallelResidual === undefined ? {} : { parallelResidual: c.parallelResidual }),
    ...(c.queryKeyNorm ? { queryKeyNorm: true } : {}),
    ...expertsOf(c),
    ...(c.nextTokenPredictions ? { nextTokenPredictions: c.nextTokenPredictions } : {}),
    ...(c.latent ? { latent: c.latent } : {}),
  };
}

/** The n under which the last of every n layers, and no other, sees all keys. */
function fullAttentionEvery({ layers }: DecoderSpec): Partial<Architecture> {
  const every = layers.findIndex((layer) => layer.window === undefined) + 1;
  const fits = (layer: DecoderLayer, i: number) => (layer.window === undefined) === ((i + 1) % every === 0);
  return every > 0 && layers.every(fits) ? { fullAttentionEvery: every } : {};
}

function expertsOf({ layers }: DecoderSpec): Partial<Architecture> {
  const first = layers.findIndex((layer) => layer.experts);
  const experts = layers[first]?.experts;
  if (!experts) return {};
  const next = layers.findIndex((layer, i) => i > first && layer.experts);
  const sharedFfn = experts.shared?.ffn ?? 0;
  return {
    experts: {
      routed: experts.experts,
      shared: Math.ceil(sharedFfn / experts.ffn),
      topK: experts.topK,
      ffn: experts.ffn,
      sharedFfn,
      denseLayers: first,
      ...(next - first > 1 ? { every: next - first } : {}),
    },
  };
}
