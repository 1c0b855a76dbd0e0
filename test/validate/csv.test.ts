import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseCsv } from "../../src/validate/csv.js";

const values = (text: string) => parseCsv(text, "runs.csv").rows.map((row) => Object.values(row.values));

describe("the reader of comma-separated values", () => {
  it("reads quotes, commas, doubled quotes and line breaks inside fields", () => {
    const text = 'id,notes,tp\r\na,"x, ""y""\nz",2\r\n\r\nb,,4';
    expect(values(text)).toEqual([
      ["a", 'x, "y"\nz', "2"],
      ["b", "", "4"],
    ]);
    expect(parseCsv(text, "").rows.map((row) => row.line)).toEqual([2, 5]);
  });

  it("reads any table back that was written with quotes where they are needed", () => {
    const field = fc.string({ unit: fc.constantFrom("a", '"', ",", "\n", "\r", " ", "é"), maxLength: 6 });
    const table = fc
      .integer({ min: 2, max: 4 })
      .chain((width) =>
        fc.array(fc.array(field, { minLength: width, maxLength: width }), { minLength: 1, maxLength: 5 }),
      );
    const quoted = (text: string) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    fc.assert(
      fc.property(table, fc.constantFrom("\n", "\r\n"), fc.boolean(), (rows, end, closed) => {
        const header = rows[0]!.map((_, i) => `column${i}`);
        const text =
          [header, ...rows].map((row) => row.map(quoted).join(",")).join(end) + (closed ? end : "");
        expect(values(text)).toEqual(rows);
      }),
      { numRuns: 500, seed: 1 },
    );
  });

  it("skips a byte-order mark and takes a last empty field", () => {
    expect(values("\ufeffid,tp\na,")).toEqual([["a", ""]]);
  });

  it.each([
    ["", "line 1: expected a header that names the columns but found nothing"],
    ["id,id\na,b", 'line 1: expected every column once in the header but found "id" twice'],
    ["id,tp\na,1\nb", "line 3: expected 2 fields as in the header but found 1"],
    ['id,tp\na,"1\n2', "line 2: expected a closing quote but found the end of the file"],
    ['id,tp\n"a"b,1', 'line 2: expected a comma or the end of the line after a closing quote but found "b"'],
  ])("refuses %j", (text, message) => {
    expect(() => parseCsv(text, "runs.csv")).toThrow(
      expect.objectContaining({ code: "E_PARSE", message: `runs.csv ${message}.` }),
    );
  });
});
