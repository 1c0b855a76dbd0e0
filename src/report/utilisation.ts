import type { Plan } from "../contracts/index.js";
import { formatPercent } from "./format.js";

/**
 * Names the convention of MFU and HFU, and gives the other one: published figures count causal attention half (Dao,
 * FlashAttention-2, 2023; Megatron-Bridge since 25.09) or whole (Chowdhery et al., PaLM, 2022, appendix B; Narayanan et
 * al., SC'21; llm-foundry). Undefined where both are the same, or the plan does not say.
 */
export function conventionSentence({ estimate }: Plan): string | undefined {
  const { mfu, hfu, fullAttention } = estimate;
  if (!fullAttention || formatPercent(mfu) === formatPercent(fullAttention.mfu)) return undefined;
  return (
    `MFU ${formatPercent(mfu)} and HFU ${formatPercent(hfu)} count causal attention half, as it is computed; ` +
    `with attention over all pairs of tokens, as PaLM and Megatron-LM count, they are ` +
    `${formatPercent(fullAttention.mfu)} and ${formatPercent(fullAttention.hfu)}.`
  );
}
