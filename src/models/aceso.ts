import { readdirSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { MpoptError, readText } from "../contracts/index.js";
import { checkLayeredGraph, type LayeredGraph, type LayeredNode, type LayeredVariant } from "./layered.js";

export interface AcesoOptions {
  /** Times that the transformer layer occurs; the profile lists each distinct operator once. */
  repeat?: number;
  /** Which of several profiles in a folder, by the start of their file names: `gpt_1_3B`. */
  profile?: string;
  /** Which of several micro-batch sizes (the number after `mbs`). */
  microBatch?: number;
  /** Which of the two tensor-parallel dimensions (the number after `algo`); 0 where left out. */
  algorithm?: number;
}

const columns =
  "op_name,forward-compute,backward-compute,input_size,output_size,weights,activations,fwd_reserved,bwd_reserved".split(
    ",",
  );
const fileName = /^(?<profile>.+)_mbs(?<microBatch>\d+)_tp(?<tensor>\d+)_algo(?<algorithm>\d+)\.csv$/;

/**
 * Rows that make up one layer, first and one past the last, by the start of the profile's name
 * (Aceso's `search/model_ops_info.py`). Other families list every operator.
 */
const layerRows: Record<string, [number, number][]> = {
  gpt: [[1, 14]],
  t5: [
    [1, 14],
    [16, 37],
  ],
};

const microsecond = 1e-6;
const megabyte = 2 ** 20;
/**
 * Bytes that training holds for a byte of 16-bit weights: weights and gradients of 2 bytes, and a 32-bit copy with
 * two moments of Adam, 16 for 2 (Rajbhandari et al., ZeRO, SC 2020, section 3.1; assumed).
 */
const stateBytesPerWeightByte = 8;
/** A forward pass this many times its backward pass has a start-up in it. */
const suspiciousForward = 100;

interface Row {
  name: string;
  forwardSeconds: number;
  backwardSeconds: number;
  inputBytes: number;
  outputBytes: number;
  weightBytes: number;
  activationBytes: number;
}

interface Profile {
  path: string;
  profile: string;
  microBatch: number;
  tensor: number;
  algorithm: number;
}

/**
 * Reads profiles of Aceso (microsoft/SuperScaler, EuroSys 2024): CSV files `<model>_<size>_mbs<M>_tp<T>_algo<A>.csv`
 * with microseconds and MB of 2^20 bytes, one row a distinct operator, as a chain. Files that differ in `tp` become
 * variants of one graph. Each operator also gets a recomputed variant that keeps its input alone and runs its
 * forward pass twice, where that is less.
 *
 * The times hold no collectives, and the reserved columns (workspace of one operator at a time) are left out.
 * @param source a file, files, or a folder.
 * @throws MpoptError E_FILE, E_USAGE for a choice that is left open, E_PARSE or E_FIELD; one sentence each.
 */
export function readAceso(source: string | readonly string[], options: AcesoOptions = {}): LayeredGraph {
  const { repeat } = options;
  if (repeat !== undefined && !(Number.isInteger(repeat) && repeat >= 1)) {
    throw new MpoptError("E_USAGE", `Expected a whole number of layers to repeat but found ${repeat}.`);
  }
  const warnings: string[] = [];
  const profiles = select(list(source), options, String(source), warnings);
  const { profile, microBatch } = profiles[0]!;
  const tables = profiles.map(({ path }) => readRows(path, warnings));
  const rows = tables[0]!;
  tables.forEach((other, i) => {
    const at = Array.from({ length: Math.max(rows.length, other.length) }).findIndex(
      (_, row) => rows[row]?.name !== other[row]?.name,
    );
    if (at < 0) return;
    throw new MpoptError(
      "E_FIELD",
      `Expected the same operators in ${profiles[0]!.path} and ${profiles[i]!.path} but row ${at + 1} has ${rows[at]?.name ?? "none"} and ${other[at]?.name ?? "none"}.`,
    );
  });

  const order = unrolled(rows.length, profile, repeat, profiles[0]!.path, warnings);
  const nodes = order.map(({ row, layer }, index): LayeredNode => {
    const name = rows[row]!.name;
    return {
      id: String(index),
      name: layer === undefined ? name : `${name} (layer ${layer})`,
      variants: profiles.flatMap(({ tensor }, i) => variantsOf(tables[i]![row]!, tensor)),
    };
  });
  if (profiles.some(({ tensor }) => tensor > 1)) {
    warnings.push(
      "Aceso's operator profiles hold no collectives, so tensor parallelism looks cheaper than it is.",
    );
  }
  const edges = order
    .slice(0, -1)
    .map(({ row }, i) => ({ from: i, to: i + 1, bytes: rows[row]!.outputBytes }));
  const name = `${profile}_mbs${microBatch}`;
  const graph: LayeredGraph = { name, format: "aceso", nodes, edges, header: {}, warnings };
  checkLayeredGraph(graph, String(source));
  return graph;
}

function list(source: string | readonly string[]): string[] {
  if (typeof source !== "string") return [...source];
  try {
    if (!statSync(source).isDirectory()) return [source];
    const names = readdirSync(source).sort();
    return names.filter((name) => fileName.test(name)).map((name) => join(source, name));
  } catch (error) {
    const why = (error as NodeJS.ErrnoException).code === "ENOENT" ? "it does not exist" : String(error);
    throw new MpoptError("E_FILE", `Expected a profile of Aceso at ${source} but ${why}.`, [], {
      cause: error,
    });
  }
}

/** The files of one model and micro-batch size, by degree. */
function select(paths: string[], options: AcesoOptions, where: string, warnings: string[]): Profile[] {
  let found = paths.map((path): Profile => {
    const groups = fileName.exec(basename(path))?.groups;
    if (!groups) {
      throw new MpoptError(
        "E_FILE",
        `Expected a file called MODEL_SIZE_mbsM_tpT_algoA.csv but found ${basename(path)}.`,
      );
    }
    const { profile, microBatch, tensor, algorithm } = groups as Record<string, string>;
    return {
      path,
      profile: profile!,
      microBatch: Number(microBatch),
      tensor: Number(tensor),
      algorithm: Number(algorithm),
    };
  });
  if (found.length === 0) {
    throw new MpoptError(
      "E_FILE",
      `Expected files MODEL_SIZE_mbsM_tpT_algoA.csv in ${where} but found none.`,
    );
  }
  for (const key of ["profile", "microBatch"] as const) {
    const values = [...new Set(found.map((it) => it[key]))];
    const wanted = options[key];
    if (wanted === undefined && values.length > 1) {
      const what = key === "profile" ? "model" : "micro-batch size";
      throw new MpoptError("E_USAGE", `Expected one ${what} in ${where} but found ${values.join(", ")}.`, [
        `Name one with the option ${key}.`,
      ]);
    }
    if (wanted !== undefined) found = found.filter((it) => it[key] === wanted);
    if (found.length === 0) {
      throw new MpoptError("E_USAGE", `Expected one of ${values.join(", ")} for ${key} but found ${wanted}.`);
    }
  }
  const algorithms = [...new Set(found.map(({ algorithm }) => algorithm))].sort((a, b) => a - b);
  const algorithm = options.algorithm ?? algorithms[0]!;
  found = found.filter((it) => it.algorithm === algorithm);
  if (found.length === 0) {
    throw new MpoptError(
      "E_USAGE",
      `Expected one of ${algorithms.join(", ")} for algorithm but found ${algorithm}.`,
    );
  }
  if (algorithms.length > 1) {
    warnings.push(`Operators are split as in algo${algorithm}; files of the other way were left out.`);
  }
  return found.sort((a, b) => a.tensor - b.tensor);
}

function readRows(path: string, warnings: string[]): Row[] {
  const lines = readText(path)
    .replace(/^\uFEFF/, "")
    .trim()
    .split(/\r?\n/);
  const header = lines[0]!.split(",").map((name) => name.trim());
  const missing = columns.find((name) => !header.includes(name));
  if (missing !== undefined) {
    throw new MpoptError(
      "E_PARSE",
      `Expected a column ${missing} on line 1 of ${path} but found ${lines[0] || "nothing"}.`,
    );
  }
  const rows = lines.slice(1).map((line, index) => {
    const cells = line.split(",").map((cell) => cell.trim());
    const where = `on line ${index + 2} of ${path}`;
    if (cells.length !== header.length) {
      throw new MpoptError("E_PARSE", `Expected ${header.length} cells ${where} but found ${cells.length}.`);
    }
    const number = (column: string, unit: number) => {
      const cell = cells[header.indexOf(column)]!;
      const value = cell === "" ? Number.NaN : Number(cell);
      if (Number.isFinite(value) && value >= 0) return value * unit;
      throw new MpoptError(
        "E_FIELD",
        `Expected a number of at least 0 for ${column} ${where} but found "${cell}".`,
      );
    };
    const row: Row = {
      name: cells[header.indexOf("op_name")]!,
      forwardSeconds: number("forward-compute", microsecond),
      backwardSeconds: number("backward-compute", microsecond),
      inputBytes: number("input_size", megabyte),
      outputBytes: number("output_size", megabyte),
      weightBytes: number("weights", megabyte),
      activationBytes: number("activations", megabyte),
    };
    const { forwardSeconds, backwardSeconds, name } = row;
    if (backwardSeconds > 0 && forwardSeconds > suspiciousForward * backwardSeconds) {
      const times = Math.round(forwardSeconds / backwardSeconds);
      warnings.push(
        `The forward pass of ${name} ${where} takes ${times} times its backward pass: a start-up was measured.`,
      );
    }
    return row;
  });
  if (rows.length === 0) throw new MpoptError("E_PARSE", `Expected operators in ${path} but found none.`);
  return rows;
}

/** Rows in the order of the model, each layer's as often as layers repeat. */
function unrolled(
  count: number,
  profile: string,
  repeat: number | undefined,
  path: string,
  warnings: string[],
): { row: number; layer?: number }[] {
  const blocks = layerRows[profile.split("_")[0]!] ?? [];
  const once = Array.from({ length: count }, (_, row) => ({ row }));
  if (blocks.length === 0) {
    if (repeat !== undefined && repeat > 1) {
      throw new MpoptError(
        "E_USAGE",
        `Expected a profile of gpt or t5 to repeat layers of but found ${profile}, which lists every operator.`,
      );
    }
    return once;
  }
  if (count < blocks.at(-1)![1]) {
    throw new MpoptError(
      "E_FIELD",
      `Expected at least ${blocks.at(-1)![1]} operators in ${path} but found ${count}.`,
    );
  }
  if (repeat === undefined) {
    warnings.push(
      `Layers of ${profile} occur once: the profile lists distinct operators; give the number of layers with repeat.`,
    );
    return once;
  }
  const order: { row: number; layer?: number }[] = [];
  let at = 0;
  for (const [begin, end] of blocks) {
    for (; at < begin; at++) order.push({ row: at });
    for (let layer = 0; layer < repeat; layer++) {
      for (let row = begin; row < end; row++) order.push({ row, layer });
    }
    at = end;
  }
  for (; at < count; at++) order.push({ row: at });
  return order;
}

function variantsOf(row: Row, tensor: number): LayeredVariant[] {
  const kept: LayeredVariant = {
    tensor,
    recompute: false,
    forwardSeconds: row.forwardSeconds,
    backwardSeconds: row.backwardSeconds,
    parameterBytes: row.weightBytes,
    activationBytes: row.activationBytes,
    fixedBytes: stateBytesPerWeightByte * row.weightBytes,
  };
  if (row.inputBytes >= row.activationBytes) return [kept];
  const backwardSeconds = row.backwardSeconds + row.forwardSeconds;
  return [kept, { ...kept, recompute: true, backwardSeconds, activationBytes: row.inputBytes }];
}
