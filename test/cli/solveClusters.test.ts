import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { planCommand } from "../../src/cli/plan.js";
import { solveCommand } from "../../src/cli/solve.js";
import { clusterPreset, loadCluster } from "../../src/cluster/index.js";
import { serialize } from "../../src/contracts/index.js";
import { clusterOf, link } from "../cluster/mixed.js";
import { captureCommand } from "./captured.js";

const captured = captureCommand();
const solve = (cluster: string, ...args: string[]) =>
  solveCommand().parseAsync(
    ["mini-llama", "--format", "model", "--cost-model", "mpopt", "--cluster", cluster, ...args],
    { from: "user" },
  );

/** Best rate of a part's matrix products in bf16, FLOPs per second. */
function bestProduct(part: string): number {
  const { compute } = clusterPreset(`${part}:1x1`).devices[0]!;
  const tables = compute.filter(({ operator, dtype }) => operator === "gemm" && dtype === "bf16");
  return Math.max(...tables.flatMap(({ points }) => points.map(({ rate }) => rate)));
}

describe("mpopt solve on mixed clusters", () => {
  it("plans over two kinds of host and shows which devices a stage runs on", async () => {
    await solve("h100-sxm:8x2+a100-sxm-80:4x1");
    expect(captured.out).toMatch(/^optimal: /);
    const [, times] =
      /^Layers take (\d\.\d\d) times as long on a100-80 \(devices 16 to 19\) as on h100-sxm, by their best matrix products\.\n$/.exec(
        captured.err,
      )!;
    const [h100, a100] = ["h100-sxm", "a100-80"].map((part) => bestProduct(part));
    expect(Number(times)).toBeCloseTo(h100! / a100!, 2);
    const shown = [...captured.out.matchAll(/^ {2}stage \d+: .* on devices (\d+)–(\d+), /gm)];
    expect(shown.length).toBeGreaterThan(1);
    expect(shown.length).toBe(captured.out.match(/^ {2}stage/gm)!.length);
    // One run of devices after the other.
    for (const [i, [, first]] of shown.entries()) {
      if (i > 0) expect(Number(first)).toBe(Number(shown[i - 1]![2]) + 1);
    }
  });

  it("takes hosts of different size from a preset and from a file alike", async () => {
    await solve("h100-sxm:5x1+h100-sxm:3x1", "--json");
    const { stages, objective, status } = JSON.parse(captured.out);
    expect(status).toBe("optimal");
    expect(Math.max(...stages.flatMap((stage: { devices: number[] }) => stage.devices))).toBeLessThan(8);
    expect(captured.err).toBe("");
    captured.out = "";
    const path = join(captured.folder, "cluster.json");
    writeFileSync(path, serialize(loadCluster("h100-sxm:5x1+h100-sxm:3x1")));
    await solve(path, "--json");
    expect(JSON.parse(captured.out)).toMatchObject({ stages, objective });
  });

  it("takes a slower link for what it is", async () => {
    const objective = async (rate: number) => {
      const path = join(captured.folder, "cluster.json");
      const levels = [
        { name: "node", groupSizes: [2, 3], link: link(300e9, 3e-6) },
        { name: "network", groupSize: 2, memberLinks: [link(40e9, 6e-6), link(rate, 6e-6)] },
      ];
      writeFileSync(path, serialize(clusterOf("h100-sxm:5x1", levels)));
      captured.out = "";
      await solve(path, "--json", "--batch", "16");
      return JSON.parse(captured.out).objective as number;
    };
    expect(await objective(1e9)).toBeGreaterThan(await objective(40e9));
  });

  it.each([
    ["h100-sxm:8x1+a100-80:8x1", "devices of h100-sxm and a100-80"],
    ["h100-sxm:8x1+h100-sxm:6x1", "groups of 8 and 6 at level node"],
  ])("is what `mpopt plan` names when it refuses %s", async (cluster, found) => {
    const args = ["--model", "mini-llama", "--cluster", cluster, "--global-batch", "64"];
    await planCommand().parseAsync(args, { from: "user" });
    expect(process.exitCode).toBe(1);
    expect(captured.out).toBe("");
    expect(captured.err).toBe(
      `mpopt: Expected equal hosts of one device kind for a whole plan (\`mpopt solve MODEL --format model\` assigns stages on any cluster) but found ${found}.\n`,
    );
  });

  it("says what a sum should look like, with exit code 2", async () => {
    await solve("h100-sxm:8x2+v100:8x1");
    expect(process.exitCode).toBe(2);
    expect(captured.err).toMatch(/^mpopt: Expected PART:GPUSxNODES such as .* but found "v100:8x1" in /);
  });
});
