import { MpoptError } from "../contracts/index.js";
import type { CsvRow, CsvTable } from "./csv.js";

/** Columns that a prediction may read: model, hardware and plan. All else in a file is measured or commentary. */
export const inputColumns = [
  "model",
  "layers",
  "hidden",
  "ffn",
  "heads",
  "kv_heads",
  "vocab",
  "seq",
  "experts",
  "topk",
  "gpu",
  "n_gpus",
  "gpus_per_node",
  "tp",
  "pp",
  "dp",
  "cp",
  "ep",
  "vp",
  "sp",
  "zero",
  "recompute",
  "precision",
  "micro_batch",
  "global_batch",
] as const;
export type InputColumn = (typeof inputColumns)[number];

/** Notes that are part of the plan: the rest of `notes` quotes results. */
const noteInputs = ["schedule", "micro_num", "FSDP"] as const;
export type NoteInput = (typeof noteInputs)[number];

/** The part of a record that a prediction sees. */
export class RunFields {
  readonly id: string;
  readonly where: string;
  readonly line: number;
  readonly #values: Partial<Record<InputColumn, string>> = {};
  readonly #notes: Partial<Record<NoteInput, string>> = {};

  constructor(id: string, where: string, { line, values }: CsvRow) {
    this.id = id;
    this.where = where;
    this.line = line;
    for (const column of inputColumns) this.#values[column] = values[column]?.trim() ?? "";
    for (const part of (values.notes ?? "").split(/[;,]/)) {
      const [, name, value] = /^\s*(\w+)=(.*)$/s.exec(part) ?? [];
      const known = noteInputs.find((each) => each === name);
      if (known) this.#notes[known] = value!.trim();
    }
  }

  /** Text of a column, empty where it is blank or the file lacks it. */
  text(column: InputColumn): string {
    return this.#values[column] ?? "";
  }

  note(name: NoteInput): string {
    return this.#notes[name] ?? "";
  }

  /**
   * A positive whole number, undefined where the column is blank.
   * @throws MpoptError E_FIELD for anything else.
   */
  count(column: InputColumn): number | undefined {
    const text = this.text(column);
    if (text === "") return undefined;
    const value = Number(text);
    if (!Number.isSafeInteger(value) || value < 1) throw this.error(column, "a positive whole number");
    return value;
  }

  /** True for 1, false for 0, undefined for blank. @throws MpoptError E_FIELD for anything else. */
  flag(column: InputColumn): boolean | undefined {
    const text = this.text(column);
    if (text === "") return undefined;
    if (text !== "0" && text !== "1") throw this.error(column, "0 or 1");
    return text === "1";
  }

  /** An error that names file, line and column. */
  error(column: InputColumn, expected: string): MpoptError {
    return fieldError(this.where, this.line, column, expected, this.text(column));
  }
}

/** What was measured of a run, for the scorer and the fitter alone. */
export interface Measured {
  stepSeconds: number | undefined;
  memoryGiB: number | undefined;
  /** The plan ran out of memory. */
  outOfMemory: boolean;
  choiceGroup: string | undefined;
  /** A: plan and time as printed; B: some field inferred; C is not scored. */
  tier: string;
}

/** One record of a file of runs: what a prediction sees, and apart from it what was measured. */
export interface RunRecord {
  id: string;
  fields: RunFields;
  measured: Measured;
}

function fieldError(
  where: string,
  line: number,
  column: string,
  expected: string,
  found: string,
): MpoptError {
  const what = found === "" ? "nothing" : `"${found.length > 60 ? `${found.slice(0, 57)}...` : found}"`;
  return new MpoptError(
    "E_FIELD",
    `${where} line ${line}: expected ${expected} for column ${column} but found ${what}.`,
  );
}

/**
 * Parts the records of a table. A file may lack any column; without `id` rows are named after their lines.
 * @throws MpoptError E_FIELD for an id that is given twice, a measured figure that is no positive number, and for a
 * table without any column that a prediction reads.
 */
export function runRecords({ where, columns, rows }: CsvTable): RunRecord[] {
  if (!inputColumns.some((column) => columns.includes(column))) {
    throw new MpoptError(
      "E_FIELD",
      `${where}: expected columns such as layers, hidden, n_gpus, tp and pp but found ${columns.join(", ")}.`,
    );
  }
  const lines = new Map<string, number>();
  return rows.map((row) => {
    const id = row.values.id?.trim() || `line-${row.line}`;
    const before = lines.get(id);
    if (before !== undefined) {
      throw fieldError(where, row.line, "id", `an id other than that of line ${before}`, id);
    }
    lines.set(id, row.line);
    return { id, fields: new RunFields(id, where, row), measured: measuredOf(row, where) };
  });
}

function measuredOf({ line, values }: CsvRow, where: string): Measured {
  const figure = (column: string): number | undefined => {
    const text = values[column]?.trim() ?? "";
    if (text === "") return undefined;
    const value = Number(text);
    if (!Number.isFinite(value) || value <= 0)
      throw fieldError(where, line, column, "a number above 0", text);
    return value;
  };
  return {
    stepSeconds: figure("step_time_s"),
    memoryGiB: figure("memory_GiB"),
    outOfMemory: /\bOOM\b/.test(values.notes ?? ""),
    choiceGroup: values.choice_group?.trim() || undefined,
    tier: values.tier?.trim() ?? "",
  };
}
