import { basename } from "node:path";
import { z } from "zod";
import { checkValue, MpoptError, readJson } from "../contracts/index.js";
import { checkLayeredGraph, type LayeredGraph, type LayeredNode, type LayeredVariant } from "./layered.js";

const amount = z.number().nonnegative();
const count = z.number().int().positive();
const id = z.union([z.number().int(), z.string()]).transform(String);

const variantSchema = z.object({
  id: z.string(),
  timePerSample: amount,
  parameterSize: amount,
  memoryUsageA: amount,
  memoryUsageB: amount,
  syncTimeFw: z.record(z.string(), amount),
  syncTimeBw: z.record(z.string(), amount),
});

const schema = z.object({
  maxMemoryPerDevice: z.number().positive().optional(),
  maxDevices: count.optional(),
  mbsInBatch: count.optional(),
  maxBatchSize: count.optional(),
  bandwidth: z.number().positive().optional(),
  nodes: z
    .array(
      z.object({
        id,
        name: z.string().optional(),
        TMPCs: z.record(z.string(), z.array(variantSchema)),
      }),
    )
    .min(1),
  edges: z.array(z.object({ sourceId: id, destId: id, communicationCost: amount })),
});

type Variant = z.infer<typeof variantSchema>;

/** Piper's drivers use 25 x 2^30 bytes per second; stands in for a file without a bandwidth (assumed). */
const usualBytesPerSecond = 25 * 2 ** 30;
/**
 * Sum of compute over sum of communication, from which milliseconds are suspected: the published file in seconds
 * has 8, those in milliseconds 260 and 5,900.
 */
const suspiciousRatio = 100;
/** And seconds of compute for one micro-batch on one device: 1 in the former, 460 and 520 in the latter. */
const suspiciousSeconds = 20;
/** A ratio that is suspicious whatever the sum. */
const hopelessRatio = 2000;

/**
 * Reads an input of Piper (msr-fiddle/piper, NeurIPS 2021): nodes with a table from tensor-parallel degree to
 * variants, edges with bytes. Of a variant, `timePerSample` (both passes) goes into `forwardSeconds`,
 * `memoryUsageA` into `activationBytes`, `memoryUsageB` into `fixedBytes`; any number of variants a degree is
 * taken.
 * @param options.timeUnit unit of `timePerSample`. Two of the three published files have milliseconds beside
 *   bytes per second; without the option they are detected and scaled, with a warning.
 * @throws MpoptError E_FILE, E_PARSE or E_FIELD with one sentence.
 */
export function readPiper(path: string, options: { timeUnit?: "s" | "ms" } = {}): LayeredGraph {
  const document = checkValue(schema, readJson(path), path);
  const warnings: string[] = [];
  const fail = (found: string): never => {
    throw new MpoptError("E_FIELD", `Expected a Piper graph in ${path} but found ${found}.`);
  };

  const indices = new Map(document.nodes.map((node, index) => [node.id, index]));
  if (indices.size < document.nodes.length) {
    const twice = document.nodes.find((node, index) => indices.get(node.id) !== index)!;
    fail(`node ${twice.id} twice`);
  }
  const before = document.nodes.map(() => new Set<string>());
  const after = document.nodes.map(() => new Set<string>());
  const edges = document.edges.map(({ sourceId, destId, communicationCost }) => {
    const [from, to] = [indices.get(sourceId), indices.get(destId)];
    if (from === undefined || to === undefined) {
      return fail(`an edge from ${sourceId} to ${destId}, one of which is no node`);
    }
    if (after[from]!.has(destId)) fail(`the edge from ${sourceId} to ${destId} twice`);
    after[from]!.add(destId);
    before[to]!.add(sourceId);
    return { from, to, bytes: communicationCost };
  });

  const bytesPerSecond = document.bandwidth ?? usualBytesPerSecond;
  const compute = document.nodes.reduce((sum, node) => sum + slowest(node.TMPCs), 0);
  const transfers = edges.reduce((sum, { bytes }) => sum + (2 * bytes) / bytesPerSecond, 0);
  const scale = unitScale(compute, transfers, options.timeUnit, warnings);

  const nodes = document.nodes.map((node, index): LayeredNode => {
    const variants: LayeredVariant[] = [];
    for (const [key, list] of Object.entries(node.TMPCs)) {
      const tensor = Number(key);
      if (!/^[1-9]\d*$/.test(key)) fail(`the tensor-parallel degree "${key}" at node ${node.id}`);
      for (const variant of list) {
        checkSync(variant.syncTimeFw, before[index]!, "syncTimeFw", "predecessors");
        checkSync(variant.syncTimeBw, after[index]!, "syncTimeBw", "successors");
        variants.push({
          tensor,
          recompute: /recomp|remat|checkpoint/i.test(variant.id),
          forwardSeconds: variant.timePerSample * scale,
          backwardSeconds: 0,
          parameterBytes: variant.parameterSize,
          activationBytes: variant.memoryUsageA,
          fixedBytes: variant.memoryUsageB,
          syncBytes: {
            forward: new Map(Object.entries(variant.syncTimeFw)),
            backward: new Map(Object.entries(variant.syncTimeBw)),
          },
        });
      }
    }
    if (variants.length === 0) fail(`no entry in TMPCs of node ${node.id}`);
    return { id: node.id, name: node.name ?? node.id, variants };

    function checkSync(map: Record<string, number>, ids: Set<string>, field: string, what: string) {
      const keys = Object.keys(map);
      const odd = keys.find((key) => !ids.has(key)) ?? [...ids].find((other) => !(other in map));
      if (odd === undefined) return;
      fail(`${field} of node ${node.id} without exactly its ${what} as keys (see ${odd})`);
    }
  });

  if (document.mbsInBatch === undefined && document.maxBatchSize !== undefined) {
    warnings.push("The batch was read from maxBatchSize; Piper's code reads mbsInBatch.");
  }
  const graph: LayeredGraph = {
    name: basename(path).replace(/\.json$/, ""),
    format: "piper",
    nodes,
    edges,
    header: {
      devices: document.maxDevices,
      memoryBytes: document.maxMemoryPerDevice,
      bytesPerSecond: document.bandwidth,
      microBatches: document.mbsInBatch ?? document.maxBatchSize,
    },
    warnings,
  };
  checkLayeredGraph(graph, path);
  return graph;
}

/** The node's time at its smallest degree, not recomputed where there is a choice. */
function slowest(byDegree: Record<string, Variant[]>): number {
  const smallest = Object.keys(byDegree).sort((a, b) => Number(a) - Number(b))[0];
  const times = (byDegree[smallest ?? ""] ?? []).map(({ timePerSample }) => timePerSample);
  return times.length === 0 ? 0 : Math.min(...times);
}

/** Factor to seconds, by the option or by detection. */
function unitScale(
  compute: number,
  transfers: number,
  unit: "s" | "ms" | undefined,
  warnings: string[],
): number {
  const ratio = transfers > 0 ? compute / transfers : 0;
  const suspicious = ratio >= hopelessRatio || (ratio >= suspiciousRatio && compute >= suspiciousSeconds);
  const figures = `compute sums to ${Number(compute.toPrecision(3))} and communication to ${Number(transfers.toPrecision(3))} seconds`;
  if (unit === undefined && suspicious) {
    warnings.push(
      `Times look like milliseconds beside bytes per second (${figures} as written); they were taken as milliseconds. Set the time unit to "s" to take them as written.`,
    );
  } else if (unit === "s" && suspicious) {
    warnings.push(
      `Times look like milliseconds beside bytes per second (${figures}); they were taken as seconds.`,
    );
  } else if (unit === "ms" && !suspicious) {
    warnings.push(`Times look like seconds (${figures} as written); they were taken as milliseconds.`);
  }
  return unit === "ms" || (unit === undefined && suspicious) ? 1e-3 : 1;
}
