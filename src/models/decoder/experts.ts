import type { Operator, Tensor } from "../../contracts/index.js";
import { axesOf, elements, type GraphBuilder } from "../graph.js";
import { activate, add, type MlpNames, mlp, projection } from "./parts.js";

/** The experts of a layer. */
export interface RoutedExperts {
  experts: number;
  /** Experts that a token goes to. */
  topK: number;
  /** Width of one routed expert. */
  ffn: number;
  /** DeepSeek-V3's e_score_correction_bias: added to the scores for the choice alone. */
  correctionBias?: boolean;
  /** The router and the experts have biases (GPT-OSS). */
  bias?: boolean;
  /** What enters the experts' activation is clamped (GPT-OSS's swiglu_limit). */
  clamp?: boolean;
  /** An MLP that all tokens go through; its output is scaled by a learned gate in Qwen2-MoE. */
  shared?: { ffn: number; bias: boolean; gated?: boolean };
}

export interface ExpertsSpec extends RoutedExperts {
  /** The mixture's module; the experts are its `experts`. */
  module: string;
  /** Names of the router and the shared expert inside it. */
  router: string;
  sharedExpert: string;
  /** Names inside the shared expert; `gate` is present where experts are gated. */
  names: MlpNames;
  activation: string;
}

/**
 * A mixture of experts. Every token goes to `topK` experts, so that activations carry the axis `choice`; the
 * axis `expert` lives on weights alone. Splitting `expert` over devices shards the weights and leaves each
 * device with a part of the choices, the rest being zero: a partial sum.
 *
 * FLOPs count the chosen experts only: 2 x tokens x topK x weights of one expert.
 */
export function mixtureOfExperts(g: GraphBuilder, spec: ExpertsSpec, x: Tensor): Tensor {
  const { experts: expert, topK: choice } = spec;
  const { hidden } = axesOf(x) as { hidden: number };
  const routed = { ...g.tokens, choice };
  const { weights, indices } = route(g, spec, x);

  const dispatched = g.activation("dispatch.out", { ...routed, hidden });
  g.operator({
    kind: "dispatch",
    name: "dispatch",
    module: spec.module,
    inputs: [x, indices],
    outputs: [dispatched],
    dims: { ...routed, hidden },
    fixed: ["choice"],
    // Copies forward; sums the gradients of the copies backward.
    flops: { forward: 0, backward: elements({ ...routed, hidden }) },
    saved: [indices],
    attributes: { topK: choice, experts: expert },
  });

  const module = `${spec.module}.experts`;
  const activated = expertInner(g, spec, module, dispatched);
  const expertOut = g.activation("expert_down.out", { ...routed, hidden });
  groupedLinear(g, {
    id: "expert_down",
    module,
    x: activated,
    weight: g.parameter(`${module}.down_proj`, { expert, hidden, ffn: spec.ffn }),
    bias: spec.bias ? g.parameter(`${module}.down_proj_bias`, { expert, hidden }) : undefined,
    outputs: [expertOut],
    topK: choice,
    ...(spec.bias ? { attributes: { weightedBias: true } } : {}),
  });

  const combined = g.activation("combine.out", axesOf(x));
  const forward = 2 * elements({ ...routed, hidden });
  g.operator({
    kind: "combine",
    name: "combine",
    module: spec.module,
    inputs: [expertOut, weights, indices],
    outputs: [combined],
    dims: { ...routed, hidden },
    fixed: ["choice"],
    flops: { forward, backward: 2 * forward },
    saved: [...(g.kernels.expertWeights === "activations" ? [] : [expertOut]), weights, indices],
    attributes: { topK: choice, experts: expert },
  });
  if (!spec.shared) return combined;
  return add(g, "shared_add", spec.module, combined, sharedExpert(g, spec, spec.shared, x));
}

/** The experts' first product and activation. */
function expertInner(g: GraphBuilder, spec: ExpertsSpec, module: string, x: Tensor): Tensor {
  const { experts: expert, topK, ffn, activation } = spec;
  const { hidden } = axesOf(x) as { hidden: number };
  const axes = { ...g.tokens, choice: topK, ffn };
  const activationSpec = {
    id: "expert_activation",
    activation,
    module,
    ...(spec.clamp ? { attributes: { clamped: true } } : {}),
  };
  if (!spec.names.gate) {
    const up = g.activation("expert_up", axes);
    const weight = g.parameter(`${module}.up_proj`, { expert, ffn, hidden });
    const bias = spec.bias ? g.parameter(`${module}.up_proj_bias`, { expert, ffn }) : undefined;
    groupedLinear(g, { id: "expert_up", module, x, weight, bias, outputs: [up], topK });
    return activate(g, activationSpec, up);
  }
  const gate = g.activation("expert_gate", axes);
  const up = g.activation("expert_up", axes);
  groupedLinear(g, {
    id: "expert_gate_up",
    module,
    x,
    weight: g.parameter(`${module}.gate_up_proj`, { expert, part: 2, ffn, hidden }),
    bias: spec.bias ? g.parameter(`${module}.gate_up_proj_bias`, { expert, part: 2, ffn }) : undefined,
    outputs: [gate, up],
    topK,
    gated: true,
  });
  return activate(g, activationSpec, gate, up);
}

function sharedExpert(
  g: GraphBuilder,
  spec: ExpertsSpec,
  shared: NonNullable<RoutedExperts["shared"]>,
  x: Tensor,
): Tensor {
  const module = `${spec.module}.${spec.sharedExpert}`;
  const { activation, names } = spec;
  const inner = { ...names, ffn: shared.ffn, activation, bias: shared.bias };
  const out = mlp(g, { prefix: "shared_", module, ...inner }, x);
  if (!shared.gated) return out;
  const gateSpec = { id: "shared_gate", module: `${module}_gate`, out: { sharedGate: 1 }, bias: false };
  const gate = projection(g, gateSpec, x);
  const scaled = g.activation("shared_gated.out", axesOf(out));
  const forward = 5 * elements(axesOf(out));
  g.operator({
    id: "shared_gated",
    kind: "elementwise",
    name: "sigmoid_mul",
    module: spec.module,
    inputs: [out, gate],
    outputs: [scaled],
    dims: { ...axesOf(out), sharedGate: 1 },
    fixed: ["sharedGate"],
    flops: { forward, backward: 2 * forward },
    saved: [out, gate],
  });
  return scaled;
}

/** Scores all experts in f32 and picks the best; nothing but tokens can be split, as the choice needs all. */
function route(g: GraphBuilder, spec: ExpertsSpec, x: Tensor): { weights: Tensor; indices: Tensor } {
  const { experts: expert, topK: choice } = spec;
  const { hidden } = axesOf(x) as { hidden: number };
  const module = `${spec.module}.${spec.router}`;
  const parameters = [g.parameter(`${module}.weight`, { expert, hidden })];
  if (spec.bias) parameters.push(g.parameter(`${module}.bias`, { expert }));
  if (spec.correctionBias) {
    parameters.push(g.parameter(`${module}.e_score_correction_bias`, { expert }, { dtype: "f32" }));
  }
  const logits = g.activation("router_logits", { ...g.tokens, expert }, "f32");
  const weights = g.activation("router_weights", { ...g.tokens, choice }, "f32");
  const indices = g.activation("router_indices", { ...g.tokens, choice }, "i64");
  const forward = 2 * g.batch * g.sequence * hidden * expert;
  g.operator({
    kind: "router",
    name: "router",
    module,
    inputs: [x, ...parameters],
    outputs: [logits, weights, indices],
    dims: { ...g.tokens, hidden, expert, choice },
    fixed: ["hidden", "expert", "choice"],
    flops: { forward, backward: 2 * forward },
    saved: [x, logits, indices],
    attributes: { topK: choice },
  });
  return { weights, indices };
}

interface GroupedSpec {
  id: string;
  module: string;
  x: Tensor;
  weight: Tensor;
  bias: Tensor | undefined;
  outputs: Tensor[];
  topK: number;
  gated?: boolean;
  attributes?: Operator["attributes"];
}

function groupedLinear(g: GraphBuilder, spec: GroupedSpec): void {
  const { expert, part: _part, ...features } = axesOf(spec.weight) as Record<string, number>;
  const weightsOfOne = elements(axesOf(spec.weight)) / expert!;
  const forward = 2 * g.batch * g.sequence * spec.topK * weightsOfOne;
  g.operator({
    id: spec.id,
    kind: "grouped_linear",
    name: spec.id.replace(/^expert_/, ""),
    module: spec.module,
    inputs: [spec.x, spec.weight, ...(spec.bias ? [spec.bias] : [])],
    outputs: spec.outputs,
    dims: { ...g.tokens, choice: spec.topK, ...features, expert: expert! },
    fixed: ["choice"],
    flops: { forward, backward: 2 * forward },
    saved: [spec.x],
    attributes: { topK: spec.topK, ...(spec.gated ? { gated: true } : {}), ...spec.attributes },
  });
}
