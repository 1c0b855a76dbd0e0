import { parts } from "../../dist/cluster/parts.js";
import { gemmConstants, gemmSeconds } from "../../dist/cost/gemm.js";
import { fitParameters, summary } from "./fit.mjs";
import { devices, gemmRows } from "./rows.mjs";

const ranges = { waveShare: [0.9, 1.3], sustainedShare: [0.8, 1.1], tileLoss: [0, 3], prologue: [0, 500] };
const start = Object.fromEntries(Object.keys(ranges).map((name) => [name, gemmConstants[name]]));

/** Seconds by the model, the device's best product taken `rate` times. */
const priced =
  (constants, rate = 1) =>
  (row) => {
    const device = devices[row.gpu];
    return gemmSeconds(
      row.shape,
      row.bytes,
      { ...device, flopsPerSecond: device.flopsPerSecond * rate },
      { ...gemmConstants, ...constants },
    );
  };

/**
 * Seconds on a device that lowers its clock under load: kernels of some 50 us, timed in short loops, reach `fast` of the
 * best product, long ones `slow`. It belongs to how and where the rows were measured, not to the model.
 */
const throttled =
  (constants, { fast, slow, windowSeconds }) =>
  (row) => {
    const plain = priced(constants, fast)(row);
    const rate = slow + (fast - slow) / (1 + (plain / windowSeconds) ** 1.3);
    return priced(constants, rate)(row);
  };

const windowRanges = { fast: [0.5, 1.3], slow: [0.4, 1], windowSeconds: [1e-5, 5e-4] };
const windowStart = { fast: 0.9, slow: 0.65, windowSeconds: 1e-4 };
const rateRange = { rate: [0.3, 1.3] };

export function gemm(rows) {
  const all = gemmRows(rows);
  const on = (gpu, grouped) => all.filter((row) => row.gpu === gpu && row.grouped === grouped);
  const a100 = [...on("A100-PCIe-80GB", false), ...on("A100-PCIe-80GB", true)];
  const b200 = on("B200-SXM", false);
  const b200Groups = on("B200-SXM", true);
  const lines = [];
  const add = (what, over, predict, parameters) =>
    lines.push({ what, ...summary(over, predict), ...(parameters ? { parameters } : {}) });

  add("A100, shipped constants", a100, priced({}));
  for (const stage of ["forward", "inputGradient", "weightGradient"]) {
    add(
      `A100, shipped constants, ${stage}`,
      a100.filter((row) => row.stage === stage),
      priced({}),
    );
  }
  const ownA100 = fitParameters(a100, start, ranges, (constants) => priced(constants));
  add("A100, constants fitted to it again", a100, priced(ownA100), ownA100);

  add("B200, shipped constants, MAMF rate", b200, priced({}));
  const { achievedFlopsPerSecond, sustained: lasting } = parts.b200;
  const sustained = (lasting.wide * achievedFlopsPerSecond) / devices["B200-SXM"].flopsPerSecond;
  add("B200, shipped constants, the preset's rate", b200, priced({}, sustained), { rate: sustained });
  const rateB200 = fitParameters(b200, { rate: 0.65 }, rateRange, ({ rate }) => priced({}, rate), 150);
  add("B200, shipped constants, one rate", b200, priced({}, rateB200.rate), rateB200);
  const windowB200 = fitParameters(b200, windowStart, windowRanges, (window) => throttled({}, window), 400);
  add("B200, shipped constants, clock under load", b200, throttled({}, windowB200), windowB200);
  const ownB200 = fitParameters(
    b200,
    { ...start, ...windowB200 },
    { ...ranges, ...windowRanges },
    (all) => throttled(all, all),
    800,
  );
  add("B200, everything fitted to it", b200, throttled(ownB200, ownB200), ownB200);
  const moved = { tileLoss: ownB200.tileLoss, prologue: ownB200.prologue };
  const rateA100 = fitParameters(a100, { rate: 1 }, rateRange, ({ rate }) => priced(moved, rate), 150);
  add("A100, tile constants of B200, one rate", a100, priced(moved, rateA100.rate), {
    ...moved,
    ...rateA100,
  });

  add("B200 grouped, shipped constants, MAMF rate", b200Groups, priced({}));
  const rateGroups = fitParameters(
    b200Groups,
    { rate: 0.65 },
    rateRange,
    ({ rate }) => priced({}, rate),
    150,
  );
  add("B200 grouped, shipped constants, one rate", b200Groups, priced({}, rateGroups.rate), rateGroups);
  return { lines, products: named(rows) };
}

/** Single products that others published, by achieved TFLOP/s. */
function named(rows) {
  const parts = {
    "H100-SXM": devices["H100-SXM"],
    "NVIDIA A100 SXM": {
      ...devices["A100-PCIe-80GB"],
      flopsPerSecond: 271.2e12,
      bytesPerSecond: 0.75 * 2039e9,
    },
    "NVIDIA A100 PCIe": devices["A100-PCIe-80GB"],
    "NVIDIA H100 SXM": devices["H100-SXM"],
    "NVIDIA B200 SXM": devices["B200-SXM"],
  };
  return rows
    .filter(
      (row) =>
        parts[row.gpu] && (row.metric === "achieved" || (row.kind === "gemm_max" && row.config === "BF16")),
    )
    .map((row) => {
      const [first, second, third] = row.size_or_shape.match(/\d+/g).map(Number);
      const [m, n, k] = row.size_or_shape.includes("M,K,N") ? [first, third, second] : [first, second, third];
      const bytes = 2 * (m * k + k * n + m * n);
      const predicted = (2 * m * n * k) / gemmSeconds({ m, n, k }, bytes, parts[row.gpu]) / 1e12;
      return {
        gpu: row.gpu,
        shape: `${m}x${n}x${k}`,
        measured: Number(row.value),
        predicted: Math.round(10 * predicted) / 10,
      };
    });
}
