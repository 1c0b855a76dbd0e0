import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import type { Plan } from "../../src/contracts/index.js";
import { exportPlan, launch } from "../../src/launch/index.js";

const compareScript = fileURLToPath(new URL("compare.py", import.meta.url));
export const examples = fileURLToPath(new URL("../../examples", import.meta.url));

/** What `compare.py` says of one plan. */
export interface Comparison {
  losses: number[];
  /** The unsharded model's. */
  reference: number[];
  /** Elements of its parameters. */
  whole: number;
  /** Parameters and optimizer states held, calls of blocks in the last step, names of the parameters. */
  ranks: { parameters: number; optimizer: number; forwards: number; names: string[] }[];
}

export interface PlanFile {
  plan: Plan;
  path: string;
}

/** The plan alone, as `mpopt plan` writes it. */
export function writePlan(folder: string, name: string, plan: Plan): PlanFile {
  const path = join(folder, `${name}.json`);
  writeFileSync(path, JSON.stringify(plan));
  return { plan, path };
}

/** The plan with all that `mpopt export --to torch` puts beside it. */
export function exportedPlan(folder: string, name: string, plan: Plan): PlanFile {
  exportPlan(plan, "torch", join(folder, name));
  return { plan, path: join(folder, name, "plan.json") };
}

/** Trains all plans of one world size in one start of the ranks: loading PyTorch takes most of the time. */
export async function compare(
  plans: PlanFile[],
  { steps, learningRate }: { steps: number; learningRate: number },
): Promise<Comparison[]> {
  const found: Comparison[] = [];
  const { plan, path } = plans[0]!;
  const record = await launch({
    plan,
    planPath: path,
    command: [
      "python",
      compareScript,
      String(steps),
      String(learningRate),
      ...plans.map((each) => each.path),
    ],
    env: { PYTHONPATH: examples, PYTHONDONTWRITEBYTECODE: "1" },
    timeoutSeconds: 400,
    onLog: (line) => {
      if (line.startsWith("COMPARED ")) found.push(JSON.parse(line.slice("COMPARED ".length)));
    },
  });
  expect(record.lastLines.filter(() => record.exitCode !== 0)).toEqual([]);
  expect(found).toHaveLength(plans.length);
  return found;
}

/** Expects the curves to be equal and to move, or equality would say nothing about the updates. */
export function expectSameCurve({ losses, reference }: Comparison, tolerance: number): void {
  expect(losses).toHaveLength(reference.length);
  expect(Math.max(...reference) - Math.min(...reference)).toBeGreaterThan(0.05);
  for (const [i, loss] of losses.entries()) {
    expect(Math.abs(loss - reference[i]!), `step ${i}`).toBeLessThan(tolerance);
  }
}
