import {
  axisSize,
  bytesPerElement,
  type Cluster,
  type Model,
  MpoptError,
  type Plan,
} from "../contracts/index.js";
import { describeRuntime } from "../runtimes/index.js";
import { checkSchedule, type Expect, pipelineSecondsOf, sameSchedule } from "./checkSchedule.js";
import { estimatePlan } from "./estimate.js";

/** A broken invariant, in one sentence. */
export interface Violation {
  field: string;
  message: string;
}

/**
 * Verifies a plan from its own fields, independently of the search that made it: layers and modules exactly
 * once, degrees, ranks, divisibility, batch, memory, certificate. With the model and the cluster at hand it
 * also compares modules with the model and prices the placement again.
 */
export function checkPlan(plan: Plan, inputs: { model?: Model; cluster?: Cluster } = {}): Violation[] {
  const violations: Violation[] = [];
  const expect = (holds: boolean, field: string, message: string) => {
    if (!holds) violations.push({ field, message });
  };
  checkMesh(plan, expect);
  checkStages(plan, expect);
  checkBatch(plan, expect);
  checkSettings(plan, expect);
  checkSchedule(plan, expect);
  checkDivisibility(plan, expect);
  checkMemory(plan, expect);
  checkCertificate(plan, expect);
  if (inputs.model) checkModel(plan, inputs.model, expect);
  if (inputs.model && inputs.cluster && violations.length === 0) {
    checkPrice(plan, inputs.model, inputs.cluster, expect);
  }
  return violations;
}

/** Rounding of sums in another order than the search's. */
const tolerance = 1e-9;

function close(a: number, b: number): boolean {
  // The constant lets go of what cancellation leaves of terms that are zero.
  return Math.abs(a - b) <= tolerance * Math.max(Math.abs(a), Math.abs(b)) + 1e-12;
}

function checkMesh(plan: Plan, expect: Expect): void {
  const { axes, sizes } = plan.mesh;
  const { devices } = plan.cluster;
  expect(
    axes.length === sizes.length && new Set(axes).size === axes.length,
    "mesh",
    `Expected one size for each distinct mesh axis but found axes ${axes.join(", ")} and sizes ${sizes.join(", ")}.`,
  );
  const product = sizes.reduce((all, size) => all * size, 1);
  expect(
    product === devices,
    "mesh.sizes",
    `Expected degrees that multiply to ${devices} devices but found ${sizes.join(" x ")} = ${product}.`,
  );
  expect(
    plan.rankTable.length === devices,
    "rankTable",
    `Expected a rank table of ${devices} rows but found ${plan.rankTable.length}.`,
  );
  for (const [rank, row] of plan.rankTable.entries()) {
    const wanted = coordinatesOf(rank, sizes);
    if (row.length === wanted.length && row.every((coordinate, axis) => coordinate === wanted[axis]))
      continue;
    expect(
      false,
      "rankTable",
      `Expected coordinates ${wanted.join(", ")} for rank ${rank} but found ${row.join(", ")}.`,
    );
    break;
  }
}

/** Coordinates of a rank where the last axis counts fastest. */
function coordinatesOf(rank: number, sizes: readonly number[]): number[] {
  const result = new Array<number>(sizes.length);
  let rest = rank;
  for (let axis = sizes.length - 1; axis >= 0; axis--) {
    result[axis] = rest % sizes[axis]!;
    rest = Math.floor(rest / sizes[axis]!);
  }
  return result;
}

function checkStages(plan: Plan, expect: Expect): void {
  const { stages } = plan;
  const pipeline = axisSize(plan, "pipeline");
  const placed = new Array<number>(plan.model.blockLayers).fill(0);
  const modules = new Map<string, number>();
  for (const stage of stages) {
    for (let layer = stage.layers.start; layer < stage.layers.end; layer++) {
      if (layer < placed.length) placed[layer]! += 1;
      else
        expect(
          false,
          "stages",
          `Expected layers below ${placed.length} but stage ${stage.index} holds ${layer}.`,
        );
    }
    for (const module of stage.modules) modules.set(module, (modules.get(module) ?? 0) + 1);
  }
  const wrong = placed.findIndex((count) => count !== 1);
  expect(
    wrong < 0,
    "stages",
    `Expected every layer in exactly one stage but layer ${wrong} is in ${placed[wrong]}.`,
  );
  const twice = [...modules].find(([, count]) => count !== 1);
  expect(!twice, "stages", `Expected module ${twice?.[0]} in one stage but found it in ${twice?.[1]}.`);
  const axis = plan.mesh.axes.indexOf("pipeline");
  /** Global ranks of each pipeline rank. */
  const holders = new Map<number, number[]>();
  for (const [rank, row] of plan.rankTable.entries()) {
    const known = holders.get(row[axis]!);
    if (known) known.push(rank);
    else holders.set(row[axis]!, [rank]);
  }
  stages.forEach((stage, i) => {
    const previous = stages[i - 1];
    expect(
      stage.index === i && (!previous || previous.layers.end === stage.layers.start),
      "stages",
      `Expected stage ${i} to go on where the one before it ends but found layers ${stage.layers.start} to ${stage.layers.end} at index ${stage.index}.`,
    );
    const held = holders.get(stage.rank) ?? [];
    expect(
      stage.devices.length === held.length && stage.devices.every((device, k) => device === held[k]),
      "stages",
      `Expected stage ${i} on the ranks of pipeline rank ${stage.rank} but found ${stage.devices.length} others.`,
    );
  });
  expect(
    stages.length % pipeline === 0,
    "stages",
    `Expected a multiple of ${pipeline} stages but found ${stages.length}.`,
  );
  const embeddings = stages.filter((stage) => stage.embedding);
  const heads = stages.filter((stage) => stage.head);
  expect(
    embeddings.length === 1 && embeddings[0]!.index === 0,
    "stages",
    `Expected the embedding on the first stage alone but found it on ${embeddings.map((stage) => stage.index).join(", ") || "none"}.`,
  );
  expect(
    heads.length === 1 && heads[0]!.index === stages.length - 1,
    "stages",
    `Expected the head on the last stage alone but found it on ${heads.map((stage) => stage.index).join(", ") || "none"}.`,
  );
}

function checkBatch(plan: Plan, expect: Expect): void {
  const { global, micro } = plan.batch;
  const data = axisSize(plan, "data");
  const { microBatches } = plan.schedule;
  expect(
    data * micro * microBatches === global,
    "batch",
    `Expected data ${data} x micro-batch ${micro} x ${microBatches} micro-batches to give the global batch ${global} but found ${data * micro * microBatches}.`,
  );
  expect(
    global === plan.job.globalBatch && plan.batch.sequence === plan.job.sequence,
    "batch",
    `Expected the job's batch ${plan.job.globalBatch} x ${plan.job.sequence} but found ${global} x ${plan.batch.sequence}.`,
  );
}

/** Recomputation and pins: what the job leaves open. */
function checkSettings(plan: Plan, expect: Expect): void {
  const recomputes = new Set(plan.stages.map((stage) => stage.recompute));
  expect(
    recomputes.size === 1,
    "stages",
    `Expected one recomputation for all stages but found ${[...recomputes].join(" and ")}.`,
  );
  const { pins } = plan.job;
  const data = axisSize(plan, "data");
  const tensor = axisSize(plan, "tensor");
  const context = axisSize(plan, "context");
  const found: Record<keyof typeof pins, unknown> = {
    data,
    tensor,
    pipeline: axisSize(plan, "pipeline"),
    microBatch: plan.batch.micro,
    recompute: plan.stages[0]?.recompute,
    recomputeLayers: Math.max(0, ...plan.stages.map((stage) => stage.recomputeLayers ?? 0)),
    zero: data * context > 1 ? plan.optimizer.zero : pins.zero,
    shards: plan.optimizer.shards ?? (plan.optimizer.zero > 0 ? data * context : 1),
    context,
    contextExchange: context > 1 ? (plan.mesh.contextExchange ?? "ring") : pins.contextExchange,
    expert: plan.mesh.experts?.expert ?? 1,
    expertTensor: plan.mesh.experts?.tensor ?? tensor,
    offload: plan.optimizer.offload ?? "none",
    sequenceParallel: tensor > 1 ? plan.mesh.sequenceParallel : pins.sequenceParallel,
    schedule: sameSchedule(pins.schedule, plan.schedule.name) ? pins.schedule : plan.schedule.name,
    chunks: plan.stages.length / axisSize(plan, "pipeline"),
  };
  for (const [name, pin] of Object.entries(pins)) {
    const value = found[name as keyof typeof pins];
    expect(
      pin === undefined || pin === value,
      `job.pins.${name}`,
      `Expected ${name} ${pin}, as the job pins it, but found ${value}.`,
    );
  }
}

function checkDivisibility(plan: Plan, expect: Expect): void {
  const { architecture } = plan.model;
  const tensor = axisSize(plan, "tensor");
  if (plan.mesh.sequenceParallel) {
    expect(
      tensor > 1 && plan.batch.sequence % tensor === 0,
      "mesh.sequenceParallel",
      `Expected sequence parallelism over tensor degree ${tensor} to divide ${plan.batch.sequence} tokens.`,
    );
  }
  if (!architecture || describeRuntime(plan.job.runtime).freeShardings) return;
  const sizes: [string, number][] = [
    ["attention heads", architecture.heads],
    ["key-value heads", architecture.keyValueHeads],
    ["feed-forward width", architecture.experts?.ffn ?? architecture.ffn],
  ];
  for (const [what, size] of sizes) {
    expect(
      size % tensor === 0,
      "mesh",
      `Expected tensor degree ${tensor} to divide the ${size} of ${what} but it does not.`,
    );
  }
}

function checkMemory(plan: Plan, expect: Expect): void {
  const { memory } = plan.estimate;
  const pipeline = axisSize(plan, "pipeline");
  expect(
    memory.length === pipeline && memory.every((entry, i) => entry.pipelineRank === i),
    "estimate.memory",
    `Expected one memory entry for each of ${pipeline} pipeline ranks but found ${memory.length}.`,
  );
  const perStage = axisSize(plan, "data") * axisSize(plan, "context") * axisSize(plan, "tensor");
  for (const { devices, pipelineRank } of memory) {
    expect(
      devices === perStage,
      "estimate.memory",
      `Expected ${perStage} devices on pipeline rank ${pipelineRank} but found ${devices}.`,
    );
  }
  const parameterBytes = bytesPerElement[plan.job.dtypes.parameters];
  const { zero, shards } = plan.optimizer;
  const replicas = axisSize(plan, "data") * axisSize(plan, "context");
  // Experts may be held once over all ranks; everything else as often as there are replicas that share nothing.
  const copies = plan.mesh.experts ? 1 : zero === 3 ? replicas / (shards ?? replicas) : replicas;
  let held = 0;
  for (const entry of memory) {
    const sum = Object.values(entry.terms).reduce((all, bytes) => all + bytes, 0);
    expect(
      close(sum, entry.allocatedBytes) && entry.reservedBytes >= entry.allocatedBytes * (1 - tolerance),
      "estimate.memory",
      `Expected the terms of pipeline rank ${entry.pipelineRank} to add up to what is allocated, and no less reserved, but found ${sum} and ${entry.allocatedBytes}.`,
    );
    expect(
      entry.reservedBytes <= entry.limitBytes * (1 + tolerance),
      "estimate.memory",
      `Expected at most ${entry.limitBytes} bytes on pipeline rank ${entry.pipelineRank} but found ${Math.round(entry.reservedBytes)}.`,
    );
    held += (entry.terms.parameters / parameterBytes) * perStage;
  }
  expect(
    held >= copies * plan.model.parameterCount * (1 - tolerance),
    "estimate.memory",
    `Expected all ranks together to hold ${copies} times ${plan.model.parameterCount} parameters but found ${Math.round(held)}.`,
  );
}

function checkCertificate(plan: Plan, expect: Expect): void {
  const { certificate, estimate } = plan;
  const pipelineSeconds = pipelineSecondsOf(plan, expect);
  const { gradientSynchronisation, optimizer } = estimate.terms;
  expect(
    close(pipelineSeconds + gradientSynchronisation + optimizer, estimate.stepSeconds),
    "estimate.stepSeconds",
    `Expected the stages' times to give ${estimate.stepSeconds} s a step but found ${pipelineSeconds + gradientSynchronisation + optimizer}.`,
  );
  const sum = Object.values(estimate.terms).reduce((all, seconds) => all + seconds, 0);
  expect(
    close(sum, estimate.stepSeconds),
    "estimate.terms",
    `Expected the terms to add up to ${estimate.stepSeconds} s but found ${sum}.`,
  );
  const tokens = plan.batch.global * plan.batch.sequence;
  expect(
    close(estimate.tokensPerSecond * estimate.stepSeconds, tokens) &&
      estimate.hfu >= estimate.mfu * (1 - tolerance),
    "estimate.tokensPerSecond",
    `Expected ${tokens} tokens in ${estimate.stepSeconds} s, and no less HFU than MFU, but found ${estimate.tokensPerSecond} tokens a second.`,
  );
  const { objective, bound, gap, status } = certificate;
  expect(
    close(objective, estimate.stepSeconds),
    "certificate.objective",
    `Expected the certificate's objective to be the step time ${estimate.stepSeconds} but found ${objective}.`,
  );
  expect(
    bound <= objective * (1 + tolerance) && close(gap * objective, objective - bound),
    "certificate.bound",
    `Expected a bound of at most the objective ${objective}, and the gap between them, but found ${bound} and ${gap}.`,
  );
  expect(
    status !== "optimal" || close(bound, objective),
    "certificate.status",
    `Expected status "optimal" to come without a gap but found ${gap}.`,
  );
}

function checkModel(plan: Plan, model: Model, expect: Expect): void {
  const wanted = new Set(model.layers.flatMap((layer) => layer.modules));
  const found = new Set(plan.stages.flatMap((stage) => stage.modules));
  const missing = [...wanted].find((module) => !found.has(module));
  const extra = [...found].find((module) => !wanted.has(module));
  expect(!missing, "stages", `Expected module ${missing} of the model in some stage but found it in none.`);
  expect(!extra, "stages", `Expected modules of the model only but found ${extra}.`);
  const blocks = model.layers.filter((layer) => layer.kind === "block");
  for (const stage of plan.stages) {
    const own = blocks.slice(stage.layers.start, stage.layers.end).flatMap((layer) => layer.modules);
    const listed = new Set(stage.modules);
    const absent = own.find((module) => !listed.has(module));
    expect(
      !absent,
      "stages",
      `Expected ${absent} among the modules of stage ${stage.index}, which holds its layer.`,
    );
  }
  expect(
    plan.model.parameterCount === model.parameterCount,
    "model.parameterCount",
    `Expected ${model.parameterCount} parameters but found ${plan.model.parameterCount}.`,
  );
}

/** Prices the placement again; a plan may differ from its price only where the cluster has changed. */
function checkPrice(plan: Plan, model: Model, cluster: Cluster, expect: Expect): void {
  let again: Plan["estimate"];
  try {
    again = estimatePlan(plan, model, cluster);
  } catch (error) {
    if (!(error instanceof MpoptError)) throw error;
    expect(false, "operators", error.message);
    return;
  }
  const { estimate } = plan;
  const figures: [string, number, number][] = [
    ["stepSeconds", again.stepSeconds, estimate.stepSeconds],
    ["mfu", again.mfu, estimate.mfu],
    ["hfu", again.hfu, estimate.hfu],
    ...Object.entries(again.terms).map(([term, seconds]): [string, number, number] => [
      `terms.${term}`,
      seconds,
      estimate.terms[term as keyof typeof estimate.terms],
    ]),
  ];
  for (const entry of again.memory) {
    const stated = estimate.memory[entry.pipelineRank]!;
    const at = `memory[${entry.pipelineRank}]`;
    figures.push(
      [`${at}.reservedBytes`, entry.reservedBytes, stated.reservedBytes],
      [`${at}.limitBytes`, entry.limitBytes, stated.limitBytes],
    );
    for (const [term, bytes] of Object.entries(entry.terms)) {
      figures.push([`${at}.terms.${term}`, bytes, stated.terms[term as keyof typeof stated.terms]]);
    }
  }
  for (const [name, wanted, found] of figures) {
    expect(
      close(wanted, found),
      `estimate.${name}`,
      `Expected ${wanted} for ${name} by the cost model but found ${found}.`,
    );
  }
}
