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

/** Whether row r of the rank table holds the coordinates of rank r where the last axis of the mesh counts fastest. */
export function isRowMajor({ mesh, rankTable }: Pick<Plan, "mesh" | "rankTable">): boolean {
  const { sizes } = mesh;
  if (rankTable.length !== sizes.reduce((product, size) => product * size, 1)) return false;
  return rankTable.every((row, rank) => {
    if (row.length !== sizes.length) return false;
    let rest = rank;
    for (let axis = sizes.length - 1; axis >= 0; axis--) {
      const size = sizes[axis]!;
      if (row[axis] !== rest % size) return false;
      rest = Math.floor(rest / size);
    }
    return true;
  });
}
