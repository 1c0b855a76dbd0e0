import { MpoptError } from "../../contracts/index.js";
import type { Starter } from "./starter.js";

/** PyTorch's launcher; on several nodes each runs it, and mpopt with it. */
export const torchrun: Starter = {
  name: "torchrun",
  async start({ layout: { nodes, ranksPerNode }, python, environment, ...given }) {
    const module = ["-m", "torch.distributed.run"];
    const ranks = ["--nproc-per-node", String(ranksPerNode)];
    if (nodes === 1) {
      return {
        executable: python,
        argv: [...module, "--standalone", "--nnodes", "1", ...ranks],
        namesPython: false,
      };
    }
    const { NODE_RANK, PET_NODE_RANK, SLURM_NODEID, PET_RDZV_ENDPOINT, MASTER_ADDR, MASTER_PORT } =
      environment;
    const nodeRank = given.nodeRank ?? NODE_RANK ?? PET_NODE_RANK ?? SLURM_NODEID;
    const endpoint =
      given.rendezvousEndpoint ??
      PET_RDZV_ENDPOINT ??
      (MASTER_ADDR ? `${MASTER_ADDR}:${MASTER_PORT ?? "29500"}` : undefined);
    if (nodeRank === undefined || endpoint === undefined) {
      throw new MpoptError(
        "E_USAGE",
        `Expected the node's rank and a rendezvous endpoint for a plan on ${nodes} nodes but found ${nodeRank === undefined ? "no rank" : "no endpoint"}.`,
        ["Give --node-rank and --rendezvous HOST:PORT, or set NODE_RANK and MASTER_ADDR, on every node."],
      );
    }
    return {
      executable: python,
      argv: [
        ...[...module, "--nnodes", String(nodes), "--node-rank", String(nodeRank)],
        ...["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", "mpopt", ...ranks],
      ],
      namesPython: false,
    };
  },
};
