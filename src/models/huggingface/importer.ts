import type { Model } from "../../contracts/index.js";
import type { Kernels, Workload } from "../graph.js";
import type { ConfigFields } from "./fields.js";

export interface ImportContext {
  /** Name of the model in the document. */
  name: string;
  /** What the document is made from: a preset's name or a file. */
  source: string;
  /** Workload that the document stands at; one sequence of at most 4096 tokens by default. */
  reference?: Workload;
  kernels?: Kernels;
}

/** Builds the document of one family of configurations. */
export type Importer = (fields: ConfigFields, context: ImportContext) => Model;

/** The workload that a document stands at. */
export function referenceWorkload(context: ImportContext, maxSequence: number): Workload {
  return context.reference ?? { batch: 1, sequence: Math.min(maxSequence, 4096) };
}
