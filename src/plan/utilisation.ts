import type { Estimate, Job, Model, Operator } from "../contracts/index.js";
import { attentionPairs, distinctLayers, scaledFlops, type Workload } from "../models/workload.js";
import type { StageCosts } from "../search/stageCosts.js";

/** FLOPs by how attention is counted: the pairs that a mask leaves, or all of them. */
interface ByConvention {
  masked: number;
  full: number;
}

const none: Readonly<ByConvention> = { masked: 0, full: 0 };

function add(a: ByConvention, b: ByConvention, times = 1): ByConvention {
  return { masked: a.masked + times * b.masked, full: a.full + times * b.full };
}

/**
 * FLOPs of an operator's passes that the model asks for, whatever its kernels do beside: attention that writes its
 * scores computes masked pairs too, and flash attention computes the scores again in its backward (Dao,
 * FlashAttention-2, 2023, section 3.1.2), which counts as two forwards like that of any product.
 */
function usefulFlops(
  operator: Operator,
  reference: Workload,
  workload: Workload,
): { forward: ByConvention; backward: ByConvention } {
  const { forward, backward } = scaledFlops(operator, reference, workload);
  if (operator.kind !== "attention") {
    return { forward: { masked: forward, full: forward }, backward: { masked: backward, full: backward } };
  }
  const { causal, window, chunked, materialized } = operator.attributes ?? {};
  const { sequence } = workload;
  const pairs = attentionPairs(
    sequence,
    causal === true,
    typeof window === "number" ? window : undefined,
    chunked === true,
  );
  const share = pairs / (sequence * sequence);
  const both = (flops: number): ByConvention =>
    materialized === true ? { masked: flops * share, full: flops } : { masked: flops, full: flops / share };
  return { forward: both(forward), backward: both(Math.min(backward, 2 * forward)) };
}

/** FLOPs of one micro-batch that recomputation repeats, all devices together. */
function repeatedFlops(
  model: Model,
  costs: StageCosts,
  boundaries: readonly number[],
  workload: Workload,
): ByConvention {
  const { recompute, recomputeLayers } = costs.configuration;
  if (recompute === "none" && recomputeLayers === 0) return none;
  const blocks = model.layers.filter((layer) => layer.kind === "block");
  const repeatedOf = new Map<string, { selective: ByConvention; full: ByConvention }>();
  for (const { block, operators } of distinctLayers(model)) {
    const sum = { selective: none, full: none };
    for (const operator of operators) {
      const { forward } = usefulFlops(operator, model.reference, workload);
      sum.full = add(sum.full, forward);
      if (operator.kind === "attention") sum.selective = add(sum.selective, forward);
    }
    repeatedOf.set(block, sum);
  }
  let flops = none;
  for (let stage = 0; stage + 1 < boundaries.length; stage++) {
    for (let layer = boundaries[stage]!; layer < boundaries[stage + 1]!; layer++) {
      const kind = layer < boundaries[stage]! + recomputeLayers ? "full" : recompute;
      if (kind !== "none") flops = add(flops, repeatedOf.get(blocks[layer]!.block)![kind]);
    }
  }
  return flops;
}

/**
 * Utilisation of the devices' data-sheet peak, by both conventions of published figures: MFU counts what the model
 * asks for, HFU also what recomputation repeats (Chowdhery et al., PaLM, 2022, appendix B).
 * @param capacity FLOPs that all devices could do during the step.
 */
export function utilisation(
  model: Model,
  job: Job,
  costs: StageCosts,
  boundaries: readonly number[],
  capacity: number,
): Pick<Estimate, "mfu" | "hfu" | "fullAttention"> {
  const { microBatch, microBatches, data } = costs.configuration;
  const workload = { batch: job.globalBatch, sequence: job.sequence };
  let useful = none;
  for (const { count, operators } of distinctLayers(model)) {
    for (const operator of operators) {
      const { forward, backward } = usefulFlops(operator, model.reference, workload);
      useful = add(add(useful, forward, count), backward, count);
    }
  }
  const repeated = repeatedFlops(model, costs, boundaries, { batch: microBatch, sequence: job.sequence });
  const done = add(useful, repeated, microBatches * data);
  return {
    mfu: useful.masked / capacity,
    hfu: done.masked / capacity,
    fullAttention: { mfu: useful.full / capacity, hfu: done.full / capacity },
  };
}
