import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { MpoptError, type RunOptions } from "../contracts/index.js";
import type { RankLogs } from "./logs.js";
import { type Line, readLine } from "./protocol.js";
import type { AttemptRecord } from "./record.js";
import { Stopper } from "./stop.js";

export interface AttemptOptions extends RunOptions {
  executable: string;
  argv: string[];
  env: NodeJS.ProcessEnv;
  record: AttemptRecord;
  /** `Date.now()` at which the ranks are stopped, and the seconds that were allowed. */
  deadline?: number;
  timeoutSeconds?: number;
  logs?: RankLogs;
  onLog?: (line: string, stream: "stdout" | "stderr", rank: number | undefined) => void;
}

/**
 * Starts the ranks and waits for their end, noting in the record what they say. Every rank ends when one dies, at the
 * deadline, when the signal aborts and when ranks are not the plan's.
 * @throws MpoptError E_CANCELLED at the deadline or on abort, E_LAUNCH for other ranks than the plan's or a starter
 *   that cannot be started; the record then says so too.
 */
export async function runAttempt(options: AttemptOptions): Promise<void> {
  const { record, signal, deadline, onProgress } = options;
  // A process group of its own, so that an interrupt at the terminal reaches mpopt alone, which then stops it.
  const child = spawn(options.executable, options.argv, {
    env: options.env,
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  const stopper = new Stopper(child);
  let stopped: { error: MpoptError; outcome: "failed" | "cancelled" | "timeout" } | undefined;
  const stop = (outcome: NonNullable<typeof stopped>["outcome"], error: MpoptError) => {
    stopped ??= { error, outcome };
    stopper.stop();
  };
  const abort = () => {
    const reason: unknown = signal?.reason;
    const error =
      reason instanceof MpoptError ? reason : new MpoptError("E_CANCELLED", "The launch was stopped.");
    stop("cancelled", error);
  };
  signal?.addEventListener("abort", abort, { once: true });
  if (signal?.aborted) abort();
  const late = () => {
    const { steps, lastLines } = record.document;
    const found = steps.length ? `${steps.length} steps` : "no step";
    const message = `Expected the ranks to end within ${options.timeoutSeconds} s but found ${found} by then.`;
    stop("timeout", new MpoptError("E_CANCELLED", message, lastLines));
  };
  const timer = deadline === undefined ? undefined : setTimeout(late, Math.max(0, deadline - Date.now()));
  const heard = ({ rank, report }: Line) => {
    if (report?.kind === "step" && (rank === undefined || rank === 0)) {
      const loss = report.loss === null ? "" : `, loss ${report.loss.toFixed(4)}`;
      onProgress?.({ message: `Step ${report.step}: ${report.seconds.toFixed(3)} s${loss}` });
    }
    if (rank !== undefined) return;
    if (report?.kind === "exit" && report.exitCode !== 0) stopper.rankDied();
    if (report?.kind === "refused") stop("failed", new MpoptError("E_LAUNCH", report.message));
  };
  const readLines = async (stream: "stdout" | "stderr") => {
    const input = child[stream]!;
    for await (const text of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
      stopper.look();
      const line = readLine(text, stream);
      record.note(line, stream);
      heard(line);
      if (line.rank === undefined && line.report?.kind === "rank") options.logs?.open(line.report.rank);
      else options.logs?.write(line.rank, line.text);
      options.onLog?.(line.text, stream, line.rank);
    }
  };
  try {
    const output = Promise.all([readLines("stdout"), readLines("stderr")]);
    const exitCode = await stopper.ended;
    stopper.killRest();
    await output;
    if (stopped) throw stopped.error;
    const failed = record.failed[0];
    const said = failed === undefined ? "" : `, rank ${failed} first`;
    record.end(
      exitCode === 0 ? "done" : "failed",
      exitCode,
      exitCode === 0 ? null : `The ranks ended with status ${exitCode}${said}.`,
    );
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    record.end(stopped?.outcome ?? "failed", child.exitCode, why);
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
    stopper.killRest();
  }
}
