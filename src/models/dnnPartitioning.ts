import { basename } from "node:path";
import { z } from "zod";
import { checkValue, MpoptError, readJson } from "../contracts/index.js";
import { checkLayeredGraph, type LayeredEdge, type LayeredGraph, type LayeredNode } from "./layered.js";

/** The published files write flags as booleans and as 0 and 1, in one file. */
const flag = z
  .union([z.boolean(), z.literal(0), z.literal(1)], { error: "true, false, 0 or 1" })
  .transform(Boolean);
const amount = z.number().nonnegative();
const count = z.number().int().nonnegative();

const schema = z.object({
  maxSizePerFPGA: amount,
  maxFPGAs: count,
  maxCPUs: count,
  nodes: z
    .array(
      z.object({
        id: z.number().int(),
        name: z.string().optional(),
        supportedOnFpga: flag,
        cpuLatency: amount,
        fpgaLatency: amount,
        isBackwardNode: flag,
        colorClass: z.number().int().optional(),
        size: amount.optional(),
      }),
    )
    .min(1),
  edges: z.array(
    z.object({
      sourceId: z.number().int(),
      destId: z.number().int(),
      cost: amount,
      size: amount.optional(),
    }),
  ),
});

/** Out-edges of one node may differ by this many milliseconds: the tolerance of the format's own tools. */
const costTolerance = 1e-6;
/** A unit of time is taken for another where figures are a thousand times apart. */
const unitRatio = 1000;
/** No link between an accelerator and its host is outside (bytes per second). */
const plausibleLink = { least: 1e6, most: 1e12 };

/**
 * Reads an input of msr-fiddle/dnn-partitioning (NeurIPS'20): nodes with times in milliseconds on an
 * accelerator and on a host processor, edges with the milliseconds that the source's output takes between an
 * accelerator and host memory. `size` goes into `fixedBytes`; the time of a backward node is its
 * `backwardSeconds`.
 * @throws MpoptError E_FILE, E_PARSE or E_FIELD with one sentence
 */
export function readDnnPartitioning(path: string): LayeredGraph {
  const document = checkValue(schema, readJson(path), path);
  const nodes = document.nodes.map((node): LayeredNode => {
    const seconds = node.fpgaLatency / 1000;
    return {
      id: String(node.id),
      name: node.name ?? String(node.id),
      variants: [
        {
          tensor: 1,
          recompute: false,
          forwardSeconds: node.isBackwardNode ? 0 : seconds,
          backwardSeconds: node.isBackwardNode ? seconds : 0,
          parameterBytes: 0,
          activationBytes: 0,
          fixedBytes: node.size ?? 0,
        },
      ],
      color: node.colorClass,
      backward: node.isBackwardNode,
      processorSeconds: node.cpuLatency / 1000,
      accelerated: node.supportedOnFpga,
    };
  });
  const indices = new Map(document.nodes.map((node, index) => [node.id, index]));
  const costs = new Map<number, number>();
  const edges = document.edges.map(({ sourceId, destId, cost, size = 0 }): LayeredEdge => {
    const [from, to] = [sourceId, destId].map((id) => {
      const index = indices.get(id);
      if (index === undefined) {
        return fail(
          `Expected edges between nodes of ${path} but the edge ${sourceId} → ${destId} has an unknown end.`,
        );
      }
      return index;
    }) as [number, number];
    if (document.nodes[from]!.isBackwardNode && !document.nodes[to]!.isBackwardNode) {
      fail(
        `Expected no edge from a backward to a forward node in ${path} but found ${sourceId} → ${destId}.`,
      );
    }
    const before = costs.get(sourceId) ?? cost;
    if (Math.abs(before - cost) > costTolerance) {
      fail(
        `Expected one cost on all edges out of node ${sourceId} in ${path}, as it is the cost of its output, but found ${before} and ${cost} ms.`,
      );
    }
    costs.set(sourceId, before);
    return { from, to, bytes: size, seconds: before / 1000 };
  });
  const graph: LayeredGraph = {
    name: basename(path, ".json"),
    format: "dnn-partitioning",
    nodes,
    edges,
    header: {
      devices: document.maxFPGAs,
      processors: document.maxCPUs,
      memoryBytes: document.maxSizePerFPGA,
    },
    warnings: [],
  };
  checkLayeredGraph(graph, path);
  graph.warnings.push(...unitWarnings(graph));
  return graph;
}

function fail(sentence: string): never {
  throw new MpoptError("E_FIELD", sentence);
}

/**
 * Times of both kinds are milliseconds. Where all transfers together are a thousand times faster or slower
 * than all compute, or tensor sizes over their costs give no bandwidth that a host link has, one of them is
 * likely in another unit.
 */
function unitWarnings({ nodes, edges }: LayeredGraph): string[] {
  const warnings: string[] = [];
  const tensors = new Map(edges.map((edge) => [edge.from, edge]));
  const sum = (values: number[]) => values.reduce((all, value) => all + value, 0);
  const compute = sum(
    nodes.map(({ variants: [only] }) => (only ? only.forwardSeconds + only.backwardSeconds : 0)),
  );
  const transfers = sum([...tensors.values()].map(({ seconds = 0 }) => seconds));
  const ratio = compute / transfers;
  if (compute > 0 && transfers > 0 && (ratio >= unitRatio || ratio <= 1 / unitRatio)) {
    const [much, what] = ratio >= 1 ? [ratio, "more"] : [1 / ratio, "less"];
    warnings.push(
      `Compute takes ${Math.round(much)} times ${what} than all transfers together; check that fpgaLatency and cost are both in milliseconds.`,
    );
  }
  const rates = [...tensors.values()]
    .filter(({ bytes, seconds = 0 }) => bytes > 0 && seconds > 0)
    .map(({ bytes, seconds }) => bytes / seconds!)
    .sort((a, b) => a - b);
  const rate = rates[rates.length >> 1];
  if (rate !== undefined && (rate > plausibleLink.most || rate < plausibleLink.least)) {
    warnings.push(
      `Sizes and costs of the edges give ${Number((rate / 1e9).toPrecision(3))} GB/s between an accelerator and its host, which no link has; check that cost is in milliseconds.`,
    );
  }
  return warnings;
}
