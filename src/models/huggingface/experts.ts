import type { Tensor } from "../../contracts/index.js";
import { axesOf, elements, type GraphBuilder } from "../graph.js";
import type { ConfigFields } from "./fields.js";
import { activate, add, gatedNames, mlp } from "./parts.js";

/**
 * Experts that a token goes to.
 * @throws MpoptError E_FIELD for more than there are.
 */
export function choices(fields: ConfigFields, experts: number, expertsField: string): number {
  const topK = fields.size("num_experts_per_tok");
  if (topK > experts) throw fields.error("num_experts_per_tok", `at most ${expertsField} (${experts})`);
  return topK;
}

export interface ExpertsSpec {
  /** The mixture's module; the router is its `gate`, the experts its `experts`. */
  module: string;
  experts: number;
  topK: number;
  /** Width of one routed expert. */
  ffn: number;
  activation: string;
  /** DeepSeek-V3's e_score_correction_bias: added to the scores for the choice alone. */
  correctionBias?: boolean;
  shared?: { ffn: number; bias: boolean };
}

/**
 * A mixture of experts. Every token goes to `topK` experts, so that activations carry the axis `choice`; the
 * axis `expert` lives on weights alone. Splitting `expert` over devices shards the weights and leaves each
 * device with a part of the choices, the rest being zero: a partial sum.
 *
 * FLOPs count the chosen experts only: 2 x tokens x topK x weights of one expert.
 */
export function mixtureOfExperts(g: GraphBuilder, spec: ExpertsSpec, x: Tensor): Tensor {
  const { experts: expert, topK: choice, ffn } = spec;
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
    attributes: { topK: choice },
  });

  const module = `${spec.module}.experts`;
  const gate = g.activation("expert_gate", { ...routed, ffn });
  const up = g.activation("expert_up", { ...routed, ffn });
  groupedLinear(g, {
    id: "expert_gate_up",
    module,
    x: dispatched,
    weight: g.parameter(`${module}.gate_up_proj`, { expert, part: 2, ffn, hidden }),
    outputs: [gate, up],
    topK: choice,
    gated: true,
  });
  const activated = activate(g, { id: "expert_activation", activation: spec.activation, module }, gate, up);
  const expertOut = g.activation("expert_down.out", { ...routed, hidden });
  groupedLinear(g, {
    id: "expert_down",
    module,
    x: activated,
    weight: g.parameter(`${module}.down_proj`, { expert, hidden, ffn }),
    outputs: [expertOut],
    topK: choice,
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
    saved: [expertOut, weights, indices],
    attributes: { topK: choice },
  });
  if (!spec.shared) return combined;

  const shared = mlp(
    g,
    {
      prefix: "shared_",
      module: `${spec.module}.shared_experts`,
      ...gatedNames,
      ffn: spec.shared.ffn,
      activation: spec.activation,
      bias: spec.shared.bias,
    },
    x,
  );
  return add(g, "shared_add", spec.module, combined, shared);
}

/** Scores all experts in f32 and picks the best; nothing but tokens can be split, as the choice needs all. */
function route(g: GraphBuilder, spec: ExpertsSpec, x: Tensor): { weights: Tensor; indices: Tensor } {
  const { experts: expert, topK: choice } = spec;
  const { hidden } = axesOf(x) as { hidden: number };
  const module = `${spec.module}.gate`;
  const parameters = [g.parameter(`${module}.weight`, { expert, hidden })];
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
  outputs: Tensor[];
  topK: number;
  gated?: boolean;
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
    inputs: [spec.x, spec.weight],
    outputs: spec.outputs,
    dims: { ...g.tokens, choice: spec.topK, ...features, expert: expert! },
    fixed: ["choice"],
    flops: { forward, backward: 2 * forward },
    saved: [spec.x],
    attributes: { topK: spec.topK, ...(spec.gated ? { gated: true } : {}) },
  });
}
