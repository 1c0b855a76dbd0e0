/** Numbers as a person reads them, always with their unit. */

/** Three or four significant digits without an exponent; thousands are grouped from 10,000 on. */
export function formatNumber(value: number, digits = 3): string {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : Number.isNaN(value) ? "n/a" : "-∞";
  // Rounded first, so that 0.9999 counts as 1.00 and not as 1.000.
  const rounded = Math.abs(Number(value.toPrecision(digits)));
  const magnitude = rounded === 0 ? 0 : Math.floor(Math.log10(rounded));
  const decimals = Math.min(20, Math.max(0, digits - 1 - magnitude));
  const text = value.toFixed(decimals);
  return Math.abs(Number(text)) >= 10_000 ? formatInteger(Number(text)) : text;
}

/** A whole number with groups of three: 405,853,388,800. */
export function formatInteger(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

/** Seconds in the unit that fits: `12.3 s`, `345 ms`, `6.78 µs`, from two minutes on `2 min 5 s`. */
export function formatSeconds(seconds: number): string {
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  if (!Number.isFinite(size)) return `${formatNumber(seconds)} s`;
  if (size >= 7200) return `${formatNumber(seconds / 3600)} h`;
  if (size >= 120) {
    const whole = Math.round(size);
    return `${seconds < 0 ? "-" : ""}${Math.floor(whole / 60)} min ${whole % 60} s`;
  }
  // Round before the unit is chosen, so that 999.9996 ms becomes 1.00 s.
  const rounded = Number(size.toPrecision(3));
  if (rounded >= 1) return `${formatNumber(seconds, size >= 10 ? 4 : 3)} s`;
  if (rounded >= 1e-3) return `${formatNumber(seconds * 1e3)} ms`;
  if (rounded >= 1e-6) return `${formatNumber(seconds * 1e6)} µs`;
  return `${formatNumber(seconds * 1e9)} ns`;
}

/** Seconds as milliseconds without a unit, for columns that name it. */
export function formatMilliseconds(seconds: number): string {
  const milliseconds = seconds * 1e3;
  return milliseconds >= 100 ? milliseconds.toFixed(0) : formatNumber(milliseconds);
}

/** Bytes in binary units: `74.5 GiB`, `512 MiB`, `0 B`. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let value = bytes;
  let unit = 0;
  while (Math.abs(Number(value.toPrecision(4))) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? formatInteger(value) : formatNumber(value)} ${units[unit]}`;
}

/** Bytes as GiB without the unit, for columns that name it. */
export function formatGib(bytes: number): string {
  const gib = bytes / 2 ** 30;
  return gib === 0 ? "0" : gib < 0.1 ? formatNumber(gib, 1) : gib.toFixed(1);
}

/** A large count with a suffix: `405.9 B`, `1.2 M`; plain below 100,000. */
export function formatCount(count: number): string {
  const suffixes: readonly [number, string][] = [
    [1e12, "T"],
    [1e9, "B"],
    [1e6, "M"],
    [1e5, "k"],
  ];
  for (const [from, suffix] of suffixes) {
    if (count >= from) return `${(count / (suffix === "k" ? 1e3 : from)).toFixed(1)} ${suffix}`;
  }
  return count < 100 && !Number.isInteger(count) ? formatNumber(count) : formatInteger(count);
}

/** A share as percent: `42.1 %`, `0 %`; `< 0.1 %` where rounding would hide it. */
export function formatPercent(share: number): string {
  const percent = share * 100;
  if (percent === 0) return "0 %";
  if (percent > 0 && percent < 0.05) return "< 0.1 %";
  return `${percent.toFixed(1)} %`;
}

/** Dollars as a price tag: `$0.0423`, `$12.30`, `$1,234`. */
export function formatDollars(dollars: number): string {
  if (dollars >= 1000) return `$${formatInteger(dollars)}`;
  return dollars >= 1 ? `$${dollars.toFixed(2)}` : `$${formatNumber(dollars)}`;
}

/** A change as signed percent: `+4.2 %`, `−12.0 %`, `0 %`. */
export function formatChange(change: number): string {
  if (Math.abs(change) < 5e-4) return "0 %";
  return `${change < 0 ? "−" : "+"}${formatPercent(Math.abs(change))}`;
}

/** `1 stage`, `2 stages`, `3 micro-batches`. */
export function plural(count: number, word: string): string {
  const ending = count === 1 ? "" : /(ch|s|x)$/.test(word) ? "es" : "s";
  return `${formatInteger(count)} ${word}${ending}`;
}

/** Runs of consecutive ranks: `0–127, 256–383`. */
export function deviceRanges(devices: readonly number[]): string {
  const sorted = [...devices].sort((a, b) => a - b);
  const runs: string[] = [];
  for (let i = 0; i < sorted.length; ) {
    let j = i;
    while (j + 1 < sorted.length && sorted[j + 1] === sorted[j]! + 1) j++;
    runs.push(i === j ? `${sorted[i]}` : `${sorted[i]}–${sorted[j]}`);
    i = j + 1;
  }
  return runs.length > 6
    ? `${runs.slice(0, 5).join(", ")}, … (${plural(sorted.length, "device")})`
    : runs.join(", ");
}
