/** A value that Python has a literal for. */
export type Literal =
  | string
  | number
  | boolean
  | null
  | readonly Literal[]
  | { readonly [key: string]: Literal };

/** Lines of generated Python are wrapped beyond this width. */
const widestLine = 100;

/**
 * A value as a Python literal, lists and dictionaries over several lines where one is too narrow.
 * @param indent columns before the literal's first line, which the lines that follow are indented from.
 */
export function pythonLiteral(value: Literal, indent = 0): string {
  const flat = flatLiteral(value);
  if (indent + flat.length <= widestLine || value === null || typeof value !== "object") return flat;
  const inner = " ".repeat(indent + 4);
  const list = isList(value);
  const items = list
    ? value.map((each) => pythonLiteral(each, indent + 4))
    : Object.entries(value).map(([key, each]) => `${pythonString(key)}: ${pythonLiteral(each, indent + 4)}`);
  const [open, close] = list ? "[]" : "{}";
  return `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${" ".repeat(indent)}${close}`;
}

function flatLiteral(value: Literal): string {
  if (value === null) return "None";
  if (typeof value === "string") return pythonString(value);
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") return String(value);
  if (isList(value)) return `[${value.map(flatLiteral).join(", ")}]`;
  return `{${Object.entries(value)
    .map(([key, each]) => `${pythonString(key)}: ${flatLiteral(each)}`)
    .join(", ")}}`;
}

function isList(value: Literal): value is readonly Literal[] {
  return Array.isArray(value);
}

/** A Python string of printable ASCII that is `text`, whatever that holds. */
export function pythonString(text: string): string {
  const escaped = [...text].map((character) => {
    if (character === '"' || character === "\\") return `\\${character}`;
    if (character === "\n") return "\\n";
    const code = character.codePointAt(0)!;
    if (code >= 32 && code < 127) return character;
    if (code < 256) return `\\x${code.toString(16).padStart(2, "0")}`;
    if (code < 65536) return `\\u${code.toString(16).padStart(4, "0")}`;
    return `\\U${code.toString(16).padStart(8, "0")}`;
  });
  return `"${escaped.join("")}"`;
}

/** `name(key=value, ...)`, one argument a line where one line is too narrow. Values are Python expressions. */
export function pythonCall(name: string, values: Readonly<Record<string, string>>, indent = 0): string {
  const parts = Object.entries(values).map(([key, value]) => `${key}=${value}`);
  const flat = `${name}(${parts.join(", ")})`;
  if (indent + flat.length <= widestLine && !flat.includes("\n")) return flat;
  const inner = " ".repeat(indent + 4);
  return `${name}(\n${parts.map((part) => `${inner}${part},\n`).join("")}${" ".repeat(indent)})`;
}

/** A list of numbers or strings as a Python literal on one line. */
export function pythonList(values: readonly (number | string)[]): string {
  return flatLiteral(values);
}
