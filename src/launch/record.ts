import { cpus, hostname, platform, release } from "node:os";
import {
  type Attempt,
  documentHash,
  type Outcome,
  type Plan,
  type Run,
  type RunRank,
  serialize,
  writeFileAtomic,
} from "../contracts/index.js";
import type { Line } from "./protocol.js";

const warmUpSteps = 2;
const keptLines = 40;

/** Variables that change what ranks do. Others may hold what nobody wants in a file. */
const recorded =
  /^(OMP_NUM_THREADS|MPOPT_(THREADS|DEVICE|PLAN)|CUDA_(VISIBLE_DEVICES|DEVICE_MAX_CONNECTIONS)|NCCL_.*|GLOO_.*)$/;

/** One attempt as it goes: what its lines say is noted in a document that is whole at any time. */
export class AttemptRecord {
  readonly #document: Attempt;
  readonly #ranks = new Map<number, RunRank>();
  /** Ranks by the order in which they failed. */
  readonly failed: number[] = [];
  #starterReports = false;

  constructor(plan: Plan) {
    this.#document = {
      plan,
      planSha256: documentHash(plan),
      startedAt: new Date().toISOString(),
      endedAt: null,
      outcome: "running",
      exitCode: null,
      steps: [],
      medianStepSeconds: null,
      ranks: [],
      predictedStepSeconds: plan.estimate.stepSeconds,
      memory: [],
      summary: null,
      reason: null,
      lastLines: [],
    };
  }

  /** The attempt up to now. */
  get document(): Attempt {
    const ranks = [...this.#ranks.values()].sort((a, b) => a.rank - b.rank);
    const peaks = this.#document.summary?.peakMemoryBytes;
    for (const rank of ranks) {
      const peak: unknown = Array.isArray(peaks) ? peaks[rank.rank] : undefined;
      if (typeof peak === "number" && peak >= 0) rank.peakMemoryBytes = peak;
    }
    const { plan, steps } = this.#document;
    return {
      ...this.#document,
      medianStepSeconds: median(steps.slice(warmUpSteps).map(({ seconds }) => seconds)),
      ranks,
      memory: memoryByPipelineRank(plan, ranks),
    };
  }

  note({ rank, text, report }: Line, stream: "stdout" | "stderr"): void {
    const { steps, lastLines } = this.#document;
    // What the rank's own process says has no rank before it; what a script says of a step counts from rank 0.
    const ofScript = rank === undefined || rank === 0;
    if (report?.kind === "step" && ofScript) {
      const { step, seconds, loss } = report;
      steps.push({ step, seconds, loss });
    } else if (report?.kind === "done" && ofScript) this.#document.summary = report.summary;
    else if (report?.kind === "rank" && rank === undefined) {
      this.#ranks.set(report.rank, {
        rank: report.rank,
        host: report.host,
        exitCode: null,
        peakMemoryBytes: null,
        peakResidentBytes: null,
      });
    } else if (report?.kind === "exit" && rank === undefined) {
      const known = this.#ranks.get(report.rank);
      if (known)
        Object.assign(known, { exitCode: report.exitCode, peakResidentBytes: report.peakResidentBytes });
      if (report.exitCode !== 0) this.failed.push(report.rank);
    }
    // torchrun's own report of a failure would push out what the rank itself said.
    this.#starterReports ||= /torch\/distributed\/elastic\/.* failed \(exitcode/.test(text);
    if (stream === "stderr" && !this.#starterReports) {
      lastLines.push(text);
      if (lastLines.length > keptLines) lastLines.shift();
    }
  }

  end(outcome: Outcome, exitCode: number | null, reason: string | null = null): void {
    Object.assign(this.#document, { endedAt: new Date().toISOString(), outcome, exitCode, reason });
  }
}

/**
 * Predicted and measured peak of each pipeline rank. Scripts on GPUs report what tensors took; on processors the
 * process with its libraries is what is resident, which the plan's context stands for.
 */
function memoryByPipelineRank(
  { estimate, rankTable, mesh, cluster }: Plan,
  ranks: readonly RunRank[],
): Attempt["memory"] {
  const axis = mesh.axes.indexOf("pipeline");
  return estimate.memory.map(({ pipelineRank, allocatedBytes, reservedBytes, terms }) => {
    const peaks = ranks
      .filter(({ rank }) => (rankTable[rank]?.[axis] ?? 0) === pipelineRank)
      .flatMap(({ peakMemoryBytes, peakResidentBytes }) => {
        const peak = cluster.deviceType === "cpu" ? (peakMemoryBytes ?? peakResidentBytes) : peakMemoryBytes;
        return peak === null ? [] : [peak];
      });
    return {
      pipelineRank,
      predictedBytes: cluster.deviceType === "cpu" ? reservedBytes : allocatedBytes - terms.context,
      measuredBytes: peaks.length > 0 ? Math.max(...peaks) : null,
    };
  });
}

/** A launch with its attempts; written to a file whenever an attempt begins or ends. */
export class RunLog {
  readonly #start: Pick<Run, "schema" | "name" | "startedAt" | "environment">;
  readonly #attempts: AttemptRecord[] = [];
  readonly #path: string | undefined;

  constructor(
    name: string,
    environment: Omit<Run["environment"], "host" | "os" | "processor" | "variables">,
    variables: NodeJS.ProcessEnv,
    path: string | undefined,
  ) {
    this.#path = path;
    this.#start = {
      schema: "mpopt.run/1",
      name,
      startedAt: new Date().toISOString(),
      environment: {
        host: hostname(),
        os: `${platform()} ${release()}`,
        processor: cpus()[0]?.model ?? "unknown",
        ...environment,
        variables: Object.fromEntries(
          Object.entries(variables).flatMap(([key, value]) =>
            value !== undefined && recorded.test(key) ? [[key, value]] : [],
          ),
        ),
      },
    };
  }

  begin(attempt: AttemptRecord): void {
    this.#attempts.push(attempt);
    this.write();
  }

  get document(): Run {
    const attempts = this.#attempts.map(({ document }) => document);
    const { endedAt, outcome, exitCode, medianStepSeconds, predictedStepSeconds } = attempts.at(-1)!;
    return {
      ...this.#start,
      ...{ endedAt, outcome, exitCode, medianStepSeconds, predictedStepSeconds, attempts },
    };
  }

  /** @throws MpoptError E_FILE. */
  write(): void {
    if (this.#path !== undefined) writeFileAtomic(this.#path, serialize(this.document));
  }
}

function median(values: number[]): number | null {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
