import type { Command } from "commander";
import { readDocument } from "../contracts/index.js";
import { comparePlans, renderDifferences } from "../report/index.js";
import { defineCommand } from "./context.js";

/** `mpopt diff`: what differs between two plans. */
export function diffCommand(): Command {
  return defineCommand(
    "diff",
    "show what differs between two plans, field by field",
    "mpopt diff old.json new.json",
    (context, [before, after]) => {
      const differences = comparePlans(readDocument("plan", before!), readDocument("plan", after!));
      context.print(renderDifferences(differences));
      context.result({ before, after, differences });
    },
  )
    .argument("<before>", "the plan to compare with")
    .argument("<after>", "the plan to compare");
}
