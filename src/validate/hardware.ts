/** Hardware that runs were measured on, by the names that sources print. */

/** A GPU as rows print it: the preset part that stands for it, and the network where the source states it. */
export interface Hardware {
  part: string;
  /** One direction, one device, as collectives reach it. */
  networkBytesPerSecond?: number;
  source?: string;
}

/** Parts by printed name; the first match counts. */
const gpus: readonly (readonly [RegExp, string])[] = [
  [/GB300/i, "gb300"],
  [/B300/i, "b300"],
  [/GB200/i, "gb200"],
  [/B200/i, "b200"],
  [/H200/i, "h200-sxm"],
  [/H100.*96 ?GB/i, "h100-96"],
  [/H100.*PCIe/i, "h100-pcie"],
  [/H20\b/i, "h20"],
  [/H100|H800|GH200/i, "h100-sxm"],
  [/A800/i, "a800-80"],
  [/A100.*40/i, "a100-40"],
  // A name without a size: the runs that print it so were made on 80 GB.
  [/A100/i, "a100-80"],
  [/V100/i, "v100-32"],
  [/MI300X/i, "mi300x"],
];

/** Share of a line rate that a large all-reduce reaches, as in the presets. */
const lineShare = 0.92;
/** Bytes per second a GPU of 8 that share a node's Gb/s. */
const perGpu = (gigabitsPerNode: number) => (lineShare * gigabitsPerNode * 1e9) / 8 / 8;

/** Networks that differ from the preset's, by prefix and part. */
const networks: Readonly<Record<string, Omit<Hardware, "part">>> = {
  "VTM/a100-80": { networkBytesPerSecond: perGpu(800), source: "vTrain: 800 Gb/s a node" },
  "BLOOM/a100-80": {
    networkBytesPerSecond: perGpu(400),
    source: "BigScience: 4 Omni-Path links of 100 Gb/s a node",
  },
  "FMS/a100-80": { networkBytesPerSecond: perGpu(400), source: "fms-fsdp README: 400 Gb/s a node" },
  "FMS/h100-sxm": { networkBytesPerSecond: perGpu(800), source: "fms-fsdp README: 800 Gb/s a node" },
};

/** The hardware of a printed GPU name under a prefix; undefined where the name is not known. */
export function hardwareOf(gpu: string, prefix: string): Hardware | undefined {
  const part = gpus.find(([pattern]) => pattern.test(gpu))?.[1];
  return part === undefined ? undefined : { part, ...networks[`${prefix}/${part}`] };
}
