import { type MeasuredNode, nodeLinks } from "./curves.js";

/**
 * Data-sheet facts and published micro-benchmarks of the accelerators that ship as presets. Everything is `assumed`
 * until `mpopt profile` measures it on the user's own cluster, but for the curves of collectives.
 *
 * Sources: data sheets of NVIDIA V100, A100, A800, H100, H20, H200, B200, GB200, B300, GB300 and AMD MI300X (dense
 * peaks, bandwidths, multiprocessors); memory as nvidia-smi shows it; largest matrix product achieved and achieved
 * all-reduce bus bandwidth: "Machine Learning Engineering" (S. Bekman, github.com/stas00/ml-engineering), tables of
 * compute/accelerator and network; all-reduce on A100 and V100 also VIA-Research/vTrain, trace; bandwidth of memory-bound
 * operators: MooreThreads/SimuMax, configs/system.
 */
export interface Part {
  type: "cuda" | "rocm";
  memoryBytes: number;
  /** Dense tensor peak, FLOPs per second. */
  peakFlopsPerSecond: {
    bf16?: number;
    f16: number;
    tf32?: number;
    f32: number;
    fp8?: number;
    fp4?: number;
  };
  /** Best matrix product that was achieved in 16 bit, FLOPs per second. */
  achievedFlopsPerSecond: number;
  /** Same in fp8, where it was measured; else the same share of the peak as in 16 bit. */
  achievedFp8FlopsPerSecond?: number;
  /**
   * Shares of it that last where the power limits the clock: of products in 16 bit, of narrower ones, and of attention,
   * whose rate is `attentionShare` of the product's. 1 where absent.
   */
  sustained?: { wide: number; fp8: number; attention: number };
  /** Streaming multiprocessors, or compute units. */
  multiprocessors: number;
  memoryBytesPerSecond: number;
  /** Share of the memory bandwidth that operators bound by it reach. */
  memoryEfficiency: number;
  /** Rate of the loss over that of other operators; `lossShare` where absent. */
  lossShare?: number;
  /** Links inside a node: one direction, one device, as reached by large collectives over a ring. */
  nodeBytesPerSecond: number;
  /** Latency of one hop of a ring inside a node; 3 us where absent. */
  nodeLatencySeconds?: number;
  /** Measured all-reduces of a node of this part, or of one with the same links (`borrowed`). */
  nodeCurves?: { node: MeasuredNode; borrowed: boolean };
  /** Links between nodes, likewise. */
  networkBytesPerSecond: number;
  /** Nodes that share the fast links (1: none, 18: an NVL72 rack of 4-GPU trays). */
  nodesInDomain: number;
  /** To host memory, one direction, one device. */
  hostBytesPerSecond: number;
  /** One device with its share of the host for an hour, on demand. */
  dollarsPerHour: number;
  sources: { memory: string; compute: string; links: string; host: string; price: string };
}

const achieved = "largest bf16 product in stas00/ml-engineering compute/accelerator (MAMF table)";
const busBandwidth = "all-reduce bus bandwidth in stas00/ml-engineering network";
const mebibyte = 2 ** 20;

/** Share of a PCIe link's line rate that pinned copies reach; assumed. */
const hostShare = 0.82;
const pcie3 = { bytesPerSecond: 15.75e9 * hostShare, source: "PCIe 3 x16, 82 % of the line rate" };
const pcie4 = { bytesPerSecond: 31e9 * hostShare, source: "PCIe 4 x16, 82 % of the line rate" };
const pcie5 = { bytesPerSecond: 63e9 * hostShare, source: "PCIe 5 x16, 82 % of the line rate" };
const chipToChip = { bytesPerSecond: 450e9 * hostShare, source: "NVLink-C2C, 82 % of 450 GB/s" };

const listPrice = "CoreWeave's list price of 2025, on demand";

/**
 * Share of the best product that another power limit leaves; assumed: the clock follows the cube root of the power above
 * idle, 15 % of the limit. The A100 of 300 W reaches 0.93 of the one of 400 W (MAMF table), by this 0.89.
 */
const atPower = (watts: number, ofWatts: number) => ((watts / ofWatts - 0.15) / 0.85) ** (1 / 3);

/**
 * Ampere: 0.95 `fitted` to published runs of Megatron-LM, FSDP and ZeRO-3 on A100, nearly all of which it brings closer.
 * Hopper: 0.88 and 0.96 `fitted` to the dense models of NVIDIA's recipes; attention as published for cuDNN (Shah et
 * al., FlashAttention-3, 2024). Blackwell: in 16 bit the geometric mean of the 0.63 that long products of Megatron's
 * shapes reach on one machine and the 0.85 of short ones, for attention that of both passes (SimuMax
 * configs/system/b200_bf16_ceperm.json); fp8 `fitted` as Hopper's. Blackwell Ultra doubles the rate of exponentials,
 * which take a Blackwell as long as the products of attention: a third more is assumed.
 */
const sustained = {
  ampere: { wide: 0.95, fp8: 1, attention: 1 },
  hopper: { wide: 0.88, fp8: 0.96, attention: 1 },
  blackwell: { wide: 0.73, fp8: 0.79, attention: 0.91 },
  ultra: { wide: 0.73, fp8: 0.79, attention: 1.2 },
} as const;
const underLoad = `${achieved}; what power leaves of it in training: NVIDIA's recipes, SimuMax configs/system`;

const a100: Part = {
  type: "cuda",
  memoryBytes: 40 * 2 ** 30,
  peakFlopsPerSecond: { bf16: 312e12, f16: 312e12, tf32: 156e12, f32: 19.5e12 },
  achievedFlopsPerSecond: 271.2e12,
  sustained: sustained.ampere,
  multiprocessors: 108,
  memoryBytesPerSecond: 1.555e12,
  memoryEfficiency: 0.75,
  nodeBytesPerSecond: nodeLinks.a100.bytesPerSecond,
  nodeCurves: { node: "a100", borrowed: false },
  networkBytesPerSecond: 23e9,
  nodesInDomain: 1,
  hostBytesPerSecond: pcie4.bytesPerSecond,
  dollarsPerHour: 2.06,
  sources: {
    memory:
      "NVIDIA A100 data sheet; operators reach 1456 of 1935 GB/s in SimuMax configs/system/a100_pcie.json",
    compute: underLoad,
    links: `${busBandwidth} (A100, 8 GPUs, 16 GiB); 200 Gb/s InfiniBand a GPU at 92 %`,
    host: pcie4.source,
    price: listPrice,
  },
};

const a100Large: Part = {
  ...a100,
  memoryBytes: 80 * 2 ** 30,
  memoryBytesPerSecond: 2.039e12,
  dollarsPerHour: 2.7,
};

const h100: Part = {
  type: "cuda",
  memoryBytes: 80 * 2 ** 30,
  peakFlopsPerSecond: { bf16: 989.4e12, f16: 989.4e12, tf32: 494.7e12, f32: 66.9e12, fp8: 1978.9e12 },
  achievedFlopsPerSecond: 794.5e12,
  achievedFp8FlopsPerSecond: 1402.6e12,
  sustained: sustained.hopper,
  multiprocessors: 132,
  memoryBytesPerSecond: 3.35e12,
  memoryEfficiency: 0.75,
  nodeBytesPerSecond: nodeLinks.h200.bytesPerSecond,
  nodeCurves: { node: "h200", borrowed: true },
  networkBytesPerSecond: 46e9,
  nodesInDomain: 1,
  hostBytesPerSecond: pcie5.bytesPerSecond,
  dollarsPerHour: 6.16,
  sources: {
    memory: "NVIDIA H100 data sheet; efficiency of operators assumed as on A100",
    compute: underLoad,
    links: `${busBandwidth} (H200, NVLink 4, ring, 8 GiB); 400 Gb/s InfiniBand a GPU at 92 %`,
    host: pcie5.source,
    price: listPrice,
  },
};

const b200: Part = {
  type: "cuda",
  memoryBytes: 183359 * mebibyte,
  peakFlopsPerSecond: {
    bf16: 2250e12,
    f16: 2250e12,
    tf32: 1125e12,
    f32: 75e12,
    fp8: 4500e12,
    fp4: 9000e12,
  },
  achievedFlopsPerSecond: 1745e12,
  achievedFp8FlopsPerSecond: 3432.5e12,
  sustained: sustained.blackwell,
  multiprocessors: 148,
  memoryBytesPerSecond: 8e12,
  memoryEfficiency: 0.67,
  // Fused by Transformer Engine: 8 bytes a logit at 0.28 of the data sheet's bandwidth (SimuMax, `ce_fusion`).
  lossShare: 0.63,
  nodeBytesPerSecond: nodeLinks.b200.bytesPerSecond,
  nodeCurves: { node: "b200", borrowed: false },
  networkBytesPerSecond: 46e9,
  nodesInDomain: 1,
  hostBytesPerSecond: pcie5.bytesPerSecond,
  dollarsPerHour: 8.6,
  sources: {
    memory: "NVIDIA B200 data sheet; efficiency as SimuMax configs/system/b200_bf16_ceperm.json",
    compute: underLoad,
    links: `${busBandwidth} (B200, ring, 8 GiB); 400 Gb/s InfiniBand a GPU at 92 %`,
    host: pcie5.source,
    price: listPrice,
  },
};

const gb200: Part = {
  ...b200,
  memoryBytes: 189471 * mebibyte,
  peakFlopsPerSecond: {
    bf16: 2500e12,
    f16: 2500e12,
    tf32: 1250e12,
    f32: 80e12,
    fp8: 5000e12,
    fp4: 10000e12,
  },
  achievedFlopsPerSecond: 1822e12,
  achievedFp8FlopsPerSecond: 3615.6e12,
  multiprocessors: 152,
  nodeCurves: { node: "b200", borrowed: true },
  nodesInDomain: 18,
  hostBytesPerSecond: chipToChip.bytesPerSecond,
  dollarsPerHour: 10.5,
  sources: {
    memory: "NVIDIA GB200 NVL72 data sheet; efficiency as the B200's",
    compute: underLoad,
    links: `${busBandwidth} (B200, ring, 8 GiB), assumed over the NVL72 domain; 400 Gb/s a GPU at 92 %`,
    host: chipToChip.source,
    price: listPrice,
  },
};

export const parts: Readonly<Record<string, Part>> = {
  "v100-32": {
    type: "cuda",
    memoryBytes: 32 * 2 ** 30,
    peakFlopsPerSecond: { f16: 125e12, f32: 15.7e12 },
    achievedFlopsPerSecond: 100e12,
    multiprocessors: 80,
    memoryBytesPerSecond: 0.9e12,
    memoryEfficiency: 0.75,
    nodeBytesPerSecond: 134.5e9,
    nodeLatencySeconds: 4.7e-6,
    networkBytesPerSecond: 5.8e9,
    nodesInDomain: 1,
    hostBytesPerSecond: pcie3.bytesPerSecond,
    dollarsPerHour: 0.8,
    sources: {
      memory: "NVIDIA V100 data sheet; efficiency of operators assumed as on A100",
      compute: "80 % of the data sheet's peak, assumed as on H100",
      links:
        "all-reduce over 8 GPUs, 1 GiB, in vTrain trace/v100; 8 x 100 Gb/s for the 16 GPUs of a DGX-2 at 92 %",
      host: pcie3.source,
      price: listPrice,
    },
  },
  "a100-40": a100,
  "a100-80": a100Large,
  "a800-80": {
    ...a100Large,
    nodeBytesPerSecond: (a100.nodeBytesPerSecond * 400) / 600,
    nodeCurves: { node: "a100", borrowed: true },
    sources: {
      ...a100Large.sources,
      links: `NVLink of 400 GB/s, both directions, at the share that A100 reaches of 600; ${a100.sources.links}`,
      price: "assumed as the A100's",
    },
  },
  "h100-sxm": h100,
  "h100-96": {
    ...h100,
    memoryBytes: 95 * 2 ** 30,
    memoryBytesPerSecond: 2.4e12,
    achievedFlopsPerSecond: h100.achievedFlopsPerSecond * atPower(500, 700),
    achievedFp8FlopsPerSecond: h100.achievedFp8FlopsPerSecond! * atPower(500, 700),
    sources: {
      ...h100.sources,
      memory: "96 GB of HBM2e, as pytorch/torchtitan benchmarks state; efficiency assumed as on A100",
      compute: `${underLoad}, the H100's at 500 of 700 W`,
    },
  },
  "h100-pcie": {
    ...h100,
    peakFlopsPerSecond: { bf16: 756e12, f16: 756e12, tf32: 378e12, f32: 51.2e12, fp8: 1513e12 },
    achievedFlopsPerSecond: 756e12 * 0.8 * atPower(350, 700),
    achievedFp8FlopsPerSecond: 1513e12 * 0.7 * atPower(350, 700),
    multiprocessors: 114,
    memoryBytesPerSecond: 2e12,
    nodeBytesPerSecond: 26e9,
    nodeLatencySeconds: 9e-6,
    nodeCurves: undefined,
    networkBytesPerSecond: 23e9,
    dollarsPerHour: 4.25,
    sources: {
      memory: "NVIDIA H100 PCIe data sheet; efficiency of operators assumed as on A100",
      compute: "share of the peak that H100 SXM reaches, at 350 of 700 W",
      links:
        "PCIe 5 x16 at the share that all-reduces over 8 A100 reach of PCIe 4 (SimuMax configs/system/a100_pcie.json); 200 Gb/s InfiniBand a GPU at 92 %",
      host: pcie5.source,
      price: listPrice,
    },
  },
  h20: {
    ...h100,
    memoryBytes: 97871 * mebibyte,
    peakFlopsPerSecond: { bf16: 148e12, f16: 148e12, tf32: 74e12, f32: 44e12, fp8: 296e12 },
    achievedFlopsPerSecond: 138e12,
    achievedFp8FlopsPerSecond: 275e12,
    sustained: undefined,
    multiprocessors: 78,
    memoryBytesPerSecond: 4e12,
    dollarsPerHour: 3,
    sources: {
      ...h100.sources,
      memory: "NVIDIA H20 data sheet; efficiency of operators assumed as on A100",
      compute: "93 % of the data sheet's peak: its power does not limit it (assumed)",
      price: "assumed as half of the H100's",
    },
  },
  "h200-sxm": {
    ...h100,
    memoryBytes: 143771 * mebibyte,
    achievedFp8FlopsPerSecond: 1453.4e12,
    memoryBytesPerSecond: 4.8e12,
    nodeCurves: { node: "h200", borrowed: false },
    dollarsPerHour: 6.31,
    sources: {
      ...h100.sources,
      memory: "NVIDIA H200 data sheet; efficiency of operators assumed as on A100",
      compute: `${underLoad}, the H100's figure: same chip`,
    },
  },
  b200,
  b300: {
    ...b200,
    memoryBytes: 275040 * mebibyte,
    peakFlopsPerSecond: { ...b200.peakFlopsPerSecond, fp4: 13500e12 },
    achievedFlopsPerSecond: 1769e12,
    achievedFp8FlopsPerSecond: 3353.3e12,
    sustained: sustained.ultra,
    nodeCurves: { node: "b200", borrowed: true },
    networkBytesPerSecond: 92e9,
    dollarsPerHour: 10.3,
    sources: {
      ...b200.sources,
      memory: "NVIDIA HGX B300 data sheet; efficiency as the B200's",
      links: `${busBandwidth} (B200, ring, 8 GiB), same links; 800 Gb/s a GPU at 92 %`,
      price: "assumed as 1.2 times the B200's",
    },
  },
  gb200,
  gb300: {
    ...gb200,
    memoryBytes: 284208 * mebibyte,
    peakFlopsPerSecond: { ...gb200.peakFlopsPerSecond, fp4: 15000e12 },
    achievedFlopsPerSecond: gb200.achievedFlopsPerSecond * atPower(1400, 1200),
    achievedFp8FlopsPerSecond: gb200.achievedFp8FlopsPerSecond! * atPower(1400, 1200),
    sustained: sustained.ultra,
    networkBytesPerSecond: 92e9,
    dollarsPerHour: 12.6,
    sources: {
      ...gb200.sources,
      memory: "NVIDIA GB300 NVL72 data sheet; efficiency as the B200's",
      compute: `${underLoad}, the GB200's at 1400 of 1200 W`,
      links: `${busBandwidth} (B200, ring, 8 GiB), assumed over the NVL72 domain; 800 Gb/s a GPU at 92 %`,
      price: "assumed as 1.2 times the GB200's",
    },
  },
  mi300x: {
    type: "rocm",
    memoryBytes: 192 * 2 ** 30,
    peakFlopsPerSecond: { bf16: 1307e12, f16: 1307e12, tf32: 653.7e12, f32: 163.4e12, fp8: 2614.9e12 },
    achievedFlopsPerSecond: 668.4e12,
    multiprocessors: 304,
    memoryBytesPerSecond: 5.3e12,
    memoryEfficiency: 0.75,
    nodeBytesPerSecond: 310e9,
    networkBytesPerSecond: 46e9,
    nodesInDomain: 1,
    hostBytesPerSecond: pcie5.bytesPerSecond,
    dollarsPerHour: 6,
    sources: {
      memory: "AMD MI300X data sheet; copy efficiency assumed",
      compute: achieved,
      links: "7 xGMI links of 64 GB/s, 69 % of them reached (assumed); 400 Gb/s a GPU at 92 %",
      host: pcie5.source,
      price: "Oracle's list price of 2025, on demand",
    },
  },
};

/** Other names of parts: both A100s are the SXM modules. */
export const aliases: Readonly<Record<string, string>> = {
  "a100-sxm-40": "a100-40",
  "a100-sxm-80": "a100-80",
};
