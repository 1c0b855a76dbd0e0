import { MpoptError } from "../../contracts/index.js";

/** Bounds far above any published model; they keep a typing error from filling the memory. */
const maximumSize = 2 ** 31;
const maximumLayers = 10_000;

function describe(value: unknown): string {
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (value !== null && typeof value === "object") return "an object";
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/**
 * Reads the fields of a Hugging Face `config.json`. A field that the file omits takes the default of the
 * configuration class in transformers where the caller gives one; without it the field is needed. Sizes that
 * decide parameters and that every published config carries (hidden size, layers, heads, vocabulary, widths)
 * are always needed, although the classes have defaults for them: a config without them describes no model.
 *
 * Every method throws MpoptError E_FIELD with the file, the field, what was expected and what was found.
 */
export class ConfigFields {
  readonly where: string;
  readonly #values: Readonly<Record<string, unknown>>;

  constructor(values: Readonly<Record<string, unknown>>, where: string) {
    this.#values = values;
    this.where = where;
  }

  error(field: string, expected: string, notes: string[] = []): MpoptError {
    const found = describe(this.#values[field]);
    return new MpoptError(
      "E_FIELD",
      `${this.where}: expected ${expected} for field ${field} but found ${found}.`,
      notes,
    );
  }

  raw(field: string): unknown {
    return this.#values[field];
  }

  /** The first of several names for one field that the file uses. */
  #name(names: string | readonly string[]): string {
    if (typeof names === "string") return names;
    return names.find((name) => this.#values[name] !== undefined) ?? names[0]!;
  }

  #integer(field: string, minimum: number, maximum: number, value: unknown): number {
    const kind = minimum === 0 ? "a whole number of at least 0" : "a positive whole number";
    if (typeof value !== "number" || !Number.isInteger(value) || value < minimum) {
      const notes =
        value === undefined
          ? [`Add "${field}" to the file; it decides how many parameters the model has.`]
          : [];
      throw this.error(field, kind, notes);
    }
    if (value > maximum) throw this.error(field, `at most ${maximum}`);
    return value;
  }

  /**
   * A positive whole number.
   * @param absent value where the file omits the field; undefined makes it needed.
   * @param whenNull value where the file says null; as `absent` by default.
   */
  size(names: string | readonly string[], absent?: number, whenNull: number | undefined = absent): number {
    const field = this.#name(names);
    const value = this.#values[field];
    if (value === undefined && absent !== undefined) return absent;
    if (value === null && whenNull !== undefined) return whenNull;
    return this.#integer(field, 1, maximumSize, value);
  }

  /** A positive whole number, or null where the file says null or omits a field whose default is null. */
  optionalSize(field: string, absent: number | null): number | null {
    const value = this.#values[field];
    if (value === null) return null;
    return value === undefined ? absent : this.#integer(field, 1, maximumSize, value);
  }

  /** A whole number of at least 0; null counts as `absent`. */
  count(field: string, absent?: number): number {
    const value = this.#values[field];
    if ((value === undefined || value === null) && absent !== undefined) return absent;
    return this.#integer(field, 0, maximumSize, value);
  }

  layers(names: string | readonly string[]): number {
    const field = this.#name(names);
    return this.#integer(field, 1, maximumLayers, this.#values[field]);
  }

  positive(names: string | readonly string[], absent: number): number {
    const field = this.#name(names);
    const value = this.#values[field];
    if (value === undefined || value === null) return absent;
    if (typeof value !== "number" || !(value > 0)) throw this.error(field, "a number above 0");
    return value;
  }

  flag(field: string, absent: boolean): boolean {
    const value = this.#values[field];
    if (value === undefined || value === null) return absent;
    if (typeof value !== "boolean") throw this.error(field, "true or false");
    return value;
  }

  text(names: string | readonly string[], absent: string): string {
    const field = this.#name(names);
    const value = this.#values[field];
    if (value === undefined || value === null) return absent;
    if (typeof value !== "string" || value === "") throw this.error(field, "a text");
    return value;
  }

  /** One text out of `allowed` a layer, or undefined where the file has no list. */
  perLayer(field: string, layers: number, allowed: readonly string[]): string[] | undefined {
    const value = this.#values[field];
    if (value === undefined || value === null) return undefined;
    const fits = Array.isArray(value) && value.length === layers && value.every((v) => allowed.includes(v));
    if (!fits) throw this.error(field, `a list of ${layers} values out of ${allowed.join(", ")}`);
    return value as string[];
  }

  /** A list of whole numbers of at least 0; empty where it is omitted. */
  indices(field: string): number[] {
    const value = this.#values[field];
    if (value === undefined || value === null) return [];
    if (!Array.isArray(value) || !value.every((v) => Number.isInteger(v) && v >= 0)) {
      throw this.error(field, "a list of layer numbers");
    }
    return value as number[];
  }

  /** A value of `rope_parameters` (transformers 5), or of the field of the same meaning before it. */
  rotary(newName: string, oldName: string, absent: number): number {
    const parameters = this.#values.rope_parameters;
    if (parameters !== undefined && parameters !== null) {
      if (typeof parameters !== "object" || Array.isArray(parameters)) {
        throw this.error("rope_parameters", "an object");
      }
      const value = (parameters as Record<string, unknown>)[newName];
      if (value !== undefined) {
        return new ConfigFields({ [newName]: value }, this.where).positive(newName, absent);
      }
    }
    return this.positive(oldName, absent);
  }

  /**
   * Width of one head: `head_dim`, or hidden / heads, which must divide.
   * @param absent class default of head_dim; undefined where the class divides.
   */
  headSize(hidden: number, heads: number, absent?: number): number {
    const given = this.optionalSize("head_dim", absent ?? null);
    return given ?? this.divided(hidden, "hidden_size", heads, "num_attention_heads");
  }

  /** `whole / parts`, which must be exact; the names are those of the fields. */
  divided(whole: number, wholeField: string, parts: number, partsField: string): number {
    if (whole % parts !== 0) {
      throw new MpoptError(
        "E_FIELD",
        `${this.where}: expected field ${partsField} to divide ${wholeField} (${whole}) but found ${parts}.`,
      );
    }
    return whole / parts;
  }
}
