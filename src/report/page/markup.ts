import { cleanText } from "../text.js";

/** Markup that is safe to put into the page as it stands. Only `html` and `raw` make it. */
export class Markup {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

export type Child = Markup | string | number | false | undefined | readonly Child[];

/** Escapes text for an element's content and for a quoted attribute. */
export function escapeHtml(text: string): string {
  return cleanText(text)
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replaceAll("'", "&#39;");
}

/** A template whose values are escaped unless they are markup; lists are joined, false and undefined vanish. */
export function html(strings: TemplateStringsArray, ...values: Child[]): Markup {
  let text = strings[0]!;
  values.forEach((value, i) => {
    text += render(value) + strings[i + 1]!;
  });
  return new Markup(text);
}

/** Text that this package wrote itself: styles, scripts, path data. */
export function raw(text: string): Markup {
  return new Markup(text);
}

function render(value: Child): string {
  if (value instanceof Markup) return value.text;
  if (Array.isArray(value)) return value.map(render).join("");
  if (value === false || value === undefined) return "";
  return escapeHtml(String(value));
}

/** JSON for a data block: `<` is escaped, so that no content can end the element. */
export function json(value: unknown): Markup {
  return new Markup(JSON.stringify(value).replaceAll("<", "\\u003c"));
}
