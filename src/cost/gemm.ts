import type { GemmShape } from "./shapes.js";

/** What a device can do at best, for one type. */
export interface GemmRoofs {
  /** Largest rate that any matrix product was seen to reach. */
  flopsPerSecond: number;
  /** Rate of large passes over memory. */
  bytesPerSecond: number;
  /** Multiprocessors that tiles spread over. */
  multiprocessors: number;
}

/** Constants of the model below. All are `fitted` unless said otherwise. */
export interface GemmConstants {
  /** Rate of full waves over the best rate: the best shape still pays for its prologue. */
  waveShare: number;
  /** Rate over long times over the best rate, where power is the limit: idle multiprocessors lend theirs. */
  sustainedShare: number;
  /** Loss of a tile's rate for each part that its operands take more of than those of a 128 x 256 tile. */
  tileLoss: number;
  /** Prologue and epilogue of a tile, in steps of k. */
  prologue: number;
  /** Exponent that joins compute and memory: 1 adds them up, infinity takes the longer. */
  overlap: number;
  /** Seconds between two kernels of one stream; assumed, as the empty kernels of CUDA graphs. */
  tailSeconds: number;
  /** Rate over that of aligned operands where rows of a matrix have an odd number of elements. */
  oddShare: number;
  /** The same for products of many small matrices whose rows are not multiples of 8 elements. */
  unalignedBatchedShare: number;
  /** Seconds that each group adds where groups are kernels of their own, on several streams. */
  groupSeconds: number;
}

/**
 * Fitted to the 195 products of SimuMax's configs/system/a100_pcie.json (Megatron shapes, three layouts): median
 * error 2 %, p90 8 %. `groupSeconds` is from the 108 grouped products of b200_bf16_ceperm.json. `bench/kernels`
 * repeats the fit and tries it on the other device. `oddShare` is from vTrain's runs on one A100 node, whose head of
 * 50,257 columns runs at 81 to 100 TFLOP/s, and at 219 where it is padded. `unalignedBatchedShare` is from BigScience's
 * search on A100-80: attention with heads of 108 or 150 features runs its products at 9 to 12 TFLOP/s, off the tensor
 * cores, where heads of 144 and 216 take a third less for the step.
 */
export const gemmConstants: Readonly<GemmConstants> = {
  waveShare: 1.08,
  sustainedShare: 0.98,
  tileLoss: 1.4,
  prologue: 160,
  overlap: 2,
  tailSeconds: 2e-6,
  oddShare: 0.4,
  unalignedBatchedShare: 0.042,
  groupSeconds: 1.1e-6,
};

/** Tiles that cuBLAS and CUTLASS offer on all parts, rows x columns. */
const tiles = [
  [256, 128],
  [128, 256],
  [128, 128],
  [256, 64],
  [64, 256],
  [128, 64],
  [64, 128],
  [64, 64],
] as const;

/** Parts that k is split into where tiles are too few to fill the device. */
const splits = [1, 2, 4, 8];

/** Exponent of the smooth maximum of waves and power: both bind together near a full device. */
const powerExponent = 8;

/**
 * Seconds of a matrix product: the longer, smoothly, of
 * - its tiles in waves over the multiprocessors, the last one partly empty, for the best of a library's tiles and
 *   splits of k (wave and tile quantisation as in NVIDIA, "Matrix Multiplication Background User's Guide", sections
 *   3 and 4); a smaller tile reads more operands for each product, and every tile fills and drains its pipeline;
 * - its FLOPs at the rate that the power limit sustains;
 * - its bytes over the memory's rate;
 * and the gap to the next kernel. It grows with every side.
 * @param bytes read and written.
 */
export function gemmSeconds(
  shape: GemmShape,
  bytes: number,
  { flopsPerSecond, bytesPerSecond, multiprocessors }: GemmRoofs,
  constants: GemmConstants = gemmConstants,
): number {
  const { m, n, k } = shape;
  const groups = Math.max(1, shape.groups ?? 1);
  const best = flopsPerSecond * alignment(shape, constants);
  const full = (best * constants.waveShare) / multiprocessors;
  let waves = Number.POSITIVE_INFINITY;
  for (const [rows, columns] of tiles) {
    const operands = 128 / rows + 128 / columns - 1.5;
    const tileSeconds = (2 * rows * columns * (1 + constants.tileLoss * operands)) / full;
    const down = shape.ragged ? Math.max(1, m / rows + 0.5) : Math.ceil(m / rows);
    const count = (down * Math.ceil(n / columns) * groups) / multiprocessors;
    for (const split of splits) {
      if (split > 1 && count >= 2) break;
      // Partial sums of the split are written and read again in f32, by a kernel of their own.
      const joined = split > 1 ? (8 * split * m * n * groups) / bytesPerSecond + constants.tailSeconds : 0;
      const seconds = Math.ceil(count * split) * tileSeconds * (k / split + constants.prologue) + joined;
      if (seconds < waves) waves = seconds;
    }
  }
  const power = (2 * m * n * k * groups) / (best * constants.sustainedShare);
  const compute = smoothMaximum(waves, power, powerExponent);
  const calls = shape.separate ? (groups - 1) * constants.groupSeconds : 0;
  return smoothMaximum(compute, bytes / bytesPerSecond, constants.overlap) + constants.tailSeconds + calls;
}

/** Elements that loads of 16 bytes take; rows of as many are aligned ("Matrix Multiplication Background", section 2). */
const alignedElements = 8;

/**
 * Share of the rate that is left by the alignment of the matrices' rows: 1 for multiples of 8 elements, `oddShare` for
 * odd lengths, between them by halves (assumed); small matrices beside each other lose the tensor cores at once.
 * Lengths of rows are n and k, and m and n in a gradient of weights.
 */
function alignment(
  { m, n, k, accumulates, groups = 1, separate }: GemmShape,
  { oddShare, unalignedBatchedShare }: GemmConstants,
): number {
  let halves = 0;
  for (const length of accumulates ? [m, n] : [n, k]) {
    if (!Number.isInteger(length)) continue;
    let aligned = 1;
    let lost = Math.log2(alignedElements);
    for (; lost > 0 && length % (2 * aligned) === 0; lost--) aligned *= 2;
    halves = Math.max(halves, lost);
  }
  if (halves > 0 && groups > 1 && !separate) return unalignedBatchedShare;
  return 1 - (1 - oddShare) * (halves / Math.log2(alignedElements));
}

/** (a^p + b^p)^(1/p) without overflow. */
function smoothMaximum(a: number, b: number, exponent: number): number {
  const [low, high] = a < b ? [a, b] : [b, a];
  return high === 0 ? 0 : high * (1 + (low / high) ** exponent) ** (1 / exponent);
}
