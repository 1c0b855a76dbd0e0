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
