import type { Cluster, Device, Level, Quantity } from "../contracts/index.js";
import type { Software } from "./kinds.js";

/** What is known of a cluster once it is known what software runs on it. */

type Generation = "ampere" | "hopper" | "blackwell";

function generationOf(part: string): Generation {
  if (/^g?b\d/.test(part)) return "blackwell";
  return /^(h|gh)\d/.test(part) ? "hopper" : "ampere";
}

/**
 * Rate of FlashAttention-2 over that of the presets, which the makers' kernels reach. On A100 the presets' rate is
 * FlashAttention-2's. On H100 it reaches 335 TFLOP/s forward and about 0.62 of cuDNN's rate in both passes, heads of
 * 128 and 16 k tokens under a causal mask (Shah et al., FlashAttention-3, 2024, figures 5 and 6), which is 0.57 of the
 * presets' time-weighted rate. Blackwell is assumed to lose as much.
 */
const secondGeneration: Readonly<Record<Generation, number>> = { ampere: 1, hopper: 0.57, blackwell: 0.57 };

/**
 * Rate of FlashAttention in Triton over FlashAttention-2; fitted to llm-foundry's runs of 16 k to 64 k tokens, the same
 * on A100 and H100. Dao, FlashAttention-2, 2023, section 4.1, gives 1 / 2.5 to 1 / 1.3.
 */
const firstOverSecond = 0.6;

function attentionEfficiency(flash: Software["flash"], part: string): Quantity | undefined {
  const second = secondGeneration[generationOf(part)];
  const source = "Shah et al., FlashAttention-3, 2024, figures 5 and 6, over the presets' rate";
  switch (flash) {
    case "vendor":
      return undefined;
    case "second":
      return second === 1 ? undefined : { value: second, provenance: "assumed", source };
    case "first":
      return {
        value: firstOverSecond * second,
        provenance: "assumed",
        source: `FlashAttention in Triton at ${firstOverSecond} of FlashAttention-2 (llm-foundry's long sequences)`,
      };
  }
}

/** Bytes a logit that the presets' rate of the loss stands for: one reading forward and two passes backward in f32. */
const countedLossBytes = 12;

/** Tables with the loss at the memory's rate for what it really moves. */
function withLoss({ compute }: Device, lossBytes: number): Device["compute"] {
  const elementwise = compute.filter(({ operator }) => operator === "elementwise");
  const factor = countedLossBytes / lossBytes;
  const others = compute.filter(({ operator }) => operator !== "loss");
  const losses = elementwise.map((table) => ({
    ...table,
    operator: "loss" as const,
    points: table.points.map(({ work, rate }) => ({ work: work * factor, rate: rate * factor })),
    source: `${table.source}; ${lossBytes} bytes a logit`,
  }));
  return [...others, ...losses];
}

/** Levels with another share of the bandwidth between nodes. */
function withNetwork(levels: readonly Level[], share: number, source: string): Level[] {
  return levels.map((level, i) => {
    if (i === 0 || i < levels.length - 1 || !level.link) return level;
    const value = share * level.link.bytesPerSecond.value;
    return { ...level, link: { ...level.link, bytesPerSecond: { value, provenance: "fitted", source } } };
  });
}

/** The cluster with what the software makes of it; figures that the software does not change stay. */
export function underSoftware(cluster: Cluster, software: Software, part: string): Cluster {
  const attention = attentionEfficiency(software.flash, part);
  const { lossBytes, networkShare = 1, source } = software;
  const devices = cluster.devices.map((device) => ({
    ...device,
    ...(attention ? { efficiency: { ...device.efficiency, attention } } : {}),
    ...(lossBytes === undefined ? {} : { compute: withLoss(device, lossBytes) }),
  }));
  const shares = { ...(software.overlapsGradients ? {} : { gradientReduction: 0 }), ...software.overlap };
  const overlap = Object.fromEntries(
    Object.entries(shares).map(([kind, value]) => [kind, { value, provenance: "assumed", source } as const]),
  );
  const { levels } = cluster.topology;
  return {
    ...cluster,
    devices,
    topology: { levels: networkShare === 1 ? levels : withNetwork(levels, networkShare, source) },
    overlap: { ...cluster.overlap, ...overlap },
  };
}
