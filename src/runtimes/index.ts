import type { Runtime } from "../contracts/index.js";
import { accelerate } from "./accelerate.js";
import { any } from "./any.js";
import { deepspeed } from "./deepspeed.js";
import { jax } from "./jax.js";
import { megatron } from "./megatron.js";
import { portable } from "./portable.js";
import type { RuntimeDescription, ScheduleCounts } from "./runtime.js";
import { torch } from "./torch.js";
import { torchtitan } from "./torchtitan.js";

export { type Division, type RuntimeDescription, type ScheduleCounts, searchedSchedule } from "./runtime.js";

const descriptions: Readonly<Record<Runtime, RuntimeDescription>> = {
  portable,
  megatron,
  torch,
  torchtitan,
  deepspeed,
  accelerate,
  jax,
  any,
};

/** What a runtime executes. */
export function describeRuntime(runtime: Runtime): RuntimeDescription {
  return descriptions[runtime];
}

/** Why a runtime does not execute a schedule of such counts, in a clause that follows "but"; undefined where it does. */
export function scheduleRefusal(runtime: Runtime, name: string, counts: ScheduleCounts): string | undefined {
  const { schedules, refusesSchedule } = descriptions[runtime];
  if (!schedules.includes(name)) return `runtime ${runtime} executes ${schedules.join(", ")}`;
  return refusesSchedule?.(name, counts);
}
