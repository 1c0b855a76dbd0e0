import { MpoptError } from "../../contracts/index.js";
import type { LayeredGraph, LayeredVariant } from "../../models/layered.js";
import type { PiperOptions } from "./piperModel.js";
import type { InterSolution, InterStage } from "./solution.js";

/** Rounding that sums of bytes in another order may show. */
const relativeSlack = 1e-9;

/**
 * Seconds and bytes of each stage by the definition of Piper's cost model (Tarnawski et al., NeurIPS 2021, and
 * its `algo.cpp`), with nothing shared with the search:
 *
 *     seconds = P/d + (E/d + 4 (d - 1)/(d B) W) / bandwidth
 *     bytes   = sum of (A y + F),  y = ceil(replicas of this and all later stages / d)
 *
 * where P, W, A, F sum the times, parameters, activations and fixed bytes of the chosen variants, and E sums
 * 2 (bytes + synchronisation of the variant inside the stage) over the edges with one end in the stage.
 * @throws MpoptError E_PLAN_INVALID with the first constraint that the stages break.
 */
export function evaluatePiperStages(
  graph: LayeredGraph,
  stages: readonly InterStage[],
  options: PiperOptions,
): { seconds: number; memoryBytes: number }[] {
  const fail = (sentence: string): never => {
    throw new MpoptError("E_PLAN_INVALID", sentence);
  };
  const stageOf = graph.nodes.map(() => -1);
  stages.forEach(({ nodes }, index) => {
    for (const node of nodes) {
      if (stageOf[node] === undefined)
        fail(`Expected nodes of the graph in stage ${index} but found ${node}.`);
      if (stageOf[node] !== -1) {
        fail(`Expected each node in one stage but found node ${graph.nodes[node]!.id} in two.`);
      }
      stageOf[node] = index;
    }
  });
  const missing = stageOf.indexOf(-1);
  if (missing >= 0) fail(`Expected each node in a stage but found node ${graph.nodes[missing]!.id} in none.`);
  for (const { from, to } of graph.edges) {
    if (stageOf[from]! <= stageOf[to]!) continue;
    fail(
      `Expected stages in the order of the edges but found ${graph.nodes[from]!.id} → ${graph.nodes[to]!.id} backwards.`,
    );
  }
  const devices = stages.reduce((sum, { replicas, tensor }) => sum + replicas * tensor, 0);
  const replicas = stages.reduce((sum, stage) => sum + stage.replicas, 0);
  if (devices > options.devices) fail(`Expected at most ${options.devices} devices but found ${devices}.`);
  if (replicas > options.batch) fail(`Expected at most ${options.batch} replicas but found ${replicas}.`);

  const variants = stages.map(
    (stage) => new Map(stage.nodes.map((node, i) => [node, variantOf(graph, stage, node, i)])),
  );
  const traffic = stages.map(() => 0);
  for (const { from, to, bytes, seconds } of graph.edges) {
    const [sender, receiver] = [stageOf[from]!, stageOf[to]!];
    if (sender === receiver) continue;
    const crossing = seconds ?? bytes / options.bytesPerSecond;
    const entering = variants[receiver]!.get(to)!.syncBytes?.forward.get(graph.nodes[from]!.id) ?? 0;
    const leaving = variants[sender]!.get(from)!.syncBytes?.backward.get(graph.nodes[to]!.id) ?? 0;
    traffic[receiver]! += 2 * (crossing + entering / options.bytesPerSecond);
    traffic[sender]! += 2 * (crossing + leaving / options.bytesPerSecond);
  }

  let laterReplicas = replicas;
  return stages.map((stage, index) => {
    const { replicas: d, tensor } = stage;
    const shaped = Number.isInteger(d) && d >= 1 && options.batch % d === 0;
    if (!shaped || (options.allowData === false && d !== 1)) {
      fail(`Expected replicas that divide the batch of ${options.batch} in stage ${index} but found ${d}.`);
    }
    if (options.allowTensor === false && tensor !== 1) {
      fail(`Expected no tensor parallelism in stage ${index} but found degree ${tensor}.`);
    }
    if (options.allowRecompute === false && stage.recomputed.length > 0) {
      fail(`Expected no recomputation in stage ${index} but found some.`);
    }
    const inFlight = Math.ceil(laterReplicas / d);
    laterReplicas -= d;
    let compute = 0;
    let parameterBytes = 0;
    let memoryBytes = 0;
    for (const variant of variants[index]!.values()) {
      compute += variant.forwardSeconds + variant.backwardSeconds;
      parameterBytes += variant.parameterBytes;
      memoryBytes += variant.activationBytes * inFlight + variant.fixedBytes;
    }
    if (memoryBytes > options.memoryBytes * (1 + relativeSlack)) {
      fail(`Expected at most ${options.memoryBytes} bytes in stage ${index} but found ${memoryBytes}.`);
    }
    const reduce = ((4 * (d - 1)) / (d * options.batch)) * (parameterBytes / options.bytesPerSecond);
    return { seconds: (compute + traffic[index]!) / d + reduce, memoryBytes };
  });
}

/**
 * Piper's TPS, the seconds per micro-batch in steady state: the largest stage time.
 * @throws MpoptError E_PLAN_INVALID with the first constraint that the solution breaks.
 */
export function evaluatePiper(
  graph: LayeredGraph,
  solution: Pick<InterSolution, "stages">,
  options: PiperOptions,
): number {
  return Math.max(...evaluatePiperStages(graph, solution.stages, options).map(({ seconds }) => seconds));
}

function variantOf(graph: LayeredGraph, stage: InterStage, node: number, position: number): LayeredVariant {
  const { variants, id } = graph.nodes[node]!;
  const recompute = stage.recomputed.includes(node);
  const named = stage.variants?.[position];
  const fitting = variants.filter((it) => it.tensor === stage.tensor && it.recompute === recompute);
  const variant = named === undefined ? fitting[0] : variants[named];
  if (variant && fitting.includes(variant)) return variant;
  throw new MpoptError(
    "E_PLAN_INVALID",
    `Expected a variant of degree ${stage.tensor}${recompute ? ", recomputed," : ""} for node ${id} but found none.`,
  );
}
