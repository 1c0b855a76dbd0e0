import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Gives all test files one folder for temporary files, and removes it when they are done. */
export default function setup(): () => void {
  const folder = mkdtempSync(join(tmpdir(), "mpopt-test-"));
  process.env.TMPDIR = folder;
  return () => rmSync(folder, { recursive: true, force: true });
}
