import type { Command } from "commander";
import { buildNativeCommand } from "./buildNative.js";
import { checkCommand } from "./check.js";
import { diffCommand } from "./diff.js";
import { doctorCommand } from "./doctor.js";
import { estimateCommand } from "./estimate.js";
import { explainCommand } from "./explain.js";
import { exportCommand } from "./export.js";
import { importCommand } from "./import.js";
import { launchCommand } from "./launch.js";
import { planCommand } from "./plan.js";
import { profileCommand } from "./profile.js";
import { quickstartCommand } from "./quickstart.js";
import { reportCommand } from "./report.js";
import { simulateCommand } from "./simulate.js";
import { solveCommand } from "./solve.js";

/** The commands, in the order that --help lists them. */
export const commands: readonly (() => Command)[] = [
  quickstartCommand,
  doctorCommand,
  profileCommand,
  importCommand,
  planCommand,
  estimateCommand,
  simulateCommand,
  explainCommand,
  diffCommand,
  checkCommand,
  reportCommand,
  exportCommand,
  launchCommand,
  solveCommand,
  buildNativeCommand,
];
