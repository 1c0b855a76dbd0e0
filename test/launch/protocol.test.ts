import { describe, expect, it } from "vitest";
import { readLine } from "../../src/launch/protocol.js";

describe("readLine", () => {
  it("tells the lines of a rank from those of the starter", () => {
    expect(readLine("[rank 12] [rank 3] text", "stderr")).toEqual({
      rank: 12,
      text: "[rank 3] text",
      report: undefined,
    });
    expect(readLine("srun: error", "stderr")).toEqual({
      rank: undefined,
      text: "srun: error",
      report: undefined,
    });
    expect(readLine("[rank 0] ", "stdout")).toMatchObject({ rank: 0, text: "" });
  });

  it("reads what scripts and ranks report, also behind the name of a host", () => {
    const step = 'MPOPT_STEP {"step": 3, "seconds": 0.5, "loss": 7.5}';
    const report = { kind: "step", step: 3, seconds: 0.5, loss: 7.5 };
    expect(readLine(step, "stdout").report).toEqual(report);
    expect(readLine(`[rank 0] ${step}`, "stdout")).toMatchObject({ rank: 0, report });
    expect(readLine(`worker-1: [rank 0] ${step}`, "stdout")).toMatchObject({ rank: 0, report });
    expect(readLine('MPOPT_STEP {"step": 0, "seconds": 1}', "stdout").report).toMatchObject({ loss: null });
    expect(readLine('MPOPT_DONE {"steps": 5}', "stdout").report).toEqual({
      kind: "done",
      summary: { steps: 5 },
    });
    expect(readLine('MPOPT_RANK {"rank": 1, "host": "a", "pid": 7}', "stdout").report).toMatchObject({
      kind: "rank",
    });
    expect(
      readLine('MPOPT_EXIT {"rank": 1, "exitCode": -9, "peakResidentBytes": 5}', "stdout").report,
    ).toEqual({ kind: "exit", rank: 1, exitCode: -9, peakResidentBytes: 5 });
    expect(readLine('MPOPT_REFUSED {"message": "no"}', "stdout").report).toEqual({
      kind: "refused",
      message: "no",
    });
  });

  it("takes what is not well-formed for text", () => {
    for (const text of [
      "MPOPT_STEP {broken}",
      'MPOPT_STEP {"step": 1}',
      'MPOPT_STEP {"step": -1, "seconds": 1}',
      'MPOPT_STEP {"step": 1, "seconds": "1"}',
      'MPOPT_STEP {"step": 1, "seconds": 1, "loss": "x"}',
      'MPOPT_EXIT {"rank": 1, "exitCode": 0.5, "peakResidentBytes": 5}',
      'MPOPT_OTHER {"step": 1}',
      ' MPOPT_DONE {"steps": 5}',
    ]) {
      expect(readLine(text, "stdout").report, text).toBeUndefined();
    }
    expect(readLine('MPOPT_DONE {"steps": 5}', "stderr").report).toBeUndefined();
  });
});
