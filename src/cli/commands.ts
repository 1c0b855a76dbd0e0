import type { Command } from "commander";

/** The commands, in the order that --help lists them. */
export const commands: readonly (() => Command)[] = [];
