import { MpoptError } from "./errors.js";

/** What long work reports while it runs, and how it is stopped. */
export interface RunOptions {
  /** Stops the work; it then rejects with E_CANCELLED or returns what it has, as its docstring says. */
  signal?: AbortSignal;
  /** Called with one sentence, and the share done where it is known. */
  onProgress?: (event: ProgressEvent) => void;
}

export interface ProgressEvent {
  message: string;
  /** 0 to 1. */
  fraction?: number;
}

/** The error of work that an aborted signal stopped: its reason where that is one of ours, else E_CANCELLED. */
export function cancelled(signal: AbortSignal | undefined, message: string): MpoptError {
  const reason: unknown = signal?.reason;
  if (reason instanceof MpoptError) return reason;
  return new MpoptError("E_CANCELLED", message, [], { cause: reason });
}

/**
 * Does work that looks at the signal; what an abort makes it throw becomes `cancelled` with the message. An abort that
 * the work did not look for any more stops it too.
 */
export async function cancellable<T>(
  signal: AbortSignal | undefined,
  message: string,
  work: () => Promise<T>,
): Promise<T> {
  try {
    signal?.throwIfAborted();
    const result = await work();
    if (signal) {
      // Long computation leaves timers, then signals and sockets waiting, any of which may abort.
      await new Promise((resolve) => setTimeout(() => setImmediate(resolve)));
      signal.throwIfAborted();
    }
    return result;
  } catch (error) {
    if (!signal?.aborted || error instanceof MpoptError) throw error;
    throw cancelled(signal, message);
  }
}
