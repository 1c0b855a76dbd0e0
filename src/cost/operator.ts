import type { Dtype, Operator, Scaling, Tensor } from "../contracts/index.js";
import { scaledFlops, tensorBytes, type Workload } from "../models/workload.js";
import { type NarrowTypes, narrowLinearSeconds } from "./cast.js";
import type { ComputeModel, Pass, Work } from "./compute.js";
import {
  type ExpertDivision,
  mixtureBytes,
  mixtureCallCount,
  type PassCalls,
  seesExperts,
} from "./mixture.js";
import { eagerBytes, isPlainSoftmax, type PassBytes, plainSoftmax } from "./passes.js";
import {
  type AttentionShape,
  attentionShape,
  type GemmShape,
  isBatchedProduct,
  isMaterialized,
  type ProductShapes,
  productShapes,
} from "./shapes.js";

/** Seconds of an operator's forward and backward pass on one device. */
export interface OperatorSeconds {
  forward: number;
  backward: number;
  /**
   * Part of `backward` that makes and adds up gradients of parameters, which no other operator waits for (W of Qi
   * et al., "Zero Bubble Pipeline Parallelism", ICLR 2024, section 2): one of a linear layer's two products, all of
   * an embedding's backward.
   */
  backwardWeight: number;
}

/** Seconds of both passes of anything. */
export type PassSeconds = Pick<OperatorSeconds, "forward" | "backward">;

/** What the cost of an operator depends on beside itself. */
export interface CostContext {
  tensors: ReadonlyMap<string, Tensor>;
  /** Workload that the model's figures stand at. */
  reference: Workload;
  workload: Workload;
  compute: ComputeModel;
  /** Type that parameters and activations are computed in. */
  dtype: Dtype;
  /** Type of the products of linear layers, where it is narrower. */
  linearDtype?: Dtype;
  scaling?: Scaling;
  /** Whether PyTorch's own kernels run it, which make more passes over memory than fused ones. */
  eager?: boolean;
  /** How experts are divided beside `split`; on their own device where absent. */
  experts?: ExpertDivision;
  /** Prices that were worked out before for the same workload and degree; they are shared by whoever holds it. */
  known?: KnownSeconds;
}

/** Seconds of operators by what they depend on beside workload and degree: the split, and where experts are. */
export type KnownSeconds = Map<Operator, Map<string, OperatorSeconds>>;

const workKind: Readonly<Record<Operator["kind"], Work["kind"]>> = {
  embedding: "embedding",
  linear: "gemm",
  grouped_linear: "gemm",
  attention: "attention",
  norm: "normalization",
  elementwise: "elementwise",
  router: "gemm",
  dispatch: "copy",
  combine: "copy",
  cross_entropy: "loss",
  convolution: "gemm",
  custom: "elementwise",
};

/** Bytes of a whole tensor at the context's workload; 16-bit tensors take the job's type. */
export function bytesOf(
  tensor: Tensor,
  context: Pick<CostContext, "reference" | "workload" | "dtype">,
): number {
  const dtype = tensor.dtype === "bf16" || tensor.dtype === "f16" ? context.dtype : tensor.dtype;
  return tensorBytes(tensor, context.reference, context.workload, dtype);
}

function kindOf(operator: Operator): Work["kind"] {
  return operator.attributes?.activation === undefined ? workKind[operator.kind] : "activation";
}

/**
 * Seconds of one operator when its loop dimension `split` is divided over `degree` devices; null divides
 * nothing. Curves of whole framework calls price it where the device has them, else those of kernels.
 */
export function operatorSeconds(
  operator: Operator,
  split: string | null,
  degree: number,
  context: CostContext,
): OperatorSeconds {
  const { known } = context;
  if (!known) return price(operator, split, degree, context);
  const experts = seesExperts(operator) ? (context.experts?.parallel ?? 1) : 1;
  const key = `${split}/${experts}`;
  const ofOperator = known.get(operator) ?? new Map<string, OperatorSeconds>();
  known.set(operator, ofOperator);
  const seconds = ofOperator.get(key) ?? price(operator, split, degree, context);
  ofOperator.set(key, seconds);
  return seconds;
}

function price(
  operator: Operator,
  split: string | null,
  degree: number,
  context: CostContext,
): OperatorSeconds {
  const work = operatorWork(operator, split, degree, context);
  const share = weightShare(operator, work, context);
  if (operator.measured && split === null && sameWorkload(context)) {
    const { forwardSeconds: forward, backwardSeconds: backward } = operator.measured;
    return { forward, backward, backwardWeight: share * backward };
  }
  const { compute } = context;
  const passes = callSeconds(operator, work, compute) ?? kernelSeconds(operator, work, compute);
  const seconds = { backwardWeight: share * passes.backward, ...passes };
  const accumulation = accumulationSeconds(work, compute);
  seconds.backward += accumulation;
  seconds.backwardWeight += accumulation;
  // A split weight or loss goes through the framework's dispatch of distributed tensors.
  const dispatched = work.parameterBytes.length > 0 || operator.kind === "cross_entropy";
  if (split !== null && degree > 1 && dispatched) {
    const calls = callCount(operator);
    seconds.forward += calls * compute.shardedCallSeconds("forward");
    seconds.backward += calls * compute.shardedCallSeconds("backward");
  }
  return seconds;
}

/** One device's part of an operator's work. */
interface LocalWork {
  flops: { forward: number; backward: number };
  /** Without the parameters of an embedding, of which a few rows are read. */
  inputBytes: number;
  outputBytes: number;
  parameterBytes: number[];
  dtype: Dtype;
  /** Type of the products where it is narrower than `dtype`, so that their operands are cast. */
  narrow: NarrowTypes | undefined;
  products: ProductShapes | undefined;
  attention: AttentionShape | undefined;
  /** Bytes of passes that kernels of the framework make beside the counted ones. */
  more: PassBytes;
}

const nothing: PassBytes = { forward: 0, backward: 0 };

function sumOf(a: PassBytes, b: PassBytes): PassBytes {
  return { forward: a.forward + b.forward, backward: a.backward + b.backward };
}

function operatorWork(
  operator: Operator,
  split: string | null,
  degree: number,
  context: CostContext,
): LocalWork {
  const { forward, backward } = scaledFlops(operator, context.reference, context.workload);
  const experts = operator.kind === "grouped_linear" ? context.experts : undefined;
  const share = (split === null ? 1 : 1 / degree) * (experts?.imbalance ?? 1);
  const divisor = (dim: string) =>
    (dim === split ? degree : 1) * (experts && dim === "expert" ? experts.parallel : 1);
  const localBytes = (operand: Operator["inputs"][number]) => {
    const bytes = bytesOf(context.tensors.get(operand.tensor)!, context);
    return operand.dims.reduce((part, dim) => (dim === null ? part : part / divisor(dim)), bytes);
  };
  let inputBytes = 0;
  const parameterBytes: number[] = [];
  for (const operand of operator.inputs) {
    const isParameter = context.tensors.get(operand.tensor)!.kind === "parameter";
    const bytes = localBytes(operand);
    if (isParameter) parameterBytes.push(bytes);
    if (!isParameter || operator.kind !== "embedding") inputBytes += bytes;
  }
  const outputBytes = operator.outputs.reduce((sum, operand) => sum + localBytes(operand), 0);
  const traffic = isPlainSoftmax(operator, divisor, context.workload) ? plainSoftmax.traffic : 1;
  const flops = { forward: forward * share, backward: backward * share };
  const local = { ...context, divisor };
  return {
    flops,
    inputBytes: traffic * inputBytes,
    outputBytes: traffic * outputBytes,
    parameterBytes,
    dtype: context.dtype,
    narrow:
      context.linearDtype && isNarrow(operator)
        ? { from: context.dtype, to: context.linearDtype, scaling: context.scaling }
        : undefined,
    products: productShapes(operator, flops.forward, local),
    attention: attentionShape(operator, local),
    more: sumOf(
      context.eager ? eagerBytes(operator, context.tensors, localBytes) : nothing,
      mixtureBytes(operator, context.tensors, localBytes, context.experts),
    ),
  };
}

/** Linear layers inside blocks run narrow; router and logits stay in the wide type (Transformer Engine's recipes). */
function isNarrow({ kind, dims }: Operator): boolean {
  if (kind !== "linear" && kind !== "grouped_linear") return false;
  return dims.every((dim) => dim.name !== "vocabulary");
}

/**
 * Share of the backward that makes gradients of matrices, as many products as the forward has; norms and biases are
 * too small to be put off.
 */
function weightShare(operator: Operator, { flops }: LocalWork, { tensors }: CostContext): number {
  const hasMatrix = operator.inputs.some((operand) => {
    const { kind, shape } = tensors.get(operand.tensor)!;
    return kind === "parameter" && shape.length > 1;
  });
  if (!hasMatrix) return 0;
  if (operator.kind === "embedding") return 1;
  return kindOf(operator) === "gemm" ? 1 / backwardProducts(flops) : 0;
}

/** Products of the forward's size that the backward pass of a matrix product is made of. */
function backwardProducts({ forward, backward }: LocalWork["flops"]): number {
  return forward > 0 ? Math.max(1, Math.round(backward / forward)) : 1;
}

/** Framework calls of an operator whose loop dimension `split` is divided over `degree` devices, by pass. */
export function localCallCount(
  operator: Operator,
  split: string | null,
  degree: number,
  { tensors, workload, linearDtype, experts }: CostContext,
): PassCalls {
  const narrow = linearDtype !== undefined;
  const ofMixture = mixtureCallCount(operator, tensors, experts ?? { parallel: 1 }, narrow);
  if (ofMixture) return ofMixture;
  const divisor = (dim: string) => (dim === split ? degree : 1);
  const calls = isPlainSoftmax(operator, divisor, workload) ? plainSoftmax.calls : callCount(operator);
  return { forward: calls, backward: calls };
}

/** Framework calls that one operator stands for: projections that the model keeps apart are called apart. */
function callCount(operator: Operator): number {
  return operator.kind === "linear" ? (operator.modules?.length ?? 1) : 1;
}

/** From curves of whole framework calls; undefined where the device has none for one of the passes. */
function callSeconds(operator: Operator, work: LocalWork, compute: ComputeModel): PassSeconds | undefined {
  if (!compute.timesCalls) return undefined;
  const { flops, inputBytes, outputBytes, dtype } = work;
  const calls = callCount(operator);
  const common = { kind: kindOf(operator), name: operator.name, dtype };
  // The gradient of an embedding is dense: all of the table is written, and the output's gradient read.
  const embeddingBytes = work.parameterBytes.reduce((sum, bytes) => sum + bytes, 0) + outputBytes;
  const forwardWork = { ...common, flops: flops.forward / calls, bytes: inputBytes + outputBytes };
  const backwardWork = {
    ...common,
    flops: flops.backward / calls,
    bytes: operator.kind === "embedding" ? embeddingBytes : 2 * inputBytes + outputBytes,
  };
  const forward = compute.callSeconds(forwardWork, "forward");
  const backward = compute.callSeconds(backwardWork, "backward");
  if (forward === undefined || backward === undefined) return undefined;
  return { forward: calls * forward, backward: calls * backward };
}

/** Parts of materialised attention are products, or pass over the scores. */
function kernelKind(operator: Operator): Work["kind"] {
  if (!isMaterialized(operator)) return kindOf(operator);
  return isBatchedProduct(operator) ? "gemm" : "elementwise";
}

/**
 * From curves of kernels. The backward pass of a matrix product is two products of the forward's size, one for
 * each input; other operators move their inputs twice and their outputs once.
 */
function kernelSeconds(
  operator: Operator,
  work: LocalWork,
  compute: ComputeModel,
): PassSeconds & Partial<OperatorSeconds> {
  const { forward, backward, ...rest } = countedSeconds(operator, work, compute);
  const more = (bytes: number) =>
    bytes > 0 ? compute.seconds({ kind: "elementwise", dtype: work.dtype, flops: 0, bytes }) : 0;
  return {
    ...rest,
    forward: forward + more(work.more.forward),
    backward: backward + more(work.more.backward),
  };
}

function countedSeconds(
  operator: Operator,
  work: LocalWork,
  compute: ComputeModel,
): PassSeconds & Partial<OperatorSeconds> {
  const { flops, inputBytes, outputBytes, products: shapes, attention, narrow } = work;
  const kind = kernelKind(operator);
  if (narrow && shapes) {
    return narrowLinearSeconds(
      shapes,
      { flops: flops.forward, types: narrow, weights: callCount(operator) },
      compute,
    );
  }
  const { dtype } = work;
  const timed = (pass: Pass, flops: number, bytes: number, shape?: Partial<Work>) =>
    compute.withCall(compute.seconds({ kind, dtype, flops, bytes, ...shape }), pass);
  const bytes = inputBytes + outputBytes;
  const forward = timed("forward", flops.forward, bytes, { shape: shapes?.forward, attention });
  if (flops.backward === 0 && operator.kind !== "embedding") return { forward, backward: 0 };
  if (kind === "gemm" && flops.forward > 0) {
    const products = backwardProducts(flops);
    const one = (shape?: GemmShape) => timed("backward", flops.backward / products, bytes, { shape });
    if (products !== 2 || !shapes) return { forward, backward: products * one(shapes?.forward) };
    const weight = one(shapes.weightGradient);
    const backward = one(shapes.inputGradient) + weight;
    return work.parameterBytes.length > 0
      ? { forward, backward, backwardWeight: weight }
      : { forward, backward };
  }
  const reversed = attention && { attention: { ...attention, backward: true } };
  return { forward, backward: timed("backward", flops.backward, 2 * inputBytes + outputBytes, reversed) };
}

/**
 * Adding the parameters' gradients to the sums over micro-batches: two reads and a write. Where it was not
 * measured, the product that makes the gradient adds it on its way (Megatron-LM's fused accumulation).
 */
function accumulationSeconds(work: LocalWork, compute: ComputeModel): number {
  if (!compute.timesCalls) return 0;
  let seconds = 0;
  for (const bytes of work.parameterBytes) {
    const one = { kind: "accumulation", dtype: work.dtype, flops: 0, bytes: 3 * bytes } as const;
    seconds += compute.callSeconds(one, "forward") ?? 0;
  }
  return seconds;
}

function sameWorkload({ reference, workload }: CostContext): boolean {
  return reference.batch === workload.batch && reference.sequence === workload.sequence;
}
