// Writes the JSON Schemas of the contracts into schema/; with --check it only compares, and fails on a difference.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { contracts } from "../dist/contracts/index.js";

const folder = join(dirname(fileURLToPath(import.meta.url)), "../schema");
mkdirSync(folder, { recursive: true });
for (const { name, major, schema } of Object.values(contracts)) {
  const document = { title: `${name}/${major}`, ...z.toJSONSchema(schema, { io: "input" }) };
  const path = join(folder, `${name}-${major}.json`);
  const text = `${JSON.stringify(document, null, 2)}\n`;
  let current = "";
  try {
    current = readFileSync(path, "utf8");
  } catch {
    // First time.
  }
  if (current === text) continue;
  if (process.argv.includes("--check")) {
    console.error(`${path} is not what the contracts say: run \`npm run build\` and commit it.`);
    process.exitCode = 1;
  } else writeFileSync(path, text);
}
