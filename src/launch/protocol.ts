/**
 * What a launch reads of its ranks: lines on stdout that begin with a word of their own, then JSON. The form is described
 * in `docs/launching.md`; `start_rank.py` and the training script write it.
 */
export type Report =
  /** The script: one optimizer step. */
  | { kind: "step"; step: number; seconds: number; loss: number | null }
  /** The script, at its end. */
  | { kind: "done"; summary: Record<string, unknown> }
  /** A rank has started. */
  | { kind: "rank"; rank: number; host: string; pid: number }
  /** Its script has ended, a negative code being a signal. */
  | { kind: "exit"; rank: number; exitCode: number; peakResidentBytes: number }
  /** A rank is not one of the plan's. */
  | { kind: "refused"; message: string };

export interface Line {
  /** The rank that printed it; undefined for lines of the starter. */
  rank: number | undefined;
  text: string;
  /** What the line reports; undefined for all others, and for reports that are not well-formed. */
  report: Report | undefined;
}

/** Takes a line of the ranks' output apart. */
export function readLine(line: string, stream: "stdout" | "stderr"): Line {
  // pdsh, by which DeepSpeed reaches other hosts, puts their names before the lines.
  const own = line.replace(/^[\w.-]+: (?=\[rank \d+\] |MPOPT_)/, "");
  const [, number, rest] = /^\[rank (\d+)\] (.*)$/s.exec(own) ?? [];
  const text = rest ?? own;
  return {
    rank: number === undefined ? undefined : Number(number),
    text,
    report: stream === "stdout" ? readReport(text) : undefined,
  };
}

function readReport(text: string): Report | undefined {
  const match = /^MPOPT_(STEP|DONE|RANK|EXIT|REFUSED) (\{.*\})$/.exec(text);
  if (!match) return undefined;
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(match[2]!);
  } catch {
    return undefined;
  }
  const { step, seconds, loss = null, rank, host, pid, exitCode, peakResidentBytes, message } = value;
  switch (match[1]) {
    case "STEP":
      if (!isCount(step) || typeof seconds !== "number" || !(seconds >= 0)) return undefined;
      if (loss !== null && typeof loss !== "number") return undefined;
      return { kind: "step", step, seconds, loss };
    case "DONE":
      return { kind: "done", summary: value };
    case "RANK":
      if (!isCount(rank) || typeof host !== "string" || !isCount(pid)) return undefined;
      return { kind: "rank", rank, host, pid };
    case "EXIT":
      if (!isCount(rank) || !Number.isInteger(exitCode) || !isCount(peakResidentBytes)) return undefined;
      return { kind: "exit", rank, exitCode: exitCode as number, peakResidentBytes };
    default:
      return typeof message === "string" ? { kind: "refused", message } : undefined;
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
