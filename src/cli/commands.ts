import type { Command } from "commander";

/** The commands by name, in the order that --help lists them; each is loaded when it is asked for. */
export const commands: Readonly<Record<string, () => Promise<Command>>> = {
  quickstart: async () => (await import("./quickstart.js")).quickstartCommand(),
  doctor: async () => (await import("./doctor.js")).doctorCommand(),
  profile: async () => (await import("./profile.js")).profileCommand(),
  import: async () => (await import("./import.js")).importCommand(),
  plan: async () => (await import("./plan.js")).planCommand(),
  estimate: async () => (await import("./estimate.js")).estimateCommand(),
  simulate: async () => (await import("./simulate.js")).simulateCommand(),
  explain: async () => (await import("./explain.js")).explainCommand(),
  diff: async () => (await import("./diff.js")).diffCommand(),
  check: async () => (await import("./check.js")).checkCommand(),
  report: async () => (await import("./report.js")).reportCommand(),
  export: async () => (await import("./export.js")).exportCommand(),
  launch: async () => (await import("./launch.js")).launchCommand(),
  replan: async () => (await import("./replan.js")).replanCommand(),
  validate: async () => (await import("./validate.js")).validateCommand(),
  solve: async () => (await import("./solve.js")).solveCommand(),
  "build-native": async () => (await import("./buildNative.js")).buildNativeCommand(),
};
