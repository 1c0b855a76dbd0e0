import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const server = fileURLToPath(new URL("../../examples/node-service/server.mjs", import.meta.url));
let child: ChildProcess;
let address: string;

beforeAll(async () => {
  child = spawn(process.execPath, [server], {
    env: { ...process.env, PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = await once(createInterface({ input: child.stdout! }), "line");
  address = line;
});
afterAll(() => child.kill());

const ask = (body: object, signal?: AbortSignal) =>
  fetch(`${address}/plans`, { method: "POST", body: JSON.stringify(body), signal });
const running = async () => ((await (await fetch(address)).json()) as { running: number }).running;
const linesOf = async (response: Response) =>
  (await response.text())
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

const small = { model: "gpt2", cluster: "a100-40:8x1", globalBatch: 64, sequence: 1024 };
const long = {
  model: "llama-3.1-405b",
  cluster: "h100-sxm:8x256",
  globalBatch: 2048,
  sequence: 8192,
  runtime: "torch",
};

describe("the Node service of the examples", () => {
  it("listens on loopback alone", () => {
    expect(new URL(address).hostname).toBe("127.0.0.1");
  });

  it("streams progress, then the plan", async () => {
    const lines = await linesOf(await ask(small));
    expect(lines.length).toBeGreaterThan(1);
    for (const line of lines.slice(0, -1)) expect(line.progress.message).toBeTypeOf("string");
    expect(lines.at(-1).plan).toMatchObject({ schema: "mpopt.plan/1", batch: { global: 64 } });
  });

  it("answers others while a search runs, and ends the search of a client that goes away", async () => {
    const client = new AbortController();
    const answer = ask(long, client.signal);
    const gone = expect(answer.then((response) => response.text())).rejects.toThrow();
    await expect.poll(running, { timeout: 20_000 }).toBe(1);
    client.abort();
    await gone;
    await expect.poll(running, { timeout: 20_000, interval: 20 }).toBe(0);
  });

  it("refuses files, unknown presets and bodies that are no JSON, each with a sentence", async () => {
    for (const body of [{ ...small, model: "/etc/passwd" }, { ...small, cluster: "abacus" }, "{"]) {
      const response = await fetch(`${address}/plans`, {
        method: "POST",
        body: typeof body === "string" ? body : JSON.stringify(body),
      });
      expect(response.status).toBe(400);
      const [{ error }] = await linesOf(response);
      expect(error.code).toMatch(/^E_/);
      expect(error.message).toMatch(/^Expected /);
    }
    const [{ error }] = (await linesOf(await ask({ ...small, globalBatch: 0 }))).slice(-1);
    expect(error.code).toBe("E_FIELD");
    expect(await running()).toBe(0);
  });
});
