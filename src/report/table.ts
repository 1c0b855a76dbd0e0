import type { TerminalOptions } from "./terminal.js";
import { cleanText, wrap } from "./text.js";

/** A column of a table for the terminal. */
export interface Column<Row> {
  title: string;
  /** Aligned to the right. */
  right?: boolean;
  cell(row: Row): string;
}

const gap = 2;
/** The last column has at least as many characters, and is otherwise put on a line of its own. */
const leastWords = 24;

/** A table under a title; its last column, which holds words, is wrapped into what the others leave of the width. */
export function renderTable<Row>(
  title: string,
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  { color, width: given }: TerminalOptions,
): string {
  const width = Math.max(80, Math.min(120, Math.floor(given) || 80));
  const paint = (text: string, code: number) => (color && text ? `\u001b[${code}m${text}\u001b[0m` : text);
  const figures = columns.slice(0, -1);
  const words = columns.at(-1)!;
  const cells = rows.map((row) => figures.map((column) => cleanText(column.cell(row))));
  const widths = figures.map(({ title: head }, i) =>
    Math.max([...head].length, ...cells.map((row) => [...row[i]!].length)),
  );
  const aligned = (texts: readonly string[]) =>
    texts
      .map((text, i) => {
        const space = " ".repeat(Math.max(0, widths[i]! - [...text].length));
        return figures[i]!.right ? space + text : text + space;
      })
      .join(" ".repeat(gap));
  const indent = 2 + widths.reduce((sum, each) => sum + each + gap, 0);
  const beside = width - indent >= leastWords;
  const head = aligned(figures.map((column) => column.title));
  const lines = wrap(title, width).map((line) => paint(line, 1));
  lines.push(paint(`  ${head}${beside ? `${" ".repeat(gap)}${words.title}` : ""}`.trimEnd(), 2));
  for (const [i, row] of rows.entries()) {
    const text = wrap(cleanText(words.cell(row)), beside ? width - indent : width - 6);
    if (beside) {
      lines.push(`  ${aligned(cells[i]!)}${" ".repeat(gap)}${text[0] ?? ""}`.trimEnd());
      lines.push(...text.slice(1).map((line) => " ".repeat(indent) + line));
    } else {
      lines.push(`  ${aligned(cells[i]!)}`.trimEnd(), ...text.map((line) => paint(`      ${line}`, 2)));
    }
  }
  return lines.join("\n");
}
