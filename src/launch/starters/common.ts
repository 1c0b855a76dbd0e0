import { createServer } from "node:net";
import { MpoptError, readText } from "../../contracts/index.js";
import { onPath } from "../python.js";
import type { StarterName, StartRequest } from "./starter.js";

/** What PyTorch's own launcher takes where nothing else is said. */
const usualPort = "29500";

/** The starter's program. @throws MpoptError E_MISSING_TOOL. */
export function requireProgram(name: StarterName, environment: NodeJS.ProcessEnv, remedy: string): string {
  const found = onPath(name, environment.PATH);
  if (found) return found;
  throw new MpoptError("E_MISSING_TOOL", `Expected ${name} on the PATH but found none.`, [remedy]);
}

/** Where the ranks meet, as far as it is said. @throws MpoptError E_USAGE for something other than host:port. */
export function givenEndpoint({ rendezvousEndpoint, environment }: StartRequest): {
  host?: string;
  port?: string;
} {
  const { MASTER_ADDR: host, MASTER_PORT: port } = environment;
  if (rendezvousEndpoint === undefined) return { ...(host && { host }), ...(port && { port }) };
  const match = /^(.+?)(?::(\d+))?$/.exec(rendezvousEndpoint);
  if (!match) {
    throw new MpoptError("E_USAGE", `Expected HOST:PORT for --rendezvous but found "${rendezvousEndpoint}".`);
  }
  return { host: match[1]!, ...(match[2] && { port: match[2] }) };
}

/** The port of rank 0: what is said, one that is free here where all ranks are here, else the usual one. */
export async function masterPort(request: StartRequest): Promise<string> {
  const { port } = givenEndpoint(request);
  return port ?? (request.layout.nodes === 1 ? await freePort() : usualPort);
}

/** A port that is free now; the system does not give it out again at once. */
function freePort(): Promise<string> {
  return new Promise((done, fail) => {
    const server = createServer();
    server.once("error", fail);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => done(String(typeof address === "object" && address ? address.port : usualPort)));
    });
  });
}

/** Hosts of a file with one a line, as DeepSpeed (`host slots=8`) and Open MPI (`host` or `host slots=8`) read it. */
export function readHosts(path: string): { host: string; slots: number | undefined }[] {
  return readText(path)
    .split(/\r?\n/)
    .map((line, i) => ({ line: line.replace(/#.*/, "").trim(), number: i + 1 }))
    .filter(({ line }) => line !== "")
    .map(({ line, number }) => {
      const [host, ...rest] = line.split(/\s+/);
      const slots = rest.map((word) => /^slots=(\d+)$/.exec(word)?.[1]).find((found) => found !== undefined);
      if (rest.some((word) => word.startsWith("slots")) && slots === undefined) {
        throw new MpoptError("E_PARSE", `${path} line ${number}: expected slots=NUMBER but found "${line}".`);
      }
      return { host: host!, slots: slots === undefined ? undefined : Number(slots) };
    });
}

/**
 * The hosts that a plan is started on, from the file; undefined without one.
 * @throws MpoptError E_LAUNCH where they are too few or have too few slots; as `readHosts`.
 */
export function requireHosts({ hostfile, layout, without = [] }: StartRequest): string[] | undefined {
  if (hostfile === undefined) return undefined;
  const { nodes, ranksPerNode } = layout;
  // A rank knows its host by a name that may lack the domain.
  const short = (host: string) => host.split(".")[0];
  const gone = new Set(without.map(short));
  const hosts = readHosts(hostfile).filter(({ host }) => !gone.has(short(host)));
  const fit = hosts.filter(({ slots }) => slots === undefined || slots >= ranksPerNode);
  if (fit.length >= nodes) return fit.slice(0, nodes).map(({ host }) => host);
  throw new MpoptError(
    "E_LAUNCH",
    `Expected ${nodes} hosts with ${ranksPerNode} slots in ${hostfile} for the plan but found ${fit.length}.`,
  );
}
