// Prices published micro-benchmarks by the kernel models of src/cost and prints the errors; fits their constants again
// on one device and tries them on the other.
//   node bench/kernels/run.mjs MICROBENCH.csv [-o bench/results/kernels/DATE.json]
// Columns: kind, gpu, config, n_ranks, size_or_shape, metric, value, unit, source, notes. Build first: npm run build.
import { writeFileAtomic } from "../../dist/contracts/index.js";
import { attention } from "./attention.mjs";
import { collectives } from "./collectives.mjs";
import { gemm } from "./gemm.mjs";
import { readRows } from "./rows.mjs";

const [path, flag, output] = process.argv.slice(2);
if (!path || (flag && (flag !== "-o" || !output))) {
  console.error("Usage: node bench/kernels/run.mjs MICROBENCH.csv [-o RESULT.json]");
  process.exit(2);
}
const rows = readRows(path).filter((row) => !/not stated/.test(row.gpu));
const results = { gemm: gemm(rows), attention: attention(rows), collectives: collectives(rows) };
const percent = (share) => `${(100 * share).toFixed(1)} %`.padStart(8);
for (const [name, { lines }] of Object.entries(results)) {
  console.log(`\n${name.padEnd(58)} rows   median      p90     mean     bias`);
  for (const line of lines) {
    const { what, rows: count, median, p90, mean, bias } = line;
    console.log(
      `${what.padEnd(58)} ${String(count).padStart(4)} ${[median, p90, mean, bias].map(percent).join(" ")}`,
    );
  }
}
console.log("\nbest products published, TFLOP/s          measured  predicted");
for (const { gpu, shape, measured, predicted } of results.gemm.products) {
  console.log(
    `${gpu.padEnd(18)} ${shape.padEnd(20)} ${String(measured).padStart(10)} ${String(predicted).padStart(10)}`,
  );
}
if (output) {
  const source =
    "rows of MooreThreads/SimuMax, stas00/ml-engineering, VIA-Research/vTrain and a gist of Chillee";
  writeFileAtomic(output, `${JSON.stringify({ source, ...results }, null, 2)}\n`);
}
