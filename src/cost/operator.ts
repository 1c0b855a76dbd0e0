import type { Dtype, Operator, Tensor } from "../contracts/index.js";
import { scaledFlops, tensorBytes, type Workload } from "../models/workload.js";
import type { ComputeModel, Work } from "./compute.js";

/** Seconds of an operator's forward and backward pass on one device. */
export interface OperatorSeconds {
  forward: number;
  backward: number;
}

/** What the cost of an operator depends on beside itself. */
export interface CostContext {
  tensors: ReadonlyMap<string, Tensor>;
  /** Workload that the model's figures stand at. */
  reference: Workload;
  workload: Workload;
  compute: ComputeModel;
  /** Type that parameters and activations are computed in. */
  dtype: Dtype;
}

const workKind: Readonly<Record<Operator["kind"], Work["kind"]>> = {
  embedding: "copy",
  linear: "gemm",
  grouped_linear: "gemm",
  attention: "attention",
  norm: "reduction",
  elementwise: "elementwise",
  router: "gemm",
  dispatch: "copy",
  combine: "copy",
  cross_entropy: "reduction",
  convolution: "gemm",
  custom: "elementwise",
};

/** Bytes of a whole tensor at the context's workload; 16-bit tensors take the job's type. */
export function bytesOf(tensor: Tensor, context: CostContext): number {
  const dtype = tensor.dtype === "bf16" || tensor.dtype === "f16" ? context.dtype : tensor.dtype;
  return tensorBytes(tensor, context.reference, context.workload, dtype);
}

/**
 * Seconds of one operator when its loop dimension `split` is divided over `degree` devices; null divides
 * nothing. The backward pass of a matrix product is two products of the forward's size, one for each input;
 * other operators move their inputs twice and their outputs once.
 */
export function operatorSeconds(
  operator: Operator,
  split: string | null,
  degree: number,
  context: CostContext,
): OperatorSeconds {
  if (operator.measured && split === null && sameWorkload(context)) {
    return { forward: operator.measured.forwardSeconds, backward: operator.measured.backwardSeconds };
  }
  const flops = scaledFlops(operator, context.reference, context.workload);
  const share = split === null ? 1 : 1 / degree;
  let inputBytes = 0;
  let outputBytes = 0;
  for (const operand of operator.inputs) {
    const tensor = context.tensors.get(operand.tensor)!;
    if (operator.kind === "embedding" && tensor.kind === "parameter") continue;
    inputBytes += bytesOf(tensor, context) * (split !== null && operand.dims.includes(split) ? share : 1);
  }
  for (const operand of operator.outputs) {
    const bytes = bytesOf(context.tensors.get(operand.tensor)!, context);
    outputBytes += bytes * (split !== null && operand.dims.includes(split) ? share : 1);
  }
  const kind = workKind[operator.kind];
  const { compute, dtype } = context;
  const forwardFlops = flops.forward * share;
  const backwardFlops = flops.backward * share;
  const floor = compute.device.launchSeconds.value;
  const timed = (work: Omit<Work, "kind" | "dtype">) =>
    Math.max(compute.seconds({ kind, dtype, ...work }), floor);
  const forward = timed({ flops: forwardFlops, bytes: inputBytes + outputBytes });
  if (backwardFlops === 0 && operator.kind !== "embedding") return { forward, backward: 0 };
  if (kind === "gemm" && forwardFlops > 0) {
    const products = Math.max(1, Math.round(backwardFlops / forwardFlops));
    const each = timed({ flops: backwardFlops / products, bytes: inputBytes + outputBytes });
    return { forward, backward: products * each };
  }
  return { forward, backward: timed({ flops: backwardFlops, bytes: 2 * inputBytes + outputBytes }) };
}

function sameWorkload({ reference, workload }: CostContext): boolean {
  return reference.batch === workload.batch && reference.sequence === workload.sequence;
}
