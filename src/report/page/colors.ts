import type { MemoryTerm, TimeTerm } from "../facts.js";

interface Pair {
  light: string;
  dark: string;
}

/**
 * One colour a term, told apart by lightness as well as by hue. Blues are the model's state, warm tones are
 * what grows with the micro-batches, greys are overheads.
 */
export const memoryColors: Readonly<Record<MemoryTerm, Pair>> = {
  parameters: { light: "#35588f", dark: "#4a76bb" },
  gradients: { light: "#6d94cd", dark: "#7fa6e0" },
  optimizer: { light: "#a9c4e8", dark: "#b5cdf0" },
  activations: { light: "#dc9a45", dark: "#d99a4a" },
  logits: { light: "#c0674a", dark: "#c8735a" },
  workspace: { light: "#5f8a78", dark: "#6d9a87" },
  context: { light: "#a8c5b5", dark: "#a5c0b2" },
};

export const timeColors: Readonly<Record<TimeTerm, Pair>> = {
  compute: { light: "#35588f", dark: "#4a76bb" },
  recompute: { light: "#7fa3d6", dark: "#86abe2" },
  tensorCommunication: { light: "#7565a8", dark: "#8a7ac0" },
  pipelineTransfer: { light: "#b4a8d6", dark: "#b9aee0" },
  bubble: { light: "#dc9a45", dark: "#d99a4a" },
  gradientSynchronisation: { light: "#4f9484", dark: "#5aa898" },
  optimizer: { light: "#98a29a", dark: "#7f8a83" },
};
