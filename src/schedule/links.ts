import { MpoptError } from "../contracts/index.js";
import type { CompiledSchedule } from "./compile.js";

/** One way from a stage to its neighbour. */
export interface BoundaryTransfer {
  bytes: number;
  /** From the moment the last byte has left until the receiver may use it. */
  latencySeconds: number;
  /** Links on the way, as indices into `Network.links`; empty where only the latency counts. */
  links: readonly number[];
}

/**
 * The links that transfers run on. A link is one direction of one wire: a full-duplex network card is two.
 *
 * Transfers that are on a link at once share it equally, whatever their size and age, and a transfer that
 * crosses several links runs at the slowest of its shares. That is what network cards do: an RDMA card serves
 * the queue pairs of its connections in turns, a packet or a message chunk each, and NCCL keeps queue pairs of
 * their own for each pair of ranks; the schedulers of TCP are fair in the same way. Inside one connection (one
 * direction between two ranks) order is kept and the next transfer waits for the one before, as NCCL's sends to
 * one peer do. First-come first-served between connections would instead let a rounding error in a start time
 * decide who waits for whom.
 */
export interface Network {
  links: readonly { bytesPerSecond: number }[];
  /** One entry a boundary of `boundariesOf`: the way of activations and that of gradients. */
  boundaries: readonly { activation: BoundaryTransfer; gradient: BoundaryTransfer }[];
}

/** A network as flat arrays. Way w is 2 x boundary, plus 1 for gradients. */
export interface FlatNetwork {
  readonly bytes: Float64Array;
  readonly latencySeconds: Float64Array;
  /** Time on the way's links with nobody else there. */
  readonly aloneSeconds: Float64Array;
  readonly linksOfWay: readonly (readonly number[])[];
  readonly bytesPerSecond: Float64Array;
  /** Connections that send anything over each link. */
  readonly connectionsOfLink: readonly (readonly number[])[];
  /** True where transfers of different connections can meet on a link. */
  readonly shared: boolean;
}

/**
 * Lays a network out for the transfers of a schedule.
 * @throws MpoptError E_USAGE for boundaries, links or numbers that do not fit.
 */
export function flattenNetwork(network: Network, schedule: CompiledSchedule): FlatNetwork {
  const { boundaries, transfers } = schedule;
  if (network.boundaries.length !== boundaries.length) {
    throw new MpoptError(
      "E_USAGE",
      `Expected ${boundaries.length} boundaries for the network but found ${network.boundaries.length}.`,
    );
  }
  network.links.forEach(({ bytesPerSecond }, l) => {
    if (!(bytesPerSecond > 0)) {
      throw new MpoptError(
        "E_USAGE",
        `Expected more than 0 for bytesPerSecond of link ${l} but found ${bytesPerSecond}.`,
      );
    }
  });
  const ways = network.boundaries.flatMap(({ activation, gradient }) => [activation, gradient]);
  ways.forEach(({ bytes, latencySeconds, links }, w) => {
    const where = `the ${w % 2 ? "gradient" : "activation"} of boundary ${w >> 1}`;
    for (const [name, value] of [
      ["bytes", bytes],
      ["latencySeconds", latencySeconds],
    ] as const) {
      if (!(value >= 0 && value < Number.POSITIVE_INFINITY)) {
        throw new MpoptError("E_USAGE", `Expected at least 0 for ${name} of ${where} but found ${value}.`);
      }
    }
    const wrong = links.find((l) => !network.links[l]);
    if (wrong !== undefined) {
      throw new MpoptError(
        "E_USAGE",
        `Expected links from 0 to ${network.links.length - 1} for ${where} but found ${wrong}.`,
      );
    }
  });

  const bytesPerSecond = Float64Array.from(network.links, (link) => link.bytesPerSecond);
  const linksOfWay = ways.map(({ links }) => [...new Set(links)]);
  const users = network.links.map(() => new Set<number>());
  for (let t = 0; t < transfers.length; t++) {
    const way = 2 * transfers.boundary[t]! + transfers.gradient[t]!;
    if (ways[way]!.bytes > 0) for (const l of linksOfWay[way]!) users[l]!.add(transfers.connection[t]!);
  }
  return {
    bytes: Float64Array.from(ways, ({ bytes }) => bytes),
    latencySeconds: Float64Array.from(ways, ({ latencySeconds }) => latencySeconds),
    aloneSeconds: Float64Array.from(ways, ({ bytes }, w) =>
      linksOfWay[w]!.reduce((slowest, l) => Math.max(slowest, bytes / bytesPerSecond[l]!), 0),
    ),
    linksOfWay,
    bytesPerSecond,
    connectionsOfLink: users.map((set) => [...set]),
    shared: users.some((set) => set.size > 1),
  };
}
