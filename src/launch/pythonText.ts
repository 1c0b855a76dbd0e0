/** A string as a Python literal: JSON's escapes are among Python's. */
export function pythonString(value: string): string {
  return JSON.stringify(value);
}

/** A list of numbers or strings as a Python literal. */
export function pythonList(values: readonly (number | string)[]): string {
  return `[${values.map((value) => (typeof value === "number" ? String(value) : pythonString(value))).join(", ")}]`;
}
