#!/usr/bin/env node
import { Command, CommanderError } from "commander";
import { MpoptError, version } from "../contracts/index.js";
import { commands } from "./commands.js";
import { printError } from "./context.js";

// A reader such as `head` may close the pipe early; that is its right and no failure of ours.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
});

const program = new Command("mpopt")
  .description("Plan how to train a large model over many devices.")
  .version(version)
  .showHelpAfterError("Run with --help for the options and an example.")
  .configureHelp({ sortSubcommands: false })
  .enablePositionalOptions();
// A command needs its own modules alone; help and mistakes need all of them.
const asked = process.argv[2] ?? "";
const needed = Object.hasOwn(commands, asked) ? [commands[asked]!] : Object.values(commands);
for (const load of needed) program.addCommand(await load());

const wantsJson = process.argv.includes("--json");
for (const command of [program, ...program.commands]) {
  command.exitOverride();
  if (wantsJson) command.configureOutput({ outputError: () => {} });
}

try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof CommanderError)) throw error;
  if (error.exitCode !== 0) {
    if (wantsJson) printError(new MpoptError("E_USAGE", error.message.replace(/^error: /, "")), true);
    process.exitCode = 2;
  }
}
