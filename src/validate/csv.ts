import { MpoptError, readText } from "../contracts/index.js";

/** One record of a CSV file. */
export interface CsvRow {
  /** Line of the file that the record begins on, from 1. */
  line: number;
  /** Field of each column. */
  values: Readonly<Record<string, string>>;
}

export interface CsvTable {
  /** The file, or the words that name the text in an error. */
  where: string;
  columns: readonly string[];
  rows: readonly CsvRow[];
}

/**
 * Reads comma-separated values (RFC 4180) with a header: fields may be quoted, then hold commas, line breaks and
 * doubled quotes; lines end in LF or CR LF; a byte-order mark and empty lines are skipped.
 * @throws MpoptError E_PARSE with file, line, what was expected and what was found: for a missing header, a column
 * that is named twice, a record with more or fewer fields than the header, and quotes that do not pair.
 */
export function parseCsv(text: string, where: string): CsvTable {
  const records = readRecords(text, where);
  const header = records.shift();
  if (!header) throw failure(where, 1, "a header that names the columns", "nothing");
  const columns = header.fields.map((name) => name.trim());
  const repeated = columns.find((name, i) => columns.indexOf(name) !== i);
  if (repeated !== undefined) {
    throw failure(where, header.line, "every column once in the header", `"${repeated}" twice`);
  }
  const rows = records.map(({ line, fields }): CsvRow => {
    if (fields.length !== columns.length) {
      throw failure(where, line, `${columns.length} fields as in the header`, `${fields.length}`);
    }
    return { line, values: Object.fromEntries(columns.map((name, i) => [name, fields[i]!])) };
  });
  return { where, columns, rows };
}

/** Reads a CSV file. @throws MpoptError E_FILE, or E_PARSE as `parseCsv`. */
export function readCsv(path: string): CsvTable {
  return parseCsv(readText(path), path);
}

function failure(where: string, line: number, expected: string, found: string): MpoptError {
  return new MpoptError("E_PARSE", `${where} line ${line}: expected ${expected} but found ${found}.`);
}

interface RawRecord {
  line: number;
  fields: string[];
}

function readRecords(text: string, where: string): RawRecord[] {
  const records: RawRecord[] = [];
  let fields: string[] = [];
  let line = 1;
  let recordLine = 1;
  let at = text.charCodeAt(0) === 0xfeff ? 1 : 0;
  const endRecord = () => {
    if (fields.length > 1 || fields[0] !== "") records.push({ line: recordLine, fields });
    fields = [];
    recordLine = line;
  };
  while (at < text.length) {
    let field: string;
    if (text[at] === '"') {
      const openLine = line;
      const parts: string[] = [];
      for (;;) {
        const close = text.indexOf('"', at + 1);
        if (close < 0) throw failure(where, openLine, "a closing quote", "the end of the file");
        const part = text.slice(at + 1, close);
        line += countLines(part);
        at = close + 1;
        if (text[at] !== '"') {
          parts.push(part);
          break;
        }
        parts.push(`${part}"`);
      }
      field = parts.join("");
      const after = text[at];
      if (after !== undefined && after !== "," && after !== "\n" && !text.startsWith("\r\n", at)) {
        throw failure(where, line, "a comma or the end of the line after a closing quote", `"${after}"`);
      }
    } else {
      let end = at;
      while (end < text.length && text[end] !== "," && text[end] !== "\n") end++;
      field = text.slice(at, end);
      if (text[end] !== "," && field.endsWith("\r")) field = field.slice(0, -1);
      at = end;
    }
    fields.push(field);
    if (text.startsWith("\r\n", at)) at++;
    if (text[at] === ",") {
      at++;
      // A comma at the very end still opens a field.
      if (at === text.length) fields.push("");
    } else if (text[at] === "\n") {
      at++;
      line++;
      endRecord();
    }
  }
  if (fields.length > 0) endRecord();
  return records;
}

function countLines(text: string): number {
  let count = 0;
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) count++;
  return count;
}
