/** Stable error codes. A code never changes its meaning; new ones may be added. */
export type ErrorCode =
  /** The command line or the library was called wrongly. */
  | "E_USAGE"
  /** A file does not exist or cannot be read or written. */
  | "E_FILE"
  /** A file is not well-formed: truncated, not JSON, not the format it claims. */
  | "E_PARSE"
  /** A document misses a field or holds a value of the wrong kind. */
  | "E_FIELD"
  /** A document was written by a newer major version of its contract. */
  | "E_VERSION"
  /** The model's architecture is not known to the importer. */
  | "E_ARCHITECTURE"
  /** No plan satisfies the constraints. */
  | "E_INFEASIBLE"
  /** A plan breaks an invariant. */
  | "E_PLAN_INVALID"
  /** A launcher cannot express the plan. */
  | "E_LOSSY"
  /** A solver failed or ran out of its limits without an answer. */
  | "E_SOLVER"
  /** The native addon is missing or does not load. */
  | "E_NATIVE"
  /** A tool outside mpopt is missing (Python, PyTorch, a compiler). */
  | "E_MISSING_TOOL"
  /** A started process failed. */
  | "E_LAUNCH"
  /** The user or a deadline stopped the work. */
  | "E_CANCELLED";

/**
 * The one error class of mpopt. `message` is one sentence; `notes` hold what helps further: the remedy, the
 * nearest alternatives, the child's output.
 */
export class MpoptError extends Error {
  readonly code: ErrorCode;
  readonly notes: readonly string[];

  constructor(code: ErrorCode, message: string, notes: readonly string[] = [], options?: ErrorOptions) {
    super(message, options);
    this.name = "MpoptError";
    this.code = code;
    this.notes = notes;
  }
}
