import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { PipedreamOptions } from "../../src/search/inter/pipedream.js";

/**
 * What PipeDream's optimizer (msr-fiddle/pipedream, optimizer/optimizer_graph_hierarchical.py, unmodified)
 * found on its own profiles: run on a loaded two-core processor, so that times give the order of magnitude.
 */
export interface PublishedRow {
  model: "alexnet" | "vgg16" | "resnet50" | "gnmt";
  setting: "F4-1" | "F4-12" | "C4" | "F16" | "A3x4" | "A4x4" | "B2x8";
  /**
   * acr1: `--activation_compression_ratio 1`, transfers count; mem16: and `--use_memory_constraint -s 16e9`;
   * straight: acr1 and `--straight_pipeline`; free: no flag, transfers cost nothing.
   */
  variant: "acr1" | "mem16" | "straight" | "free";
  /** Seconds per minibatch. */
  seconds: number;
  /** The plan: last state of each stage, `xM` for replicas; outer level / inner level. */
  plan: string;
  /** Seconds that the optimizer took, and by which interpreter and clock. */
  search: [number, "cpython-cpu" | "cpython-wall" | "pypy-cpu"];
  /** Peak of 1F1B over the devices of the plan, in GB. */
  memoryGigabytes: number;
  /** The plan has a range between incomparable antichains: its nodes are not each placed once. */
  invalid?: true;
}

interface Published {
  rows: PublishedRow[];
  /** Machines and bytes per second a level, innermost first. */
  settings: Record<PublishedRow["setting"], Pick<PipedreamOptions, "machines" | "bandwidths">>;
  /** Options of each variant. */
  variants: Record<PublishedRow["variant"], Partial<PipedreamOptions>>;
  /** Maximal nodes of the states that plans of models with branches name; in the others state n is n nodes. */
  states: Partial<Record<PublishedRow["model"], Record<string, number[]>>>;
  /** Seconds of plain data parallelism in the same model. */
  dataParallelSeconds: [PublishedRow["model"], PublishedRow["setting"], number][];
}

export const {
  rows: published,
  settings,
  variants,
  states,
  dataParallelSeconds,
}: Published = JSON.parse(
  readFileSync(join(import.meta.dirname, "../data/pipedream/published.json"), "utf8"),
);
