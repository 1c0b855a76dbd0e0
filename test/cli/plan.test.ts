import { describe, expect, it } from "vitest";
import { planCommand } from "../../src/cli/plan.js";
import { parseDevices } from "../../src/cli/planOptions.js";
import { checkDocument } from "../../src/contracts/index.js";
import { captureCommand } from "./captured.js";

const captured = captureCommand();

const small = [
  "--model",
  "gpt2",
  "--cluster",
  "a100-40:4x2",
  "--global-batch",
  "64",
  "--seq",
  "1024",
  "--quiet",
];

async function run(...args: string[]): Promise<number> {
  await planCommand().parseAsync(args, { from: "user" });
  return Number(process.exitCode ?? 0);
}

describe("parseDevices", () => {
  it("reads lists, and powers of two between bounds", () => {
    expect(parseDevices("64,128,200")).toEqual([64, 128, 200]);
    expect(parseDevices("8..64")).toEqual([8, 16, 32, 64]);
    expect(parseDevices("24..100")).toEqual([24, 48, 96]);
    for (const text of ["", "8-64", "64..8", "0..8", "8,,16", "x"]) {
      expect(() => parseDevices(text), text).toThrow(/^Expected device counts such as/);
    }
  });
});

describe("mpopt plan", () => {
  it("prints the plan document alone, with its rules of thumb and what relieves it", async () => {
    expect(await run(...small, "--json")).toBe(0);
    const plan = checkDocument("plan", JSON.parse(captured.out), "stdout");
    expect(plan.baselines).toHaveLength(3);
    expect(plan.sensitivity!.length).toBeGreaterThan(0);
    expect(plan.cluster.dollarsPerHour!.source).not.toContain("given");
  });

  it("puts the plan beside the frontier and the what-if answers where they are asked for", async () => {
    const asked = ["--frontier", "--devices", "4,8", "--what-if", "gpus=16,2", "--what-if", "link=x2"];
    expect(await run(...small, ...asked, "--dollars-per-hour", "1.5", "--json")).toBe(0);
    const { plan, frontier, whatIf, ...rest } = JSON.parse(captured.out);
    expect(rest).toEqual({});
    checkDocument("plan", plan, "stdout");
    expect(new Set(frontier.map((point: { devices: number }) => point.devices))).toEqual(new Set([4, 8]));
    expect(
      frontier.some((point: { stepSeconds: number }) => point.stepSeconds === plan.estimate.stepSeconds),
    ).toBe(true);
    for (const { devices, stepSeconds, dollarsPerStep } of frontier) {
      expect(dollarsPerStep).toBeCloseTo((1.5 * devices * stepSeconds) / 3600, 12);
    }
    expect(whatIf.map(({ name }: { name: string }) => name)).toEqual([
      "16 devices",
      "2 devices",
      "network x2",
    ]);
    expect(whatIf[0].relative.stepSeconds).toBeCloseTo(whatIf[0].stepSeconds / plan.estimate.stepSeconds, 12);
  });

  it("prints tables for a person", async () => {
    expect(await run(...small, "--frontier", "--what-if", "batch=128")).toBe(0);
    for (const title of ["Rules of thumb", "The same plan, priced again with", "Frontier: ", "What if: "]) {
      expect(captured.out).toContain(title);
    }
    expect(captured.out).toMatch(/batch 128 +\d/);
  });

  it("hands every pin to the search", async () => {
    const pins =
      "--tensor 2 --sequence-parallel --context 2 --context-exchange ring --pipeline 1 --data 2 --micro-batch 2 --zero 3 --shards 4 --recompute none --recompute-layers 3 --offload optimizer";
    const on =
      "--model llama-3.2-1b --cluster a100-80:4x2 --global-batch 16 --seq 4096 --quiet --runtime any";
    expect(await run(...on.split(" "), ...pins.split(" "), "--json")).toBe(0);
    const { mesh, optimizer, stages, batch, job } = checkDocument("plan", JSON.parse(captured.out), "stdout");
    expect(mesh).toMatchObject({ axes: ["pipeline", "data", "context", "tensor"], sizes: [1, 2, 2, 2] });
    expect(optimizer).toMatchObject({ zero: 3, offload: "optimizer" });
    expect(stages[0]).toMatchObject({ recompute: "none", recomputeLayers: 3 });
    expect(batch.micro).toBe(2);
    expect(job.pins).toEqual({
      tensor: 2,
      sequenceParallel: true,
      context: 2,
      contextExchange: "ring",
      pipeline: 1,
      data: 2,
      microBatch: 2,
      zero: 3,
      shards: 4,
      recompute: "none",
      recomputeLayers: 3,
      offload: "optimizer",
    });
  });

  it("plans fp8 products where the devices have them", async () => {
    const on = ["--model", "gpt2", "--cluster", "h100-sxm:2x1", "--global-batch", "8", "--quiet", "--json"];
    expect(await run(...on, "--fp8")).toBe(0);
    expect(JSON.parse(captured.out).job.dtypes.linear).toBe("fp8");
  });

  it.each([
    [["--zero", "4"], /--zero to be one of 0, 1, 2, 3 but found "4"/],
    [["--offload", "disk"], /--offload to be one of none, optimizer, activations, both/],
    [["--context-exchange", "tree"], /--context-exchange to be one of ring, all-to-all/],
    [["--devices", "8"], /--frontier beside --devices/],
    [["--frontier", "--devices", "8-16"], /64,128,256 or 64\.\.256 for --devices but found "8-16"/],
    [["--fp8"], /products in fp8 for --fp8 but found a100-40/],
    [["--what-if", "gpus=10"], /whole nodes of 4 devices.* found 10 devices/],
  ])("refuses %j with one sentence and exit code 2", async (args, expected) => {
    expect(await run(...small, ...args)).toBe(2);
    expect(captured.err).toMatch(expected);
  });
});
