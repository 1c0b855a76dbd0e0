import { execFile } from "node:child_process";
import { MpoptError } from "../../contracts/index.js";
import { givenEndpoint, masterPort, requireHosts, requireProgram } from "./common.js";
import type { Starter } from "./starter.js";

/** Variables that the ranks of other nodes get from this one: what Python and communication libraries read. */
const passedOn = /^(PATH|LD_LIBRARY_PATH|VIRTUAL_ENV|(PYTHON|MPOPT_|OMP_|NCCL_|GLOO_|UCX_|CUDA_|TORCH_).*)$/;

/** Open MPI, or MPICH and its kin (Hydra): one mpopt starts the ranks of all nodes. */
export const mpirun: Starter = {
  name: "mpirun",
  async start(request) {
    const { nodes, ranksPerNode, world } = request.layout;
    const { environment, hostfile } = request;
    const executable = requireProgram("mpirun", environment, "Install Open MPI or MPICH.");
    const hosts = requireHosts(request);
    const masterAddress =
      givenEndpoint(request).host ?? hosts?.[0] ?? (nodes === 1 ? "127.0.0.1" : undefined);
    if (masterAddress === undefined) {
      throw new MpoptError(
        "E_USAGE",
        `Expected the first host of ${nodes} for mpirun but found neither --hostfile nor --rendezvous.`,
        ["Give --hostfile FILE with a host a line, or --rendezvous HOST:PORT."],
      );
    }
    const names = Object.keys(environment).filter((name) => passedOn.test(name));
    const openMpi = await isOpenMpi(executable, environment);
    const where = hosts && hostfile !== undefined ? hosts : undefined;
    return {
      executable,
      argv: openMpi
        ? [
            ...["-np", String(world), "--map-by", `ppr:${ranksPerNode}:node`],
            ...(where ? ["--host", where.map((host) => `${host}:${ranksPerNode}`).join(",")] : []),
            // More ranks than cores: ranks on processors share them.
            ...(request.plan.cluster.deviceType === "cpu" ? ["--oversubscribe"] : []),
            ...["--bind-to", "none"],
            ...names.flatMap((name) => ["-x", name]),
          ]
        : [
            ...["-np", String(world), "-ppn", String(ranksPerNode)],
            ...(where ? ["-hosts", where.join(",")] : []),
            ...(names.length > 0 ? ["-genvlist", names.join(",")] : []),
          ],
      namesPython: true,
      masterAddress,
      masterPort: await masterPort(request),
    };
  },
};

function isOpenMpi(executable: string, env: NodeJS.ProcessEnv): Promise<boolean> {
  return new Promise((done) => {
    execFile(executable, ["--version"], { env, timeout: 20_000 }, (_error, stdout) =>
      done(/Open ?MPI|OpenRTE|PRRTE/i.test(stdout)),
    );
  });
}
