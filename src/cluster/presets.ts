import {
  type Cluster,
  type ComputeTable,
  type Device,
  type Dtype,
  type Level,
  type Link,
  MpoptError,
} from "../contracts/index.js";
import { nodeCurves, nodeLatency } from "./curves.js";
import {
  attentionShare,
  gemmTailSeconds,
  lossShare,
  memoryTailSeconds,
  permuteShare,
} from "./kernelShares.js";
import { aliases, type Part, parts } from "./parts.js";

export const clusterPresetNames: readonly string[] = Object.keys(parts);

function curve(best: number, tailSeconds: number): ComputeTable["points"] {
  const points = [];
  for (let exponent = -7; exponent <= -1; exponent += 0.5) {
    const seconds = 10 ** exponent;
    points.push({ work: best * seconds, rate: (best * seconds) / (seconds + tailSeconds) });
  }
  return points;
}

/** Best matrix product of a part in a type that lasts: measured in 16 bit and fp8, the same share of the peak elsewhere. */
function bestProduct(part: Part, dtype: Dtype): number {
  const { peakFlopsPerSecond: peaks, achievedFlopsPerSecond, achievedFp8FlopsPerSecond } = part;
  const { wide = 1, fp8 = 1 } = part.sustained ?? {};
  if (achievedFp8FlopsPerSecond && dtype === "fp8") return fp8 * achievedFp8FlopsPerSecond;
  if (achievedFp8FlopsPerSecond && dtype === "fp4")
    return (fp8 * achievedFp8FlopsPerSecond * peaks.fp4!) / peaks.fp8!;
  return (wide * achievedFlopsPerSecond * (peaks as Partial<Record<Dtype, number>>)[dtype]!) / peaks.f16;
}

function computeTables(part: Part): ComputeTable[] {
  const tables: ComputeTable[] = [];
  const add = (operator: ComputeTable["operator"], dtype: Dtype, best: number, source: string) => {
    const unit = operator === "gemm" || operator === "attention" ? "flop" : "byte";
    const tail = unit === "flop" ? gemmTailSeconds : memoryTailSeconds;
    tables.push({ operator, dtype, unit, points: curve(best, tail), provenance: "assumed", source });
  };
  for (const dtype of Object.keys(part.peakFlopsPerSecond) as Dtype[]) {
    const narrow = dtype === "fp8" || dtype === "fp4";
    const source =
      narrow && part.achievedFp8FlopsPerSecond
        ? part.sources.compute.replace("bf16", "fp8")
        : part.sources.compute;
    add("gemm", dtype, bestProduct(part, dtype), `${source}; the same share of the peak where unmeasured`);
  }
  for (const dtype of ["bf16", "f16"] as const) {
    if (!part.peakFlopsPerSecond[dtype]) continue;
    const source = `${part.sources.compute} x ${attentionShare} (SimuMax configs/system, sdp_fwd)`;
    const share = attentionShare * (part.sustained?.attention ?? 1);
    add("attention", dtype, part.achievedFlopsPerSecond * share, source);
  }
  const bandwidth = part.memoryBytesPerSecond * part.memoryEfficiency;
  const shares = { elementwise: 1, reduction: 1, copy: permuteShare, loss: part.lossShare ?? lossShare };
  for (const operator of ["elementwise", "reduction", "copy", "loss"] as const) {
    const share = shares[operator];
    const source = share === 1 ? part.sources.memory : `${part.sources.memory}, x ${share} for ${operator}`;
    for (const dtype of ["bf16", "f32"] as const) add(operator, dtype, bandwidth * share, source);
  }
  return tables;
}

function largestDivisorUpTo(n: number, limit: number): number {
  for (let divisor = Math.min(n, limit); divisor > 1; divisor--) if (n % divisor === 0) return divisor;
  return 1;
}

const assumed = (value: number, source: string) => ({ value, provenance: "assumed" as const, source });

const smallLayers = "vTrain data/ground_truth_single.csv, Megatron-DeepSpeed on one A100 node";

/**
 * What a framework that calls kernels one by one takes the host: fitted to those runs, assumed elsewhere. Layers too
 * small to keep the GPU busy take 0.9 to 1.1 ms a pass in them, whatever their width: 13 operators, each some three
 * calls of 20 to 25 us.
 */
const host = {
  callSeconds: assumed(70e-6, `an operator with its views, casts and autograd nodes: ${smallLayers}`),
  microBatchSeconds: assumed(1e-3, `0.6 to 1.3 ms on the stage of the loss: ${smallLayers}`),
  stepSeconds: assumed(2e-3, "loss scaling, clipping and logging of a step"),
};

function deviceOf(name: string, count: number): Device {
  const part = parts[name]!;
  const dataSheet = part.sources.memory;
  return {
    kind: name,
    type: part.type,
    count,
    memoryBytes: assumed(part.memoryBytes, dataSheet),
    peakFlopsPerSecond: Object.fromEntries(
      Object.entries(part.peakFlopsPerSecond).map(([dtype, peak]) => [dtype, assumed(peak, dataSheet)]),
    ),
    memoryBytesPerSecond: assumed(part.memoryBytesPerSecond, dataSheet),
    launchSeconds: assumed(5e-6, "typical time from the call to the start of a kernel"),
    callSeconds: { forward: host.callSeconds, backward: host.callSeconds },
    compute: computeTables(part),
    multiprocessors: assumed(part.multiprocessors, dataSheet),
    hostBytesPerSecond: assumed(part.hostBytesPerSecond, part.sources.host),
    dollarsPerHour: assumed(part.dollarsPerHour, part.sources.price),
  };
}

/** The links inside a node, and those of its network card. */
function linksOf(part: Part): { node: Link; network: Link } {
  const { nodeBytesPerSecond, networkBytesPerSecond, sources } = part;
  return {
    node: {
      latencySeconds:
        part.nodeLatencySeconds === undefined
          ? assumed(nodeLatency.seconds, nodeLatency.source)
          : assumed(part.nodeLatencySeconds, sources.links),
      bytesPerSecond: assumed(nodeBytesPerSecond, sources.links),
      points: [],
    },
    network: {
      latencySeconds: assumed(6e-6, "InfiniBand round through the NIC and GPUDirect, typical figure"),
      bytesPerSecond: assumed(networkBytesPerSecond, sources.links),
      points: [],
    },
  };
}

/** Equal nodes of one part. */
interface Nodes {
  name: string;
  part: Part;
  devicesPerNode: number;
  nodes: number;
}

/** The term of a preset, such as `h100-sxm:8x16`; undefined where it is none. */
function parseNodes(term: string): Nodes | undefined {
  const match = /^([a-z0-9-]+)(?::(\d+)x(\d+))?$/.exec(term);
  const name = match ? (aliases[match[1]!] ?? match[1]!) : "";
  const devicesPerNode = Number(match?.[2] ?? 8);
  const nodes = Number(match?.[3] ?? 1);
  if (!Object.hasOwn(parts, name) || devicesPerNode < 1 || nodes < 1) return undefined;
  return { name, part: parts[name]!, devicesPerNode, nodes };
}

/** One group of a level: how many members it has, what joins them, and its own link upward. */
interface PresetGroup {
  size: number;
  link: Link;
  upward: Link;
  curves?: Part["nodeCurves"];
}

/** A level in the shortest form that says it: one size and one link where they are the same everywhere. */
function levelOf(name: string, groups: readonly PresetGroup[]): Level {
  const [first] = groups;
  const equalSizes = groups.every(({ size }) => size === first!.size);
  const equalLinks = groups.every(({ link }) => sameLink(link, first!.link));
  // Those of the first group's part: elsewhere they follow the group's own link.
  const { curves } = first!;
  const borrowed = groups.some((group) => group.curves?.node !== curves?.node || group.curves?.borrowed);
  return {
    name,
    ...(equalSizes ? { groupSize: first!.size } : { groupSizes: groups.map(({ size }) => size) }),
    ...(equalLinks ? { link: first!.link } : { links: groups.map(({ link }) => link) }),
    ...(curves ? { collectives: nodeCurves(curves.node, borrowed) } : {}),
  };
}

function sameLink(a: Link, b: Link): boolean {
  return (
    a.bytesPerSecond.value === b.bytesPerSecond.value && a.latencySeconds.value === b.latencySeconds.value
  );
}

/** Nodes, the domains of nodes that share fast links where a part has them, and the network. */
function levelsOf(terms: readonly Nodes[]): Level[] {
  const nodes: PresetGroup[] = [];
  const domains: PresetGroup[] = [];
  for (const term of terms) {
    const { node, network } = linksOf(term.part);
    const size = largestDivisorUpTo(term.nodes, term.part.nodesInDomain);
    const group = { link: node, upward: network };
    const { nodeCurves: curves } = term.part;
    for (let i = 0; i < term.nodes; i++) nodes.push({ ...group, size: term.devicesPerNode, curves });
    for (let i = 0; i < term.nodes; i += size) domains.push({ ...group, size });
  }
  const result = [levelOf("node", nodes)];
  if (domains.some(({ size }) => size > 1)) result.push(levelOf("domain", domains));
  if (domains.length > 1) {
    const upward = domains.map((domain) => domain.upward);
    const equal = upward.every((link) => sameLink(link, upward[0]!));
    const links = equal ? { link: upward[0]! } : { memberLinks: upward };
    result.push({ name: "network", groupSize: domains.length, ...links });
  }
  return result;
}

/**
 * Checks the terms of a preset.
 * @throws MpoptError E_USAGE where a part or the form is unknown, or where types of device are mixed.
 */
function parsePreset(reference: string): Nodes[] {
  const texts = reference.split("+");
  const terms = texts.map((text) => {
    const found = parseNodes(text);
    if (found) return found;
    throw new MpoptError(
      "E_USAGE",
      texts.length === 1
        ? `Expected a cluster file or PART:GPUSxNODES such as h100-sxm:8x16 but found "${reference}".`
        : `Expected PART:GPUSxNODES such as h100-sxm:8x16 on both sides of every + but found "${text}" in "${reference}".`,
      [
        `Parts: ${clusterPresetNames.join(", ")}.`,
        ...(texts.length === 1 ? ["Join hosts that differ by +, as in h100-sxm:8x2+a100-80:4x3."] : []),
      ],
    );
  });
  const other = terms.find(({ part }) => part.type !== terms[0]!.part.type);
  if (other) {
    throw new MpoptError(
      "E_USAGE",
      `Expected parts that one communication library joins but found ${terms[0]!.name} (${terms[0]!.part.type}) and ${other.name} (${other.part.type}) in "${reference}".`,
    );
  }
  return terms;
}

/**
 * A cluster from data sheets and published benchmarks: `nodes` nodes with `devicesPerNode` devices each, or
 * several such groups of nodes one after another, each node with its own network card.
 * @param reference `h100-sxm:8x16` (devices a node x nodes), a bare part name for one node of 8, or a sum of
 *   them: `h100-sxm:8x2+a100-80:4x3`.
 * @throws MpoptError E_USAGE when a part or the form is unknown.
 */
export function clusterPreset(reference: string): Cluster {
  const terms = parsePreset(reference);
  const devices: Device[] = [];
  for (const { name, devicesPerNode, nodes } of terms) {
    const before = devices.at(-1);
    if (before?.kind === name) before.count += devicesPerNode * nodes;
    else devices.push(deviceOf(name, devicesPerNode * nodes));
  }
  return {
    schema: "mpopt.cluster/1",
    name: terms.map(({ name, devicesPerNode, nodes }) => `${name}:${devicesPerNode}x${nodes}`).join("+"),
    source: reference,
    environment: { libraries: {}, clocks: {} },
    devices,
    topology: { levels: levelsOf(terms) },
    measurements: [],
    overlap: {
      gradientReduction: assumed(
        0.9,
        "bucketed reduction during the last backward pass; the last bucket stays",
      ),
      pipelineTransfer: assumed(0, "1F1B without overlapped sends, as Megatron-LM's default schedule"),
    },
    stepSeconds: host.stepSeconds,
    microBatchSeconds: host.microBatchSeconds,
    contention: {},
    memoryOverheads: {
      contextBytes: assumed(2.5e9, "CUDA context, cuBLAS workspaces and NCCL buffers of three communicators"),
      fragmentation: assumed(1.03, "reserved over allocated with expandable segments"),
    },
    failedProbes: [],
  };
}
