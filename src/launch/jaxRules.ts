import { axisSize, type OperatorPlacement, type Plan } from "../contracts/index.js";

/** Mesh axis of each of a parameter's last dimensions; empty for one that is whole on every tensor rank. */
export type Spec = (string | null)[];

/** Parameters whose path matches lie so. */
export interface Rule {
  /** A regular expression over paths with `/` between names. */
  pattern: string;
  spec: Spec;
}

/**
 * How an operator's weight lies over tensor ranks: `column` split by output features, `row` by input features,
 * `vocabulary` by rows of a table, `whole` on every rank.
 */
type Role = "column" | "row" | "vocabulary" | "whole";

/**
 * Rules for the parameters of all modules that the plan's operators name, first match first; none without tensor
 * parallelism, under which every parameter is whole. Leaves are named as in JAX's libraries: `kernel` [inputs, outputs],
 * `weight` as the plan's model holds it, `embedding` [vocabulary, features], `bias`.
 */
export function parameterRules(plan: Plan): Rule[] {
  const rules = new Map<string, Rule>();
  for (const rule of allRules(plan)) if (!rules.has(rule.pattern)) rules.set(rule.pattern, rule);
  return [...rules.values()];
}

/** Placements that rules cannot say, one sentence each. */
export function lostRules(plan: Plan): string[] {
  if (axisSize(plan, "tensor") === 1) return [];
  const lost = new Set<string>();
  for (const operator of plan.operators) {
    const { inputs, outputs } = tensorPlacement(operator);
    if ([...inputs.slice(0, 1), ...outputs].includes("Shard(0)")) {
      lost.add(
        `Operator ${operator.operator} splits the batch over tensor ranks, but plan_sharding.py splits features.`,
      );
    } else if (roleOf(operator) === undefined && operator.modules.length > 0) {
      lost.add(
        `Operator ${operator.operator} turns ${inputs.join(", ")} into ${outputs.join(", ")}, for which plan_sharding.py has no rule.`,
      );
    }
  }
  const specs = new Map<string, string>();
  for (const { pattern, spec } of allRules(plan)) {
    const text = JSON.stringify(spec);
    if ((specs.get(pattern) ?? text) !== text) {
      lost.add(
        `Parameters ${pattern} lie differently in different layers, but plan_sharding.py has one rule.`,
      );
    }
    specs.set(pattern, text);
  }
  return [...lost];
}

/** Whether the logits are split over the vocabulary: the last module of the last stage splits its outputs. */
export function splitsLogits({ operators, stages }: Plan): boolean {
  const head = stages.at(-1)?.modules.at(-1);
  return operators.some((operator) => roleOf(operator) === "column" && operator.modules.includes(head ?? ""));
}

function allRules(plan: Plan): Rule[] {
  if (axisSize(plan, "tensor") === 1) return [];
  const named = plan.operators.flatMap(({ modules }) => modules);
  const isContainer = (module: string) => named.some((other) => other.startsWith(`${module}.`));
  const split: Rule[] = [];
  const whole: Rule[] = [];
  for (const operator of plan.operators) {
    const role = roleOf(operator);
    if (role === undefined) continue;
    for (const module of operator.modules) {
      const path = modulePattern(module);
      if (role !== "whole") {
        const part = sharesModule(module, role, plan.operators) ? partPattern(operator.operator) : "";
        split.push(...splitRules(`${path}${part}`, role, operator));
      } else if (!isContainer(module) && !sharesModule(module, role, plan.operators)) {
        whole.push({ pattern: `${path}/`, spec: [] });
      }
    }
  }
  return [...split, ...whole];
}

/** Whether other operators of a module hold its parameters in another way: the two products of experts. */
function sharesModule(module: string, role: Role, operators: OperatorPlacement[]): boolean {
  return operators.some((other) => {
    const its = roleOf(other);
    return other.modules.includes(module) && its !== role && its !== "whole" && its !== undefined;
  });
}

/** The parameters of a module that belong to one of its operators, by the words of its name: `gate_up`, `down`. */
function partPattern(operator: string): string {
  const words = operator.split("_").filter((word) => word !== "" && word !== "proj");
  return `(?:/[0-9]+)?/[^/]*(?:${words.map(escapeRegex).join("|")})[^/]*`;
}

function splitRules(path: string, role: Exclude<Role, "whole">, operator: OperatorPlacement): Rule[] {
  const rule = (leaf: string, spec: Spec): Rule => ({ pattern: `${path}${leaf}$`, spec });
  if (role === "vocabulary") return [rule("/(?:embedding|weight|kernel)", ["tensor", null])];
  const weight = tensorPlacement(operator).inputs[1];
  const column: Spec = [null, "tensor"];
  const row: Spec = ["tensor", null];
  // Most models hold [outputs, inputs]; GPT-2's own form is [inputs, outputs].
  const swapped = role === "column" ? weight === "Shard(1)" : weight === "Shard(0)";
  const inputsFirst = role === "column" ? column : row;
  const outputsFirst = role === "column" ? row : column;
  return [
    rule("(?:/kernel)?", inputsFirst),
    rule("/weight", swapped ? inputsFirst : outputsFirst),
    rule("/bias", role === "column" ? ["tensor"] : []),
  ];
}

/** The module's path; a layer's number is left out where layers are stacked, and may hang on the list's name. */
function modulePattern(module: string): string {
  const parts = module.split(".").map((part) => (part === "*" ? "*" : escapeRegex(part)));
  const path = parts.reduce((text, part) => (part === "*" ? `${text}(?:[/_][0-9]+)?` : `${text}/${part}`));
  return `(?:^|/)${path}`;
}

/** Escapes what a regular expression would read, in a form that Python and JavaScript share. */
function escapeRegex(text: string): string {
  return text.replace(/[^A-Za-z0-9_\u0080-\uffff]/g, "\\$&");
}

function tensorPlacement({ sharding }: OperatorPlacement): { inputs: string[]; outputs: string[] } {
  return sharding.tensor ?? { inputs: [], outputs: [] };
}

function roleOf(operator: OperatorPlacement): Role | undefined {
  const { inputs, outputs } = tensorPlacement(operator);
  const [input, output] = [isFeature(inputs[0]), isFeature(outputs[0])];
  if (outputs[0] === "Partial") return input ? "row" : "vocabulary";
  if (input && output) return "whole";
  // A table split by features is an embedding's, whose second dimension that is.
  if (output) return operator.block === "embedding" ? undefined : "column";
  const splits = inputs.some((placement) => isFeature(placement) || placement === "Shard(0)");
  return splits ? undefined : "whole";
}

/** Whether a placement splits an activation [batch, sequence, features...] along features. */
function isFeature(placement: string | undefined): boolean {
  return placement !== undefined && /^Shard\((?:[2-9]|\d\d+)\)$/.test(placement);
}
