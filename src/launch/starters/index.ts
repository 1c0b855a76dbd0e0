import { MpoptError } from "../../contracts/index.js";
import { deepspeed } from "./deepspeed.js";
import { mpirun } from "./mpirun.js";
import { srun } from "./srun.js";
import type { Starter, StarterName } from "./starter.js";
import { torchrun } from "./torchrun.js";

export { type Start, type Starter, type StarterName, type StartRequest, starterNames } from "./starter.js";

const starters: Readonly<Record<StarterName, Starter>> = { torchrun, srun, mpirun, deepspeed };

/** @throws MpoptError E_USAGE for an unknown name. */
export function findStarter(name: string): Starter {
  if (Object.hasOwn(starters, name)) return starters[name as StarterName];
  const known = Object.keys(starters).join(", ");
  throw new MpoptError("E_USAGE", `Expected one of ${known} for the starter but found "${name}".`);
}
