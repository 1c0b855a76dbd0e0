import { describe, expect, it } from "vitest";
import {
  checkActions,
  clockFor,
  compileSchedule,
  flattenTimes,
  isTimedInOrder,
  kindNames,
  lastComputeKind,
  type SimulateOptions,
  simulate,
  timeByEvents,
  timeInOrder,
} from "../../src/schedule/index.js";
import { type RandomCase, randomCase } from "./randomSchedules.js";
import { type ReferenceResult, reference } from "./reference.js";

const cases = 10_000;

/** Largest difference between two simulations of a case, over its step; Infinity where their forms differ. */
function difference({ table, times, memory, blocking }: RandomCase, wanted: ReferenceResult): number {
  const compiled = compileSchedule(table, { sends: blocking ? "blocking" : "posted" });
  const options: SimulateOptions = { events: true, memory, memoryCurve: true };
  const result = simulate(compiled, times, options);
  const scale = Math.max(1, wanted.makespan);
  let worst = 0;
  const compare = (a: number, b: number | undefined) => {
    worst = Math.max(worst, b === undefined ? Infinity : Math.abs(a - b) / scale);
  };
  compare(result.stepSeconds, wanted.makespan);
  result.ranks.forEach((rank, r) => {
    compare(rank.busySeconds, wanted.busy[r]);
    compare(rank.peakMicroBatches, wanted.peak[r]);
    for (const { kind, stage, microBatch, startSeconds, endSeconds } of rank.events) {
      const [start, end] = wanted.actions.get(`${kind} ${stage} ${microBatch}`) ?? [];
      compare(startSeconds, start);
      compare(endSeconds, end);
    }
    const waits = new Map(wanted.waits[r]);
    for (const { cause, rank: from, seconds } of rank.waits) {
      const key = from === undefined ? cause : `${cause} ${from}`;
      compare(seconds, waits.get(key) ?? 0);
      waits.delete(key);
    }
    for (const seconds of waits.values()) compare(seconds, 0);
    compareCurves(rank.memory!.curve!, wanted.memory[r]!, compare);
    const peakBytes = Math.max(...wanted.memory[r]!.map(([, bytes]) => bytes));
    compare(rank.memory!.peakAllocatedBytes, peakBytes);
    compare(rank.memory!.peakSeconds, wanted.memory[r]!.find(([, bytes]) => bytes === peakBytes)![0]);
  });
  // Where one pass is enough, stepping through events must say the same.
  const flat = flattenTimes(times, compiled);
  if (isTimedInOrder(compiled, flat)) {
    const [one, two] = [clockFor(compiled), clockFor(compiled)];
    compare(timeInOrder(compiled, flat, one), timeByEvents(compiled, flat, two));
    for (const which of ["starts", "ends"] as const) {
      one[which].forEach((seconds, i) => {
        compare(seconds, two[which][i]);
      });
    }
  }
  return worst;
}

function compareCurves(
  { seconds, allocatedBytes }: { seconds: number[]; allocatedBytes: number[] },
  wanted: [number, number][],
  compare: (a: number, b: number | undefined) => void,
): void {
  const changes = seconds
    .map((at, i): [number, number] => [at, allocatedBytes[i]!])
    .filter(([, bytes], i) => i === 0 || bytes !== allocatedBytes[i - 1]);
  compare(changes.length, wanted.length);
  changes.forEach(([at, bytes], i) => {
    compare(at, wanted[i]?.[0]);
    compare(bytes, wanted[i]?.[1]);
  });
}

describe("the simulator and a brute-force discrete-event reference", () => {
  it(`agree to 1e-12 on ${cases} random cases with every feature`, () => {
    const covered = new Map<string, number>();
    const cover = (feature: string, holds: unknown) =>
      holds && covered.set(feature, (covered.get(feature) ?? 0) + 1);
    for (let seed = 1; seed <= cases; seed++) {
      const sample = randomCase(seed);
      const { table, times, memory, blocking } = sample;
      const kinds = new Set(table.ranks.flat().map(({ kind }) => kind));
      for (const kind of kinds) cover(kind, true);
      cover("routes", table.routes);
      cover("copies", new Set(table.layersOf).size < (table.layersOf?.length ?? 0));
      cover(
        "overlapped",
        table.ranks.flat().some(({ overlapped }) => overlapped),
      );
      cover("blocking", blocking && kinds.has("send"));
      cover("slow-down", times.collectiveSlowdown && (kinds.has("reduce") || kinds.has("all-gather")));
      const wanted = reference(table, times, { blocking, memory });
      if (!wanted.finished) throw new Error(`Case ${seed}: the reference did not finish.`);
      const worst = difference(sample, wanted);
      if (!(worst <= 1e-12)) throw new Error(`Case ${seed}: the simulations differ by ${worst}.`);
    }
    for (const feature of [...kindNames, "routes", "copies", "overlapped", "blocking", "slow-down"]) {
      expect([feature, (covered.get(feature) ?? 0) > cases / 50]).toEqual([feature, true]);
    }
    expect(kindNames[lastComputeKind]).toBe("optimizer");
  });

  it("random cases are valid tables", () => {
    for (let seed = 1; seed <= 300; seed++) expect(checkActions(randomCase(seed).table)).toEqual([]);
  });
});
