import type { LayeredGraph } from "../../models/layered.js";
import { evaluatePiperStages } from "./piperEvaluate.js";
import { type Cut, FeasibilitySearch, type Limits } from "./piperFeasible.js";
import { type IdealTable, idealTable } from "./piperIdeals.js";
import { checkPiperInput, dataDegrees, isAllowed, type PiperOptions } from "./piperModel.js";
import { StageTable } from "./piperStages.js";
import type { InterSolution, InterStage } from "./solution.js";

/**
 * Two stage times closer than this count as one. The search takes sums over ideals apart, which rounds by about
 * 1e-16 of the whole model's time, and a stage that bounds the plan has at least one part in `devices` of it.
 */
const relativeRounding = 1e-11;

/**
 * The plan with the least TPS (seconds per micro-batch in steady state) in Piper's cost model: stages in the
 * order of the edges, each with a data-parallel degree that divides the batch, a tensor-parallel degree, and
 * one variant a node. See `evaluatePiperStages` for the model.
 *
 * The least time limit that a plan can keep is found by bisection over the stage times: each probe is exact,
 * and an answer of no names the next time at which it could change, so that the search ends on a proof. Ties go
 * to the plan with the fewest devices, then the fewest replicas.
 * @throws MpoptError E_USAGE for options or a graph outside the model, E_CANCELLED when stopped.
 */
export function solvePiper(graph: LayeredGraph, options: PiperOptions): InterSolution {
  const cpu = process.cpuUsage();
  checkPiperInput(graph, options);
  const degrees = dataDegrees(options);
  const ideals = idealTable(graph);
  const table = new StageTable(graph, ideals, options, degrees.length);
  const { devices, memoryBytes, batch, signal } = options;
  const limits: Limits = { devices, memoryBytes, batch, dataDegrees: degrees, signal };
  const finish = (solution: Omit<InterSolution, "cpuSeconds" | "unit" | "restriction">): InterSolution => {
    const used = process.cpuUsage(cpu);
    return {
      ...solution,
      unit: "seconds",
      cpuSeconds: (used.user + used.system) / 1e6,
      restriction: ideals.restriction,
    };
  };

  const search = new FeasibilitySearch(ideals, table, limits);
  const start = search.probe(Number.POSITIVE_INFINITY);
  if (!start.cuts) {
    return finish({
      status: "infeasible",
      objective: Number.POSITIVE_INFINITY,
      bound: Number.POSITIVE_INFINITY,
      gap: 0,
      stages: [],
      reason: whyInfeasible(graph, options, ideals, table, limits),
    });
  }
  let stages = stagesOf(graph, table, start.cuts, options);
  let objective = longest(stages);
  // No plan is faster than `proven`; the search looks at nothing below `low`.
  let proven = 0;
  let low = 0;
  while (objective - low > relativeRounding * objective) {
    const middle =
      low < objective / 4 ? Math.max(objective / 4, Math.sqrt(low * objective)) : (low + objective) / 2;
    const limit = Math.max(low, middle);
    table.inexact = false;
    let probe = search.probe(limit);
    if (probe.cuts) {
      stages = stagesOf(graph, table, probe.cuts, options);
      objective = longest(stages);
      continue;
    }
    // A no that rests on bounds is repeated with the other end of the bounds.
    if (table.inexact) probe = search.probe(limit, true);
    low = probe.cuts ? limit : Math.min(objective, Math.max(limit, probe.next));
    if (!probe.cuts) proven = low;
  }
  if (objective - proven <= relativeRounding * objective) proven = objective;
  return finish({
    status: proven === objective ? "optimal" : "feasible",
    objective,
    bound: proven,
    gap: objective === 0 ? 0 : (objective - proven) / objective,
    stages,
  });
}

function longest(stages: InterStage[]): number {
  return Math.max(...stages.map(({ seconds }) => seconds));
}

/** Stages with the best variants for what is in flight, timed by the independent evaluator. */
function stagesOf(graph: LayeredGraph, table: StageTable, cuts: Cut[], options: PiperOptions): InterStage[] {
  const stages = cuts.map(({ pair, t, replicas, inFlight }): InterStage => {
    const { nodes, variants } = table.choose(pair, t, replicas, inFlight);
    const recomputed = nodes.filter((node, i) => graph.nodes[node]!.variants[variants[i]!]!.recompute);
    return {
      nodes,
      replicas,
      tensor: table.degrees[t]!,
      recomputed,
      variants,
      devices: [],
      seconds: 0,
      memoryBytes: 0,
    };
  });
  evaluatePiperStages(graph, stages, options).forEach((figures, i) => {
    Object.assign(stages[i]!, figures);
  });
  return stages;
}

const mebibyte = 2 ** 20;

/** One sentence on what would have to give, for options that no plan meets. */
function whyInfeasible(
  graph: LayeredGraph,
  options: PiperOptions,
  ideals: IdealTable,
  table: StageTable,
  limits: Limits,
): string {
  const { devices, memoryBytes } = options;
  for (const { id, variants } of graph.nodes) {
    const allowed = variants.filter((variant) => isAllowed(variant, options));
    if (allowed.length === 0) return `Node ${id} has no variant that the options allow.`;
    const least = Math.min(...allowed.map((it) => it.activationBytes + it.fixedBytes));
    if (least > memoryBytes) {
      return `Node ${id} alone needs ${least} bytes a device, more than the ${memoryBytes} given.`;
    }
  }
  const probe = (changed: Partial<Limits>) =>
    new FeasibilitySearch(ideals, table, { ...limits, ...changed }).probe(Number.POSITIVE_INFINITY);
  const ways: string[] = [];
  let enough = memoryBytes;
  for (let doublings = 0; doublings < 30 && ways.length === 0; doublings++) {
    enough *= 2;
    if (!probe({ memoryBytes: enough }).cuts) continue;
    let short = enough / 2;
    while (enough - short > Math.max(mebibyte, short / 1000)) {
      const middle = (short + enough) / 2;
      if (probe({ memoryBytes: middle }).cuts) enough = middle;
      else short = middle;
    }
    ways.push(`${Math.ceil(enough / mebibyte)} MiB a device`);
  }
  const more = probe({ devices: 64 * devices });
  if (more.cuts) ways.push(`${more.devices} devices`);
  const given = `${devices} devices of ${Math.floor(memoryBytes / mebibyte)} MiB do not hold the model`;
  return `${given}${ways.length === 0 ? "" : `; ${ways.join(", or ")} would`}.`;
}
