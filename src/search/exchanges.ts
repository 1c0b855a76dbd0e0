import type { Operand, Operator } from "../contracts/index.js";
import { bytesOf, type OperatorSeconds, type PassSeconds } from "../cost/operator.js";
import { exposedSeconds } from "../cost/overlap.js";
import { isMaterialized } from "../cost/shapes.js";
import type { LayerProblemInput } from "./intraProblem.js";
import type { Strategy } from "./strategies.js";

/** Communication that an operator causes on axes along which it is not split: tokens, keys and experts of others. */

const nothing: PassSeconds = { forward: 0, backward: 0 };

export function addSeconds(sum: { forward: number; backward: number }, more: PassSeconds): void {
  sum.forward += more.forward;
  sum.backward += more.backward;
}

/** Bytes of an operand on one device of the split group. */
function localBytes(operand: Operand, sharded: boolean, { context, group }: LayerProblemInput): number {
  const bytes = bytesOf(context.tensors.get(operand.tensor)!, context);
  return sharded ? bytes / group.size : bytes;
}

/**
 * Exposed seconds for an attention operator to see the keys of other context-parallel ranks.
 *
 * Ring: keys and values pass all c ranks while attention computes on those at hand; backward they pass again, with
 * their gradients (Liu et al., Ring Attention, 2023, section 3; Llama 3, 2024, section 3.3.2 gathers them instead,
 * with the same volume). All-to-all: queries, keys, values and the result are exchanged, whole sequence of some heads
 * for a part of it of all heads, and so are their gradients (Jacobs et al., DeepSpeed Ulysses, 2023, section 3.1).
 * @returns Infinity where attention cannot be divided so: written scores know no ring, and heads must divide.
 */
export function contextExchange(
  operator: Operator,
  strategy: Strategy,
  seconds: OperatorSeconds,
  input: LayerProblemInput,
): PassSeconds {
  const { contextGroup, communication } = input;
  const { size } = contextGroup;
  if (size === 1 || operator.kind !== "attention") return nothing;
  const local = (operand: Operand, at: number) =>
    localBytes(operand, strategy.inputs[at]!.placement.kind === "shard", input);
  if (input.contextExchange === "all-to-all") {
    const bytes = operator.inputs.map(local);
    const result = operator.outputs[0];
    if (result) bytes.push(localBytes(result, strategy.outputs[0]!.kind === "shard", input));
    const all = bytes.reduce(
      (sum, each) => sum + communication.collectiveSeconds("allToAll", each, contextGroup),
      0,
    );
    return { forward: all, backward: all };
  }
  if (isMaterialized(operator)) return { forward: Number.POSITIVE_INFINITY, backward: 0 };
  const keysAndValues = operator.inputs.slice(1).reduce((sum, each, i) => sum + local(each, i + 1), 0);
  const pass = communication.collectiveSeconds("allGather", size * keysAndValues, contextGroup);
  const share = input.overlap("contextExchange");
  return {
    forward: exposedSeconds(pass, seconds.forward, share),
    backward: exposedSeconds(2 * pass, seconds.backward, share),
  };
}

/**
 * Exposed seconds to bring tokens to the ranks that hold their experts, or the results back: every rank sends what it
 * holds of the dispatched tokens, and their gradients the other way (Lepikhin et al., GShard, 2020, section 3.2).
 */
export function expertExchange(
  operator: Operator,
  strategy: Strategy,
  input: LayerProblemInput,
): PassSeconds {
  const { expertGroup, communication, context } = input;
  if (expertGroup.size === 1) return nothing;
  const isDispatch = operator.kind === "dispatch";
  if (!isDispatch && operator.kind !== "combine") return nothing;
  const operand = isDispatch ? operator.outputs[0] : operator.inputs[0];
  if (!operand) return nothing;
  const placement = isDispatch ? strategy.outputs[0]! : strategy.inputs[0]!.placement;
  const bytes = localBytes(operand, placement.kind === "shard", input) * (context.experts?.imbalance ?? 1);
  const copies = Number(operator.attributes?.topK ?? 1);
  const whole = context.experts?.fused
    ? communication.dispatchSeconds(bytes, copies, expertGroup)
    : communication.collectiveSeconds("allToAll", bytes, expertGroup);
  const seconds = (1 - input.overlap("expertExchange")) * whole;
  return { forward: seconds, backward: seconds };
}
