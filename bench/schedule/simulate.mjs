#!/usr/bin/env node
// Actions that the simulator times per second of processor time, in one thread:
//   node bench/schedule/simulate.mjs [-o RESULTS.json]      (after `npm run build`)
import { cpus, totalmem } from "node:os";
import { parseArgs } from "node:util";
import { serialize, writeFileAtomic } from "../../dist/contracts/index.js";
import {
  addSharding,
  addUpdates,
  boundariesOf,
  clockFor,
  compileSchedule,
  flattenTimes,
  scheduleByName,
  simulate,
  timeSchedule,
} from "../../dist/schedule/index.js";

const { values } = parseArgs({ options: { output: { type: "string", short: "o" } } });

/** Processor seconds of work, the collector's threads included. */
function cpuSeconds(work) {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

/** Median over three rounds of at least 0.2 s, after some to warm up. */
function actionsPerSecond(actions, work) {
  let repeats = 1;
  const round = () =>
    cpuSeconds(() => {
      for (let i = 0; i < repeats; i++) work();
    });
  while (round() < 0.2) repeats *= 2;
  const rates = Array.from({ length: 3 }, () => (repeats * actions) / round()).sort((a, b) => a - b);
  return Math.round(rates[1]);
}

/** Uneven stages, so that ranks wait for each other. */
function timesOf(table) {
  const each = (scale) => Array.from({ length: table.stages }, (_, s) => scale * (1 + 0.2 * Math.sin(7 * s)));
  return {
    forwardSeconds: each(1),
    backwardInputSeconds: each(1.1),
    backwardWeightSeconds: each(0.9),
    reduceSeconds: each(2),
    gatherSeconds: each(0.5),
    optimizerSeconds: each(0.2),
  };
}

/** A wire for each direction between two stages. */
function wiresOf(table) {
  const boundaries = boundariesOf(table);
  const way = (link) => ({ bytes: 1, latencySeconds: 0.01, links: [link] });
  return {
    links: boundaries.flatMap(() => [{ bytesPerSecond: 4 }, { bytesPerSecond: 4 }]),
    boundaries: boundaries.map((_, b) => ({ activation: way(2 * b), gradient: way(2 * b + 1) })),
  };
}

/** Transfers between nodes over their network cards, which their ranks share; inside a node by a switch. */
function networkOf(table, ranksPerNode) {
  const ranks = table.ranks.length;
  const home = new Map(table.ranks.flatMap((list, r) => list.map(({ stage }) => [stage, r])));
  // Link 2n leaves the card of node n, link 2n + 1 comes into it; behind them, the same for each rank's switch port.
  const cards = 2 * Math.ceil(ranks / ranksPerNode);
  const links = Array.from({ length: cards + 2 * ranks }, (_, l) => ({ bytesPerSecond: l < cards ? 4 : 20 }));
  const way = (from, to) => {
    const [a, b] = [home.get(from), home.get(to)];
    const [one, two] = [Math.floor(a / ranksPerNode), Math.floor(b / ranksPerNode)];
    const inside = [cards + 2 * a, cards + 2 * b + 1];
    return { bytes: 1, latencySeconds: 0.01, links: one === two ? inside : [2 * one, 2 * two + 1] };
  };
  return {
    links,
    boundaries: boundariesOf(table).map(({ from, to }) => ({
      activation: way(from, to),
      gradient: way(to, from),
    })),
  };
}

const shape = { ranks: 16, microBatches: 128 };
const cases = [
  ["1F1B, free transfers", scheduleByName("1f1b", shape), () => ({})],
  [
    "1F1B, delays",
    scheduleByName("1f1b", shape),
    (t) => ({ transferSeconds: boundariesOf(t).map(() => 0.1) }),
  ],
  ["1F1B, a wire a boundary", scheduleByName("1f1b", shape), (t) => ({ network: wiresOf(t) })],
  ["1F1B, 4 ranks share a card", scheduleByName("1f1b", shape), (t) => ({ network: networkOf(t, 4) })],
  ["interleaved, 4 chunks", scheduleByName("interleaved", { ...shape, chunks: 4 }), () => ({})],
  ["ZB-V", scheduleByName("zbv", shape), () => ({})],
  ["DualPipe, overlapped pairs", scheduleByName("dualpipe", shape), () => ({ overlappedPairFactor: 0.9 })],
  [
    "interleaved, 4 ranks share a card",
    scheduleByName("interleaved", { ...shape, chunks: 4 }),
    (t) => ({ network: networkOf(t, 4) }),
  ],
  [
    "1F1B, ZeRO-2 reductions beside compute",
    addUpdates(scheduleByName("1f1b", shape), { reduce: "backward", gather: true }),
    () => ({ collectiveSlowdown: { compute: 1.1, collective: 1.3 } }),
  ],
  [
    "interleaved, ZeRO-3 gathers beside compute",
    addUpdates(addSharding(scheduleByName("interleaved", { ...shape, chunks: 4 }))),
    () => ({ collectiveSlowdown: { compute: 1.1, collective: 1.3 } }),
  ],
];

const rows = cases.map(([name, table, more]) => {
  const compiled = compileSchedule(table);
  const times = { ...timesOf(table), ...more(table) };
  const clock = clockFor(compiled);
  const flat = flattenTimes(times, compiled);
  const memory = {
    stages: Array.from({ length: table.stages }, () => ({ parameterBytes: 1e9, activationBytes: 1e8 })),
  };
  const row = {
    name,
    ...shape,
    actions: compiled.length,
    stepSeconds: simulate(compiled, times).stepSeconds,
    actionsPerCpuSecond: {
      time: actionsPerSecond(compiled.length, () => timeSchedule(compiled, flat, clock)),
      simulate: actionsPerSecond(compiled.length, () => simulate(compiled, times)),
      simulateWithMemory: actionsPerSecond(compiled.length, () => simulate(compiled, times, { memory })),
      compile: actionsPerSecond(compiled.length, () => compileSchedule(table, { checked: true })),
      compileAndCheck: actionsPerSecond(compiled.length, () => compileSchedule(table)),
    },
  };
  const { time, simulate: whole } = row.actionsPerCpuSecond;
  console.log(
    `${name}: ${(time / 1e6).toFixed(2)} M actions/s timed, ${(whole / 1e6).toFixed(2)} M simulated`,
  );
  return row;
});

if (values.output) {
  writeFileAtomic(
    values.output,
    serialize({
      date: new Date().toISOString().slice(0, 10),
      machine: { cpu: cpus()[0]?.model.trim() ?? "unknown", cores: cpus().length, memoryBytes: totalmem() },
      versions: { node: process.version },
      note: "Processor seconds of one process, its collector's threads included; medians of three rounds. `time` fills a clock for a compiled schedule and flattened times, `simulate` makes the whole result with idle time by cause.",
      rows,
    }),
  );
}
