import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { ComputeModel } from "../../src/cost/compute.js";
import { softwareOf } from "../../src/validate/kinds.js";
import { underSoftware } from "../../src/validate/softwareCluster.js";

const h100 = clusterPreset("h100-sxm:8x2");
const a100 = clusterPreset("a100-80:8x2");
const megatronCore = softwareOf("MCORECI");

/** TFLOP/s of causal attention with heads of 128 over 16 k tokens, by pass. */
function attentionRate(cluster: typeof h100, backward: boolean): number {
  const [batch, heads, tokens, size] = [1, 16, 16_384, 128];
  const flops = (backward ? 5 : 2) * batch * heads * tokens * tokens * size;
  const attention = {
    batch,
    heads,
    keyValueHeads: heads,
    queries: tokens,
    keys: tokens,
    headSize: size,
    valueSize: size,
    causal: true,
    backward,
  };
  const compute = new ComputeModel(cluster.devices[0]!);
  return flops / compute.seconds({ kind: "attention", dtype: "bf16", flops, bytes: 1, attention }) / 1e12;
}

describe("a cluster under a software", () => {
  it("stays as it is under Megatron-Core, whose kernels the presets stand for", () => {
    expect(underSoftware(h100, megatronCore, "h100-sxm")).toEqual(h100);
  });

  it("computes FlashAttention-2 on H100 as published, and older Triton kernels slower everywhere", () => {
    const second = underSoftware(h100, softwareOf("TITAN", "h100-sxm"), "h100-sxm");
    // Shah et al., FlashAttention-3, figures 5 and 6: 335 forward, 322 backward without a mask.
    expect(attentionRate(second, false) / 335).toBeGreaterThan(0.9);
    expect(attentionRate(second, false) / 335).toBeLessThan(1.1);
    expect(attentionRate(second, true) / 310).toBeGreaterThan(0.85);
    expect(attentionRate(second, true) / 310).toBeLessThan(1.1);
    const first = underSoftware(h100, softwareOf("MPT", "h100-sxm"), "h100-sxm");
    expect(attentionRate(first, false)).toBeLessThan(0.65 * attentionRate(second, false));
    const onA100 = [
      attentionRate(underSoftware(a100, softwareOf("MPT"), "a100-80"), false),
      attentionRate(a100, false),
    ];
    expect(onA100[0]! / onA100[1]!).toBeCloseTo(0.6, 1);
    expect(underSoftware(a100, softwareOf("TITAN", "a100-80"), "a100-80").devices[0]!.efficiency).toEqual(
      a100.devices[0]!.efficiency,
    );
  });

  it("moves the bytes of its loss at the memory's rate", () => {
    const software = softwareOf("FMS");
    const compute = new ComputeModel(underSoftware(a100, software, "a100-80").devices[0]!);
    const logits = 4e9;
    // The operator counts 12 bytes a logit.
    const loss = compute.seconds({ kind: "loss", dtype: "bf16", flops: 0, bytes: 12 * logits });
    const copy = compute.seconds({
      kind: "elementwise",
      dtype: "bf16",
      flops: 0,
      bytes: software.lossBytes! * logits,
    });
    expect(loss / copy).toBeCloseTo(1, 2);
  });

  it("gives early ZeRO-3 a part of the network, and no other link", () => {
    const software = softwareOf("SC21T2", "a100-80", "3");
    const { levels } = underSoftware(a100, software, "a100-80").topology;
    const rates = (list: typeof levels) => list.map(({ link }) => link!.bytesPerSecond.value);
    const [node, network] = rates(a100.topology.levels);
    expect(rates(levels)).toEqual([node, network! * software.networkShare!]);
    expect(levels.at(-1)!.link!.bytesPerSecond.provenance).toBe("fitted");
    const alone = clusterPreset("a100-80:8x1");
    expect(underSoftware(alone, software, "a100-80").topology).toEqual(alone.topology);
  });

  it("says what it assumed, and from where", () => {
    const software = softwareOf("SC21T2", "a100-80", "3");
    const { overlap } = underSoftware(a100, software, "a100-80");
    expect(overlap.parameterGather).toEqual({
      value: 0.55,
      provenance: "assumed",
      source: software.source,
    });
    expect(overlap.gradientReduction.value).toBe(0);
  });
});
