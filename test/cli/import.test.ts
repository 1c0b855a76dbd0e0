import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { importCommand } from "../../src/cli/import.js";
import { readDocument } from "../../src/contracts/index.js";
import { captureCommand } from "./captured.js";

const captured = captureCommand();
const run = (...args: string[]) => importCommand().parseAsync(args, { from: "user" });

describe("mpopt import", () => {
  it("prints a summary and writes the document", async () => {
    const path = join(captured.folder, "model.json");
    await run("deepseek-v3", "-o", path);
    expect(captured.out).toContain("Parameters: 671,026,419,200");
    expect(captured.out).toContain("dense: 3 x");
    expect(captured.out).toContain("expert: 58 x");
    expect(captured.out).toMatch(/forward [\d.]+ GFLOP/);
    expect(captured.err).toContain(`Wrote ${path}.`);
    expect(readDocument("model", path).parameterCount).toBe(671_026_419_200);
    expect(process.exitCode).toBeUndefined();
  });

  it("prints the document and nothing else under --json", async () => {
    await run("gpt2", "--json");
    expect(JSON.parse(captured.out)).toMatchObject({ schema: "mpopt.model/1", parameterCount: 124_439_808 });
    expect(captured.err).toBe("");
  });

  it("writes the scores of attention, and dropout masks, where asked", async () => {
    await run("gpt2", "--json", "--attention", "materialized", "--dropout");
    const { operators } = JSON.parse(captured.out);
    const names = operators.map(({ name }: { name: string }) => name);
    expect(names).toContain("attention_scores");
    expect(names).toContain("dropout");
  });

  it("leaves no file behind when the model is wrong", async () => {
    const config = join(captured.folder, "config.json");
    const path = join(captured.folder, "model.json");
    writeFileSync(config, JSON.stringify({ model_type: "llama" }));
    await run(config, "-o", path);
    expect(process.exitCode).toBe(1);
    expect(captured.err).toContain(
      `mpopt: ${config}: expected a positive whole number for field hidden_size`,
    );
    expect(existsSync(path)).toBe(false);
    expect(readFileSync(config, "utf8")).toBe('{"model_type":"llama"}');
  });

  it("answers an unknown name with exit code 2 and the presets", async () => {
    await run("llama-9", "--json");
    expect(process.exitCode).toBe(2);
    const { error } = JSON.parse(captured.out);
    expect(error.code).toBe("E_USAGE");
    expect(error.notes[0]).toContain("llama-3.1-405b");
  });
});
