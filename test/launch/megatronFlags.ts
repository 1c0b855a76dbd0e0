import type { Plan } from "../../src/contracts/index.js";
import { exporters } from "../../src/launch/index.js";

/** Flags of args.txt: one a line, values behind it, in the shell's single quotes where they need them. */
export function megatronFlags(plan: Plan): Map<string, string> {
  const text = exporters.megatron!.files(plan)["args.txt"]!;
  return new Map(
    text
      .trimEnd()
      .split("\n")
      .map((line) => {
        const [name, value = ""] = line.split(/ (.*)/s);
        return [name!, value.replace(/^'(.*)'$/s, "$1")];
      }),
  );
}

/** Layout grammar of Megatron-LM, from its user guide: stages by `|`, `x*n` and `(xy)*n` repeat, commas are cosmetic. */
export function parseLayout(layout: string): string[] {
  let text = layout.replaceAll(",", "");
  for (;;) {
    const next = text
      .replace(/\(([^()]*)\)\*(\d+)/, (_all, group: string, n: string) => group.repeat(Number(n)))
      .replace(/([EtmL|])\*(\d+)/, (_all, symbol: string, n: string) => symbol.repeat(Number(n)));
    if (next === text) break;
    text = next;
  }
  return text.split("|");
}
