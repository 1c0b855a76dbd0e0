import { loadCluster, withHash } from "../cluster/index.js";
import { type Cluster, documentHash, type Model, MpoptError, type Plan } from "../contracts/index.js";
import { loadModel } from "../models/index.js";

/** The model and the cluster that a plan was made from, where they can still be found. */
export interface LoadedInputs {
  model?: Model;
  cluster?: Cluster;
  complete: boolean;
  remarks: string[];
}

/**
 * Loads what a plan names, or what the options name instead. A source that is gone or has changed is left out
 * with a remark; one that the user names must load.
 * @throws MpoptError as `loadModel` and `loadCluster`, for sources that the options name.
 */
export function loadInputs(plan: Plan, options: Record<string, unknown> = {}): LoadedInputs {
  const remarks: string[] = [];
  const load = <T>(
    what: "model" | "cluster",
    named: unknown,
    fallback: string,
    read: (reference: string) => T,
    same: (found: T) => T | undefined,
  ): T | undefined => {
    if (typeof named === "string") return read(named);
    try {
      const found = same(read(fallback));
      if (found !== undefined) return found;
      remarks.push(`The ${what} at ${fallback} is not the one this plan was made from: give --${what}.`);
    } catch (error) {
      if (!(error instanceof MpoptError)) throw error;
      remarks.push(`The plan's ${what} cannot be loaded again (${error.message}): give --${what}.`);
    }
    return undefined;
  };
  const sameModel = (found: Model) => (documentHash(found) === plan.model.sha256 ? found : undefined);
  const model = load("model", options.model, plan.model.source, loadModel, sameModel);
  // A plan for what was left of a cluster names the whole one.
  const sameCluster = (found: Cluster) => withHash(found, plan.cluster);
  const cluster = load("cluster", options.cluster, plan.cluster.source, loadCluster, sameCluster);
  return { model, cluster, complete: model !== undefined && cluster !== undefined, remarks };
}
