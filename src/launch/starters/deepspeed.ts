import { MpoptError } from "../../contracts/index.js";
import { givenEndpoint, masterPort, requireHosts, requireProgram } from "./common.js";
import type { Starter } from "./starter.js";

/** DeepSpeed's launcher, which reaches other nodes by ssh: one mpopt starts the ranks of all of them. */
export const deepspeed: Starter = {
  name: "deepspeed",
  async start(request) {
    const { nodes, ranksPerNode } = request.layout;
    const { environment, hostfile } = request;
    const executable = requireProgram("deepspeed", environment, "Install it: pip install deepspeed");
    const hosts = requireHosts(request);
    if (nodes > 1 && !hosts) {
      throw new MpoptError(
        "E_USAGE",
        `Expected a file of ${nodes} hosts for deepspeed but found no --hostfile.`,
        [`One line a host: worker-1 slots=${ranksPerNode}`],
      );
    }
    const address = givenEndpoint(request).host;
    const slots = Array.from({ length: ranksPerNode }, (_, slot) => slot).join(",");
    return {
      executable,
      argv: [
        // It takes either the hosts with their slots or numbers.
        ...(hosts && hostfile !== undefined
          ? ["--hostfile", hostfile, "--include", hosts.map((host) => `${host}:${slots}`).join("@")]
          : ["--num_nodes", String(nodes), "--num_gpus", String(ranksPerNode)]),
        ...(address === undefined ? [] : ["--master_addr", address]),
        ...["--master_port", await masterPort(request)],
        // It would put an argument of its own before the script's.
        "--no_local_rank",
      ],
      namesPython: false,
    };
  },
};
