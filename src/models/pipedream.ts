import { MpoptError, readText } from "../contracts/index.js";
import { checkLayeredGraph, type LayeredEdge, type LayeredGraph, type LayeredNode } from "./layered.js";

/** A profile of PipeDream or DAPPLE; their output files also say where each node was put. */
export interface PipedreamGraph extends LayeredGraph {
  /** Stage of each node, where the file has them. */
  stageIds?: number[];
}

/** Fields of a node line, in the order of the file. */
const fieldNames = ["forward_compute_time", "backward_compute_time", "activation_size", "parameter_size"];
/** A link of a plausible machine, for the check of units alone (assumed). */
const plausibleBytesPerSecond = 10e9;
/** Compute and communication of real profiles differ by less than 30; a wrong unit adds a factor of 1,000. */
const suspiciousRatio = 300;

/**
 * Reads a profile in the text format of PipeDream (msr-fiddle/pipedream, graph/graph.py) and DAPPLE: lines
 * `ID -- DESCRIPTION -- forward_compute_time=MS, backward_compute_time=MS, activation_size=BYTES,
 * parameter_size=BYTES[ -- stage_id=K]` for nodes, indented lines `FROM -- TO` for edges. Sizes may be
 * integers, floats or lists `[a; b]`, of which the sum counts. Milliseconds become seconds; an edge carries the
 * output of its source. As PipeDream's optimizer does before it plans, sources called `Input...` and then sinks
 * called `__getitem__...` are left out.
 * @param source a path, or the text itself (anything with a line break).
 * @throws MpoptError E_FILE; E_PARSE for a malformed line, E_FIELD for a cycle, a dangling edge or a negative
 *   figure; the sentence names the line.
 */
export function readPipedream(source: string): PipedreamGraph {
  const isText = source.includes("\n");
  const where = isText ? "the profile" : source;
  const text = isText ? source : readText(source);
  const nodes = new Map<string, { node: LayeredNode; stage?: number }>();
  const edges: { from: string; to: string; line: number }[] = [];
  const warnings: string[] = [];
  text.split("\n").forEach((raw, index) => {
    if (raw.trim() === "") return;
    const line = index + 1;
    if (/^\s/.test(raw)) {
      const parts = raw.trim().split(" -- ");
      if (parts.length !== 2 || parts.some((part) => part.trim() === "")) {
        throw malformed(where, line, `an edge "FROM -- TO"`, raw);
      }
      edges.push({ from: parts[0]!.trim(), to: parts[1]!.trim(), line });
      return;
    }
    const read = readNode(raw.trim(), where, line);
    if (nodes.has(read.node.id)) {
      throw new MpoptError(
        "E_FIELD",
        `Expected each node once in ${where} but found ${read.node.id} again on line ${line}.`,
      );
    }
    nodes.set(read.node.id, read);
  });
  if (nodes.size === 0) {
    throw new MpoptError(
      "E_PARSE",
      `Expected node lines "ID -- DESCRIPTION -- ..." in ${where} but found none.`,
    );
  }
  for (const { from, to, line } of edges) {
    const unknown = [from, to].find((id) => !nodes.has(id));
    if (unknown === undefined) continue;
    throw new MpoptError(
      "E_FIELD",
      `Expected edges between nodes of ${where} but line ${line} names ${unknown}, which no node line defines.`,
    );
  }

  const gone = new Set<string>();
  const drop = (prefix: string, open: (edge: { from: string; to: string }) => string) => {
    const linked = new Set(edges.filter(({ from, to }) => !gone.has(from) && !gone.has(to)).map(open));
    for (const [id, { node }] of nodes) {
      if (!gone.has(id) && !linked.has(id) && node.name.startsWith(prefix)) gone.add(id);
    }
  };
  drop("Input", ({ to }) => to);
  drop("__getitem__", ({ from }) => from);
  const kept = [...nodes.values()].filter(({ node }) => !gone.has(node.id));
  const indices = new Map(kept.map(({ node }, i) => [node.id, i]));
  const linked = new Set<string>();
  const layered: LayeredEdge[] = [];
  for (const { from, to, line } of edges) {
    if (gone.has(from) || gone.has(to)) continue;
    if (linked.has(`${from} ${to}`)) {
      warnings.push(`Line ${line} repeats the edge ${from} -- ${to}; it counts once.`);
      continue;
    }
    linked.add(`${from} ${to}`);
    const bytes = nodes.get(from)!.node.variants[0]!.activationBytes;
    layered.push({ from: indices.get(from)!, to: indices.get(to)!, bytes });
  }
  const name = isText ? "profile" : (source.split(/[\\/]/).pop() ?? source).replace(/\.txt$/, "");
  const graph: PipedreamGraph = {
    name,
    format: "pipedream",
    nodes: kept.map(({ node }) => node),
    edges: layered,
    header: {},
    warnings,
  };
  checkLayeredGraph(graph, where);
  if (kept.every(({ stage }) => stage !== undefined)) graph.stageIds = kept.map(({ stage }) => stage!);
  const units = unitsWarning(graph, plausibleBytesPerSecond);
  if (units !== undefined) warnings.push(units);
  return graph;
}

/**
 * A sentence when the time to compute all nodes and the time to send all their outputs once differ so much that
 * one of the two is likely in another unit; undefined else.
 */
export function unitsWarning(graph: LayeredGraph, bytesPerSecond: number): string | undefined {
  let compute = 0;
  let bytes = 0;
  for (const { variants } of graph.nodes) {
    compute += variants[0]!.forwardSeconds + variants[0]!.backwardSeconds;
    bytes += variants[0]!.activationBytes;
  }
  const transfer = bytes / bytesPerSecond;
  if (!(compute > 0 && transfer > 0)) return undefined;
  const ratio = compute / transfer;
  if (ratio < suspiciousRatio && ratio > 1 / suspiciousRatio) return undefined;
  const times = (ratio > 1 ? ratio : 1 / ratio).toPrecision(2);
  return (
    `All nodes compute for ${compute.toPrecision(3)} s but sending their outputs once at ` +
    `${bytesPerSecond / 1e9} GB/s takes ${transfer.toPrecision(3)} s, ${Number(times)} times ` +
    `${ratio > 1 ? "less" : "more"}: check that times are in milliseconds, sizes in bytes and bandwidths in ` +
    "bytes per second."
  );
}

function malformed(where: string, line: number, expected: string, found: string): MpoptError {
  const shown = found.trim();
  const cut = shown.length > 80 ? `${shown.slice(0, 77)}...` : shown;
  return new MpoptError("E_PARSE", `Expected ${expected} on line ${line} of ${where} but found "${cut}".`);
}

function readNode(text: string, where: string, line: number): { node: LayeredNode; stage?: number } {
  const parts = text.split(" -- ");
  if (parts.length < 3 || parts.length > 4 || parts[0] === "") {
    throw malformed(where, line, `a node "ID -- DESCRIPTION -- ${fieldNames[0]}=..., ..."`, text);
  }
  const [id, description, metadata, stageField] = parts as [string, string, string, string | undefined];
  const items = metadata.trim().split(", ");
  if (items.length !== fieldNames.length) {
    throw malformed(where, line, `the four fields ${fieldNames.join(", ")}`, metadata);
  }
  const figures = items.map((item, i) => {
    const field = fieldNames[i]!;
    const value = item.startsWith(`${field}=`) ? readSize(item.slice(field.length + 1).trim()) : undefined;
    if (value === undefined) throw malformed(where, line, `${field}=NUMBER`, item);
    if (!(value >= 0)) {
      throw new MpoptError(
        "E_FIELD",
        `Expected a number of at least 0 for ${field} of ${id} on line ${line} of ${where} but found ${value}.`,
      );
    }
    return value;
  });
  const [forward, backward, activationBytes, parameterBytes] = figures as [number, number, number, number];
  const read: { node: LayeredNode; stage?: number } = {
    node: {
      id: id.trim(),
      name: description,
      variants: [
        {
          tensor: 1,
          recompute: false,
          forwardSeconds: forward / 1000,
          backwardSeconds: backward / 1000,
          parameterBytes,
          activationBytes,
          // Parameters and one copy of their gradients; the file says nothing of an optimizer.
          fixedBytes: 2 * parameterBytes,
        },
      ],
    },
  };
  if (stageField !== undefined) {
    const stage = /^stage_id=(\d+)$/.exec(stageField.trim());
    if (!stage) throw malformed(where, line, "stage_id=NUMBER", stageField);
    read.stage = Number(stage[1]);
  }
  return read;
}

/** A number, or the sum of a list `[a; b]`; undefined for anything else. */
function readSize(text: string): number | undefined {
  const list = /^\[(.*)\]$/.exec(text);
  const items = list ? list[1]!.split(";").map((item) => item.trim()) : [text];
  if (list && items.length === 1 && items[0] === "") return 0;
  let sum = 0;
  for (const item of items) {
    const value = item === "" ? Number.NaN : Number(item);
    if (!Number.isFinite(value)) return undefined;
    if (value < 0) return value;
    sum += value;
  }
  return sum;
}
