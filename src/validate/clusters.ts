import { clusterPreset, evenLevels } from "../cluster/index.js";
import type { Cluster, Level } from "../contracts/index.js";
import type { Hardware } from "./hardware.js";
import { underSoftware } from "./softwareCluster.js";
import type { ClusterOf, RunInputs, TemplateOf } from "./types.js";

/** Nodes of a template: two of the widest domains that a preset has, so that every level is there. */
const templateNodes = 36;

/** The preset's nodes with what is known of a kind's network; a template for clusters of any size. */
export function hardwareCluster(hardware: Hardware, devicesPerNode: number): Cluster {
  const preset = clusterPreset(`${hardware.part}:${devicesPerNode}x${templateNodes}`);
  const { networkBytesPerSecond: value, source } = hardware;
  if (value === undefined) return preset;
  const { levels } = preset.topology;
  const network = levels.at(-1)!;
  const { collectives: _curves, ...priced } = network;
  const bytesPerSecond = { value, provenance: "assumed" as const, source: source ?? "" };
  return {
    ...preset,
    topology: {
      levels: [...levels.slice(0, -1), { ...priced, link: { ...network.link!, bytesPerSecond } }],
    },
  };
}

function largestDivisorUpTo(n: number, limit: number): number {
  for (let divisor = Math.min(n, limit); divisor > 1; divisor--) if (n % divisor === 0) return divisor;
  return 1;
}

/**
 * A cluster like the template with another number of nodes and devices in each. Groups between the nodes and the
 * outermost level are as large as divides the nodes, up to the template's.
 * @returns undefined where the template says nothing of links between nodes.
 */
export function sizedCluster(template: Cluster, devicesPerNode: number, nodes: number): Cluster | undefined {
  const [innermost, ...outer] = evenLevels(template);
  const levels: Level[] = [sized(innermost!, devicesPerNode)];
  let left = nodes;
  for (const [i, level] of outer.entries()) {
    const members = i === outer.length - 1 ? left : largestDivisorUpTo(left, level.groupSize);
    if (members > 1) levels.push(sized(level, members));
    left /= members;
  }
  if (left > 1) return undefined;
  const device = template.devices[0]!;
  const cluster = {
    ...template,
    devices: [{ ...device, count: devicesPerNode * nodes }],
    topology: { levels },
  };
  templates.set(cluster, template);
  return cluster;
}

const templates = new WeakMap<Cluster, Cluster>();

/** The template that a cluster was sized from: clusters of one template have the same nodes. */
export function templateOfSized(cluster: Cluster): Cluster {
  return templates.get(cluster) ?? cluster;
}

function sized(level: Level, groupSize: number): Level {
  const { groupSizes: _sizes, links: _links, memberLinks: _members, ...even } = level;
  return { ...even, groupSize };
}

/** Clusters of any size for one template, each made once. */
export class SizedClusters {
  readonly #template: Cluster;
  readonly #sizes = new Map<string, Cluster | undefined>();

  constructor(template: Cluster) {
    this.#template = template;
  }

  get(devicesPerNode: number, nodes: number): Cluster | undefined {
    const key = `${devicesPerNode}x${nodes}`;
    if (!this.#sizes.has(key)) this.#sizes.set(key, sizedCluster(this.#template, devicesPerNode, nodes));
    return this.#sizes.get(key);
  }
}

/**
 * Clusters of each kind from its template, equal sizes sharing one object.
 * @param templateOf asked once a kind; by default the preset with what is known of the kind's hardware.
 */
export function clustersOfKinds(templateOf: TemplateOf = presetTemplate): ClusterOf {
  const kinds = new Map<string, SizedClusters>();
  return (run) => {
    let sizes = kinds.get(run.kind);
    if (!sizes) {
      sizes = new SizedClusters(templateOf(run));
      kinds.set(run.kind, sizes);
    }
    return (
      sizes.get(run.devicesPerNode, run.nodes) ??
      `the cluster of kind ${run.kind} says nothing of links between ${run.nodes} nodes`
    );
  };
}

/** What a run is priced on before anything is fitted: its plan's cluster, else the preset under its software. */
export function presetTemplate({ hardware, software, devicesPerNode, planned }: RunInputs): Cluster {
  if (planned) return planned.cluster;
  return underSoftware(hardwareCluster(hardware, devicesPerNode), software, hardware.part);
}
