import type { Cluster, Estimate, Job, Model, Plan, Provenance, RunOptions } from "../contracts/index.js";
import type { MemoryHabits } from "../cost/memory.js";
import type { Configuration } from "../search/configuration.js";
import type { Hardware } from "./hardware.js";
import type { Software } from "./kinds.js";
import type { PredictionCache } from "./predict.js";

/** Everything that a prediction of one run depends on, beside the cluster's figures. */
export interface RunInputs {
  id: string;
  /** Source: the part of the id before its number. */
  prefix: string;
  /** Cluster kind, `PREFIX/GPU`: runs of one kind share a calibration. */
  kind: string;
  software: Software;
  hardware: Hardware;
  model: Model;
  /** Preset of the run's nodes, such as `a100-80:8x48`. */
  clusterReference: string;
  devicesPerNode: number;
  nodes: number;
  job: Job;
  /** What the software holds beside the model's tensors. */
  habits: MemoryHabits;
  configuration: Configuration;
  /** False where the row leaves recomputation open: the configuration has none then. */
  recomputeStated: boolean;
  schedule: {
    /** Name in `schedule/named`. */
    name: string;
    /** Stages of each pipeline rank. */
    chunks: number;
    /** Micro-batches that every rank holds at its fullest, where the order is searched under such a limit. */
    held?: number;
  };
  /** Half-open ranges of block layers, one a stage: stage i holds [boundaries[i], boundaries[i + 1]). */
  boundaries: readonly number[];
  /** The plan that the run was launched with, and the cluster it was made for; absent where a row describes the run. */
  planned?: { plan: Plan; cluster: Cluster };
}

/** A run that cannot be predicted. */
export interface Unpredicted {
  id: string;
  reason: string;
}

export interface Prediction {
  id: string;
  stepSeconds: number;
  /** Of the fullest device, in what the source calls memory and in its unit: see `Software.memory`. */
  memoryGiB: number;
  /** Whether what is reserved fits the device, with whatever recomputation where the row leaves that open. */
  feasible: boolean;
  /** Exposed seconds by kind; they add up to `stepSeconds`. */
  terms: Estimate["terms"];
}

/**
 * The cluster that a run is priced on, or why there is none, as a clause. The same object for equal clusters lets runs
 * share what they price.
 */
export type ClusterOf = (run: RunInputs) => Cluster | string;

/** The cluster of a run's kind, whose number of nodes does not matter; asked once a kind. */
export type TemplateOf = (run: RunInputs) => Cluster;

/** One physical quantity that was fitted to runs of a kind. */
export interface FittedParameter {
  /** Path in the cluster document, such as `devices[0].efficiency.gemm`. */
  name: string;
  value: number;
  /** Where the fit began and what it is pulled towards. */
  prior: number;
  /** Standard deviation of the prior's logarithm. */
  sigma: number;
  provenance: Provenance;
}

/** What a calibration found for one kind of cluster. */
export interface CalibratedKind {
  /**
   * A template: the kind's nodes, links at every level and the fitted quantities. Its own number of nodes does not
   * matter; see `sizedCluster`.
   */
  cluster: Cluster;
  parameters: FittedParameter[];
  /** Of the runs that were fitted to: step time predicted / measured - 1. */
  residuals: { id: string; error: number }[];
}

/** What runs of one part under like software showed together, for kinds of which none was measured. */
export interface CalibratedFamily {
  /** Preset part of the GPU. */
  part: string;
  /** `softwareFamily` of the runs. */
  software: string;
  /** Runs that it was fitted to. */
  runs: number;
  /** Shift of each fitted parameter along its coordinate, from where a preset has it. */
  shifts: Record<string, number>;
}

/** What `calibrate` finds, by `RunInputs.kind`. */
export interface Calibration {
  kinds: Record<string, CalibratedKind>;
  families: CalibratedFamily[];
}

export interface CalibrateOptions extends RunOptions {
  /** Where the runs come from, for the sources of fitted quantities; by default "measured runs". */
  source?: string;
  /** ISO 8601 day of the fit; by default today. */
  date?: string;
  /** Where the fit begins: the template of a kind; by default the preset's (`presetTemplate`). */
  templateOf?: TemplateOf;
  /** Shared with predictions of the same runs. */
  cache?: PredictionCache;
}

/** A run with what was measured of it: what a calibration reads. */
export interface MeasuredRun {
  run: RunInputs;
  stepSeconds: number | undefined;
  memoryGiB: number | undefined;
  outOfMemory: boolean;
  choiceGroup: string | undefined;
}
