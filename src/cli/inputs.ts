import { type Cluster, type Model, MpoptError, type Plan } from "../contracts/index.js";
import { loadInputs } from "../plan/sources.js";

export { type LoadedInputs, loadInputs } from "../plan/sources.js";

/** Like `loadInputs`, for commands that cannot do without. @throws MpoptError E_USAGE naming what is missing. */
export function requireInputs(
  plan: Plan,
  options: Record<string, unknown>,
): { model: Model; cluster: Cluster } {
  const { model, cluster, remarks } = loadInputs(plan, options);
  if (model && cluster) return { model, cluster };
  throw new MpoptError("E_USAGE", remarks[0]!, remarks.slice(1));
}
