import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import type { Operand, Operator, Tensor } from "../../src/contracts/index.js";
import { CommunicationModel } from "../../src/cost/communication.js";
import { ComputeModel } from "../../src/cost/compute.js";
import { operatorSeconds } from "../../src/cost/operator.js";
import { loadModel } from "../../src/models/index.js";
import { distinctLayers, tensorsById } from "../../src/models/workload.js";
import { solveLayer } from "../../src/search/intra.js";
import type { LayerProblemInput } from "../../src/search/intraProblem.js";
import { enumerateStrategies, type Strategy } from "../../src/search/strategies.js";

const cluster = clusterPreset("h100-sxm:8x2");
const compute = new ComputeModel(cluster.devices[0]!);
const communication = new CommunicationModel(cluster);

/** A random layer: linears, norms, activations and additions over tensors of two feature widths. */
const layers = fc.record({
  degree: fc.constantFrom(2, 4),
  sequenceParallel: fc.boolean(),
  batch: fc.constantFrom(1, 4),
  widths: fc.tuple(fc.constantFrom(6, 512, 4096), fc.constantFrom(8, 2048, 8192)),
  steps: fc.array(
    fc.record({
      kind: fc.constantFrom("linear", "norm", "gelu", "add"),
      first: fc.nat({ max: 9 }),
      second: fc.nat({ max: 9 }),
    }),
    { minLength: 2, maxLength: 5 },
  ),
});
type RandomLayer = typeof layers extends fc.Arbitrary<infer T> ? T : never;

const sequence = 1024;

function buildLayer({ degree, sequenceParallel, batch, widths, steps }: RandomLayer): LayerProblemInput {
  const tensors = new Map<string, Tensor>();
  const operators: Operator[] = [];
  const activations: { id: string; feature: number }[] = [];
  const feature = (i: number) => `feature${i}`;
  const activation = (id: string, i: number): Operand => {
    const axes = ["batch", "sequence", feature(i)];
    tensors.set(id, { id, shape: [batch, sequence, widths[i]!], axes, dtype: "bf16", kind: "activation" });
    return { tensor: id, dims: axes };
  };
  const dims = (...features: number[]) => [
    { name: "batch", size: batch, splittable: true },
    { name: "sequence", size: sequence, splittable: true },
    ...features.map((i) => ({ name: feature(i), size: widths[i]!, splittable: true })),
  ];
  const read = (id: string): Operand => ({ tensor: id, dims: tensors.get(id)!.axes });
  activation("x", 0);
  activations.push({ id: "x", feature: 0 });
  steps.forEach((step, n) => {
    const source = activations[step.first % activations.length]!;
    const same = activations.filter((each) => each.feature === source.feature);
    const other = same[step.second % same.length]!;
    const base = { id: `op${n}`, name: step.kind, module: `m.${n}`, savedForBackward: [] };
    const tokens = batch * sequence;
    if (step.kind === "linear") {
      const to = n === steps.length - 1 ? 0 : 1 - source.feature;
      if (to === source.feature) return;
      const weight = `w${n}`;
      const axes = [feature(source.feature), feature(to)];
      const shape = [widths[source.feature]!, widths[to]!];
      tensors.set(weight, { id: weight, shape, axes, dtype: "bf16", kind: "parameter" });
      const flops = 2 * tokens * shape[0]! * shape[1]!;
      operators.push({
        ...base,
        kind: "linear",
        inputs: [read(source.id), { tensor: weight, dims: axes }],
        outputs: [activation(`t${n}`, to)],
        dims: dims(source.feature, to),
        flops: { forward: flops, backward: 2 * flops },
      });
      activations.push({ id: `t${n}`, feature: to });
      return;
    }
    const all = dims(source.feature);
    if (step.kind === "norm") all[2]!.splittable = false;
    const flops = tokens * widths[source.feature]!;
    operators.push({
      ...base,
      kind: step.kind === "norm" ? "norm" : "elementwise",
      inputs: step.kind === "add" ? [read(source.id), read(other.id)] : [read(source.id)],
      outputs: [activation(`t${n}`, source.feature)],
      dims: all,
      flops: { forward: flops, backward: flops },
    });
    activations.push({ id: `t${n}`, feature: source.feature });
  });
  return {
    operators,
    context: {
      tensors,
      reference: { batch, sequence },
      workload: { batch, sequence },
      compute,
      dtype: "bf16",
    },
    communication,
    group: { size: degree, stride: 1 },
    runtime: "any",
    sequenceParallel,
    microBatches: 8,
    expertTensor: degree,
    contextGroup: { size: 1, stride: 1 },
    contextExchange: "ring",
    expertGroup: { size: 1, stride: 1 },
    overlap: () => 0,
  };
}

/** Price of one choice, written from the definition and sharing nothing with the solver's tables. */
function evaluate(input: LayerProblemInput, choice: Strategy[]): number {
  const { operators, context, group, sequenceParallel, microBatches } = input;
  let seconds = 0;
  const boundary = sequenceParallel ? "S1" : "R";
  const name = (placement: Strategy["outputs"][number]) =>
    placement.kind === "shard" ? `S${placement.axis}` : placement.kind === "partial" ? "P" : "R";
  const move = (from: string, to: string, bytes: number): number => {
    const collective = (kind: "allReduce" | "reduceScatter" | "allGather" | "allToAll", size: number) =>
      communication.collectiveSeconds(kind, size, group);
    if (from === to || from === "R") return 0;
    if (from === "P") return to === "R" ? collective("allReduce", bytes) : collective("reduceScatter", bytes);
    return to === "R" ? collective("allGather", bytes) : collective("allToAll", bytes / group.size);
  };
  const produced = new Map<string, string>([["x", boundary]]);
  const reads = new Map<string, { forward: Set<string>; backward: Set<string> }>();
  operators.forEach((operator, i) => {
    const strategy = choice[i]!;
    const { forward, backward } = operatorSeconds(operator, strategy.split, group.size, context);
    seconds += forward + backward;
    operator.inputs.forEach((operand, k) => {
      const tensor = context.tensors.get(operand.tensor)!;
      const use = strategy.inputs[k]!;
      if (tensor.kind === "parameter") {
        const bytes = 2 * tensor.shape.reduce((product, size) => product * size, 1);
        if (use.gradient.kind === "partial") {
          seconds += communication.collectiveSeconds("allReduce", bytes, group) / microBatches;
        }
        return;
      }
      const known = reads.get(operand.tensor) ?? { forward: new Set(), backward: new Set() };
      known.forward.add(name(use.placement));
      known.backward.add(name(use.gradient));
      reads.set(operand.tensor, known);
    });
    operator.outputs.forEach((operand, k) => {
      produced.set(operand.tensor, name(strategy.outputs[k]!));
    });
  });
  const last = operators.at(-1)!.outputs[0]!.tensor;
  if (!reads.has(last)) reads.set(last, { forward: new Set([boundary]), backward: new Set([boundary]) });
  for (const [id, { forward, backward }] of reads) {
    const tensor = context.tensors.get(id)!;
    const bytes = 2 * tensor.shape.reduce((product, size) => product * size, 1);
    const from = produced.get(id)!;
    for (const to of forward) seconds += move(from, to, bytes);
    for (const gradient of backward) seconds += move(gradient, from === "P" ? "R" : from, bytes);
  }
  return seconds;
}

function enumerate(input: LayerProblemInput): number {
  const sizes = new Map([
    ["batch", input.context.workload.batch],
    ["sequence", input.context.workload.sequence],
  ]);
  const options = input.operators.map((operator) =>
    enumerateStrategies(operator, input.context.tensors, sizes, {
      runtime: "any",
      degree: input.group.size,
      sequenceParallel: input.sequenceParallel,
      expertTensor: input.expertTensor,
    }),
  );
  let best = Number.POSITIVE_INFINITY;
  const choose = (choice: Strategy[]) => {
    if (choice.length === options.length) best = Math.min(best, evaluate(input, choice));
    else for (const strategy of options[choice.length]!) choose([...choice, strategy]);
  };
  choose([]);
  return best;
}

describe("the intra-operator search", () => {
  it("equals enumeration on 300 random layers, priced by a second evaluator", async () => {
    let nontrivial = 0;
    await fc.assert(
      fc.asyncProperty(layers, async (layer) => {
        const input = buildLayer(layer);
        if (input.operators.length === 0) return;
        const wanted = enumerate(input);
        const found = await solveLayer(input);
        if (input.operators.length > 2) nontrivial++;
        expect(found.objective / wanted).toBeCloseTo(1, 9);
        expect(evaluate(input, found.strategies) / wanted).toBeCloseTo(1, 9);
        const once = found.weightGradientSeconds / input.microBatches;
        const priced =
          found.forwardSeconds +
          found.backwardSeconds +
          found.forwardCommunicationSeconds +
          found.backwardCommunicationSeconds +
          once;
        expect(priced / wanted).toBeCloseTo(1, 9);
      }),
      { numRuns: 300, seed: 3, endOnFailure: true },
    );
    expect(nontrivial).toBeGreaterThan(100);
  });

  it("finds Megatron's column and row split by itself, with one collective each way a half block", async () => {
    const model = loadModel("llama-3.1-8b");
    const { operators } = distinctLayers(model).find((each) => each.layer.kind === "block")!;
    const found = await solveLayer({
      operators,
      context: {
        tensors: tensorsById(model),
        reference: model.reference,
        workload: { batch: 1, sequence: 8192 },
        compute,
        dtype: "bf16",
      },
      communication,
      group: { size: 8, stride: 1 },
      runtime: "any",
      sequenceParallel: true,
      microBatches: 1,
      expertTensor: 8,
      contextGroup: { size: 1, stride: 1 },
      contextExchange: "ring",
      expertGroup: { size: 1, stride: 1 },
      overlap: () => 0,
    });
    const split = Object.fromEntries(
      operators.map((operator, i) => [operator.name, found.strategies[i]!.split]),
    );
    expect(split).toMatchObject({ qkv: "head", attention: "head", gate_up: "ffn", down_proj: "ffn" });
  });
});
