import type { WaitCause } from "../../schedule/index.js";
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
  contextCommunication: { light: "#9a6fb0", dark: "#a983c0" },
  expertCommunication: { light: "#b0688a", dark: "#c07f9e" },
  parameterGather: { light: "#7fb3a6", dark: "#83b8ab" },
  offload: { light: "#c9a66b", dark: "#c4a676" },
  host: { light: "#c0674a", dark: "#c8735a" },
};

/** Warm for data of other ranks, violet for the way, green for collectives, grey where nothing is left to do. */
export const waitColors: Readonly<Record<WaitCause, Pair>> = {
  activation: { light: "#e0a04c", dark: "#dca052" },
  gradient: { light: "#c0674a", dark: "#c8735a" },
  receive: { light: "#7565a8", dark: "#8a7ac0" },
  link: { light: "#b4a8d6", dark: "#b9aee0" },
  gather: { light: "#9cc9bd", dark: "#8fc4b6" },
  reduction: { light: "#4f9484", dark: "#5aa898" },
  end: { light: "#cfcfc8", dark: "#4a5057" },
};

/** What the timeline draws for one micro-batch, by the letters of schedule CSVs. */
export const actionLetters = ["f", "b", "i", "w"] as const;
export type ActionLetter = (typeof actionLetters)[number];

const actionColors: Readonly<Record<ActionLetter, Pair>> = {
  f: { light: "#3a69ae", dark: "#5f8fd6" },
  b: { light: "#dc9a45", dark: "#dba253" },
  i: { light: "#cd6648", dark: "#d97c5e" },
  w: { light: "#7c983a", dark: "#94b04e" },
};

/** Share of the background in each shade: the chunks of a rank go from full colours to pale ones. */
const fading = { light: [0, 0.26, 0.46, 0.62], dark: [0, 0.24, 0.42, 0.56] } as const;
export const shades = fading.light.length;

/** The shade of a rank's chunk, 0 to `shades` - 1. */
export function shadeOf(chunk: number, chunks: number): number {
  if (chunks <= 1) return 0;
  return chunks === 2 ? 2 * chunk : Math.round((chunk * (shades - 1)) / (chunks - 1));
}

/** Every shade of every action, and the colour of text on it. */
export function actionShades(theme: "light" | "dark"): { name: string; color: string; ink: string }[] {
  return actionLetters.flatMap((letter) =>
    fading[theme].map((share, shade) => {
      const color = mix(
        channels(actionColors[letter][theme]),
        channels(theme === "light" ? "#ffffff" : "#1d2024"),
        share,
      );
      const ink = luminance(color) > 0.24 ? "#14181d" : "#ffffff";
      return { name: `${letter}${shade}`, color: hex(color), ink };
    }),
  );
}

function channels(color: string): number[] {
  return [1, 3, 5].map((at) => Number.parseInt(color.slice(at, at + 2), 16));
}

function mix(color: number[], other: number[], share: number): number[] {
  return color.map((value, i) => Math.round(value + (other[i]! - value) * share));
}

function hex(color: number[]): string {
  return `#${color.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}

/** Relative luminance of sRGB (WCAG 2.2, "relative luminance"). */
function luminance(color: number[]): number {
  const [r, g, b] = color.map((value) => {
    const c = value / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
}
