import { Command, InvalidArgumentError } from "commander";
import { MpoptError, type ProgressEvent } from "../contracts/index.js";

/** What every command gets: how to print, how to report progress, how to be stopped. */
export interface Context {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly seed: number;
  readonly signal: AbortSignal;
  /** Text for a person, on stdout; silent under --json. */
  print(text: string): void;
  /** A remark or a warning, on stderr; silent under --quiet. */
  note(text: string): void;
  /** Progress, on stderr; silent under --quiet. */
  progress(event: ProgressEvent): void;
  /** The command's one JSON document, on stdout; silent without --json. */
  result(document: unknown): void;
}

type Options = Record<string, unknown>;
type Action = (context: Context, args: string[], options: Options) => Promise<void> | void;

/**
 * A command with the options that all commands share. The action throws; this wrapper prints the error and
 * sets the exit code: 1 when the work failed, 2 when the call was wrong.
 */
export function defineCommand(name: string, summary: string, example: string, action: Action): Command {
  const command = new Command(name)
    .description(summary)
    .option("--json", "print one JSON document on stdout and nothing else there")
    .option("--quiet", "no progress and no remarks on stderr")
    .option("--seed <n>", "seed of every random choice", nonNegativeInteger, 0)
    .addHelpText("after", `\nExample:\n  $ ${example}`);
  command.action(async (...given: unknown[]) => {
    const options = command.opts() as Options;
    const args = given.slice(0, -2).flat() as string[];
    await run(command, options, (context) => action(context, args, options));
  });
  return command;
}

async function run(command: Command, options: Options, work: (context: Context) => unknown): Promise<void> {
  const json = options.json === true;
  const quiet = options.quiet === true;
  const controller = new AbortController();
  const interrupt = () => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort(new MpoptError("E_CANCELLED", `mpopt ${command.name()} was stopped by the user.`));
  };
  process.on("SIGINT", interrupt);
  process.on("SIGTERM", interrupt);
  const live = process.stderr.isTTY === true && !quiet;
  let lineOpen = false;
  const endLine = () => {
    if (lineOpen) process.stderr.write("\r\u001b[K");
    lineOpen = false;
  };
  const context: Context = {
    json,
    quiet,
    seed: options.seed as number,
    signal: controller.signal,
    print: (text) => {
      endLine();
      if (!json) process.stdout.write(`${text}\n`);
    },
    note: (text) => {
      endLine();
      if (!quiet) process.stderr.write(`${text}\n`);
    },
    progress: ({ message, fraction }) => {
      if (quiet) return;
      const share = fraction === undefined ? "" : `${Math.round(fraction * 100)} % `.padStart(6);
      if (live) process.stderr.write(`\r\u001b[K${share}${message}`.slice(0, process.stderr.columns ?? 120));
      else process.stderr.write(`${share}${message}\n`);
      lineOpen = live;
    },
    result: (document) => {
      endLine();
      if (json) process.stdout.write(`${JSON.stringify(document, null, 1)}\n`);
    },
  };
  try {
    await work(context);
    endLine();
  } catch (error) {
    endLine();
    printError(error, json);
    process.exitCode = exitCode(error);
  } finally {
    process.off("SIGINT", interrupt);
    process.off("SIGTERM", interrupt);
  }
}

/** 2 where the call itself was wrong, 130 after an interrupt, 1 for all else. */
export function exitCode(error: unknown): number {
  if (!(error instanceof MpoptError)) return 1;
  if (error.code === "E_USAGE") return 2;
  return error.code === "E_CANCELLED" ? 130 : 1;
}

/** Prints an error as one sentence with its notes, or as the JSON error document. */
export function printError(error: unknown, json: boolean): void {
  const known =
    error instanceof MpoptError
      ? error
      : new MpoptError(
          "E_SOLVER",
          `mpopt failed unexpectedly: ${error instanceof Error ? error.message : error}`,
          [error instanceof Error ? (error.stack ?? "") : ""],
        );
  if (json) {
    const document = { error: { code: known.code, message: known.message, notes: known.notes } };
    process.stdout.write(`${JSON.stringify(document, null, 1)}\n`);
  } else {
    process.stderr.write(`mpopt: ${known.message}\n${known.notes.map((note) => `  ${note}\n`).join("")}`);
  }
}

/** Option parsers: commander turns what they throw into a sentence that names the option. */
export function positiveInteger(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new InvalidArgumentError(`Expected a whole number of at least 1 but found "${text}".`);
  }
  return value;
}

export function nonNegativeInteger(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isSafeInteger(value) || value < 0) {
    throw new InvalidArgumentError(`Expected a whole number of at least 0 but found "${text}".`);
  }
  return value;
}

export function positiveNumber(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value <= 0) {
    throw new InvalidArgumentError(`Expected a number above 0 but found "${text}".`);
  }
  return value;
}

export function nonNegativeNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value) || value < 0) {
    throw new InvalidArgumentError(`Expected a number of at least 0 but found "${text}".`);
  }
  return value;
}
