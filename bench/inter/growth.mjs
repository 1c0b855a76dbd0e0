#!/usr/bin/env node
// Processor time, gap and memory of the general search against layers and devices, each solve in a process of
// its own:
//   node bench/inter/growth.mjs [-o RESULTS.json] [--svg PLOT.svg]      (after `npm run build`)
import { execFileSync } from "node:child_process";
import { cpus, totalmem } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { serialize, writeFileAtomic } from "../../dist/contracts/index.js";
import { solveInter } from "../../dist/search/inter/general.js";
import { evaluateInter } from "../../dist/search/inter/generalEvaluate.js";

const { values } = parseArgs({
  options: {
    output: { type: "string", short: "o" },
    svg: { type: "string" },
    one: { type: "string" },
  },
});

/** The same numbers on every run: a linear congruential generator (Numerical Recipes, section 7.1). */
function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** A layer of one to three milliseconds with the tables of tensor degrees 1 and 2, recomputed or not. */
function nodeOf(i, random, scale) {
  const seconds = (0.001 + 0.002 * random()) * scale;
  const parameters = Math.round(2e7 + 1e8 * random()) * scale;
  const activations = Math.round(1e7 + 5e7 * random()) * scale;
  const variants = [1, 2].flatMap((tensor) =>
    [false, true].map((recompute) => ({
      tensor,
      recompute,
      forwardSeconds: (seconds / tensor) * (tensor > 1 ? 1.15 : 1),
      backwardSeconds: (((recompute ? 3 : 2) * seconds) / tensor) * (tensor > 1 ? 1.15 : 1),
      parameterBytes: (2 * parameters) / tensor,
      activationBytes: recompute ? 4e6 * scale : activations / tensor,
      fixedBytes: (16 * parameters) / tensor,
    })),
  );
  return { id: `n${i}`, name: `n${i}`, variants };
}

function chainOf(layers) {
  const random = randomOf(layers);
  const nodes = Array.from({ length: layers }, (_, i) => nodeOf(i, random, 1));
  const edges = nodes.slice(1).map((_, i) => ({ from: i, to: i + 1, bytes: 1e6 + 3e6 * random() }));
  return { name: `chain of ${layers}`, format: "model", nodes, edges, header: {}, warnings: [] };
}

/** Cells of parallel branches that read the two cells before, as in NASNet. */
function nasnetOf(count) {
  const random = randomOf(7);
  const nodes = [];
  const edges = [];
  const add = (before) => {
    const to = nodes.push(nodeOf(nodes.length, random, 0.5)) - 1;
    for (const from of new Set(before)) edges.push({ from, to, bytes: 2e6 });
    return to;
  };
  let previous = add([]);
  let last = add([previous]);
  while (nodes.length + 37 < count) {
    const inputs = [add([previous]), add([last])];
    const sums = Array.from({ length: 5 }, () => {
      const branch = () => {
        let node = inputs[random() < 0.5 ? 0 : 1];
        for (let step = 0; step < 3; step++) node = add([node]);
        return node;
      };
      return add([branch(), branch()]);
    });
    previous = last;
    last = add(sums);
  }
  while (nodes.length < count) last = add([last]);
  return { name: `NASNet of ${count}`, format: "model", nodes, edges, header: {}, warnings: [] };
}

/** Hosts of eight devices of 80 GB: 400 GB/s inside, 25 GB/s between them. */
function machineOf(devices) {
  const host = Int32Array.from({ length: devices }, (_, i) => Math.floor(i / 8));
  const hosts = Math.ceil(devices / 8);
  const level = (groupOf, groups, latency, bandwidth) => ({
    groupOf,
    latencySeconds: new Array(groups).fill(latency),
    bytesPerSecond: new Array(groups).fill(bandwidth),
  });
  return {
    devices,
    memoryBytes: new Float64Array(devices).fill(80e9),
    slowdown: new Float64Array(devices).fill(1),
    levels: [level(host, hosts, 5e-6, 400e9), level(new Int32Array(devices), 1, 1e-5, 25e9)],
  };
}

if (values.one !== undefined) {
  const { kind, layers, devices, objective } = JSON.parse(values.one);
  const graph = kind === "chain" ? chainOf(layers) : nasnetOf(layers);
  const options = { machine: machineOf(devices), microBatches: Math.max(64, 2 * devices), objective };
  const found = solveInter(graph, options);
  const again = found.stages.length > 0 ? evaluateInter(graph, found.stages, options) : undefined;
  console.log(
    JSON.stringify({
      status: found.status,
      seconds: Number.isFinite(found.objective) ? found.objective : null,
      bound: Number.isFinite(found.bound) ? found.bound : null,
      gap: Number.isFinite(found.gap) ? found.gap : null,
      stages: found.stages.length,
      cpuSeconds: found.cpuSeconds,
      peakBytes: process.resourceUsage().maxRSS * 1024,
      violations: again?.violations.length ?? 0,
      evaluatedSeconds: again?.objective ?? null,
      restriction: found.restriction,
      reason: found.reason,
    }),
  );
} else {
  const cases = [];
  const add = (kind, layers, devices) => {
    for (const objective of ["steady", "step"]) cases.push({ kind, layers, devices, objective });
  };
  for (const layers of [10, 30, 100, 300, 1000, 2000]) add("chain", layers, 1024);
  for (const devices of [4, 16, 64, 256, 4096, 16384]) add("chain", 1000, devices);
  for (const devices of [4, 16, 64]) add("chain", 100, devices);
  for (const devices of [64, 2048]) add("NASNet", 1250, devices);
  const rows = cases.map((each) => {
    const args = [fileURLToPath(import.meta.url), "--one", JSON.stringify(each)];
    const row = { ...each, ...JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8" })) };
    const gap = row.gap === null ? "-" : `${(100 * row.gap).toFixed(3)} %`;
    const cells = [row.kind, row.layers, row.devices, row.objective, row.status, row.cpuSeconds.toFixed(2)];
    cells.push(gap, `${(row.peakBytes / 2 ** 20).toFixed(0)} MiB`, `${row.stages} stages`);
    console.log(cells.map((cell) => String(cell).padStart(12)).join(""));
    return row;
  });
  const document = {
    date: new Date().toISOString().slice(0, 10),
    machine: { cpu: cpus()[0].model, cores: cpus().length, memoryBytes: totalmem() },
    versions: { node: process.version },
    note: "cpuSeconds and peakBytes are those of the first solve of a fresh process.",
    rows,
  };
  if (values.output) writeFileAtomic(values.output, serialize(document));
  if (values.svg) writeFileAtomic(values.svg, plot(rows));
}

/** Two panels with logarithmic axes: processor seconds against layers, and against devices. */
function plot(rows) {
  const colours = { steady: "#1b6ca8", step: "#c2571a" };
  const chain = rows.filter(({ kind }) => kind === "chain");
  const panels = [
    {
      title: "1,024 devices",
      label: "layers",
      key: "layers",
      rows: chain.filter((row) => row.devices === 1024),
    },
    {
      title: "1,000 layers",
      label: "devices",
      key: "devices",
      rows: chain.filter((row) => row.layers === 1000),
    },
  ];
  const parts = [];
  panels.forEach(({ title, label, key, rows: own }, index) => {
    const left = 60 + index * 380;
    const x = (value) => left + (300 * Math.log10(value / 4)) / Math.log10(20000 / 4);
    const y = (value) => 250 - (210 * Math.log10(Math.max(value, 0.01) / 0.01)) / 3.5;
    parts.push(`<text x="${left + 150}" y="24" text-anchor="middle">${title}</text>`);
    parts.push(`<path d="M${left} 40V250H${left + 300}" fill="none" stroke="#444"/>`);
    for (const tick of [0.01, 0.1, 1, 10]) {
      parts.push(`<path d="M${left} ${y(tick)}h300" stroke="#ddd"/>`);
      parts.push(`<text x="${left - 6}" y="${y(tick) + 4}" text-anchor="end">${tick}</text>`);
    }
    for (const tick of [10, 100, 1000, 10000]) {
      parts.push(`<text x="${x(tick)}" y="268" text-anchor="middle">${tick}</text>`);
    }
    parts.push(`<text x="${left + 150}" y="288" text-anchor="middle">${label}</text>`);
    for (const [objective, colour] of Object.entries(colours)) {
      const line = own.filter((row) => row.objective === objective).sort((a, b) => a[key] - b[key]);
      const points = line.map((row) => `${x(row[key]).toFixed(1)},${y(row.cpuSeconds).toFixed(1)}`);
      parts.push(`<polyline points="${points.join(" ")}" fill="none" stroke="${colour}" stroke-width="2"/>`);
      for (const point of points) {
        const [cx, cy] = point.split(",");
        parts.push(`<circle cx="${cx}" cy="${cy}" r="3" fill="${colour}"/>`);
      }
    }
  });
  Object.entries(colours).forEach(([objective, colour], i) => {
    parts.push(`<text x="80" y="${56 + 16 * i}" fill="${colour}">${objective}</text>`);
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 300" font-family="sans-serif" font-size="12">
<title>Processor seconds of the general search against layers and devices</title>
<rect width="780" height="300" fill="#fff"/>
${parts.join("\n")}
</svg>
`;
}
