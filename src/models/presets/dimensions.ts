import type { TransformerDimensions } from "../transformer.js";

/** Models that no Hugging Face family describes, by their dimensions. */

type Preset = Omit<TransformerDimensions, "name">;

/** GPT as Megatron-LM trains it: learned positions, biases, tied embeddings; 51,200 rows are its padded vocabulary. */
function gpt(layers: number, hidden: number, heads: number, vocabulary: number): Preset {
  return {
    layers,
    hidden,
    ffn: 4 * hidden,
    heads,
    keyValueHeads: heads,
    vocabulary,
    sequence: 2048,
    gated: false,
    activation: "gelu",
    norm: "layer_norm",
    positions: "learned",
    tiedEmbeddings: true,
    biases: true,
  };
}

/** Language Models are Few-Shot Learners, 2020, table 2.1. */
export const gpt3With175b = gpt(96, 12288, 96, 50257);

/** Korthikanti et al. 2022, table 3; the 530B one is Megatron-Turing NLG (Smith et al. 2022, section 2.3). */
export const megatron22b = gpt(48, 6144, 64, 51200);
export const megatron175b = gpt(96, 12288, 96, 51200);
export const megatron530b = gpt(105, 20480, 128, 51200);
export const megatron1t = gpt(128, 25600, 160, 51200);

/** Grok-1, as published with the weights (model.py and run.py of the release). */
export const grok1: Preset = {
  layers: 64,
  hidden: 6144,
  ffn: 32768,
  heads: 48,
  keyValueHeads: 8,
  headSize: 128,
  vocabulary: 131072,
  sequence: 8192,
  gated: true,
  activation: "gelu",
  norm: "rms_norm",
  branchNorms: true,
  positions: "rotary",
  tiedEmbeddings: true,
  biases: false,
  experts: { routed: 8, topK: 2, ffn: 32768 },
};

/** PaLM, 2022, table 1 and section 2: one key head, parallel branches on one norm, no biases. */
export const palm540b: Preset = {
  layers: 118,
  hidden: 18432,
  ffn: 73728,
  heads: 48,
  keyValueHeads: 1,
  headSize: 256,
  vocabulary: 256000,
  sequence: 2048,
  gated: true,
  activation: "silu",
  norm: "layer_norm",
  positions: "rotary",
  tiedEmbeddings: true,
  biases: false,
  parallelResidual: true,
};
