/**
 * Data-sheet facts and published micro-benchmarks of the accelerators that ship as presets. Everything here
 * is `assumed` until `mpopt profile` measures it on the user's own cluster.
 *
 * Sources: NVIDIA A100, H100, H200, B200, GB200 and AMD MI300X data sheets (memory, dense peak, link speed);
 * largest matrix product achieved and achieved all-reduce bus bandwidth: "Machine Learning Engineering"
 * (S. Bekman, github.com/stas00/ml-engineering), tables of compute/accelerator and network; all-reduce on
 * A100 also from VIA-Research/vTrain, trace/a100.
 */
export interface Part {
  type: "cuda" | "rocm";
  memoryBytes: number;
  /** Dense tensor peak, FLOPs per second. */
  peakFlopsPerSecond: { bf16: number; f16: number; tf32: number; f32: number; fp8?: number };
  /** Best matrix product that was achieved in bf16, FLOPs per second. */
  achievedFlopsPerSecond: number;
  memoryBytesPerSecond: number;
  /** Share of the memory bandwidth that a large copy reaches. */
  memoryEfficiency: number;
  /** Links inside a node: one direction, one device, as reached by large collectives. */
  nodeBytesPerSecond: number;
  /** Links between nodes, likewise. */
  networkBytesPerSecond: number;
  /** Nodes that share the fast links (1: none, 18: an NVL72 rack of 4-GPU trays). */
  nodesInDomain: number;
  sources: { memory: string; compute: string; links: string };
}

const achieved = "largest bf16 product in stas00/ml-engineering compute/accelerator (MAMF table)";
const busBandwidth = "all-reduce bus bandwidth in stas00/ml-engineering network";

const a100: Part = {
  type: "cuda",
  memoryBytes: 40 * 2 ** 30,
  peakFlopsPerSecond: { bf16: 312e12, f16: 312e12, tf32: 156e12, f32: 19.5e12 },
  achievedFlopsPerSecond: 271.2e12,
  memoryBytesPerSecond: 1.555e12,
  memoryEfficiency: 0.9,
  nodeBytesPerSecond: 234.9e9,
  networkBytesPerSecond: 23e9,
  nodesInDomain: 1,
  sources: {
    memory: "NVIDIA A100 data sheet; copy efficiency as SimuMax configs/system/a100_pcie.json",
    compute: achieved,
    links: `${busBandwidth} (A100, 8 GPUs, 16 GiB); 200 Gb/s InfiniBand a GPU at 92 %`,
  },
};

export const parts: Readonly<Record<string, Part>> = {
  "a100-40": a100,
  "a100-80": { ...a100, memoryBytes: 80 * 2 ** 30, memoryBytesPerSecond: 2.039e12 },
  "h100-sxm": {
    type: "cuda",
    memoryBytes: 80 * 2 ** 30,
    peakFlopsPerSecond: { bf16: 989.4e12, f16: 989.4e12, tf32: 494.7e12, f32: 66.9e12, fp8: 1978.9e12 },
    achievedFlopsPerSecond: 794.5e12,
    memoryBytesPerSecond: 3.35e12,
    memoryEfficiency: 0.9,
    nodeBytesPerSecond: 364.4e9,
    networkBytesPerSecond: 46e9,
    nodesInDomain: 1,
    sources: {
      memory: "NVIDIA H100 data sheet; copy efficiency assumed as on A100",
      compute: achieved,
      links: `${busBandwidth} (H200, NVLink 4, ring, 8 GiB); 400 Gb/s InfiniBand a GPU at 92 %`,
    },
  },
  "h200-sxm": {
    type: "cuda",
    memoryBytes: 141e9,
    peakFlopsPerSecond: { bf16: 989.4e12, f16: 989.4e12, tf32: 494.7e12, f32: 66.9e12, fp8: 1978.9e12 },
    achievedFlopsPerSecond: 794.5e12,
    memoryBytesPerSecond: 4.8e12,
    memoryEfficiency: 0.9,
    nodeBytesPerSecond: 364.4e9,
    networkBytesPerSecond: 46e9,
    nodesInDomain: 1,
    sources: {
      memory: "NVIDIA H200 data sheet; copy efficiency assumed as on A100",
      compute: `${achieved}, the H100's figure: same chip`,
      links: `${busBandwidth} (H200, NVLink 4, ring, 8 GiB); 400 Gb/s InfiniBand a GPU at 92 %`,
    },
  },
  b200: {
    type: "cuda",
    memoryBytes: 180e9,
    peakFlopsPerSecond: { bf16: 2250e12, f16: 2250e12, tf32: 1125e12, f32: 75e12, fp8: 4500e12 },
    achievedFlopsPerSecond: 1745e12,
    memoryBytesPerSecond: 8e12,
    memoryEfficiency: 0.67,
    nodeBytesPerSecond: 682.2e9,
    networkBytesPerSecond: 46e9,
    nodesInDomain: 1,
    sources: {
      memory: "NVIDIA B200 data sheet; efficiency as SimuMax configs/system/b200_bf16_ceperm.json",
      compute: achieved,
      links: `${busBandwidth} (B200, ring, 8 GiB); 400 Gb/s InfiniBand a GPU at 92 %`,
    },
  },
  gb200: {
    type: "cuda",
    memoryBytes: 186e9,
    peakFlopsPerSecond: { bf16: 2500e12, f16: 2500e12, tf32: 1250e12, f32: 80e12, fp8: 5000e12 },
    achievedFlopsPerSecond: 1822e12,
    memoryBytesPerSecond: 8e12,
    memoryEfficiency: 0.67,
    nodeBytesPerSecond: 682.2e9,
    networkBytesPerSecond: 46e9,
    nodesInDomain: 18,
    sources: {
      memory: "NVIDIA GB200 NVL72 data sheet; efficiency as the B200's",
      compute: achieved,
      links: `${busBandwidth} (B200, ring, 8 GiB), assumed over the NVL72 domain; 400 Gb/s a GPU at 92 %`,
    },
  },
  mi300x: {
    type: "rocm",
    memoryBytes: 192e9,
    peakFlopsPerSecond: { bf16: 1307e12, f16: 1307e12, tf32: 653.7e12, f32: 163.4e12, fp8: 2614.9e12 },
    achievedFlopsPerSecond: 668.4e12,
    memoryBytesPerSecond: 5.3e12,
    memoryEfficiency: 0.75,
    nodeBytesPerSecond: 310e9,
    networkBytesPerSecond: 46e9,
    nodesInDomain: 1,
    sources: {
      memory: "AMD MI300X data sheet; copy efficiency assumed",
      compute: achieved,
      links: "7 xGMI links of 64 GB/s, 69 % of them reached (assumed); 400 Gb/s a GPU at 92 %",
    },
  },
};

/** Other names of parts: both A100s are the SXM modules. */
export const aliases: Readonly<Record<string, string>> = {
  "a100-sxm-40": "a100-40",
  "a100-sxm-80": "a100-80",
};
