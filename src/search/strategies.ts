import type { Dimension, Operator, Runtime, Tensor } from "../contracts/index.js";
import { type Placement, partial, replicate, shard } from "../cost/placement.js";
import { describeRuntime } from "../runtimes/index.js";

/**
 * Shardings of one operator over one mesh axis of `degree` devices, derived from its named loop dimensions:
 * splitting a loop dimension shards every operand that has it, leaves the others whole, and makes outputs
 * without it partial sums (Tofu, EuroSys'19; GSPMD, arXiv:2105.04663).
 */

/** How an operator takes an input: the placement it reads, and the placement of the gradient it returns. */
export interface Use {
  placement: Placement;
  gradient: Placement;
}

export interface Strategy {
  /** The loop dimension that is split; null runs the whole operator on every device. */
  split: string | null;
  inputs: Use[];
  outputs: Placement[];
}

/** Placement that the gradient of an output must have: partial sums need the whole gradient everywhere. */
export function gradientPlacement(output: Placement): Placement {
  return output.kind === "partial" ? replicate : output;
}

/** Loop dimensions that Megatron-LM and the tensor-parallel plans of PyTorch split. */
const modelDimensions = new Set(["head", "ffn", "vocabulary"]);

/** Dimensions of the activations between blocks that sequence parallelism splits. */
const sequenceDimension = "sequence";

/** Dimension of everything that happens to a token once for each expert that it goes to. */
const choiceDimension = "choice";

const tokenKinds = new Set<Operator["kind"]>(["norm", "elementwise", "router", "dispatch", "combine"]);

/** Operators whose partial result over a split contraction is not a plain sum. */
const contractionFree = new Set<Operator["kind"]>([
  "attention",
  "norm",
  "elementwise",
  "router",
  "dispatch",
  "combine",
]);

export interface StrategyRules {
  runtime: Runtime;
  degree: number;
  /** Whether activations between blocks are split along the sequence. */
  sequenceParallel: boolean;
  /** Devices that share one expert: all of the axis, or 1, where each takes its own tokens to whole experts. */
  expertTensor: number;
}

/** All strategies of an operator under the rules; empty where the operator cannot run at this degree. */
export function enumerateStrategies(
  operator: Operator,
  tensors: ReadonlyMap<string, Tensor>,
  sizes: ReadonlyMap<string, number>,
  rules: StrategyRules,
): Strategy[] {
  const whole = strategyOf(operator, null);
  if (rules.degree === 1) return [whole];
  const splits = operator.dims
    .filter((dim) => canSplit(operator, dim, tensors, sizes, rules.degree))
    .map((dim) => dim.name);
  const strategies = (names: string[]) => names.map((name) => strategyOf(operator, name));
  if (rules.expertTensor === 1 && operator.dims.some((dim) => dim.name === choiceDimension)) {
    return rules.sequenceParallel && splits.includes(sequenceDimension)
      ? strategies([sequenceDimension])
      : [];
  }
  if (describeRuntime(rules.runtime).freeShardings) return [whole, ...strategies(splits)];
  const modelSplit = operator.dims.some((dim) => modelDimensions.has(dim.name));
  if (modelSplit) {
    const possible = splits.filter((name) => modelDimensions.has(name));
    // A vocabulary that does not divide stays whole; heads and feed-forward widths must divide.
    const vocabularyOnly = operator.dims.every(
      (dim) => dim.name === "vocabulary" || !modelDimensions.has(dim.name),
    );
    return possible.length === 0 && vocabularyOnly ? [whole] : strategies(possible);
  }
  const sequence =
    rules.sequenceParallel && splits.includes(sequenceDimension) && tokenKinds.has(operator.kind);
  return sequence ? [whole, ...strategies([sequenceDimension])] : [whole];
}

function canSplit(
  operator: Operator,
  dim: Dimension,
  tensors: ReadonlyMap<string, Tensor>,
  sizes: ReadonlyMap<string, number>,
  degree: number,
): boolean {
  if (!dim.splittable || (sizes.get(dim.name) ?? dim.size) % degree !== 0) return false;
  for (const operand of [...operator.inputs, ...operator.outputs]) {
    const axis = operand.dims.indexOf(dim.name);
    if (axis < 0) continue;
    const tensor = tensors.get(operand.tensor)!;
    const size = tensor.shape[axis]!;
    // Axes that follow the workload were scaled with the loop dimension; shorter ones (key heads) were not.
    if (size !== dim.size && size % degree !== 0) return false;
  }
  const inOutputs = operator.outputs.every((operand) => operand.dims.includes(dim.name));
  if (!inOutputs && contractionFree.has(operator.kind)) return false;
  return true;
}

/** The strategy that splits one loop dimension, whether the rules allow it or not. */
export function strategyOf(operator: Operator, split: string | null): Strategy {
  const inputs = operator.inputs.map((operand): Use => {
    const axis = split === null ? -1 : operand.dims.indexOf(split);
    if (axis >= 0) return { placement: shard(axis), gradient: shard(axis) };
    return { placement: replicate, gradient: split === null ? replicate : partial };
  });
  const outputs = operator.outputs.map((operand) => {
    if (split === null) return replicate;
    const axis = operand.dims.indexOf(split);
    if (axis >= 0) return shard(axis);
    // The vocabulary-parallel loss reduces its own statistics and returns the whole loss.
    return operator.kind === "cross_entropy" ? replicate : partial;
  });
  return { split, inputs, outputs };
}
