import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import {
  type Cluster,
  type CollectiveCurve,
  type ComputeTable,
  checkDocument,
  checkValue,
  type Level,
  type Measurement,
  MpoptError,
  type Quantity,
  type RunOptions,
} from "../contracts/index.js";

const figures = {
  secondsMedian: z.number().positive(),
  p05: z.number().positive(),
  p95: z.number().positive(),
  samples: z.int().positive(),
  /** Samples in which other work took a core away; left out where enough others are there. */
  disturbed: z.int().nonnegative(),
  confidence95: z.number().nonnegative(),
};
const figuresSchema = z.object(figures);
const passSchema = z.enum(["forward", "backward"]);

const operatorRowSchema = z.object({
  operator: z.enum([
    "call",
    "linear",
    "attention",
    "normalization",
    "activation",
    "elementwise",
    "embedding",
    "loss",
    "accumulation",
    "optimizer",
  ]),
  name: z.string().optional(),
  pass: passSchema,
  unit: z.enum(["flop", "byte"]),
  work: z.number().positive(),
  shape: z.record(z.string(), z.number()),
  ...figures,
});

const collectiveRowSchema = z.object({
  collective: z.enum(["transfer", "allReduce", "allGather", "reduceScatter"]),
  ranks: z.int().min(2),
  bytes: z.number().positive(),
  ...figures,
});

/** What bindings/python/measure_operators.py prints. */
export const torchMeasurementsSchema = z.object({
  schema: z.literal("mpopt.torch-measurements/1"),
  /** Null where PyTorch could not be loaded. */
  torch: z.string().nullable(),
  processes: z.int().positive(),
  operators: z.array(operatorRowSchema),
  collectives: z.array(collectiveRowSchema),
  /** What DTensor adds to one split linear operator. */
  shardedCall: z.object({ forward: figuresSchema, backward: figuresSchema }).optional(),
  failedProbes: z.array(z.object({ probe: z.string(), reason: z.string() })),
});

export type TorchMeasurements = z.infer<typeof torchMeasurementsSchema>;
type OperatorRow = z.infer<typeof operatorRowSchema>;
type CollectiveRow = z.infer<typeof collectiveRowSchema>;

const script = fileURLToPath(new URL("../../bindings/python/measure_operators.py", import.meta.url));

/** Time of the probes. PyTorch loads before that: in 3 s, or in a minute on a machine that is busy elsewhere. */
const deadlineSeconds = { quick: 9, full: 36 };
const loadingSeconds = 70;

export interface TorchOptions extends RunOptions {
  /** Interpreter that has PyTorch. */
  python: string;
  /** Processes that run at once: the planned devices. */
  processes: number;
  quick?: boolean;
  /** Limit of the probes, PyTorch's start not included; 9 for a quick run and 36 for a full one without it. */
  seconds?: number;
}

/**
 * Times PyTorch's operators and gloo's collectives on this machine, in a child process.
 * @throws MpoptError E_MISSING_TOOL when the script fails or does not end in time, E_CANCELLED.
 */
export async function measureTorch(options: TorchOptions): Promise<TorchMeasurements> {
  const { python, processes, quick = false, signal } = options;
  signal?.throwIfAborted();
  const seconds = options.seconds ?? (quick ? deadlineSeconds.quick : deadlineSeconds.full);
  options.onProgress?.({
    message: `timing PyTorch's operators in ${processes} processes, up to ${seconds} s`,
  });
  const argv = [script, "--processes", String(processes), "--deadline", String(seconds)];
  if (quick) argv.push("--quick");
  const text = await runScript(python, argv, seconds + loadingSeconds, signal);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new MpoptError(
      "E_MISSING_TOOL",
      `Expected one JSON document from measure_operators.py but found ${text.length} characters of something else.`,
      [],
      { cause },
    );
  }
  return checkValue(torchMeasurementsSchema, value, "measure_operators.py");
}

/** The script's stdout. It leads a process group, so that its workers end with it. */
function runScript(
  python: string,
  argv: string[],
  limitSeconds: number,
  signal?: AbortSignal,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(python, argv, { stdio: ["ignore", "pipe", "pipe"], detached: true });
    const end = () => {
      try {
        process.kill(-child.pid!, "SIGKILL");
      } catch {
        // It has ended already, or never started.
      }
    };
    let output = "";
    let errors = "";
    let late = false;
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      output += chunk;
    });
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
      errors = (errors + chunk).slice(-2000);
    });
    const timer = setTimeout(() => {
      late = true;
      end();
    }, limitSeconds * 1000);
    signal?.addEventListener("abort", end, { once: true });
    const settle = (finish: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      finish();
    };
    const fail = (what: string) => {
      const notes = errors.trim() ? [errors.trim()] : [];
      reject(
        new MpoptError("E_MISSING_TOOL", `Expected PyTorch's operators to be timed but ${what}.`, notes),
      );
    };
    child.on("error", (error) => settle(() => fail(error.message)));
    child.on("close", (code, killedBy) => {
      settle(() => {
        if (signal?.aborted) {
          const reason: unknown = signal.reason;
          reject(
            reason instanceof MpoptError ? reason : new MpoptError("E_CANCELLED", "Profiling was stopped."),
          );
        } else if (late) fail(`the script was not done after ${limitSeconds} s`);
        else if (code !== 0)
          fail(killedBy ? `${killedBy} ended the script` : `the script ended with ${code}`);
        else resolve(output);
      });
    });
  });
}

/**
 * A processor's cluster document with what PyTorch measured: whole calls go before bare kernels, gloo before
 * the bare loopback link. What PyTorch did not measure stays as it was.
 */
export function mergeTorch(cluster: Cluster, torch: TorchMeasurements): Cluster {
  const source = `PyTorch ${torch.torch ?? "of unknown version"}, ${torch.processes} ${torch.processes === 1 ? "process" : "processes at once"}`;
  const [device, ...others] = cluster.devices;
  const calls = callSeconds(torch, source);
  const merged: Cluster = {
    ...cluster,
    environment: {
      ...cluster.environment,
      libraries: { ...cluster.environment.libraries, ...(torch.torch ? { torch: torch.torch } : {}) },
    },
    devices: [
      {
        ...device!,
        compute: [...operatorTables(torch.operators, source), ...device!.compute],
        ...(calls ? { callSeconds: calls } : {}),
      },
      ...others,
    ],
    topology: {
      levels: cluster.topology.levels.map((level, i) =>
        i === 0 ? withGloo(level, torch.collectives, source) : level,
      ),
    },
    measurements: [...cluster.measurements, ...measurements(torch, source)],
    failedProbes: [
      ...cluster.failedProbes,
      ...torch.failedProbes.map(({ probe, reason }) => ({ probe: `PyTorch: ${probe}`, reason })),
    ],
  };
  return checkDocument("cluster", merged, "the measured cluster");
}

function operatorTables(rows: readonly OperatorRow[], source: string): ComputeTable[] {
  const groups = new Map<string, OperatorRow[]>();
  for (const row of rows) {
    if (row.operator === "call") continue;
    const key = `${row.operator}/${row.name}/${row.pass}`;
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  return [...groups.values()].map((group) => {
    const { operator, name, pass, unit } = group[0]!;
    // Accumulation and optimizer have one pass: the update itself.
    const onePass = operator === "accumulation" || operator === "optimizer";
    return {
      operator: operator === "linear" ? "gemm" : (operator as ComputeTable["operator"]),
      ...(name === undefined ? {} : { name }),
      ...(onePass ? {} : { pass }),
      includesCall: true,
      dtype: "f32",
      unit,
      points: points(group),
      provenance: "measured",
      source,
    };
  });
}

/** Ascending in work; shapes of equal work share their geometric mean, for a model may have either. */
function points(rows: readonly OperatorRow[]): ComputeTable["points"] {
  const byWork = new Map<number, OperatorRow[]>();
  for (const row of rows) byWork.set(row.work, [...(byWork.get(row.work) ?? []), row]);
  return [...byWork]
    .sort(([a], [b]) => a - b)
    .map(([work, equal]) => {
      const logs = equal.map((row) => Math.log(work / row.secondsMedian));
      const rate = Math.exp(logs.reduce((sum, log) => sum + log, 0) / logs.length);
      return { work, rate, shape: equal[0]!.shape };
    });
}

function measured(value: number, source: string): Quantity {
  return { value, provenance: "measured", source };
}

function callSeconds(torch: TorchMeasurements, source: string): Cluster["devices"][number]["callSeconds"] {
  const smallest = (pass: "forward" | "backward") =>
    torch.operators.find((row) => row.operator === "call" && row.pass === pass)?.secondsMedian;
  const forward = smallest("forward");
  const backward = smallest("backward");
  if (forward === undefined || backward === undefined) return undefined;
  const { shardedCall } = torch;
  return {
    forward: measured(forward, `${source}, a product of four numbers`),
    backward: measured(backward, `${source}, a product of four numbers`),
    ...(shardedCall
      ? {
          sharded: {
            forward: measured(shardedCall.forward.secondsMedian, `${source}, DTensor over plain linear`),
            backward: measured(shardedCall.backward.secondsMedian, `${source}, DTensor over plain linear`),
          },
        }
      : {}),
  };
}

function withGloo(level: Level, rows: readonly CollectiveRow[], source: string): Level {
  const curve = (what: CollectiveRow["collective"], ranks: number) =>
    rows
      .filter((row) => row.collective === what && row.ranks === ranks)
      .map(({ bytes, secondsMedian }) => ({ bytes, seconds: secondsMedian }))
      .sort((a, b) => a.bytes - b.bytes);
  const collectives: CollectiveCurve[] = [];
  for (const ranks of new Set(rows.map((row) => row.ranks))) {
    const add = (
      collective: CollectiveCurve["collective"],
      points: CollectiveCurve["points"],
      how: string,
    ) => {
      if (points.length === 0) return;
      const full = `${source}, gloo ${how}`;
      collectives.push({ collective, ranks, points, provenance: "measured", source: full });
    };
    const allReduce = curve("allReduce", ranks);
    const scattered = new Map(curve("reduceScatter", ranks).map(({ bytes, seconds }) => [bytes, seconds]));
    add("allReduce", allReduce, "all-reduce");
    add("allGather", curve("allGather", ranks), "all-gather");
    // Gloo's reduce-scatter moves more than its all-reduce, which a trainer can use in its place.
    const least = allReduce.map(({ bytes, seconds }) => ({
      bytes,
      seconds: Math.min(seconds, scattered.get(bytes) ?? seconds),
    }));
    add("reduceScatter", least, "all-reduce or reduce-scatter, whichever is faster");
  }
  const transfer = curve("transfer", 2);
  const first = transfer[0];
  const last = transfer.at(-1);
  const link =
    first && last && last.seconds > first.seconds
      ? {
          latencySeconds: measured(first.seconds, `${source}, gloo send and receive, ${first.bytes} bytes`),
          bytesPerSecond: measured(
            (last.bytes - first.bytes) / (last.seconds - first.seconds),
            `${source}, gloo send and receive, ${last.bytes} bytes`,
          ),
          points: transfer,
        }
      : level.link;
  return { ...level, link, ...(collectives.length > 0 ? { collectives } : {}) };
}

function measurements(torch: TorchMeasurements, source: string): Measurement[] {
  const common = ({
    secondsMedian,
    p05,
    p95,
    samples,
    confidence95,
    disturbed,
  }: z.infer<typeof figuresSchema>) => ({
    secondsMedian,
    p05,
    p95,
    samples,
    confidence95,
    provenance: "measured" as const,
    method: `${source}; ${disturbed} samples disturbed by other work`,
  });
  const operators = torch.operators.map((row) => {
    const shape = Object.entries(row.shape).map(([name, size]) => `${name}=${size}`);
    const what = ["torch", row.name ?? row.operator, row.pass, ...shape].join(" ");
    return { what, size: row.work, unit: row.unit, ...common(row) };
  });
  const collectives = torch.collectives.map((row) => ({
    what: `gloo ${row.collective} over ${row.ranks} ranks`,
    size: row.bytes,
    unit: "byte" as const,
    ...common(row),
  }));
  const sharded = Object.entries(torch.shardedCall ?? {}).map(([pass, row]) => ({
    what: `torch DTensor call ${pass}, less the plain call`,
    size: 1,
    unit: "call" as const,
    ...common(row),
  }));
  return [...operators, ...collectives, ...sharded];
}
