import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, test } from "vitest";
import { findPython } from "../../src/launch/index.js";
import { examples, exportedPlan } from "./compare.js";
import { makePlan } from "./planFactory.js";

const python = await findPython();
const withTorch = describe.skipIf(!python?.torch);
if (!python?.torch) console.warn("Skipped examples/own_model.py: no Python with PyTorch (see MPOPT_PYTHON).");

const folder = mkdtempSync(join(tmpdir(), "mpopt own model "));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Starts the ranks as an exported folder says, with nothing of mpopt but what is in it. */
async function train(name: string, wishes: Parameters<typeof makePlan>[0], ...options: string[]) {
  exportedPlan(folder, name, makePlan(wishes));
  const loopback = Object.entries(networkInterfaces()).find(([, all]) => all?.some((each) => each.internal));
  const env = {
    PATH: process.env.PATH,
    MPOPT_PYTHON: python!.executable,
    PYTHONDONTWRITEBYTECODE: "1",
    ...(loopback ? { GLOO_SOCKET_IFNAME: loopback[0] } : {}),
  };
  const argv = [join(examples, "own_model.py"), "--steps", "6", ...options];
  const limits = { cwd: folder, env, timeout: 400_000 };
  const { stdout } = await promisify(execFile)(join(folder, name, "run.sh"), argv, limits);
  const lines = (word: string) =>
    stdout
      .split("\n")
      .flatMap((line) => (line.startsWith(word) ? [JSON.parse(line.slice(word.length))] : []));
  return {
    steps: lines("MPOPT_STEP ") as { step: number; seconds: number; loss: number }[],
    done: lines("MPOPT_DONE ") as { steps: number; peakMemoryBytes: number[] }[],
  };
}

withTorch("examples/own_model.py, from an exported folder through torchrun", () => {
  test("trains, and goes on under another plan", async () => {
    const checkpoint = ["--checkpoint", join(folder, "a checkpoint")];
    const first = await train("split", { tensor: 2, sequenceParallel: true, microBatches: 4 }, ...checkpoint);
    const second = await train("pipeline", { pipeline: 2, microBatches: 4 }, ...checkpoint);
    const steps = [...first.steps, ...second.steps];
    expect(steps.map(({ step }) => step)).toEqual(Array.from({ length: 12 }, (_, step) => step));
    expect(first.done).toEqual([expect.objectContaining({ steps: 6 })]);
    expect(second.done[0]!.peakMemoryBytes).toHaveLength(2);
    const alone = await train("alone", { microBatches: 4 }, "--steps", "12");
    for (const [i, { loss }] of alone.steps.entries()) {
      expect(Math.abs(loss - steps[i]!.loss), `step ${i}`).toBeLessThan(1e-4);
    }
    expect(steps[11]!.loss).toBeLessThan(steps[0]!.loss - 0.1);
  }, 1_210_000);
});
