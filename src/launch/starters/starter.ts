import type { Plan } from "../../contracts/index.js";
import type { nodeLayout } from "../layout.js";

export const starterNames = ["torchrun", "srun", "mpirun", "deepspeed"] as const;
export type StarterName = (typeof starterNames)[number];

/** What a starter is asked for. */
export interface StartRequest {
  plan: Plan;
  layout: ReturnType<typeof nodeLayout>;
  /** Absolute path of the Python that runs the ranks. */
  python: string;
  /** What the starter itself is started with. */
  environment: NodeJS.ProcessEnv;
  /** Index of this node, for starters that run on each. */
  nodeRank?: number;
  /** host:port where the ranks meet. */
  rendezvousEndpoint?: string;
  /** File of hosts with their slots, for starters that reach other nodes by themselves. */
  hostfile?: string;
  /** Hosts that must not be used. */
  without?: readonly string[];
}

/** How ranks are started: words of argv around the command of one rank, and what the ranks do not find by themselves. */
export interface Start {
  executable: string;
  /** Everything before the rank's command. */
  argv: string[];
  /** The rank's command begins with Python; starters that put one there themselves take the script alone. */
  namesPython: boolean;
  /** Host of rank 0, and the port where it listens; undefined where the starter sets them itself. */
  masterAddress?: string;
  masterPort?: string;
}

/** Starts ranks: one file each. */
export interface Starter {
  name: StarterName;
  /**
   * @throws MpoptError E_MISSING_TOOL where it is not on the PATH, E_USAGE where something about the nodes is not said,
   *   E_LAUNCH where what it would start is not what the plan takes.
   */
  start(request: StartRequest): Promise<Start>;
}
