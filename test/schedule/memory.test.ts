import { describe, expect, it } from "vitest";
import {
  addSharding,
  addUpdates,
  compileSchedule,
  gpipe,
  type MemoryModel,
  oneForwardOneBackward,
  peakMicroBatchesOf,
  type ScheduleTable,
  scheduleByName,
  simulate,
  simulatedMemoryTerms,
} from "../../src/schedule/index.js";
import { randomCase } from "./randomSchedules.js";

const unit = (stages: number) => ({
  forwardSeconds: new Array<number>(stages).fill(1),
  backwardSeconds: new Array<number>(stages).fill(2),
  backwardInputSeconds: new Array<number>(stages).fill(1),
  backwardWeightSeconds: new Array<number>(stages).fill(1),
});
const each = (stages: number, memory: MemoryModel["stages"][number]): MemoryModel => ({
  stages: new Array(stages).fill(memory),
});

describe("memory over time", () => {
  it("1F1B holds min(p - i, m) activations on rank i, GPipe m (Narayanan et al., SC'21, section 2.2.1)", () => {
    for (let p = 1; p <= 6; p++) {
      for (let m = 1; m <= 10; m++) {
        const model = each(p, {
          parameterBytes: 100,
          gradientBytes: 50,
          optimizerBytes: 25,
          activationBytes: 8,
        });
        const peaks = (table: ScheduleTable) =>
          simulate(table, unit(p), { memory: model }).ranks.map((rank) => rank.memory!.peakAllocatedBytes);
        expect(peaks(oneForwardOneBackward(p, m))).toEqual(
          Array.from({ length: p }, (_, i) => 175 + 8 * Math.min(p - i, m)),
        );
        expect(peaks(gpipe(p, m))).toEqual(new Array(p).fill(175 + 8 * m));
      }
    }
  });

  it("gives back a share at the backward-input and the rest at the backward-weight", () => {
    const action = (kind: "forward" | "backward-input" | "backward-weight") => ({
      kind,
      stage: 0,
      microBatch: 0,
    });
    const table: ScheduleTable = {
      name: "split",
      stages: 1,
      microBatches: 1,
      ranks: [[action("forward"), action("backward-input"), action("backward-weight")]],
    };
    const memory = each(1, {
      parameterBytes: 0,
      activationBytes: 100,
      freedAtInput: 0.75,
      backwardWorkspaceBytes: 7,
    });
    const { curve, ...peak } = simulate(table, unit(1), { memory, memoryCurve: true }).ranks[0]!.memory!;
    expect(curve!.seconds).toEqual([0, 1, 2, 3]);
    expect(curve!.allocatedBytes).toEqual([100, 107, 25, 0]);
    expect(curve!.terms.workspace).toEqual([0, 7, 0, 0]);
    expect(peak).toMatchObject({ peakAllocatedBytes: 107, peakSeconds: 1, peakActivationBytes: [100] });
  });

  it("peakMicroBatchesOf counts what the halves leave, as the memory does", () => {
    for (const name of ["zb-h1", "zb-h2", "zbv", "1f1b", "dualpipev"]) {
      for (const freedAtInput of [0, 0.5, 1]) {
        const table = scheduleByName(name, { ranks: 4, microBatches: 8 });
        const compiled = compileSchedule(table);
        const memory = each(table.stages, { parameterBytes: 0, activationBytes: 4, freedAtInput });
        const result = simulate(compiled, unit(table.stages), { memory });
        expect(result.ranks.map((rank) => rank.memory!.peakAllocatedBytes / 4)).toEqual(
          peakMicroBatchesOf(compiled, freedAtInput),
        );
      }
    }
  });

  it("keeps as many weights as the schedule has versions (PipeDream, SOSP'19, section 3.3)", () => {
    const table = scheduleByName("1f1b-async", { ranks: 4, microBatches: 8 });
    const memory = each(4, { parameterBytes: 10, activationBytes: 0 });
    expect(
      simulate(table, unit(4), { memory }).ranks.map((rank) => rank.memory!.peakTerms.parameters),
    ).toEqual(table.weightVersions!.map((versions) => 10 * versions));
  });

  it("reserves the fragmented peak and the context", () => {
    const memory: MemoryModel = {
      ...each(1, { parameterBytes: 900, activationBytes: 100 }),
      contextBytes: 50,
      fragmentation: 1.25,
    };
    expect(simulate(gpipe(1, 1), unit(1), { memory }).ranks[0]!.memory).toMatchObject({
      peakAllocatedBytes: 1050,
      reservedBytes: 1300,
    });
  });

  it("holds gathered parameters only from the gather to the reshard", () => {
    const table = addSharding(scheduleByName("looped-bfs", { ranks: 2, microBatches: 4, chunks: 3 }), 1);
    const memory = each(6, { parameterBytes: 10, activationBytes: 0, gatheredBytes: 100 });
    const result = simulate(table, { ...unit(6), gatherSeconds: new Array(6).fill(0.1) }, { memory });
    for (const rank of result.ranks) expect(rank.memory!.peakTerms.parameters).toBe(130);
  });

  it("holds whole gradients from a backward to the end of its reduction", () => {
    const table = addUpdates(oneForwardOneBackward(1, 2), { reduce: "backward", optimizer: false });
    const memory = each(1, { parameterBytes: 0, activationBytes: 0, unreducedGradientBytes: 64 });
    // F0 0-1, B0 1-3, its reduction 3-6; F1 3-4, B1 4-6, its reduction 6-9.
    const { curve } = simulate(table, { ...unit(1), reduceSeconds: [3] }, { memory, memoryCurve: true })
      .ranks[0]!.memory!;
    expect(curve!.seconds).toEqual([0, 1, 4, 6, 9]);
    expect(curve!.allocatedBytes).toEqual([0, 64, 128, 64, 0]);
  });

  it("curves end with what is held throughout, and terms add up, on random cases", () => {
    for (let seed = 1; seed <= 200; seed++) {
      const { table, times, memory, blocking } = randomCase(seed);
      const compiled = compileSchedule(table, { sends: blocking ? "blocking" : "posted" });
      for (const { memory: of } of simulate(compiled, times, { memory, memoryCurve: true }).ranks) {
        const { seconds, allocatedBytes, terms } = of!.curve!;
        seconds.forEach((_, i) => {
          const sum = simulatedMemoryTerms.reduce((all, term) => all + terms[term][i]!, 0);
          expect(sum).toBe(allocatedBytes[i]);
        });
        for (const term of ["activations", "workspace", "transferBuffers"] as const) {
          expect(terms[term].at(-1)).toBe(0);
          for (const bytes of terms[term]) expect(bytes).toBeGreaterThanOrEqual(0);
        }
        expect(of!.peakAllocatedBytes).toBe(Math.max(...allocatedBytes));
      }
    }
  });

  it("refuses models that do not fit", () => {
    const wrong: MemoryModel[] = [
      each(1, { parameterBytes: 1, activationBytes: 1 }),
      each(2, { parameterBytes: -1, activationBytes: 1 }),
      each(2, { parameterBytes: 1, activationBytes: 1, freedAtInput: 1.5 }),
      { ...each(2, { parameterBytes: 1, activationBytes: 1 }), fragmentation: 0.5 },
      { ...each(2, { parameterBytes: 1, activationBytes: 1 }), transferBytes: [] },
    ];
    for (const memory of wrong) {
      expect(() => simulate(gpipe(2, 2), unit(2), { memory })).toThrow(/^Expected/);
    }
  });
});
