import { hostname, release, type as systemName } from "node:os";
import {
  type Cluster,
  type ComputeTable,
  checkDocument,
  type Device,
  type Level,
  type Measurement,
  MpoptError,
  type Quantity,
  type RunOptions,
} from "../contracts/index.js";
import {
  listDevices,
  type NativeMeasurement,
  type NativeReport,
  type NativeRequest,
  runProbes,
} from "./native.js";
import { measureTorch, mergeTorch } from "./torchProvider.js";

export interface ProfileOptions extends RunOptions {
  backend: "auto" | "cuda" | "cpu";
  /** Fewer sizes, under 10 s instead of a minute. */
  quick?: boolean;
  /** Devices to describe, and for the processor to keep busy at once; all without it. */
  devices?: number;
  /** Site-packages folders of the user's Python, where the CUDA wheels are. */
  pythonSites?: readonly string[];
  /** Library whose sgemm stands for the processor's GEMM: the one that the training will call. */
  blasLibrary?: string;
  /** Python that has PyTorch: on a processor its operators are timed too, for they are what a job will run. */
  torchPython?: string;
}

/** Wall-clock limits of one run of the probes: their budget is set in the native backends. */
const deadlineSeconds = { quick: 60, full: 240 };

/**
 * Measures this machine in a child process and describes it as a cluster of one host.
 * @throws MpoptError E_NATIVE without a working addon, E_MISSING_TOOL when the wanted backend has no device,
 *   E_CANCELLED when the signal stops it.
 */
export async function profileCluster(options: ProfileOptions): Promise<Cluster> {
  const environment = nativeEnvironment(options);
  const skipped: { probe: string; reason: string }[] = [];
  const backend = await chooseBackend(options, environment, skipped);
  const report = await runProbes(nativeRequest(backend, options), {
    deadlineSeconds: options.quick ? deadlineSeconds.quick : deadlineSeconds.full,
    environment,
    signal: options.signal,
    onProgress: options.onProgress,
  });
  const cluster = assembleCluster(report, skipped);
  return backend === "cpu" && options.torchPython !== undefined
    ? await withTorch(cluster, options.torchPython, options)
    : cluster;
}

/** Without PyTorch's figures the profile is poorer but not wrong: a failure is noted, not thrown. */
async function withTorch(cluster: Cluster, python: string, options: ProfileOptions): Promise<Cluster> {
  const { quick = false, signal, onProgress } = options;
  const processes = cluster.devices[0]!.count;
  try {
    return mergeTorch(cluster, await measureTorch({ python, processes, quick, signal, onProgress }));
  } catch (error) {
    if (!(error instanceof MpoptError) || error.code === "E_CANCELLED") throw error;
    const failed = { probe: "PyTorch", reason: [error.message, ...error.notes].join(" ") };
    return { ...cluster, failedProbes: [...cluster.failedProbes, failed] };
  }
}

export interface DryRun {
  backend: "cuda" | "cpu";
  devices: { name: string; memoryBytes: number }[];
  probes: string[];
}

/** What `profileCluster` would do, without measuring; the same errors. */
export async function planProfile(options: ProfileOptions): Promise<DryRun> {
  const environment = nativeEnvironment(options);
  const backend = await chooseBackend(options, environment, []);
  const report = await listDevices(backend, { environment, signal: options.signal });
  const devices = report.devices
    .slice(0, options.devices)
    .map(({ name, memoryBytes }) => ({ name, memoryBytes }));
  const probes =
    backend === "cuda"
      ? [
          "smallest copy on the device",
          "copy on the device, 64 KiB to 512 MiB",
          "cuBLASLt GEMM in bf16, tf32 and f32",
        ]
      : [
          "loopback TCP between two processes, 8 bytes to 16 MiB",
          "smallest call",
          "GEMM in f32, and in bf16 where the processor has it",
          "element-wise, reduction and copy, 16 KiB to past the last-level cache",
          ...(options.torchPython === undefined
            ? []
            : ["PyTorch's operators forward and backward, the optimizer, gloo's collectives"]),
        ];
  return { backend, devices, probes };
}

function nativeRequest(backend: NativeRequest["backend"], options: ProfileOptions): NativeRequest {
  const request: NativeRequest = { backend, quick: options.quick ?? false };
  if (options.devices !== undefined) request.devices = options.devices;
  return request;
}

/** Variables that the native backends read; what the user has set stands. */
function nativeEnvironment({ pythonSites, blasLibrary }: ProfileOptions): Record<string, string> {
  const environment: Record<string, string> = {};
  if (pythonSites?.length && !process.env.MPOPT_PYTHON_SITE) {
    environment.MPOPT_PYTHON_SITE = pythonSites.join(":");
  }
  if (blasLibrary && !process.env.MPOPT_BLAS_LIB) environment.MPOPT_BLAS_LIB = blasLibrary;
  return environment;
}

async function chooseBackend(
  { backend, signal }: ProfileOptions,
  environment: Record<string, string>,
  skipped: { probe: string; reason: string }[],
): Promise<"cuda" | "cpu"> {
  if (backend !== "auto") return backend;
  try {
    await listDevices("cuda", { environment, signal });
    return "cuda";
  } catch (error) {
    if (!(error instanceof MpoptError) || error.code === "E_CANCELLED") throw error;
    // No GPU is no failure. A driver that takes its process down is one, if the addon itself loads.
    if (error.code === "E_NATIVE") {
      await listDevices("cpu", { environment, signal });
      skipped.push({ probe: "cuda", reason: error.message });
    }
    return "cpu";
  }
}

/**
 * Turns what the probes measured into a cluster document of one host.
 * @throws MpoptError E_NATIVE when a probe that everything rests on has failed.
 */
export function assembleCluster(
  report: NativeReport,
  skipped: readonly { probe: string; reason: string }[] = [],
): Cluster {
  const first = report.devices[0];
  if (!first) throw new MpoptError("E_NATIVE", "Expected the addon to list a device but found none.");
  const cpu = first.type === "cpu";
  const count = report.devices.length;
  const failedProbes = [...skipped, ...report.failedProbes];
  // Where all devices ran at once, that is what a training sees; the others show only what sharing costs.
  const used = planningMeasurements(report.measurements);
  const compute = computeTables(used);
  const gemm = compute.filter((table) => table.operator === "gemm");
  const bandwidth =
    compute.find((table) => table.operator === "elementwise") ??
    compute.find((table) => table.operator === "copy");
  const launch = used.find((measurement) => measurement.operation === "launch");
  if (!gemm.length || !bandwidth || !launch) {
    throw new MpoptError(
      "E_NATIVE",
      "Expected the GEMM, bandwidth and launch probes to succeed but at least one of them failed.",
      failedProbes.map(({ probe, reason }) => `${probe}: ${reason}`),
    );
  }
  if (!cpu) compute.push(...elementwiseFromCopy(compute));

  const device: Device = {
    kind: deviceKind(first.name, cpu),
    type: first.type,
    count,
    memoryBytes: measured(first.memoryBytes, cpu ? "memory of the host, shared evenly" : "cuDeviceTotalMem"),
    peakFlopsPerSecond: Object.fromEntries(
      gemm.map((table) => [table.dtype, measured(highestRate(table), "best rate of the GEMM probe")]),
    ),
    memoryBytesPerSecond: measured(bandwidth.points.at(-1)!.rate, bandwidth.source),
    launchSeconds: measured(launch.secondsMedian, launch.method),
    compute,
  };
  const level: Level = cpu
    ? { name: "host", groupSize: count, link: loopbackLink(report.measurements, failedProbes) }
    : { name: "host", groupSize: count, link: assumedPcieLink };
  const { contextBytes, multiprocessors } = first.attributes;
  if (multiprocessors) device.multiprocessors = measured(multiprocessors, "cuDeviceGetAttribute");
  return checkDocument(
    "cluster",
    {
      schema: "mpopt.cluster/1",
      name: `${hostname()} (${count} x ${device.kind})`,
      source: "mpopt profile",
      environment: {
        host: hostname(),
        date: new Date().toISOString(),
        os: `${systemName()} ${release()}`,
        processor: report.environment.processor,
        ...(report.environment.driver ? { driver: report.environment.driver } : {}),
        libraries: report.environment.libraries,
        clocks: report.environment.clocks,
      },
      devices: [device],
      topology: { levels: [level] },
      measurements: report.measurements.map(toMeasurement),
      overlap: cpu
        ? {
            gradientReduction: assumed(0, "one core computes and communicates in turn"),
            pipelineTransfer: assumed(0, "one core computes and communicates in turn"),
          }
        : {
            gradientReduction: assumed(0, "not measured yet; 0 hides nothing"),
            pipelineTransfer: assumed(0, "not measured yet; 0 hides nothing"),
          },
      contention: {},
      memoryOverheads: {
        contextBytes: contextBytes
          ? measured(contextBytes, "memory in use before and after the context and cuBLASLt")
          : assumed(cpu ? 200e6 : 600e6, cpu ? "resident size of an idle PyTorch process" : "CUDA context"),
        fragmentation: assumed(1.1, "reserved over allocated of a caching allocator"),
      },
      failedProbes,
    } satisfies Cluster,
    "the measured cluster",
  );
}

function measured(value: number, source: string): Quantity {
  return { value, provenance: "measured", source };
}

function assumed(value: number, source: string): Quantity {
  return { value, provenance: "assumed", source };
}

/** `NVIDIA H100 80GB HBM3` becomes `nvidia-h100-80gb-hbm3`; a processor is `cpu` whatever its name. */
function deviceKind(name: string, cpu: boolean): string {
  return cpu
    ? "cpu"
    : name
        .toLowerCase()
        .replace(/[^a-z0-9]+/g, "-")
        .replace(/^-|-$/g, "") || "cuda";
}

/** One measurement a size: the one under full load where there are two. */
function planningMeasurements(all: readonly NativeMeasurement[]): NativeMeasurement[] {
  const together = new Set(all.filter(({ load }) => load === "together").map(identity));
  return all.filter((measurement) => measurement.load === "together" || !together.has(identity(measurement)));
}

function identity({ operation, dtype, work, shape }: NativeMeasurement): string {
  return JSON.stringify([operation, dtype, work, shape]);
}

const tableOperators = ["gemm", "elementwise", "reduction", "copy"] as const;

function computeTables(used: readonly NativeMeasurement[]): ComputeTable[] {
  const tables: ComputeTable[] = [];
  for (const operator of tableOperators) {
    const ofOperator = used.filter(({ operation }) => operation === operator);
    for (const dtype of new Set(ofOperator.map((measurement) => measurement.dtype))) {
      const rows = ofOperator.filter((measurement) => measurement.dtype === dtype);
      tables.push({
        operator,
        dtype: dtype as ComputeTable["dtype"],
        unit: operator === "gemm" ? "flop" : "byte",
        points: points(rows),
        provenance: "measured",
        source: rows[0]!.method,
      });
    }
  }
  return tables;
}

/** Ascending in work; of shapes with equal work the slowest stands, so that a plan does not count on luck. */
function points(rows: readonly NativeMeasurement[]): ComputeTable["points"] {
  const slowest = new Map<number, ComputeTable["points"][number]>();
  for (const { work, secondsMedian, shape } of rows) {
    const rate = work / secondsMedian;
    if (rate >= (slowest.get(work)?.rate ?? Number.POSITIVE_INFINITY)) continue;
    slowest.set(work, { work, rate, ...(shape ? { shape } : {}) });
  }
  return [...slowest.values()].sort((a, b) => a.work - b.work);
}

function highestRate(table: ComputeTable): number {
  return Math.max(...table.points.map(({ rate }) => rate));
}

/** The GPU backend has no element-wise kernel of its own yet: both are bound by the same memory. */
function elementwiseFromCopy(compute: readonly ComputeTable[]): ComputeTable[] {
  const copy = compute.find((table) => table.operator === "copy");
  if (!copy) return [];
  return (["elementwise", "reduction"] as const).map((operator) => ({
    ...copy,
    operator,
    provenance: "assumed" as const,
    source: "taken equal to the measured copy on the device",
  }));
}

/**
 * Latency is the time of the smallest message; the rate is that of the largest one without the latency.
 */
function loopbackLink(
  all: readonly NativeMeasurement[],
  failed: readonly { probe: string; reason: string }[],
): Level["link"] {
  const messages = all
    .filter(({ operation }) => operation === "link")
    .sort((a, b) => a.work - b.work)
    .map(({ work, secondsMedian }) => ({ bytes: work, seconds: secondsMedian }));
  const smallest = messages[0];
  const largest = messages.at(-1);
  if (!smallest || !largest || largest.seconds <= smallest.seconds) {
    throw new MpoptError(
      "E_NATIVE",
      "Expected the loopback probe to measure the link between two processes but it failed.",
      failed.filter(({ probe }) => probe === "link").map(({ reason }) => reason),
    );
  }
  const source = "loopback TCP between two processes";
  return {
    latencySeconds: measured(smallest.seconds, `${source}, ${smallest.bytes} bytes`),
    bytesPerSecond: measured(
      largest.bytes / (largest.seconds - smallest.seconds),
      `${source}, ${largest.bytes} bytes`,
    ),
    points: messages,
  };
}

/** No link between GPUs is measured yet. PCI Express 4.0 x16 carries 31.5 GB/s a direction before its headers. */
const assumedPcieLink: Level["link"] = {
  latencySeconds: assumed(10e-6, "not measured; usual for a copy between GPUs over PCI Express"),
  bytesPerSecond: assumed(25e9, "not measured; PCI Express 4.0 x16 at 80 % of 31.5 GB/s"),
  points: [],
};

function toMeasurement(row: NativeMeasurement): Measurement {
  const shape = row.shape
    ? ` ${Object.entries(row.shape)
        .map(([name, size]) => `${name}=${size}`)
        .join(" ")}`
    : "";
  return {
    what: `${row.operation} ${row.dtype}${shape}`,
    size: row.work,
    unit: row.unit,
    secondsMedian: row.secondsMedian,
    p05: row.p05,
    p95: row.p95,
    samples: row.samples,
    confidence95: row.confidence95,
    provenance: "measured",
    method: row.method,
  };
}
