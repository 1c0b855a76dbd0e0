import { MpoptError, type Plan } from "../contracts/index.js";

/** Devices of a plan that are left, by their ranks in it. */
export interface Left {
  ranks: number[];
  /** What is gone, in words. */
  without: string;
}

/**
 * What is left without nodes and ranks: `node3,node5-7` or `3,5-7` by the index of the node (from 0, as `--node-rank`
 * counts), `rank12` for one device. A node of several that has lost a device is left out whole: ranks take whole nodes.
 * @throws MpoptError E_USAGE for what the plan does not have, and where nothing is left.
 */
export function leftWithout(plan: Plan, text: string): Left {
  const { devices, devicesPerNode } = plan.cluster;
  const nodes = Math.ceil(devices / devicesPerNode);
  const gone = new Set<number>();
  for (const word of text.split(",")) {
    const match = /^(node|rank)?(\d+)(?:-(?:node|rank)?(\d+))?$/.exec(word.trim());
    const [first, last] = [Number(match?.[2]), Number(match?.[3] ?? match?.[2])];
    const kind = match?.[1] ?? "node";
    const most = kind === "node" ? nodes : devices;
    if (!match || first > last || last >= most) {
      throw new MpoptError(
        "E_USAGE",
        `Expected nodes such as node1 or 1-2, of 0 to ${nodes - 1}, or ranks such as rank3, of 0 to ${devices - 1}, for --without but found "${word}".`,
      );
    }
    for (let i = first; i <= last; i++) {
      const whole = kind === "node" || nodes > 1;
      const start = kind === "node" ? i * devicesPerNode : i;
      const node = Math.floor(start / devicesPerNode);
      if (!whole) gone.add(start);
      else for (let k = 0; k < devicesPerNode; k++) gone.add(node * devicesPerNode + k);
    }
  }
  const ranks = plan.rankTable.map((_, rank) => rank).filter((rank) => !gone.has(rank));
  if (ranks.length > 0) return { ranks, without: text };
  throw new MpoptError("E_USAGE", `Expected some of ${devices} devices to be left but --without names all.`);
}

/**
 * The first so many devices.
 * @throws MpoptError E_USAGE for more than the plan has.
 */
export function leftDevices(plan: Plan, count: number): Left {
  const { devices } = plan.cluster;
  if (count > devices) {
    throw new MpoptError(
      "E_USAGE",
      `Expected at most the plan's ${devices} devices to be left but found ${count}.`,
    );
  }
  return {
    ranks: Array.from({ length: count }, (_, rank) => rank),
    without: `all but ${count} of ${devices} devices`,
  };
}
