import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { cancelled, type ErrorCode, MpoptError, type Plan, type ProgressEvent } from "../contracts/index.js";
import { createPlan, type PlanOptions } from "./index.js";

/** What a thread can be handed: data alone. */
export type ThreadPlanOptions = Omit<PlanOptions, "costs">;
/** The part of the options that goes to the thread. */
export type ThreadRequest = Omit<ThreadPlanOptions, "signal" | "onProgress" | "lossyFor">;

/** What the thread says: progress, then one of the others. */
export interface ThreadMessage {
  progress?: ProgressEvent;
  plan?: Plan;
  error?: { code: ErrorCode; message: string; notes: readonly string[] };
}

const entry = fileURLToPath(new URL("./threadEntry.js", import.meta.url));

/**
 * `createPlan` on a thread of its own: the caller's event loop stays free, plans beside each other share nothing,
 * and an abort ends the search at once, whatever it is at.
 * @throws MpoptError as `createPlan`; E_CANCELLED once the signal aborts.
 */
export async function planInThread(options: ThreadPlanOptions): Promise<Plan> {
  const { signal, onProgress, lossyFor, ...request } = options;
  if (signal?.aborted) throw cancelled(signal, "The search was stopped.");
  // A source tree that was not built has no entry to start a thread with.
  if (!existsSync(entry)) return createPlan(options);
  const worker = new Worker(entry, { workerData: request satisfies ThreadRequest });
  try {
    const plan = await answerOf(worker, signal, onProgress);
    if (lossyFor) plan.lossyFor = lossyFor(plan);
    return plan;
  } finally {
    void worker.terminate();
  }
}

function answerOf(
  worker: Worker,
  signal: AbortSignal | undefined,
  onProgress: ThreadPlanOptions["onProgress"],
): Promise<Plan> {
  return new Promise((resolve, reject) => {
    const stop = () => settle(() => reject(cancelled(signal, "The search was stopped.")));
    const settle = (finish: () => void) => {
      signal?.removeEventListener("abort", stop);
      worker.removeAllListeners();
      // What it says while it is being ended is of no interest.
      worker.on("error", () => {});
      finish();
    };
    const fail = (reason: string) =>
      settle(() => reject(new MpoptError("E_SOLVER", `The thread that plans failed: ${reason}`)));
    signal?.addEventListener("abort", stop, { once: true });
    worker.on("message", ({ progress, plan, error }: ThreadMessage) => {
      if (plan) settle(() => resolve(plan));
      else if (error) settle(() => reject(new MpoptError(error.code, error.message, error.notes)));
      else if (progress) {
        try {
          onProgress?.(progress);
        } catch (thrown) {
          settle(() => reject(thrown));
        }
      }
    });
    worker.on("error", (error) => fail(error instanceof Error ? error.message : String(error)));
    worker.on("exit", (code) => fail(`it ended with code ${code}.`));
  });
}
