import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import { createPlan } from "../../src/plan/index.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const built = join(root, "dist/index.js");
if (!existsSync(built)) throw new Error("Run `npm run build` first: these tests call the built library.");
/** As a user has it: the search on its thread is a compiled file. */
const { clusterPreset, loadModel, plan } = (await import(
  pathToFileURL(built).href
)) as typeof import("../../src/index.js");
type Plan = Awaited<ReturnType<typeof plan>>;

const small = () => ({
  model: loadModel("gpt2"),
  cluster: clusterPreset("a100-40:8x1"),
  job: { globalBatch: 64, sequence: 1024 },
});
/** Seconds of search. */
const long = () => ({
  model: loadModel("llama-3.1-405b"),
  cluster: clusterPreset("h100-sxm:8x256"),
  job: { globalBatch: 2048, sequence: 8192, runtime: "torch" as const },
});

/** A plan without what differs from run to run. */
function lasting({ certificate, provenance, ...rest }: Plan) {
  const { seconds: _seconds, ...proof } = certificate;
  const { createdAt: _createdAt, ...origin } = provenance;
  return { ...rest, certificate: proof, provenance: origin };
}

describe("plan", () => {
  it("is stopped in the middle at once, and leaves the event loop free until then", async () => {
    const controller = new AbortController();
    let turns = 0;
    const clock = setInterval(() => turns++, 10);
    let stopped = 0;
    setTimeout(() => {
      stopped = performance.now();
      controller.abort();
    }, 1500);
    try {
      await expect(plan({ ...long(), signal: controller.signal })).rejects.toMatchObject({
        name: "MpoptError",
        code: "E_CANCELLED",
      });
    } finally {
      clearInterval(clock);
    }
    // The search itself lets the loop turn after seconds only; shared machines add theirs.
    expect(performance.now() - stopped).toBeLessThan(1000);
    expect(turns).toBeGreaterThan(20);
  });

  it("does not begin under a signal that has aborted", async () => {
    await expect(plan({ ...small(), signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: "E_CANCELLED",
    });
  });

  it("gives the same beside others as alone, and is not disturbed by one that is stopped", async () => {
    const alone = lasting(await plan(small()));
    const other = { ...small(), job: { globalBatch: 128, sequence: 512 } };
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 200);
    const together = await Promise.allSettled([
      plan(small()),
      plan({ ...long(), signal: controller.signal }),
      plan(other),
    ]);
    expect(together.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(lasting((together[0] as PromiseFulfilledResult<Plan>).value)).toEqual(alone);
    expect((together[2] as PromiseFulfilledResult<Plan>).value.batch).toMatchObject({
      global: 128,
      sequence: 512,
    });
  });

  it("reports progress, in sentences and shares", async () => {
    const events: { message: string; fraction?: number }[] = [];
    await plan({ ...small(), onProgress: (event) => events.push(event) });
    expect(events.length).toBeGreaterThan(0);
    for (const { message, fraction } of events) {
      expect(message).not.toBe("");
      if (fraction !== undefined) expect(fraction).toBeGreaterThanOrEqual(0);
      if (fraction !== undefined) expect(fraction).toBeLessThanOrEqual(1);
    }
  });

  it("says what no launcher can do, as the command line does", async () => {
    const best = await plan({ ...small(), lossyFor: () => ({ somewhere: ["everything"] }) });
    expect(best.lossyFor).toEqual({ somewhere: ["everything"] });
  });

  it("hands the search's errors on, with code and notes", async () => {
    const tight = {
      ...long(),
      cluster: clusterPreset("a100-40:8x1"),
      job: { globalBatch: 8, sequence: 4096 },
    };
    await expect(plan(tight)).rejects.toMatchObject({ name: "MpoptError", code: "E_INFEASIBLE" });
    const wrong = { ...small(), job: { globalBatch: -1, sequence: 1024 } };
    await expect(plan(wrong)).rejects.toMatchObject({ code: "E_FIELD" });
  });

  it("throws on what its listener throws, and ends", async () => {
    const onProgress = () => {
      throw new Error("no room");
    };
    await expect(plan({ ...small(), onProgress })).rejects.toThrow("no room");
  });
});

describe("createPlan, on the caller's thread", () => {
  it("makes E_CANCELLED of an abort, whatever its reason, even if the search came to its end", async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort("enough"), 1);
    await expect(createPlan({ ...small(), signal: controller.signal })).rejects.toMatchObject({
      code: "E_CANCELLED",
      cause: "enough",
    });
  });
});
