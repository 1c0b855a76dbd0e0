import type { Operator, Tensor } from "../../contracts/index.js";
import { type Axes, axesOf, elements, type GraphBuilder, loopDimensions, without } from "../graph.js";

/**
 * Operators that all families are made of.
 *
 * FLOPs. A linear operator reads every weight once a token, a multiply-add counts as two, and its backward is
 * two products of the same size (by input and by weight): 2 x tokens x weights and twice that (Kaplan et al.,
 * Scaling Laws for Neural Language Models, 2020, table 1; Narayanan et al., Megatron-LM, SC'21, appendix).
 * Bias additions are left out, as there. Norms and element-wise operators count arithmetic operations an
 * element; their time is memory traffic, so these small counts only keep the sums complete.
 */

/** Arithmetic operations an element, forward. */
const normFlops = {
  // Mean 1, centre 1, square and sum 2, scale 1, gain and bias 2.
  layer_norm: 7,
  // Square and sum 2, scale 1, gain 1.
  rms_norm: 4,
} as const;

/** Arithmetic operations an element, forward: exp, add, divide, multiply for silu; the tanh form for gelu. */
const activationFlops: Readonly<Record<string, number>> = { silu: 4, gelu: 8, relu: 1, squared_relu: 2 };

const tokenAxes = ["batch", "sequence", "choice", "prediction"];

/** The axes of a tensor that are features of one token. */
export const features = (tensor: Tensor): Axes => without(axesOf(tensor), ...tokenAxes);

export interface NormSpec {
  id: string;
  kind: "layer_norm" | "rms_norm";
  module: string;
  /** False for a norm without gain (OPT's layer_norm_elementwise_affine). */
  affine?: boolean;
  /** False for a layer norm with a gain alone (PaLM). */
  bias?: boolean;
  epsilon: number;
}

/** A norm over the last axis of `x`; saves its input. */
export function norm(g: GraphBuilder, spec: NormSpec, x: Tensor): Tensor {
  const axes = axesOf(x);
  const feature = x.axes.at(-1)!;
  const weightAxes = { [feature]: axes[feature]! };
  const weights = [];
  if (spec.affine !== false) {
    weights.push(g.parameter(`${spec.module}.weight`, weightAxes));
    const hasBias = spec.kind === "layer_norm" && spec.bias !== false;
    if (hasBias) weights.push(g.parameter(`${spec.module}.bias`, weightAxes));
  }
  const out = g.activation(`${spec.id}.out`, axes);
  const forward = normFlops[spec.kind] * elements(axes);
  g.operator({
    id: spec.id,
    kind: "norm",
    name: spec.kind,
    module: spec.module,
    inputs: [x, ...weights],
    outputs: [out],
    dims: loopDimensions(axes),
    fixed: [feature],
    flops: { forward, backward: 2 * forward },
    saved: [x],
    attributes: { epsilon: spec.epsilon },
  });
  return out;
}

export interface LinearSpec {
  id: string;
  module: string;
  modules?: string[];
  /** Loop dimensions of the outputs' features. */
  features: Axes;
  fixed?: string[];
  weights: Tensor[];
  biases?: Tensor[];
  outputs: Tensor[];
  attributes?: Record<string, string | number | boolean>;
}

/** A linear operator of one or several weights over one input, which it saves. */
export function linear(g: GraphBuilder, spec: LinearSpec, x: Tensor): void {
  const weightElements = spec.weights.reduce((sum, weight) => sum + elements(axesOf(weight)), 0);
  const tokens = elements(axesOf(x)) / elements(features(x));
  const forward = 2 * tokens * weightElements;
  g.operator({
    id: spec.id,
    kind: "linear",
    name: spec.id.replace(/^shared_/, ""),
    module: spec.module,
    modules: spec.modules,
    inputs: [x, ...spec.weights, ...(spec.biases ?? [])],
    outputs: spec.outputs,
    dims: { ...axesOf(x), ...spec.features },
    fixed: spec.fixed,
    flops: { forward, backward: 2 * forward },
    saved: [x],
    attributes: spec.attributes,
  });
}

export interface ProjectionSpec {
  id: string;
  module: string;
  /** Axes of the output's features. */
  out: Axes;
  bias: boolean;
  /** The weight is stored input first (GPT-2's Conv1D). */
  inputFirst?: boolean;
  fixed?: string[];
}

/** A linear operator with one weight: contracts all features of `x`. */
export function projection(g: GraphBuilder, spec: ProjectionSpec, x: Tensor): Tensor {
  const inner = features(x);
  const weightAxes = spec.inputFirst ? { ...inner, ...spec.out } : { ...spec.out, ...inner };
  const out = g.activation(`${spec.id}.out`, { ...g.tokens, ...spec.out });
  linear(
    g,
    {
      id: spec.id,
      module: spec.module,
      features: spec.out,
      fixed: [...(spec.fixed ?? []), ...("headFeature" in inner ? ["headFeature"] : [])],
      weights: [g.parameter(`${spec.module}.weight`, weightAxes)],
      biases: spec.bias ? [g.parameter(`${spec.module}.bias`, spec.out)] : [],
      outputs: [out],
    },
    x,
  );
  return out;
}

/** The sum of tensors of one shape; saves nothing. */
export function add(g: GraphBuilder, id: string, module: string, ...terms: Tensor[]): Tensor {
  const axes = axesOf(terms[0]!);
  const out = g.activation(`${id}.out`, axes);
  // Dropout of the branch is part of the same kernel, and leaves its mask.
  const masks = g.kernels.dropout ? [g.activation(`${id}.mask`, axes, "bool")] : [];
  const flops = (terms.length - 1 + masks.length) * elements(axes);
  g.operator({
    id,
    kind: "elementwise",
    name: "add",
    module,
    inputs: terms,
    outputs: [out, ...masks],
    dims: axes,
    flops: { forward: flops, backward: flops },
    saved: masks,
  });
  return out;
}

/** Dropout of a tensor by itself; saves its mask. */
export function dropOut(g: GraphBuilder, id: string, module: string, x: Tensor): Tensor {
  const axes = axesOf(x);
  const out = g.activation(`${id}.out`, axes);
  const mask = g.activation(`${id}.mask`, axes, "bool");
  const flops = elements(axes);
  g.operator({
    id,
    kind: "elementwise",
    name: "dropout",
    module,
    inputs: [x],
    outputs: [out, mask],
    dims: axes,
    flops: { forward: flops, backward: flops },
    saved: [mask],
  });
  return out;
}

/** The tensors one behind the other along a new or a wider axis: a copy; saves nothing. */
export function join(
  g: GraphBuilder,
  spec: { id: string; module: string; axes: Axes; as?: Readonly<Record<string, string>> },
  ...parts: Tensor[]
): Tensor {
  const out = g.activation(`${spec.id}.out`, spec.axes);
  g.operator({
    id: spec.id,
    kind: "elementwise",
    name: "concat",
    module: spec.module,
    inputs: parts.map((tensor) => ({ tensor, as: spec.as ?? {} })),
    outputs: [out],
    dims: spec.axes,
    flops: { forward: 0, backward: 0 },
    saved: [],
  });
  return out;
}

/** Multiplies by a constant, or caps through tanh (Gemma 2); the cap saves its output. */
export function rescale(g: GraphBuilder, name: "scale" | "soft_cap", module: string, x: Tensor): Tensor {
  const axes = axesOf(x);
  const out = g.activation(`${name}.out`, axes, x.dtype);
  const flops = (name === "scale" ? 1 : 3) * elements(axes);
  g.operator({
    kind: "elementwise",
    name,
    module,
    inputs: [x],
    outputs: [out],
    dims: axes,
    flops: { forward: flops, backward: flops },
    saved: name === "scale" ? [] : [out],
  });
  return out;
}

/** The function that an activation computes, without its variant: silu, gelu, relu, squared_relu, or as given. */
export function activationKind(name: string): string {
  if (name === "swish" || name === "silu") return "silu";
  if (name === "relu2") return "squared_relu";
  return name.startsWith("gelu") ? "gelu" : name;
}

/**
 * An activation function, times `up` where the MLP is gated. Saves its inputs; relu its output. The square of
 * relu saves one tensor as well, relu's output, as large as the input.
 */
export function activate(
  g: GraphBuilder,
  spec: { id?: string; activation: string; module: string; attributes?: Operator["attributes"] },
  gate: Tensor,
  up?: Tensor,
): Tensor {
  const kind = activationKind(spec.activation);
  const name = up ? `${kind}_mul` : kind;
  const id = spec.id ?? name;
  const axes = axesOf(gate);
  const out = g.activation(`${id}.out`, axes);
  const forward = ((activationFlops[kind] ?? activationFlops.gelu!) + (up ? 1 : 0)) * elements(axes);
  g.operator({
    id,
    kind: "elementwise",
    name,
    module: spec.module,
    inputs: up ? [gate, up] : [gate],
    outputs: [out],
    dims: axes,
    flops: { forward, backward: 2 * forward },
    saved: up ? [gate, up] : [kind === "relu" ? out : gate],
    attributes: { activation: spec.activation, gated: up !== undefined, ...spec.attributes },
  });
  return out;
}

/** Names of an MLP's submodules. */
export interface MlpNames {
  up: string;
  down: string;
  /** Present where the MLP is gated. */
  gate?: string;
  /** `up` holds both weights of a gated MLP, one behind the other (Megatron-LM's linear_fc1). */
  fusedGate?: boolean;
}

export interface MlpSpec extends MlpNames {
  /** Prefix of the operators' ids. */
  prefix?: string;
  module: string;
  ffn: number;
  activation: string;
  bias: boolean;
  inputFirst?: boolean;
}

/** A feed-forward network, gated or plain; returns its output before the residual. */
export function mlp(g: GraphBuilder, spec: MlpSpec, x: Tensor): Tensor {
  const { ffn, module } = spec;
  const prefix = spec.prefix ?? "";
  const hidden = axesOf(x).hidden!;
  let inner: Tensor;
  let up: Tensor | undefined;
  if (spec.gate) {
    const modules = (spec.fusedGate ? [spec.up] : [spec.gate, spec.up]).map((name) => `${module}.${name}`);
    const rows: Axes = spec.fusedGate ? { part: 2, ffn } : { ffn };
    const gateOut = g.activation(`${prefix}gate`, { ...g.tokens, ffn });
    up = g.activation(`${prefix}up`, { ...g.tokens, ffn });
    linear(
      g,
      {
        id: `${prefix}gate_up`,
        module: modules[0]!,
        ...(spec.fusedGate ? {} : { modules }),
        features: { ffn },
        weights: modules.map((name) => g.parameter(`${name}.weight`, { ...rows, hidden })),
        biases: spec.bias ? modules.map((name) => g.parameter(`${name}.bias`, rows)) : [],
        outputs: [gateOut, up],
        attributes: { gated: true },
      },
      x,
    );
    inner = gateOut;
  } else {
    const up = { id: `${prefix}${spec.up}`, module: `${module}.${spec.up}`, out: { ffn } };
    inner = projection(g, { ...up, bias: spec.bias, inputFirst: spec.inputFirst }, x);
  }
  const kind = activationKind(spec.activation);
  const activated = activate(
    g,
    { id: prefix ? `${prefix}${kind}${up ? "_mul" : ""}` : undefined, activation: spec.activation, module },
    inner,
    up,
  );
  const down = { id: `${prefix}${spec.down}`, module: `${module}.${spec.down}`, out: { hidden } };
  return projection(g, { ...down, bias: spec.bias, inputFirst: spec.inputFirst }, activated);
}
