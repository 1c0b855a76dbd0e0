import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { cancelled, MpoptError } from "../contracts/index.js";
import type { KernelReply, KernelTask, MilpReply, MilpTask, Progress } from "./protocol.js";

export type Task = { kernel: KernelTask } | { milp: MilpTask };
type Reply<T extends Task> = T extends { kernel: KernelTask } ? KernelReply : MilpReply;

export interface TaskOptions {
  signal?: AbortSignal;
  /** The worker is ended this many seconds after the task began; the task then gives undefined. */
  seconds?: number;
  onProgress?: (progress: Progress) => void;
}

const here = dirname(fileURLToPath(import.meta.url));
const stopped = "The solve was cancelled.";
const idle: Worker[] = [];
const waiting: (() => void)[] = [];
let busy = 0;

/**
 * Path of the kernel's module: beside this file in a built package, under build/ in a source tree; undefined
 * where it was not built.
 */
export function kernelPath(): string | undefined {
  return [join(here, "kernel.wasm"), join(here, "../../build/wasm/kernel.wasm")].find((path) =>
    existsSync(path),
  );
}

/**
 * Runs one task on a worker thread of the pool (one a core at most; further tasks wait). Workers stay warm,
 * because to start HiGHS costs more than a small solve, and keep the process alive only while they work.
 * @throws MpoptError E_CANCELLED when the signal aborts, E_SOLVER when the worker fails
 */
export async function runTask<T extends Task>(
  task: T,
  options: TaskOptions = {},
): Promise<Reply<T> | undefined> {
  const { signal } = options;
  if (signal?.aborted) throw cancelled(signal, stopped);
  while (busy >= availableParallelism()) await turn(signal);
  busy++;
  const worker = idle.pop() ?? new Worker(join(here, "worker.mjs"));
  worker.ref();
  let healthy = false;
  try {
    const reply = await talk(worker, task, options);
    healthy = reply !== undefined;
    return reply as Reply<T> | undefined;
  } finally {
    busy--;
    if (healthy) {
      worker.unref();
      idle.push(worker);
    } else {
      // A worker that was stopped or failed may hold half a task: a new one replaces it.
      await worker.terminate();
    }
    waiting.shift()?.();
  }
}

function turn(signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const go = () => {
      signal?.removeEventListener("abort", stop);
      resolve();
    };
    const stop = () => {
      waiting.splice(waiting.indexOf(go), 1);
      reject(cancelled(signal, stopped));
    };
    waiting.push(go);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

function talk(worker: Worker, task: Task, options: TaskOptions): Promise<unknown> {
  const { signal, seconds, onProgress } = options;
  return new Promise((resolve, reject) => {
    const end = (settle: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
      worker.off("message", hear);
      worker.off("error", crash);
      worker.off("exit", leave);
      settle();
    };
    const stop = () => end(() => reject(cancelled(signal, stopped)));
    const fail = (reason: string) =>
      end(() => reject(new MpoptError("E_SOLVER", `The solver's worker failed: ${reason}`)));
    const hear = (message: { progress?: Progress; reply?: unknown; failure?: string }) => {
      if (message.progress) onProgress?.(message.progress);
      else if (message.failure !== undefined) fail(message.failure);
      else end(() => resolve(message.reply));
    };
    const crash = (error: unknown) => fail(error instanceof Error ? error.message : String(error));
    const leave = (code: number) => fail(`it ended with code ${code}.`);
    const timer =
      seconds === undefined || seconds > 1e6
        ? undefined
        : setTimeout(() => end(() => resolve(undefined)), seconds * 1000);
    signal?.addEventListener("abort", stop, { once: true });
    worker.on("message", hear);
    worker.on("error", crash);
    worker.on("exit", leave);
    worker.postMessage(task);
  });
}
