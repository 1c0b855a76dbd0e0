import type { Plan } from "../contracts/index.js";
import { fullestBytes } from "../plan/baselines.js";
import { moneyOf } from "../plan/money.js";
import type { WhatIf } from "../plan/whatIf.js";
import { formatChange, formatCount, formatDollars, formatPercent, formatSeconds } from "./format.js";
import { planSummary } from "./frontier.js";
import { type Column, renderTable } from "./table.js";
import type { TerminalOptions } from "./terminal.js";

/** What-if answers in --json: the change, the new plan in summary with its figures relative to the base's, or why none. */
export function whatIfDocument(base: Plan, answers: readonly WhatIf[]) {
  return answers.map(({ name, change, plan, choices, reason }) => ({
    name,
    change,
    ...(plan
      ? {
          ...planSummary(plan),
          relative: {
            stepSeconds: plan.estimate.stepSeconds / base.estimate.stepSeconds,
            tokensPerSecond: plan.estimate.tokensPerSecond / base.estimate.tokensPerSecond,
          },
          choices,
        }
      : { reason }),
  }));
}

interface Row {
  name: string;
  plan?: Plan;
  words: string;
}

/** What-if answers as a table for the terminal, the base plan first. */
export function renderWhatIf(base: Plan, answers: readonly WhatIf[], options: TerminalOptions): string {
  const rows: Row[] = [
    { name: "this plan", plan: base, words: "" },
    ...answers.map(({ name, plan, choices, reason }) => ({
      name,
      ...(plan && { plan }),
      words: plan
        ? choices.map(({ field, before, after }) => `${field} ${before} → ${after}`).join(", ") ||
          "the same plan"
        : (reason ?? ""),
    })),
  ];
  const figure = (read: (plan: Plan) => string) => (row: Row) => (row.plan ? read(row.plan) : "–");
  const against = (read: (plan: Plan) => number) => (row: Row) =>
    row.plan && row.plan !== base ? formatChange(read(row.plan) / read(base) - 1) : "";
  const columns: (Column<Row> & { priced?: boolean })[] = [
    { title: "with", cell: ({ name }) => name },
    { title: "step", right: true, cell: figure((plan) => formatSeconds(plan.estimate.stepSeconds)) },
    { title: "", right: true, cell: against((plan) => plan.estimate.stepSeconds) },
    { title: "tokens/s", right: true, cell: figure((plan) => formatCount(plan.estimate.tokensPerSecond)) },
    { title: "", right: true, cell: against((plan) => plan.estimate.tokensPerSecond) },
    { title: "MFU", right: true, cell: figure((plan) => formatPercent(plan.estimate.mfu)) },
    { title: "GiB", right: true, cell: figure((plan) => (fullestBytes(plan.estimate) / 2 ** 30).toFixed(1)) },
    {
      title: "$/Mtoken",
      right: true,
      priced: true,
      cell: figure((plan) => {
        const money = moneyOf(plan);
        return money ? formatDollars(money.perMillionTokens) : "–";
      }),
    },
    { title: "changes", cell: ({ words }) => words },
  ];
  const priced = rows.some(({ plan }) => plan && moneyOf(plan));
  const shown = columns.filter((column) => priced || !column.priced);
  return renderTable("What if: planned again, each change by itself", shown, rows, options);
}
