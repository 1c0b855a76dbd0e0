import type { Command } from "commander";
import { importCommand } from "./import.js";

/** The commands, in the order that --help lists them. */
export const commands: readonly (() => Command)[] = [importCommand];
