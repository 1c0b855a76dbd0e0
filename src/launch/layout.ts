import type { Plan } from "../contracts/index.js";

/**
 * How the plan's ranks lie on nodes: as many on each as its devices allow, the same on all, because torchrun
 * starts equal nodes.
 */
export function nodeLayout(plan: Plan): { world: number; nodes: number; ranksPerNode: number } {
  const world = plan.mesh.sizes.reduce((product, size) => product * size, 1);
  let ranksPerNode = Math.min(world, plan.cluster.devicesPerNode);
  while (world % ranksPerNode) ranksPerNode -= 1;
  return { world, nodes: world / ranksPerNode, ranksPerNode };
}
