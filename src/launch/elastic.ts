import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";
import { type Cluster, type Model, MpoptError, serialize, writeFileAtomic } from "../contracts/index.js";
import { replan } from "../plan/replan.js";
import { nodeLayout } from "./layout.js";
import type { AttemptRecord } from "./record.js";
import type { LaunchOptions, Next } from "./run.js";

/** What a launch needs to go on with fewer devices. */
export interface Elastic {
  /** What the plan was made from. */
  model: Model;
  /** The whole cluster. */
  cluster: Cluster;
  /** More attempts than this after the first are not made. */
  maxRestarts: number;
}

/**
 * The plan for what is left after a rank has died: on one machine one device less, on several all nodes but that of the
 * rank. Undefined where nothing is left, or where the attempt has not made a step: it would fail again. The plan is
 * written beside the first one.
 */
export async function planForTheRest(
  record: AttemptRecord,
  { plan, without }: Next,
  number: number,
  { elastic, planPath, signal, onProgress, version }: LaunchOptions,
): Promise<Next | undefined> {
  const { steps, ranks } = record.document;
  const dead = record.failed[0];
  const say = (message: string) => onProgress?.({ message });
  if (!elastic || steps.length === 0) {
    say("Not restarted: the ranks failed before their first step.");
    return undefined;
  }
  const { nodes, ranksPerNode, world } = nodeLayout(plan);
  const devices = nodes === 1 ? world - 1 : world - ranksPerNode;
  const host = ranks.find(({ rank }) => rank === dead)?.host;
  if (devices < 1 || (nodes > 1 && host === undefined)) {
    say("Not restarted: no device is left that is known to work.");
    return undefined;
  }
  say(
    nodes === 1
      ? `Rank ${dead ?? "?"} of ${world} died: planning for ${devices} devices`
      : `Rank ${dead} died on ${host}: planning for the other ${nodes - 1} nodes`,
  );
  try {
    const { plan: next } = await replan(plan, { ...elastic, devices, version, signal, onProgress });
    const path = join(dirname(planPath), `${basename(planPath, ".json")}.restart-${number}.json`);
    writeFileAtomic(path, serialize(next));
    return { plan: next, planPath: path, without: nodes === 1 ? without : [...without, host ?? hostname()] };
  } catch (error) {
    if (!(error instanceof MpoptError) || error.code !== "E_INFEASIBLE") throw error;
    say(`Not restarted: ${error.message}`);
    return undefined;
  }
}
