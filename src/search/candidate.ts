import type { Configuration, LayerChain } from "./configuration.js";
import type { StageCosts } from "./stageCosts.js";

/** One configuration with the costs of one stage a rank. */
export interface Candidate {
  configuration: Configuration;
  chain: LayerChain;
  costs: StageCosts;
  /** No cut takes less under 1F1B: see `leastSeconds`. */
  lowerBound: number;
}

/** A plan that was not chosen, and why. */
export interface Rejected {
  plan: string;
  reason: string;
  stepSeconds?: number;
  memoryBytes?: number;
}
