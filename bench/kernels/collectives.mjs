import { clusterPreset } from "../../dist/cluster/index.js";
import { CommunicationModel } from "../../dist/cost/communication.js";
import { summary } from "./fit.mjs";

/** Seconds of the all-reduce that a row's bus bandwidth stands for. */
const secondsOf = (row, bytes, ranks) => (2 * (ranks - 1) * bytes) / ranks / (Number(row.value) * 1e9);

const sources = [
  { what: "A100", preset: "a100-80:8x1", gpu: /^A100 \(NVLink\)|^A100-SXM/ },
  { what: "H200", preset: "h200-sxm:8x1", gpu: /^H200-SXM/ },
  { what: "B200", preset: "b200:8x1", gpu: /^B200-SXM( \(NVLink5\))?$/ },
  // A network of 8 x 50 GB/s, EFA, is the preset's.
  { what: "B200, 4 nodes", preset: "b200:8x4", gpu: /EFA/ },
];

export function collectives(rows) {
  const lines = [];
  for (const { what, preset, gpu } of sources) {
    const measured = rows
      .filter((row) => row.kind === "all_reduce" && row.unit === "GB/s" && gpu.test(row.gpu))
      .filter((row) => !/NVLS off|ring/.test(row.config))
      .map((row) => {
        const [bytes, ranks] = [Number(row.size_or_shape), Number(row.n_ranks)];
        return { bytes, ranks, seconds: secondsOf(row, bytes, ranks) };
      });
    const cluster = clusterPreset(preset);
    const bare = structuredClone(cluster);
    for (const level of bare.topology.levels) delete level.collectives;
    const models = [
      ["preset", new CommunicationModel(cluster)],
      ["latency and bandwidth alone", new CommunicationModel(bare)],
    ];
    for (const [how, model] of models) {
      const predict = ({ bytes, ranks }) =>
        model.collectiveSeconds("allReduce", bytes, { size: ranks, stride: 1 });
      lines.push({ what: `${what}, ${how}`, ...summary(measured, predict) });
      const large = measured.filter(({ bytes }) => bytes >= 2 ** 26);
      lines.push({ what: `${what}, ${how}, from 64 MiB`, ...summary(large, predict) });
    }
  }
  const gathered = rows
    .filter((row) => ["all_gather", "reduce_scatter"].includes(row.kind) && row.unit === "GB/s")
    .map((row) => {
      const bytes = Number(row.size_or_shape);
      const collective = row.kind === "all_gather" ? "allGather" : "reduceScatter";
      return { collective, bytes, seconds: (7 / 8) * (bytes / (Number(row.value) * 1e9)) };
    });
  const h200 = new CommunicationModel(clusterPreset("h200-sxm:8x1"));
  const predict = ({ collective, bytes }) =>
    h200.collectiveSeconds(collective, bytes, { size: 8, stride: 1 });
  lines.push({ what: "H200, all-gather and reduce-scatter, derived", ...summary(gathered, predict) });
  return { lines };
}
