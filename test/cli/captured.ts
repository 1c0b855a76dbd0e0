import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, vi } from "vitest";

/** What a command run inside the test printed, and a folder for its files; renewed for each test of the file. */
export function captureCommand(): { folder: string; out: string; err: string } {
  const captured = { folder: "", out: "", err: "" };
  beforeEach(() => {
    captured.folder = mkdtempSync(join(tmpdir(), "mpopt-command-"));
    captured.out = "";
    captured.err = "";
    vi.spyOn(process.stdout, "write").mockImplementation((text) => {
      captured.out += text;
      return true;
    });
    vi.spyOn(process.stderr, "write").mockImplementation((text) => {
      captured.err += text;
      return true;
    });
  });
  afterEach(() => {
    vi.restoreAllMocks();
    process.exitCode = undefined;
    rmSync(captured.folder, { recursive: true });
  });
  return captured;
}
