import type { Kernels, Workload } from "./graph.js";

/** What a document is made for, beside the model itself. */
export interface DocumentContext {
  /** Name of the model in the document. */
  name: string;
  /** What the document is made from: a preset's name or a file. */
  source: string;
  /** Workload that the document stands at; one sequence of at most 4096 tokens by default. */
  reference?: Workload;
  kernels?: Kernels;
}

/** The workload that a document stands at. */
export function referenceWorkload(context: DocumentContext, maxSequence: number): Workload {
  return context.reference ?? { batch: 1, sequence: Math.min(maxSequence, 4096) };
}
