/**
 * Names come from files of strangers. Control characters could drive a terminal, and bidirectional overrides
 * could make a line read differently from what it says: both are shown as a replacement mark.
 */
export function cleanText(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, "\ufffd");
}

/** Shortens to `width` characters; the cut is marked. */
export function truncate(text: string, width: number): string {
  const characters = [...text];
  return characters.length <= width ? text : `${characters.slice(0, Math.max(0, width - 1)).join("")}…`;
}

/** Breaks at spaces into lines of at most `width` characters; a longer word is cut. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    for (let rest = [...word]; ; ) {
      const part = rest.slice(0, width).join("");
      rest = rest.slice(width);
      if (line && [...line].length + 1 + [...part].length > width) {
        lines.push(line);
        line = part;
      } else line = line ? `${line} ${part}` : part;
      if (!rest.length) break;
      lines.push(line);
      line = "";
    }
  }
  if (line) lines.push(line);
  return lines;
}
