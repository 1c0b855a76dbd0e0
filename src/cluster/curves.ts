import type { CollectiveCurve } from "../contracts/index.js";

/**
 * Published all-reduce measurements inside one node, as bus bandwidths in GB/s by the size of the tensor. Bus bandwidth
 * is 2 (n - 1) / n x bytes / seconds (nccl-tests, doc/PERFORMANCE.md).
 */

interface Series {
  /** Size of the first figure, bytes; each next one is of twice the size. */
  firstBytes: number;
  gigabytesPerSecond: readonly number[];
}

interface Measured {
  ranks: number;
  series: readonly Series[];
  source: string;
}

const kibibyte = 2 ** 10;
const mebibyte = 2 ** 20;
const gibibyte = 2 ** 30;

const vTrain = (ranks: number) => `VIA-Research/vTrain trace/a100/AR_GPU${ranks}_1M_1024M_LUT (nccl-tests)`;
const engineering = "stas00/ml-engineering network/README.md";

function fromVTrain(ranks: number, gigabytesPerSecond: readonly number[]): Measured {
  return { ranks, series: [{ firstBytes: mebibyte, gigabytesPerSecond }], source: vTrain(ranks) };
}

/** Eight A100 under NVLink 3 and NVSwitch, and any fewer of them. */
const a100: readonly Measured[] = [
  fromVTrain(2, [23.72, 39.25, 68.55, 96.53, 127.16, 145.88, 165.81, 175.77, 184.39, 189.15, 197.28]),
  fromVTrain(3, [21.88, 39.49, 70.58, 107.99, 144.34, 167.87, 178.86, 192.66, 200.4, 206.48, 211.88]),
  fromVTrain(4, [30.6, 56.44, 81.37, 107.74, 140.11, 177.09, 185.11, 201.61, 208.73, 216.48, 221.86]),
  fromVTrain(5, [26.73, 54.85, 85.36, 108.42, 135.01, 166.62, 188.95, 201.33, 210.85, 218.25, 224.48]),
  fromVTrain(6, [23.94, 46.85, 84.68, 110.34, 137.63, 183.97, 197.7, 199.58, 211.45, 222.55, 227.01]),
  fromVTrain(7, [23.06, 45.94, 85.42, 107.03, 126.36, 172.84, 191.77, 200.53, 210.04, 224.14, 226.89]),
  {
    ranks: 8,
    series: [
      { firstBytes: 32 * kibibyte, gigabytesPerSecond: [1.31, 2.45, 4.43, 7.47, 11.41] },
      {
        firstBytes: mebibyte,
        gigabytesPerSecond: [
          19.78, 39.36, 76.62, 109.3, 126.33, 163.97, 202.52, 202.13, 217.25, 224.15, 229.35,
        ],
      },
      { firstBytes: 2 * gibibyte, gigabytesPerSecond: [231.41, 233.88, 234.61, 234.89] },
    ],
    source: `${vTrain(8)} from 1 MiB to 1 GiB, ${engineering} below and above`,
  },
];

/** Eight H200 under NVLink 4, the switch adding up from 2 MiB on (NVLink SHARP). */
const h200: Measured = {
  ranks: 8,
  series: [
    {
      firstBytes: 32 * kibibyte,
      gigabytesPerSecond: [
        1.44, 2.93, 5.73, 11.74, 23.94, 39.93, 64.53, 107.16, 155.53, 219.89, 275.84, 346.51, 401.93, 436.15,
        450.29, 463.58, 469.17, 473.1, 477.45, 482.26,
      ],
    },
  ],
  source: `${engineering} (H200, all_reduce_bench.py, NCCL 2.27.7)`,
};

/** Eight B200 under NVLink 5. */
const b200: Measured = {
  ranks: 8,
  series: [
    {
      firstBytes: 32 * kibibyte,
      gigabytesPerSecond: [
        1.2, 2.17, 4.86, 9.54, 18.71, 36.06, 63.09, 76.48, 126.49, 254.96, 325.97, 400.6, 568.38, 646.11,
        688.99, 723.34, 734.97, 740.64, 839.07, 845.67,
      ],
    },
  ],
  source: `${engineering} (B200, 1 node)`,
};

/** All-reduces of 8 GiB over fewer devices of the same node: ranks and bus bandwidth, and that of all eight. */
const h200Fewer = { ranks: [4, 5, 6, 7], gigabytesPerSecond: [363.3, 414.2, 435.6, 460], all: 473.1 };
const b200Fewer = { ranks: [4, 5, 6, 7], gigabytesPerSecond: [673.2, 677.8, 778.2, 811.2], all: 838 };

/** Parts whose nodes were measured. */
export type MeasuredNode = "a100" | "h200" | "b200";

const bus = "bus bandwidth of a ring in stas00/ml-engineering network";

/** The link inside those nodes: what a ring of all GPUs reaches in large all-reduces, and the latency of its hops. */
export const nodeLinks: Readonly<Record<MeasuredNode, { bytesPerSecond: number; source: string }>> = {
  a100: { bytesPerSecond: 234.9e9, source: `${bus} (A100, 8 GPUs, 16 GiB)` },
  h200: { bytesPerSecond: 364.4e9, source: `${bus} (H200, NVLink 4, 8 GiB)` },
  b200: { bytesPerSecond: 682.2e9, source: `${bus} (B200, 8 GPUs, 8 GiB)` },
};

/** A hop of a ring over 8 GPUs: 44 us (A100), 40 us (H200) and 48 us (B200) for the 14 hops of 32 KiB. */
export const nodeLatency = {
  seconds: 3e-6,
  source: "per ring step of an 8-GPU all-reduce of 32 KiB (stas00/ml-engineering)",
};

function curveOf(node: MeasuredNode, { ranks, series, source }: Measured): CollectiveCurve {
  const link = {
    latencySeconds: { value: nodeLatency.seconds, provenance: "fitted" as const, source: nodeLatency.source },
    bytesPerSecond: {
      value: nodeLinks[node].bytesPerSecond,
      provenance: "measured" as const,
      source: nodeLinks[node].source,
    },
  };
  const points = series.flatMap(({ firstBytes, gigabytesPerSecond }) =>
    gigabytesPerSecond.map((rate, i) => {
      const bytes = firstBytes * 2 ** i;
      return { bytes, seconds: (2 * (ranks - 1) * bytes) / ranks / (rate * 1e9) };
    }),
  );
  return { collective: "allReduce", ranks, points, link, provenance: "measured", source };
}

/** Curves of fewer ranks with the shape of all eight's, at the ratio that 8 GiB show. */
function fewer(
  whole: CollectiveCurve,
  { ranks, gigabytesPerSecond, all }: typeof h200Fewer,
): CollectiveCurve[] {
  const volume = (n: number) => (2 * (n - 1)) / n;
  return ranks.map((n, i) => {
    const ratio = volume(n) / gigabytesPerSecond[i]! / (volume(whole.ranks) / all);
    const points = whole.points.map(({ bytes, seconds }) => ({ bytes, seconds: seconds * ratio }));
    const source = `${whole.source}, at the ratio of ${n} and ${whole.ranks} GPUs for 8 GiB`;
    return { ...whole, ranks: n, points, provenance: "fitted", source };
  });
}

const wholeH200 = curveOf("h200", h200);
const wholeB200 = curveOf("b200", b200);
const curves: Readonly<Record<MeasuredNode, readonly CollectiveCurve[]>> = {
  a100: a100.map((each) => curveOf("a100", each)),
  h200: [...fewer(wholeH200, h200Fewer), wholeH200],
  b200: [...fewer(wholeB200, b200Fewer), wholeB200],
};

/**
 * All-reduce curves of a node.
 * @param borrowed the part itself was not measured but has like links: its curves are assumed.
 */
export function nodeCurves(node: MeasuredNode, borrowed: boolean): CollectiveCurve[] {
  return curves[node].map((curve) => (borrowed ? { ...curve, provenance: "assumed" } : { ...curve }));
}
