import { type Command, Option } from "commander";
import { type Model, serialize, writeFileAtomic } from "../contracts/index.js";
import { distinctLayers, loadModel, modelFlops } from "../models/index.js";
import { defineCommand } from "./context.js";

/** The command `mpopt import`. */
export function importCommand(): Command {
  return defineCommand(
    "import",
    "Turn a model into an operator graph: parameters, FLOPs, saved activations.",
    "mpopt import llama-3.1-8b -o model.json",
    (context, [reference], options) => {
      const attention = options.attention as "flash" | "materialized" | undefined;
      const kernels = { attention, dropout: options.dropout === true };
      const model = loadModel(reference!, { kernels });
      const output = options.output as string | undefined;
      if (output !== undefined) writeFileAtomic(output, serialize(model));
      context.print(summary(model));
      if (output !== undefined) context.note(`Wrote ${output}.`);
      context.result(model);
    },
  )
    .argument("<model>", "a preset, a config.json, a folder that holds one, or an mpopt.model/1 file")
    .addOption(
      new Option(
        "--attention <kind>",
        "what an imported configuration runs: flash attention, or attention that writes its scores",
      ).choices(["flash", "materialized"]),
    )
    .option("--dropout", "an imported configuration trains with dropout")
    .option("-o, --output <file>", "write the model document to this file");
}

/** What a person wants to see of a model: its size, its blocks and its work. */
function summary(model: Model): string {
  const { batch, sequence } = model.reference;
  const flops = modelFlops(model);
  const perToken = (value: number) => `${(value / (batch * sequence) / 1e9).toPrecision(4)} GFLOP`;
  const blocks = distinctLayers(model).map(
    ({ block, count, operators }) => `  ${block}: ${count} x ${operators.length} operators`,
  );
  return [
    model.name,
    `Parameters: ${model.parameterCount.toLocaleString("en-US")}`,
    "Layers:",
    ...blocks,
    `Per token, in sequences of ${sequence}:`,
    `  forward ${perToken(flops.forward)}`,
    `  backward ${perToken(flops.backward)}`,
  ].join("\n");
}
