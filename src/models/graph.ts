import type { Architecture, Block, Dtype, Layer, Model, Operator, Tensor } from "../contracts/index.js";
import { MpoptError } from "../contracts/index.js";

/** Named axes in order, name → size. */
export type Axes = Readonly<Record<string, number>>;

/** Sequences in one micro-batch and tokens in one sequence. */
export interface Workload {
  batch: number;
  sequence: number;
  /**
   * Tokens whose keys and values the queries of `sequence` meet; `sequence` itself by default. More where context
   * parallelism divides a sequence: a rank of c then has { sequence: S / c, keySequence: S }.
   */
  keySequence?: number;
}

/** What the training code runs, where the model's configuration leaves it open. */
export interface Kernels {
  /**
   * `flash` never writes the attention scores; `materialized` writes them, their softmax and what dropout leaves
   * of it (Megatron-LM before flash attention). `flash` by default.
   */
  attention?: "flash" | "materialized";
  /**
   * Between materialised products: one `fused` kernel of 16-bit scores and probabilities, or `unfused` kernels with
   * f32 between them. `fused` by default.
   */
  softmax?: "fused" | "unfused";
  /** Dropout of attention probabilities and of each branch's output; none by default. */
  dropout?: boolean;
  /** What the loss keeps of the logits, and what its backward adds: see `lossBytes`. `fused` by default. */
  loss?: "fused" | "eager" | "compiled" | "inPlace";
  /**
   * Where a token's choices are weighted: the experts' `outputs`, which stay for the gradient of the weights, or the
   * `activations` between their products, which stay anyway (Megatron-Core since 0.12). `outputs` by default.
   */
  expertWeights?: "outputs" | "activations";
}

/** A tensor as an operand, with loop dimensions for the axes whose names differ from them. */
export interface View {
  tensor: Tensor;
  as: Readonly<Record<string, string>>;
}

export interface OperatorSpec {
  /** Unique within its layer; the operator's name where it is omitted. */
  id?: string;
  kind: Operator["kind"];
  name: string;
  module: string;
  modules?: string[];
  inputs: readonly (Tensor | View)[];
  outputs: readonly (Tensor | View)[];
  /** Loop dimensions, name → size. */
  dims: Axes;
  /** Loop dimensions that cannot be split. */
  fixed?: readonly string[];
  flops: { forward: number; backward: number };
  saved: readonly Tensor[];
  attributes?: Operator["attributes"];
}

export interface LayerSpec {
  id: string;
  kind: Layer["kind"];
  modules: readonly string[];
  /** Name of the block that the layer joins; layers with equal operators share a block. */
  block: string;
  /** What the layer is built from. Layers of one description are equal, and only the first is compared with others. */
  description?: string;
  /** Ids of the layers whose outputs it reads; the layer before it by default. */
  predecessors?: string[];
  /** Its parameters serve training alone, and published counts leave them out. */
  auxiliary?: boolean;
}

/** Axes that run over a shorter part of another loop dimension wherever they occur. */
const commonViews: Readonly<Record<string, string>> = { keyValueHead: "head" };

/** Loop dimensions of an operator that runs over a tensor with these axes. */
export const loopDimensions = (axes: Axes): Axes =>
  Object.fromEntries(Object.entries(axes).map(([name, size]) => [commonViews[name] ?? name, size]));

/** Product of the sizes. */
export const elements = (axes: Axes): number => Object.values(axes).reduce((all, size) => all * size, 1);

/** The axes of a tensor, name → size. */
export const axesOf = (tensor: Tensor): Axes =>
  Object.fromEntries(tensor.axes.map((axis, i) => [axis, tensor.shape[i]!]));

export const without = (axes: Axes, ...names: string[]): Axes =>
  Object.fromEntries(Object.entries(axes).filter(([name]) => !names.includes(name)));

/**
 * Builds an `mpopt.model/1` document layer by layer. Operators are added in the order of execution inside
 * `layer`; ids of operators and activations carry the layer's id as a prefix.
 */
export class GraphBuilder {
  readonly batch: number;
  readonly sequence: number;
  readonly kernels: Kernels;
  readonly #reference: Workload;
  readonly #tensors = new Map<string, Tensor>();
  readonly #operators: Operator[] = [];
  readonly #layers: Layer[] = [];
  /** Block id → its layers and what their operators look like. */
  readonly #blocks = new Map<string, { layers: string[]; signature: string }>();
  /** Description of layers → the block that they are in. */
  readonly #described = new Map<string, string>();
  #scope = "";
  #auxiliary = false;

  constructor(reference: Workload, kernels: Kernels = {}) {
    this.#reference = reference;
    this.kernels = kernels;
    this.batch = reference.batch;
    this.sequence = reference.sequence;
  }

  /** The axes that every token has: batch and sequence. */
  get tokens(): Axes {
    return { batch: this.batch, sequence: this.sequence };
  }

  #add(tensor: Tensor): Tensor {
    if (this.#tensors.has(tensor.id)) throw new Error(`tensor ${tensor.id} is built twice`);
    this.#tensors.set(tensor.id, tensor);
    return tensor;
  }

  input(id: string, axes: Axes, dtype: Dtype): Tensor {
    return this.#add({ id, shape: Object.values(axes), axes: Object.keys(axes), dtype, kind: "input" });
  }

  /** A tensor that an operator of the current layer writes. */
  activation(name: string, axes: Axes, dtype: Dtype = "bf16"): Tensor {
    const id = `${this.#scope}.${name}`;
    return this.#add({ id, shape: Object.values(axes), axes: Object.keys(axes), dtype, kind: "activation" });
  }

  /**
   * A parameter under its name in the framework. Axes give the view that operators loop over: a projection to
   * heads is [head, headFeature, hidden] where the framework stores [head * headFeature, hidden].
   */
  parameter(name: string, axes: Axes, options: { tiedTo?: Tensor; dtype?: Dtype } = {}): Tensor {
    return this.#add({
      id: name,
      shape: Object.values(axes),
      axes: Object.keys(axes),
      dtype: options.dtype ?? "bf16",
      kind: "parameter",
      name,
      ...(options.tiedTo ? { tiedTo: options.tiedTo.id } : {}),
      ...(this.#auxiliary ? { auxiliary: true } : {}),
    });
  }

  operator(spec: OperatorSpec): void {
    const fixed = new Set(spec.fixed);
    const operand = (given: Tensor | View) => {
      const { tensor, as } = "tensor" in given ? given : { tensor: given, as: {} };
      const views: Readonly<Record<string, string>> = { ...commonViews, ...as };
      const dims = tensor.axes.map((axis) => views[axis] ?? axis);
      return { tensor: tensor.id, dims: dims.map((dim) => (dim in spec.dims ? dim : null)) };
    };
    this.#operators.push({
      id: `${this.#scope}.${spec.id ?? spec.name}`,
      kind: spec.kind,
      name: spec.name,
      module: spec.module,
      ...(spec.modules ? { modules: spec.modules } : {}),
      inputs: spec.inputs.map(operand),
      outputs: spec.outputs.map(operand),
      dims: Object.entries(spec.dims).map(([name, size]) => ({ name, size, splittable: !fixed.has(name) })),
      flops: spec.flops,
      savedForBackward: [...new Set(spec.saved.map((tensor) => tensor.id))],
      ...(spec.attributes ? { attributes: spec.attributes } : {}),
    });
  }

  /** Opens a layer, builds its operators, and puts it into the block of its equals. */
  layer<T>(spec: LayerSpec, build: () => T): T {
    this.#scope = spec.id;
    this.#auxiliary = spec.auxiliary === true;
    const start = this.#operators.length;
    const result = build();
    const end = this.#operators.length;
    const block = this.#join(spec, start, end);
    this.#layers.push({
      id: spec.id,
      kind: spec.kind,
      modules: [...spec.modules],
      operators: { start, end },
      block,
      predecessors: spec.predecessors ?? this.#layers.slice(-1).map((layer) => layer.id),
    });
    return result;
  }

  /** Puts a layer into the block of its equals, or opens one; returns the block's name. */
  #join({ id, modules, block: name, description }: LayerSpec, start: number, end: number): string {
    const described = description === undefined ? undefined : this.#described.get(description);
    if (described !== undefined) {
      this.#blocks.get(described)!.layers.push(id);
      return described;
    }
    const signature = this.#signature(start, end, modules[0]!);
    let block = name;
    for (let copy = 2; ; copy += 1) {
      const known = this.#blocks.get(block);
      if (!known) this.#blocks.set(block, { layers: [id], signature });
      else if (known.signature === signature) known.layers.push(id);
      else {
        block = `${name}-${copy}`;
        continue;
      }
      break;
    }
    if (description !== undefined) this.#described.set(description, block);
    return block;
  }

  /** Text that two layers share exactly when their operators are equal up to names. */
  #signature(start: number, end: number, topModule: string): string {
    const numbers = new Map<string, number>();
    const local = (id: string) => {
      if (!numbers.has(id)) numbers.set(id, numbers.size);
      const { shape, axes, dtype, kind } = this.#tensors.get(id)!;
      return [numbers.get(id), shape, axes, dtype, kind];
    };
    const module = (name: string) => name.replace(topModule, "*");
    return JSON.stringify(
      this.#operators.slice(start, end).map((operator) => ({
        ...operator,
        id: operator.id.slice(operator.id.lastIndexOf(".")),
        module: module(operator.module),
        modules: operator.modules?.map(module),
        inputs: operator.inputs.map(({ tensor, dims }) => [local(tensor), dims]),
        outputs: operator.outputs.map(({ tensor, dims }) => [local(tensor), dims]),
        savedForBackward: operator.savedForBackward.map(local),
      })),
    );
  }

  /**
   * The finished document.
   * @throws MpoptError E_FIELD where the sizes multiply beyond what a number holds exactly.
   */
  finish(name: string, source: string, architecture: Architecture): Model {
    const tensors = [...this.#tensors.values()];
    const parameterCount = countParameters(tensors);
    if (!Number.isSafeInteger(parameterCount)) {
      throw new MpoptError(
        "E_FIELD",
        `${source}: expected at most 2^53 parameters but found about ${parameterCount.toExponential(1)}.`,
      );
    }
    const blocks: Block[] = [...this.#blocks].map(([id, { layers }]) => ({ id, layers }));
    return {
      schema: "mpopt.model/1",
      name,
      source,
      parameterCount,
      reference: { ...this.#reference },
      tensors,
      operators: this.#operators,
      blocks,
      layers: this.#layers,
      architecture,
    };
  }
}

/**
 * Elements of all parameters. A tied one shares the storage of another and is not counted again; auxiliary ones
 * are not part of the model that training leaves.
 */
export function countParameters(tensors: readonly Tensor[]): number {
  return tensors
    .filter(({ kind, tiedTo, auxiliary }) => kind === "parameter" && tiedTo === undefined && !auxiliary)
    .reduce((sum, tensor) => sum + tensor.shape.reduce((all, size) => all * size, 1), 0);
}
