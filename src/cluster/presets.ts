import { type Cluster, type ComputeTable, type Dtype, type Level, MpoptError } from "../contracts/index.js";
import { type Part, parts } from "./parts.js";

export const clusterPresetNames: readonly string[] = Object.keys(parts);

/**
 * Seconds that a kernel loses to launch, ramp-up and the last wave of tiles. With it, achieved rate =
 * best rate x t / (t + tail), t the time at the best rate, which follows the GEMM efficiencies by shape that
 * SimuMax publishes for A100 (59 % of peak at 24 GFLOP, 69-74 % at 137 GFLOP, 75 % beyond 1 TFLOP).
 */
const gemmTailSeconds = 22e-6;

/** Same for kernels that are bound by memory: 4-5 us of launch and ramp-up (SimuMax fits 30-40 us for whole operators). */
const memoryTailSeconds = 5e-6;

/** Flash attention reaches about 0.7 of the best matrix product in the forward pass (FlashAttention-2, figure 4). */
const attentionShare = 0.7;

function curve(best: number, tailSeconds: number): ComputeTable["points"] {
  const points = [];
  for (let exponent = -7; exponent <= -1; exponent += 0.5) {
    const seconds = 10 ** exponent;
    points.push({ work: best * seconds, rate: (best * seconds) / (seconds + tailSeconds) });
  }
  return points;
}

function computeTables(part: Part): ComputeTable[] {
  const tables: ComputeTable[] = [];
  const share = part.achievedFlopsPerSecond / part.peakFlopsPerSecond.bf16;
  const add = (operator: ComputeTable["operator"], dtype: Dtype, best: number, source: string) => {
    const unit = operator === "gemm" || operator === "attention" ? "flop" : "byte";
    const tail = unit === "flop" ? gemmTailSeconds : memoryTailSeconds;
    tables.push({ operator, dtype, unit, points: curve(best, tail), provenance: "assumed", source });
  };
  for (const [dtype, peak] of Object.entries(part.peakFlopsPerSecond)) {
    add("gemm", dtype as Dtype, peak * share, `${part.sources.compute}; same share of the peak in ${dtype}`);
  }
  const attention = part.achievedFlopsPerSecond * attentionShare;
  for (const dtype of ["bf16", "f16"] as const) {
    add(
      "attention",
      dtype,
      attention,
      `${part.sources.compute} x ${attentionShare} (FlashAttention-2, figure 4)`,
    );
  }
  const bandwidth = part.memoryBytesPerSecond * part.memoryEfficiency;
  for (const operator of ["elementwise", "reduction", "copy"] as const) {
    for (const dtype of ["bf16", "f32"] as const) add(operator, dtype, bandwidth, part.sources.memory);
  }
  return tables;
}

function largestDivisorUpTo(n: number, limit: number): number {
  for (let divisor = Math.min(n, limit); divisor > 1; divisor--) if (n % divisor === 0) return divisor;
  return 1;
}

function levels(part: Part, devicesPerNode: number, nodes: number): Level[] {
  const assumed = (value: number, source: string) => ({ value, provenance: "assumed" as const, source });
  const fast = {
    latencySeconds: assumed(3e-6, "per ring step of an 8-GPU all-reduce of 32 KiB (stas00/ml-engineering)"),
    bytesPerSecond: assumed(part.nodeBytesPerSecond, part.sources.links),
    points: [],
  };
  const slow = {
    latencySeconds: assumed(6e-6, "InfiniBand round through the NIC and GPUDirect, typical figure"),
    bytesPerSecond: assumed(part.networkBytesPerSecond, part.sources.links),
    points: [],
  };
  const result: Level[] = [{ name: "node", groupSize: devicesPerNode, link: fast }];
  const domain = largestDivisorUpTo(nodes, part.nodesInDomain);
  if (domain > 1) result.push({ name: "domain", groupSize: domain, link: fast });
  if (nodes > domain) result.push({ name: "network", groupSize: nodes / domain, link: slow });
  return result;
}

/**
 * A cluster of `nodes` nodes with `devicesPerNode` devices each, from data sheets and published benchmarks.
 * @param reference `h100-sxm:8x16` (devices a node x nodes), or a bare part name for one node of 8.
 * @throws MpoptError E_USAGE when the part or the form is unknown.
 */
export function clusterPreset(reference: string): Cluster {
  const match = /^([a-z0-9-]+)(?::(\d+)x(\d+))?$/.exec(reference);
  const part = match ? parts[match[1]!] : undefined;
  const devicesPerNode = Number(match?.[2] ?? 8);
  const nodes = Number(match?.[3] ?? 1);
  if (!part || devicesPerNode < 1 || nodes < 1) {
    throw new MpoptError(
      "E_USAGE",
      `Expected a cluster file or PART:GPUSxNODES such as h100-sxm:8x16 but found "${reference}".`,
      [`Parts: ${clusterPresetNames.join(", ")}.`],
    );
  }
  const count = devicesPerNode * nodes;
  const assumed = (value: number, source: string) => ({ value, provenance: "assumed" as const, source });
  const dataSheet = part.sources.memory;
  return {
    schema: "mpopt.cluster/1",
    name: `${match![1]}:${devicesPerNode}x${nodes}`,
    source: reference,
    environment: { libraries: {}, clocks: {} },
    devices: [
      {
        kind: match![1]!,
        type: part.type,
        count,
        memoryBytes: assumed(part.memoryBytes, dataSheet),
        peakFlopsPerSecond: Object.fromEntries(
          Object.entries(part.peakFlopsPerSecond).map(([dtype, peak]) => [dtype, assumed(peak, dataSheet)]),
        ),
        memoryBytesPerSecond: assumed(part.memoryBytesPerSecond, dataSheet),
        launchSeconds: assumed(5e-6, "typical time from the call to the start of a kernel"),
        compute: computeTables(part),
      },
    ],
    topology: { levels: levels(part, devicesPerNode, nodes) },
    measurements: [],
    overlap: {
      gradientReduction: assumed(
        0.9,
        "bucketed reduction during the last backward pass; the last bucket stays",
      ),
      pipelineTransfer: assumed(0, "1F1B without overlapped sends, as Megatron-LM's default schedule"),
    },
    contention: {},
    memoryOverheads: {
      contextBytes: assumed(2.5e9, "CUDA context, cuBLAS workspaces and NCCL buffers of three communicators"),
      fragmentation: assumed(1.03, "reserved over allocated with expandable segments"),
    },
    failedProbes: [],
  };
}
