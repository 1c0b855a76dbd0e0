import { MpoptError } from "../../contracts/index.js";
import { givenEndpoint, masterPort, requireProgram } from "./common.js";
import type { Starter } from "./starter.js";

/** Slurm: one mpopt starts the ranks of all nodes, inside an allocation (`salloc`, `sbatch`) or in one of its own. */
export const srun: Starter = {
  name: "srun",
  async start(request) {
    const { nodes, ranksPerNode, world } = request.layout;
    const { environment, without = [] } = request;
    const executable = requireProgram("srun", environment, "Launch on a machine of a Slurm cluster.");
    const allocated = environment.SLURM_JOB_NUM_NODES ?? environment.SLURM_NNODES;
    if (allocated !== undefined && Number(allocated) < nodes) {
      throw new MpoptError(
        "E_LAUNCH",
        `Expected ${nodes} nodes of ${ranksPerNode} ranks for the plan but the Slurm job has ${allocated}.`,
        ["Allocate as many, or plan for what there is: mpopt replan."],
      );
    }
    return {
      executable,
      argv: [
        ...[`--nodes=${nodes}`, `--ntasks=${world}`, `--ntasks-per-node=${ranksPerNode}`],
        // Ranks fill node by node, which is the plan's order; a task that fails ends them all.
        ...["--distribution=block:block", "--kill-on-bad-exit=1", "--unbuffered"],
        ...(without.length > 0 ? [`--exclude=${without.join(",")}`] : []),
      ],
      namesPython: true,
      // On several nodes a rank finds the first host in Slurm's list of them.
      masterAddress: givenEndpoint(request).host ?? (nodes === 1 ? "127.0.0.1" : undefined),
      masterPort: await masterPort(request),
    };
  },
};
