import { axisSize, type Plan } from "../contracts/index.js";

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

/**
 * The order that launchers count ranks in, outermost first: Megatron-LM (`tp-cp-ep-dp-pp`), torchtitan (`pp, dp, cp, tp`),
 * DeepSpeed (`pipe, data, model` of deepspeed/runtime/pipe/topology.py; `data_parallel, tensor_parallel` of
 * `_init_tp_mesh_device` in deepspeed/utils/groups.py) and Accelerate (`dp_replicate, dp_shard, cp, sp, tp`).
 */
const rankOrder: readonly Plan["mesh"]["axes"][number][] = ["pipeline", "data", "context", "tensor"];

/** What a launcher that counts ranks in that order loses of a plan's ranks. */
export function lostRankOrder(plan: Plan, launcher: string): string[] {
  const axes = plan.mesh.axes.filter((axis) => axisSize(plan, axis) > 1);
  if (axes.join() !== rankOrder.filter((axis) => axes.includes(axis)).join()) {
    return [
      `Ranks are ordered by ${plan.mesh.axes.join(", ")}, but ${launcher}'s order is ${rankOrder.join(", ")}.`,
    ];
  }
  if (isRowMajor(plan)) return [];
  return [`The rank table does not number the mesh row by row, as ${launcher} does.`];
}

/** What a launcher that splits operators over tensor ranks by heads and features loses of a plan's shardings. */
export function lostPlacements(plan: Plan, launcher: string): string[] {
  if (axisSize(plan, "tensor") === 1) return [];
  const other = plan.operators.find(
    ({ operator, sharding }) =>
      sharding.tensor?.outputs.includes("Shard(0)") ||
      (operator === "attention" && sharding.tensor && !sharding.tensor.outputs[0]?.startsWith("Shard")),
  );
  if (!other) return [];
  return [
    `Operator ${other.operator} of block ${other.block} is not split over tensor ranks as ${launcher} splits it, by heads and features.`,
  ];
}
