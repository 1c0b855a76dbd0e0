import { MpoptError } from "../contracts/index.js";
import { type Action, type ActionKind, checkActions, type ScheduleTable } from "./actions.js";
import { isCompute } from "./routes.js";

/**
 * Action tables in the CSV form of torch.distributed.pipelining (`_PipelineScheduleRuntime._load_csv`) and of
 * torchtitan's `pipeline_parallel_schedule_csv`: one row a pipeline rank, one action a cell, such as 0F3, 1B0, 2I1
 * and 2W1 (stage, kind, micro-batch), an empty cell for an idle step, and (0F1;1B0)OVERLAP_F_B for two actions
 * side by side. The `compute_comms` form has transfers and sharding as well: 0SEND_F3, 1UNSHARD.
 */
export type ScheduleCsvForm = "compute_only" | "compute_comms";

/** The form's word for each kind (`_ComputationType` of torch.distributed.pipelining.schedules). */
const words: Readonly<Record<string, Pick<Action, "kind" | "payload">>> = {
  F: { kind: "forward" },
  B: { kind: "backward" },
  I: { kind: "backward-input" },
  W: { kind: "backward-weight" },
  SEND_F: { kind: "send", payload: "activation" },
  RECV_F: { kind: "receive", payload: "activation" },
  SEND_B: { kind: "send", payload: "gradient" },
  RECV_B: { kind: "receive", payload: "gradient" },
  UNSHARD: { kind: "all-gather" },
  RESHARD: { kind: "reshard" },
  REDUCE_GRAD: { kind: "reduce" },
};
const wordOf = new Map(
  Object.entries(words).map(([word, { kind, payload }]) => [`${kind}${payload ?? ""}`, word]),
);

/** Stages and micro-batches have at most this many digits, so that a slip of the keyboard stays a small number. */
const cellPattern = /^(\d{1,6})(F|B|I|W|SEND_F|RECV_F|SEND_B|RECV_B|UNSHARD|RESHARD|REDUCE_GRAD)(\d{0,6})$/;
const pairPattern = /^\(([^;()]*);([^;()]*)\)OVERLAP_F_B$/;

/** The `format` that PyTorch's loader has to be given for a table. */
export function scheduleCsvForm(table: ScheduleTable): ScheduleCsvForm {
  return table.ranks.every((actions) => actions.every(isCompute)) ? "compute_only" : "compute_comms";
}

export interface WriteScheduleCsvOptions {
  /**
   * False writes overlapped actions one after the other. PyTorch's runtime does them so unless it is given a
   * function for pairs, and its dry run (`_simulate`) knows no pairs.
   */
  overlap?: boolean;
}

/**
 * A table as CSV text, without idle steps: PyTorch's runtime takes no time from them.
 * @throws MpoptError E_LOSSY for tables that the form cannot express: several routes (DualPipe, Chimera), weight
 * versions (schedules without a flush), optimizer actions; E_PLAN_INVALID for one that breaks `checkActions`.
 */
export function writeScheduleCsv(table: ScheduleTable, options: WriteScheduleCsvOptions = {}): string {
  const refuse = (expected: string, found: string) => {
    throw new MpoptError("E_LOSSY", `Expected ${expected} for a schedule CSV but found ${found}.`, [
      `PyTorch's pipeline runtime cannot run the schedule "${table.name}".`,
    ]);
  };
  const [first, ...others] = checkActions(table);
  if (first !== undefined) throw new MpoptError("E_PLAN_INVALID", first, others);
  const route = table.routes?.[0]?.stages;
  if (table.routes && table.routes.length > 1)
    refuse("one route for all micro-batches", `${table.routes.length}`);
  if (route?.some((stage, i) => stage !== i)) refuse("stages numbered along the route", route.join(", "));
  if (table.weightVersions) refuse("one version of the weights", `${Math.max(...table.weightVersions)}`);
  const rows = table.ranks.map((actions) => {
    const cells: string[] = [];
    for (let i = 0; i < actions.length; i++) {
      const action = actions[i]!;
      if (action.kind === "optimizer") refuse("no optimizer action", `one for stage ${action.stage}`);
      const pair = action.overlapped && options.overlap !== false;
      cells.push(pair ? `(${cell(action)};${cell(actions[++i]!)})OVERLAP_F_B` : cell(action));
    }
    return cells.join(",");
  });
  return `${rows.join("\n")}\n`;
}

function cell({ kind, payload, stage, microBatch }: Action): string {
  return `${stage}${wordOf.get(`${kind}${payload ?? ""}`)}${microBatch === -1 ? "" : microBatch}`;
}

/**
 * Reads a schedule CSV of either form. The numbers of stages and micro-batches are the largest seen plus 1: a
 * file cannot tell that it lost its last micro-batch.
 * @param where the file's name, for messages; the table's name is that without folder and ending.
 * @throws MpoptError E_PARSE naming row and column of a cell that is no action; E_PLAN_INVALID with the findings
 * of `checkActions` for a table that is none.
 */
export function readScheduleCsv(text: string, where: string): ScheduleTable {
  const lines = text.replace(/^\uFEFF/, "").split(/\r\n|\n|\r/);
  while (lines.length && lines.at(-1)!.trim() === "") lines.pop();
  if (!lines.length)
    throw new MpoptError("E_PARSE", `Expected a row for each rank in ${where} but found none.`);
  let stages = 0;
  let microBatches = 0;
  const ranks = lines.map((line, row) => {
    if (line.trim() === "") {
      throw new MpoptError(
        "E_PARSE",
        `Expected actions in row ${row + 1} of ${where} but found an empty row.`,
      );
    }
    const actions: Action[] = [];
    line.split(",").forEach((raw, column) => {
      const place = () => `row ${row + 1}, column ${column + 1} of ${where}`;
      const read = readCell(unquoted(raw), place);
      for (const action of read) {
        stages = Math.max(stages, action.stage + 1);
        microBatches = Math.max(microBatches, action.microBatch + 1);
      }
      actions.push(...read);
    });
    return actions;
  });
  const name = where.replace(/^.*[\\/]/, "").replace(/\.csv$/i, "");
  const table: ScheduleTable = { name, stages, microBatches, ranks };
  const [first, ...others] = checkActions(table);
  if (first !== undefined) {
    throw new MpoptError("E_PLAN_INVALID", `${first.slice(0, -1)} in ${where}.`, [
      ...others,
      "Rank and action count from 0: rank 0 is row 1.",
    ]);
  }
  return table;
}

/** A cell without spaces and quotes around it; no cell of the form holds a comma or a quote. */
function unquoted(raw: string): string {
  const text = raw.trim();
  return text.startsWith('"') && /^"[^"]*"$/.test(text) ? text.slice(1, -1).trim() : text;
}

/** The cell's actions: none for an idle step, two for an overlapped pair. */
function readCell(text: string, place: () => string): Action[] {
  if (text === "") return [];
  const pair = text.startsWith("(") && pairPattern.exec(text);
  if (!pair) return [readAction(text, place)];
  const [first, second] = [readAction(pair[1]!.trim(), place), readAction(pair[2]!.trim(), place)];
  for (const action of [first, second]) {
    if (!isCompute(action)) {
      throw new MpoptError(
        "E_PARSE",
        `Expected two forwards or backwards to overlap in ${place()} but found "${shortened(text)}".`,
      );
    }
  }
  return [{ ...first, overlapped: true }, second];
}

function readAction(text: string, place: () => string): Action {
  const match = cellPattern.exec(text);
  if (!match) {
    throw new MpoptError(
      "E_PARSE",
      `Expected an action such as 0F3 or nothing in ${place()} but found "${shortened(text)}".`,
      [`Kinds: ${Object.keys(words).join(", ")}; or (0F1;1B0)OVERLAP_F_B.`],
    );
  }
  const [, stage, word, microBatch] = match as unknown as [string, string, string, string];
  const { kind, payload } = words[word]!;
  if (ofWholeStage(kind) !== (microBatch === "")) {
    const wanted = ofWholeStage(kind) ? "no micro-batch" : "a micro-batch";
    throw new MpoptError("E_PARSE", `Expected ${wanted} for ${word} in ${place()} but found "${text}".`);
  }
  const action: Action = {
    kind,
    stage: Number(stage),
    microBatch: microBatch === "" ? -1 : Number(microBatch),
  };
  return payload === undefined ? action : { ...action, payload };
}

function ofWholeStage(kind: ActionKind): boolean {
  return kind === "all-gather" || kind === "reshard" || kind === "reduce";
}

function shortened(text: string): string {
  return text.length > 40 ? `${text.slice(0, 40)}...` : text;
}
