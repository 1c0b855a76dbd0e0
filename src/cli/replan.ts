import {
  MpoptError,
  type Plan,
  readDocument,
  serialize,
  version,
  writeFileAtomic,
} from "../contracts/index.js";
import { lossyFor } from "../launch/index.js";
import { type Left, leftDevices, leftWithout } from "../plan/left.js";
import { stateMovement } from "../plan/movement.js";
import { replan } from "../plan/replan.js";
import { renderReplan } from "../report/index.js";
import { defineCommand, positiveInteger } from "./context.js";
import { requireInputs } from "./inputs.js";

/** `mpopt replan PLAN --without node3`: the best plan of the same job for what is left, and what must move. */
export const replanCommand = () =>
  defineCommand(
    "replan",
    "plan the same job for the devices that are left, and say what must move between them",
    "mpopt replan plan.json --without node3 -o rest.json",
    async (context, [path], options) => {
      const before = readDocument("plan", path!);
      const left = leftOf(before, options);
      const { model, cluster } = requireInputs(before, options);
      const { plan, released } = await replan(before, {
        ...{ model, cluster, devices: left.ranks.length, version, lossyFor },
        seed: context.seed,
        signal: context.signal,
        onProgress: context.progress,
      });
      const former = plan.rankTable.map((_, rank) => left.ranks[rank]);
      const movement = stateMovement(before, plan, model, former);
      const output = options.output as string | undefined;
      if (output !== undefined) writeFileAtomic(output, serialize(plan));
      context.print(renderReplan(before, plan, movement, left.ranks.length, released));
      if (output !== undefined) context.print(`\nWritten to ${output}.`);
      context.result({ plan, without: left.without, left: left.ranks, released, movement });
    },
  )
    .argument("<plan>", "the plan, a file that mpopt plan wrote")
    .option("--without <what>", "nodes that are gone, such as node3,node5-7 (from 0), or ranks such as rank2")
    .option("--devices <n>", "devices that are left, the plan's first", positiveInteger)
    .option("--nodes <n>", "nodes that are left, the plan's first", positiveInteger)
    .option("--model <model>", "model (default: the plan's own source)")
    .option("--cluster <cluster>", "the whole cluster (default: the plan's own source)")
    .option("-o, --output <file>", "where to write the new plan");

/** @throws MpoptError E_USAGE unless exactly one option says what is left. */
function leftOf(plan: Plan, options: Record<string, unknown>): Left {
  const without = options.without as string | undefined;
  const devices = options.devices as number | undefined;
  const nodes = options.nodes as number | undefined;
  const given = [without, devices, nodes].filter((each) => each !== undefined);
  if (given.length !== 1) {
    const found = given.length === 0 ? "none" : `${given.length}`;
    throw new MpoptError("E_USAGE", `Expected one of --without, --devices and --nodes but found ${found}.`);
  }
  if (without !== undefined) return leftWithout(plan, without);
  return leftDevices(plan, devices ?? nodes! * plan.cluster.devicesPerNode);
}
