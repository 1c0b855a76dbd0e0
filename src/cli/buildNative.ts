import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { addonTarget, checkAddon, isCheckout } from "../cluster/native.js";
import { MpoptError } from "../contracts/index.js";
import { defineCommand } from "./context.js";

const script = fileURLToPath(new URL("../../scripts/build-native.mjs", import.meta.url));

/** The command `mpopt build-native`. */
export function buildNativeCommand(): Command {
  return defineCommand(
    "build-native",
    "Build the native addon that profiling needs; takes a C++ compiler and cmake.",
    "mpopt build-native",
    async (context) => {
      context.progress({ message: "Building the native addon" });
      const { code, text } = await runScript(context.signal);
      if (code !== 0) {
        const [first, ...rest] = text.trim().split("\n");
        throw new MpoptError("E_MISSING_TOOL", first || "The build of the native addon failed.", rest);
      }
      const path = await checkAddon({ signal: context.signal });
      context.print(`Built the native addon, and it loads: ${path}`);
      context.result({ path });
    },
  );
}

function runScript(signal: AbortSignal): Promise<{ code: number; text: string }> {
  return new Promise((resolve, reject) => {
    const target = isCheckout ? [] : ["--output", addonTarget()];
    const child = spawn(process.execPath, [script, "--required", ...target], {
      stdio: ["ignore", "pipe", "inherit"],
      signal,
    });
    let text = "";
    child.stdout.on("data", (chunk) => {
      text += chunk;
    });
    child.on("error", (error) => {
      const reason: unknown = signal.reason;
      reject(signal.aborted && reason instanceof MpoptError ? reason : error);
    });
    child.on("close", (code) => resolve({ code: code ?? 1, text }));
  });
}
