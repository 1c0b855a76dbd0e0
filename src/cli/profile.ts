import { type Command, InvalidArgumentError } from "commander";
import { evenLevels } from "../cluster/index.js";
import { type DryRun, planProfile, profileCluster } from "../cluster/profile.js";
import { type Cluster, serialize, writeFileAtomic } from "../contracts/index.js";
import { type Context, defineCommand, positiveInteger } from "./context.js";
import { pythonFacts } from "./python.js";

type Backend = "auto" | "cuda" | "cpu";

/** The command `mpopt profile`. */
export function profileCommand(): Command {
  return defineCommand(
    "profile",
    "Measure this machine: compute, memory and links, as an mpopt.cluster/1 document.",
    "mpopt profile --quick -o cluster.json",
    async (context, _args, options) => {
      const backend = options.backend as Backend;
      const python = await pythonFacts(context.signal);
      const request = {
        backend,
        quick: options.quick === true,
        devices: options.devices as number | undefined,
        pythonSites: python?.sites ?? [],
        blasLibrary: python?.torchLibrary,
        torchPython: options.torch !== false && python?.torch ? python.executable : undefined,
        signal: context.signal,
        onProgress: sparing(context.progress),
      };
      if (options.dryRun === true) {
        const plan = await planProfile(request);
        context.print(dryRunText(plan));
        context.result(plan);
        return;
      }
      const cluster = await profileCluster(request);
      const output = options.output as string | undefined;
      if (output !== undefined) writeFileAtomic(output, serialize(cluster));
      context.print(profileText(cluster));
      remarks(context, cluster);
      if (output !== undefined) context.note(`Wrote ${output}.`);
      else context.note("Nothing was written; give -o cluster.json to keep it.");
      context.result(cluster);
    },
  )
    .option("-o, --output <file>", "write the cluster document to this file")
    .option("--backend <name>", "auto, cuda or cpu", backendName, "auto")
    .option("--quick", "fewer sizes, in under 10 s, and 12 s more for PyTorch's operators")
    .option("--devices <n>", "devices to describe and keep busy at once (default: all)", positiveInteger)
    .option("--no-torch", "leave PyTorch's operators out of a processor's profile")
    .option("--dry-run", "list the devices and the probes, measure nothing");
}

/** On a terminal every step overwrites the last; in a log, one line a tenth is enough. */
function sparing(report: Context["progress"]): Context["progress"] {
  if (process.stderr.isTTY) return report;
  let next = 0;
  return (event) => {
    if ((event.fraction ?? 1) < next) return;
    next = (event.fraction ?? 1) + 0.1;
    report(event);
  };
}

function backendName(text: string): Backend {
  if (text === "auto" || text === "cuda" || text === "cpu") return text;
  throw new InvalidArgumentError(`Expected auto, cuda or cpu but found "${text}".`);
}

function dryRunText({ backend, devices, probes }: DryRun): string {
  const names = devices.map(({ name, memoryBytes }) => `  ${name}, ${gigabytes(memoryBytes)}`);
  return [
    `Backend: ${backend}`,
    "Devices:",
    ...names,
    "Probes:",
    ...probes.map((probe) => `  ${probe}`),
  ].join("\n");
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

/** The few numbers that a person checks first; the document holds the rest. */
export function profileText(cluster: Cluster): string {
  const device = cluster.devices[0]!;
  const { link } = evenLevels(cluster)[0]!;
  const rows: [string, string, string][] = [
    ["memory of one device", gigabytes(device.memoryBytes.value), device.memoryBytes.provenance],
  ];
  for (const table of device.compute) {
    const rates = table.points.map(({ rate }) => rate / 1e9);
    const unit = table.unit === "flop" ? "GFLOP/s" : "GB/s";
    const range = `${Math.min(...rates).toPrecision(3)} to ${Math.max(...rates).toPrecision(3)} ${unit}`;
    const what = [table.includesCall && "torch", table.name ?? table.operator, table.dtype, table.pass];
    rows.push([what.filter(Boolean).join(" "), range, table.provenance]);
  }
  rows.push(
    [
      "smallest call",
      `${(device.launchSeconds.value * 1e6).toPrecision(3)} us`,
      device.launchSeconds.provenance,
    ],
    [
      "link latency",
      `${(link.latencySeconds.value * 1e6).toPrecision(3)} us`,
      link.latencySeconds.provenance,
    ],
    [
      "link bandwidth",
      `${(link.bytesPerSecond.value / 1e9).toPrecision(3)} GB/s`,
      link.bytesPerSecond.provenance,
    ],
  );
  const widths = [0, 1].map((column) => Math.max(...rows.map((row) => row[column]!.length)));
  const lines = rows.map(([name, value, provenance]) =>
    `  ${name.padEnd(widths[0]!)}  ${value.padEnd(widths[1]!)}  ${provenance}`.trimEnd(),
  );
  return [`${device.count} x ${cluster.environment.processor ?? device.kind}`, ...lines].join("\n");
}

/** What makes the figures worth less, said once. */
function remarks(context: Context, cluster: Cluster): void {
  for (const { probe, reason } of cluster.failedProbes) context.note(`Not measured: ${probe}: ${reason}`);
  const wide = cluster.measurements.filter(({ confidence95 }) => confidence95 > 0.1);
  if (wide.length) {
    context.note(
      `${wide.length} of ${cluster.measurements.length} measurements scatter by more than 10 %: other work ran on this machine.`,
    );
  }
}
