import type { Command } from "commander";
import { diffCommand } from "./diff.js";
import { explainCommand } from "./explain.js";
import { exportCommand } from "./export.js";
import { importCommand } from "./import.js";
import { launchCommand } from "./launch.js";
import { reportCommand } from "./report.js";
import { simulateCommand } from "./simulate.js";

/** The commands, in the order that --help lists them. */
export const commands: readonly (() => Command)[] = [
  importCommand,
  exportCommand,
  launchCommand,
  simulateCommand,
  explainCommand,
  diffCommand,
  reportCommand,
];
