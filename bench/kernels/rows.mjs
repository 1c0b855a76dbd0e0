import { readFileSync } from "node:fs";
import { parseCsv } from "../../dist/validate/csv.js";

/** Rows of a table of micro-benchmarks: kind, gpu, config, n_ranks, size_or_shape, metric, value, unit, source, notes. */
export function readRows(path) {
  return parseCsv(readFileSync(path, "utf8"), path).rows.map(({ values }) => values);
}

const named = (text) =>
  Object.fromEntries([...text.matchAll(/(\w+)=([\w.]+)/g)].map(([, key, value]) => [key, value]));

/** FLOPs per second that the fractions of a unit such as "fraction of 312 TFLOP/s" are of. */
const peakOf = (unit) => Number(/fraction of ([\d.]+) TFLOP/.exec(unit)?.[1]) * 1e12;

/** Parts as those system files describe them: the MAMF table's best product, the rate of `default` operators. */
export const devices = {
  "A100-PCIe-80GB": { flopsPerSecond: 252.9e12, bytesPerSecond: 0.91 * 1600e9, multiprocessors: 108 },
  "B200-SXM": { flopsPerSecond: 1745e12, bytesPerSecond: 0.666 * 8000e9, multiprocessors: 148 },
  "H100-SXM": { flopsPerSecond: 794.5e12, bytesPerSecond: 0.75 * 3350e9, multiprocessors: 132 },
};

const stages = { TN: "forward", NN: "inputGradient", NT: "weightGradient" };
const groupStages = { fwd: "forward", bwd_grad_act: "inputGradient", bwd_grad_w: "weightGradient" };

/** Measured matrix products: gpu, shape, stage, bytes, seconds. */
export function gemmRows(rows) {
  return rows
    .filter((row) => row.kind === "gemm" && row.metric === "efficiency vs peak")
    .map((row) => {
      const field = named(row.size_or_shape);
      const grouped = row.config === "group_matmul";
      const stage = grouped ? groupStages[field.stage] : stages[field.layout];
      const [groups, m, n, k] = (grouped ? ["ng", "M", "N", "K"] : ["b", "m", "n", "k"]).map((key) =>
        Number(field[key]),
      );
      // Groups are given by their forward product.
      const sides =
        !grouped || stage === "forward"
          ? { m, n, k }
          : stage === "inputGradient"
            ? { m, n: k, k: n }
            : { m: n, n: k, k: m };
      const sums = field.accumulate === "True" || (grouped && stage === "weightGradient");
      const wide = (grouped ? field.main_grad_dtype : field.out_dtype) === "fp32";
      const shape = { ...sides, groups, accumulates: sums, separate: grouped };
      const result = (sums ? 2 : 1) * (sums && wide ? 4 : 2);
      const elements = sides.m * sides.k + sides.k * sides.n;
      const bytes = groups * (2 * elements + result * sides.m * sides.n);
      const flops = 2 * groups * sides.m * sides.n * sides.k;
      return {
        gpu: row.gpu,
        stage,
        grouped,
        shape,
        bytes,
        flops,
        seconds: flops / (Number(row.value) * peakOf(row.unit)),
      };
    });
}

/** Measured flash attention: SimuMax counts all pairs, and the backward pass 2.5 times; both are halved here. */
export function attentionRows(rows) {
  return rows
    .filter((row) => row.kind === "attention")
    .map((row) => {
      const field = named(row.size_or_shape);
      const backward = row.config === "sdp_bwd";
      const [batch, sequence, heads, keyValueHeads, headSize, valueSize] = [
        "batch",
        "seq_len",
        "head_num",
        "kv_head_num",
        "qk_head_dim",
        "v_head_dim",
      ].map((key) => Number(field[key]));
      const pairs = (batch * heads * sequence * sequence) / 2;
      const counted = 2 * pairs * (headSize + valueSize) * (backward ? 5 : 2);
      const flops = 2 * pairs * (backward ? 3 * headSize + 2 * valueSize : headSize + valueSize);
      const rowsOf =
        batch * sequence * (heads * (headSize + valueSize) + keyValueHeads * (headSize + valueSize));
      return {
        gpu: row.gpu,
        shape: {
          batch,
          heads,
          keyValueHeads,
          queries: sequence,
          keys: sequence,
          headSize,
          valueSize,
          causal: true,
          backward,
        },
        flops,
        bytes: 2 * rowsOf * (backward ? 2 : 1),
        seconds: counted / (Number(row.value) * peakOf(row.unit)),
      };
    });
}
