import { MpoptError, readDocument } from "../contracts/index.js";
import { exporters, exportPlan } from "../launch/index.js";
import { defineCommand } from "./context.js";

/** `mpopt export PLAN --to LAUNCHER -o DIR`: a plan in the form that a launcher reads. */
export const exportCommand = () =>
  defineCommand(
    "export",
    "Write a plan in the form that a launcher reads.",
    "mpopt export plan.json --to torch -o launch",
    (context, [path], options) => {
      const target = options.to as string | undefined;
      const folder = options.output as string | undefined;
      const names = Object.keys(exporters).join("|");
      if (!target) throw new MpoptError("E_USAGE", `Expected --to ${names} but found nothing.`);
      if (!folder) throw new MpoptError("E_USAGE", "Expected a folder for -o but found nothing.");
      const plan = readDocument("plan", path!);
      const result = exportPlan(plan, target, folder, { allowLossy: options.allowLossy === true });
      for (const lost of result.lost) context.note(`Lost: ${lost}`);
      for (const file of result.files) context.print(file);
      context.result(result);
    },
  )
    .argument("<plan>", "the plan, a file that mpopt plan wrote")
    .option("--to <launcher>", `the launcher: ${Object.keys(exporters).join(", ")}`)
    .option("-o, --output <folder>", "folder that receives the files")
    .option("--allow-lossy", "write the plan although the launcher cannot express all of it");
