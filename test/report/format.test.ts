import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  formatBytes,
  formatCount,
  formatGib,
  formatNumber,
  formatPercent,
  formatSeconds,
  plural,
} from "../../src/report/format.js";
import { wrap } from "../../src/report/text.js";

describe("formats", () => {
  it("seconds choose their unit", () => {
    expect(
      [0, 4.5e-9, 12.34e-6, 0.0999, 0.9999, 1, 12.345, 119.96, 125, 7199, 7200].map(formatSeconds),
    ).toEqual([
      "0 s",
      "4.50 ns",
      "12.3 µs",
      "99.9 ms",
      "1.00 s",
      "1.00 s",
      "12.35 s",
      "120.0 s",
      "2 min 5 s",
      "119 min 59 s",
      "2.00 h",
    ]);
  });

  it("bytes are binary", () => {
    expect([0, 1023, 1024, 1048575, 80e9, 2 ** 40].map(formatBytes)).toEqual([
      "0 B",
      "1,023 B",
      "1.00 KiB",
      "1.00 MiB",
      "74.5 GiB",
      "1.00 TiB",
    ]);
    expect([0, 2 ** 20, 2 ** 30, 80e9].map(formatGib)).toEqual(["0", "0.001", "1.0", "74.5"]);
  });

  it("counts, shares and words", () => {
    expect([7, 12_345, 389_503, 8.03e9, 1.5e12].map(formatCount)).toEqual([
      "7",
      "12,345",
      "389.5 k",
      "8.0 B",
      "1.5 T",
    ]);
    expect([0, 1e-5, 0.4213, 1].map(formatPercent)).toEqual(["0 %", "< 0.1 %", "42.1 %", "100.0 %"]);
    expect([plural(1, "stage"), plural(2, "stage"), plural(2000, "micro-batch")]).toEqual([
      "1 stage",
      "2 stages",
      "2,000 micro-batches",
    ]);
  });

  it("a number keeps three digits", () => {
    fc.assert(
      fc.property(fc.double({ min: 1e-6, max: 1e12, noNaN: true }), (value) => {
        const read = Number(formatNumber(value).replaceAll(",", ""));
        expect(Math.abs(read / value - 1)).toBeLessThan(0.0051);
      }),
    );
  });

  it("wrapping keeps the words and the width", () => {
    fc.assert(
      fc.property(
        fc.array(fc.stringMatching(/^[a-z]{1,30}$/), { minLength: 1 }),
        fc.integer({ min: 5, max: 60 }),
        (words, width) => {
          const lines = wrap(words.join(" "), width);
          for (const line of lines) expect(line.length).toBeLessThanOrEqual(width);
          expect(lines.join("").replaceAll(" ", "")).toBe(words.join(""));
        },
      ),
    );
  });
});
