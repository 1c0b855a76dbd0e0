import { describe, expect, it } from "vitest";
import {
  type Action,
  addSharding,
  addTransfers,
  addUpdates,
  checkActions,
  compileSchedule,
  gpipe,
  type Network,
  oneForwardOneBackward,
  type ScheduleTable,
  type StageTimes,
  scheduleByName,
  scheduleNames,
  simulate,
} from "../../src/schedule/index.js";
import { randomCase, randomOf } from "./randomSchedules.js";
import { reference } from "./reference.js";

const times = (stages: number, forward = 1, backward = 2): StageTimes => ({
  forwardSeconds: new Array(stages).fill(forward),
  backwardSeconds: new Array(stages).fill(backward),
  backwardInputSeconds: new Array(stages).fill(backward / 2),
  backwardWeightSeconds: new Array(stages).fill(backward / 2),
});
const forward = (stage: number, microBatch: number): Action => ({ kind: "forward", stage, microBatch });
const backward = (stage: number, microBatch: number): Action => ({ kind: "backward", stage, microBatch });

describe("links", () => {
  const way = (bytes: number, links: number[], latencySeconds = 0) => ({ bytes, latencySeconds, links });
  const free = way(0, []);

  it("two transfers at once get half of a link each, and the rest of it when one is through", () => {
    // Ranks 0 and 2 hand over 4 and 8 bytes at 1 s: half a byte a second each until 9 s, then the second has 4 left.
    const table: ScheduleTable = {
      name: "two pipelines",
      stages: 4,
      microBatches: 2,
      routes: [
        { stages: [0, 1], microBatches: [0] },
        { stages: [2, 3], microBatches: [1] },
      ],
      ranks: [0, 1, 2, 3].map((stage) => [forward(stage, stage >> 1), backward(stage, stage >> 1)]),
    };
    const network: Network = {
      links: [{ bytesPerSecond: 1 }],
      boundaries: [
        { activation: way(4, [0], 0.5), gradient: free },
        { activation: way(8, [0]), gradient: free },
      ],
    };
    const { transfers, ranks } = simulate(table, { ...times(4), network }, { transfers: true, events: true });
    const activations = transfers.filter(({ payload }) => payload === "activation");
    expect(activations.map(({ startSeconds, endSeconds }) => [startSeconds, endSeconds])).toEqual([
      [1, 9.5],
      [1, 13],
    ]);
    expect(ranks[3]!.events[0]!.startSeconds).toBe(13);
    expect(ranks[3]!.waits).toEqual([
      { cause: "link", rank: 2, seconds: 12 },
      { cause: "end", seconds: 2 },
      { cause: "activation", rank: 2, seconds: 1 },
    ]);
  });

  it("one connection moves its transfers one after the other", () => {
    const network: Network = {
      links: [{ bytesPerSecond: 1 }],
      boundaries: [{ activation: way(5, [0], 1), gradient: free }],
    };
    const { transfers } = simulate(gpipe(2, 3), { ...times(2), network }, { transfers: true });
    const activations = transfers.filter(({ payload }) => payload === "activation");
    expect(activations.map(({ startSeconds, endSeconds }) => [startSeconds, endSeconds])).toEqual([
      [1, 7],
      [6, 12],
      [11, 17],
    ]);
  });

  it("a wider link is never slower", () => {
    for (let seed = 1; seed <= 300; seed++) {
      const { table, times: given, blocking } = randomCase(seed);
      if (!given.network) continue;
      const compiled = compileSchedule(table, { sends: blocking ? "blocking" : "posted" });
      // Without slow-downs and shared links, finishing early cannot hurt anyone.
      const { collectiveSlowdown: _, ...alone } = given;
      const unshared = (scale: number): Network => {
        const ways = given.network!.boundaries.flatMap(({ activation, gradient }) => [activation, gradient]);
        return {
          links: ways.map(() => ({ bytesPerSecond: scale })),
          boundaries: given.network!.boundaries.map(({ activation, gradient }, b) => ({
            activation: { ...activation, links: [2 * b] },
            gradient: { ...gradient, links: [2 * b + 1] },
          })),
        };
      };
      const narrow = simulate(compiled, { ...alone, network: unshared(1) }).stepSeconds;
      const wide = simulate(compiled, { ...alone, network: unshared(2) }).stepSeconds;
      expect(wide).toBeLessThanOrEqual(narrow + 1e-9);
    }
  });
});

describe("sends that block", () => {
  it("keep both ranks from work until the transfer is through", () => {
    const table = addTransfers(gpipe(2, 2));
    const given = { ...times(2, 1, 1), transferSeconds: [3] };
    const { stepSeconds, ranks } = simulate(compileSchedule(table, { sends: "blocking" }), given);
    // F0 0-1, send 1-4, F1 4-5, send 5-8; F1' 8-9, B0' 9-10, send 10-13, B1' 13-14, send 14-17, B1 17-18.
    expect(stepSeconds).toBe(18);
    expect(ranks[0]!.busySeconds).toBe(4);
    expect(ranks[1]!.waits).toContainEqual({ cause: "link", rank: 0, seconds: 12 });
  });

  it("posted ones run beside work from when both ranks have come to them", () => {
    const given = { ...times(2, 1, 1), transferSeconds: [3] };
    const move = (kind: "send" | "receive", microBatch: number, stage: number) =>
      ({
        kind,
        stage,
        microBatch,
        payload: (kind === "send") === (stage === 0) ? "activation" : "gradient",
      }) as const;
    const table = (late: boolean): ScheduleTable => ({
      ...gpipe(2, 2),
      ranks: [
        [forward(0, 0), move("send", 0, 0), forward(0, 1), move("send", 1, 0)],
        late
          ? [move("receive", 0, 1), forward(1, 0), move("receive", 1, 1), forward(1, 1)]
          : [move("receive", 0, 1), move("receive", 1, 1), forward(1, 0), forward(1, 1)],
      ].map((list, stage) => [
        ...list,
        ...(stage === 0
          ? [move("receive", 0, 0), move("receive", 1, 0), backward(0, 0), backward(0, 1)]
          : [backward(1, 0), move("send", 0, 1), backward(1, 1), move("send", 1, 1)]),
      ]),
    });
    // As if left to the runtime; with the second receive behind the forward at 4-5 its activation comes at 8.
    expect(simulate(table(false), given).stepSeconds).toBe(simulate(gpipe(2, 2), given).stepSeconds);
    expect(simulate(table(true), given, { events: true }).ranks[1]!.events[1]!.startSeconds).toBe(8);
  });

  it("finds ranks that both send first, which posted sends allow", () => {
    const move = (
      kind: "send" | "receive",
      stage: number,
      microBatch: number,
      payload: "activation" | "gradient",
    ) => ({ kind, stage, microBatch, payload }) as const;
    const table: ScheduleTable = {
      name: "both send",
      stages: 4,
      microBatches: 2,
      routes: [
        { stages: [0, 1], microBatches: [0] },
        { stages: [2, 3], microBatches: [1] },
      ],
      ranks: [
        [
          forward(0, 0),
          move("send", 0, 0, "activation"),
          move("receive", 3, 1, "activation"),
          forward(3, 1),
          backward(3, 1),
          move("send", 3, 1, "gradient"),
          move("receive", 0, 0, "gradient"),
          backward(0, 0),
        ],
        [
          forward(2, 1),
          move("send", 2, 1, "activation"),
          move("receive", 1, 0, "activation"),
          forward(1, 0),
          backward(1, 0),
          move("send", 1, 0, "gradient"),
          move("receive", 2, 1, "gradient"),
          backward(2, 1),
        ],
      ],
    };
    expect(simulate(table, times(4)).stepSeconds).toBe(6);
    expect(() => compileSchedule(table, { sends: "blocking" })).toThrow("ranks that wait for each other");
  });
});

describe("collectives beside compute", () => {
  it("a reduction and the compute beside it slow each other", () => {
    // B0 ends at 3. Its reduction of 1 s runs at half speed until 5; beside it F1 and B1 run at 4 / 5.
    const table = addUpdates(oneForwardOneBackward(1, 2), { reduce: "backward" });
    const result = simulate(
      table,
      {
        ...times(1),
        reduceSeconds: [1],
        optimizerSeconds: [0.5],
        collectiveSlowdown: { compute: 1.25, collective: 2 },
      },
      { events: true },
    );
    const [rank] = result.ranks;
    expect(rank!.collectives[0]).toMatchObject({ kind: "reduce", startSeconds: 3, endSeconds: 5 });
    // F1 ends after 0.8 of work a second: 3 + 1.25; B1: 0.6 done at 5, then 1.4 alone.
    const ends = [1, 3, 4.25, 6.4];
    ends.forEach((end, i) => {
      expect(rank!.events[i]!.endSeconds).toBeCloseTo(end, 12);
    });
    // The last reduction has the rank for itself, then the optimizer follows.
    expect(result.stepSeconds).toBeCloseTo(7.9, 12);
    expect(rank!.waits).toEqual([{ cause: "reduction", seconds: expect.closeTo(1, 12) }]);
  });

  it("reductions of copies wait for each other", () => {
    const table = addUpdates(scheduleByName("chimera", { ranks: 4, microBatches: 4 }));
    const given = {
      ...times(8),
      reduceSeconds: new Array(8).fill(2),
      optimizerSeconds: new Array(8).fill(1),
    };
    const { ranks } = simulate(table, given, { events: true });
    const starts = new Map<number, number[]>();
    for (const { collectives } of ranks) {
      for (const { stage, startSeconds } of collectives) {
        const layers = table.layersOf![stage]!;
        starts.set(layers, [...(starts.get(layers) ?? []), startSeconds]);
      }
    }
    expect(starts.size).toBe(4);
    for (const pair of starts.values()) expect(pair[0]).toBe(pair[1]);
  });

  it("gathers beside other work cost nothing but the first", () => {
    const plain = oneForwardOneBackward(4, 8);
    const step = simulate(plain, times(4)).stepSeconds;
    const table = addUpdates(plain, { gather: true, optimizer: false });
    const given = { ...times(4), gatherSeconds: new Array(4).fill(0.5) };
    expect(simulate(table, given).stepSeconds).toBe(step + 0.5);
  });
});

describe("addUpdates and addSharding", () => {
  it("make valid tables of every named schedule, which the reference runs in the same time", () => {
    const random = randomOf(1);
    for (const name of scheduleNames) {
      const table = scheduleByName(name, { ranks: 4, microBatches: 8 });
      const variants = [
        table,
        addTransfers(table),
        // Schedules without a flush have their own updates.
        ...(table.weightVersions
          ? []
          : [addUpdates(table, { reduce: "backward", gather: true }), addUpdates(addSharding(table))]),
      ];
      const list = (scale: number) => Array.from({ length: table.stages }, () => scale * (0.5 + random()));
      const given: StageTimes = {
        forwardSeconds: list(1),
        backwardSeconds: list(2),
        backwardInputSeconds: list(1),
        backwardWeightSeconds: list(1),
        reduceSeconds: list(0.5),
        gatherSeconds: list(0.3),
        optimizerSeconds: list(0.2),
        overlappedPairFactor: 0.9,
        collectiveSlowdown: { compute: 1.1, collective: 1.4 },
      };
      for (const variant of variants) {
        expect(checkActions(variant)).toEqual([]);
        const wanted = reference(variant, given);
        expect(wanted.finished).toBe(true);
        expect(simulate(variant, given).stepSeconds).toBeCloseTo(wanted.makespan, 9);
      }
    }
  });

  it("refuse what a table has already", () => {
    const table = addUpdates(gpipe(2, 2), { gather: true });
    expect(() => addUpdates(table)).toThrow("without optimizer actions");
    expect(() => addUpdates(table, { optimizer: false, gather: true })).toThrow("without all-gather actions");
  });
});

describe("times of actions", () => {
  it("recompute before a backward, launch floors, and the factor of overlapped pairs", () => {
    const table: ScheduleTable = {
      name: "pair",
      stages: 1,
      microBatches: 2,
      ranks: [[forward(0, 0), { ...forward(0, 1), overlapped: true }, backward(0, 0), backward(0, 1)]],
    };
    const given: StageTimes = {
      forwardSeconds: [1],
      backwardSeconds: [2],
      recomputeSeconds: [0.5],
      launchSeconds: [1.5],
      overlappedPairFactor: 0.75,
    };
    // 1.5, then 0.75 x (1.5 + 2.5), then 2.5.
    expect(simulate(table, given).stepSeconds).toBe(7);
  });

  it("names the time that a table needs", () => {
    const table = scheduleByName("zb-h1", { ranks: 2, microBatches: 4 });
    const [forwardSeconds, backwardSeconds] = [
      [1, 1],
      [2, 2],
    ];
    expect(() => simulate(table, { forwardSeconds, backwardSeconds })).toThrow(
      "Expected backwardInputSeconds",
    );
    expect(() => simulate(gpipe(2, 2), { forwardSeconds })).toThrow("Expected backwardSeconds");
    expect(() =>
      simulate(gpipe(2, 2), {
        forwardSeconds,
        backwardSeconds,
        collectiveSlowdown: { compute: 0.5, collective: 1 },
      }),
    ).toThrow("at least 1 for collectiveSlowdown.compute");
    expect(() =>
      simulate(gpipe(2, 2), { forwardSeconds, backwardSeconds, network: { links: [], boundaries: [] } }),
    ).toThrow("Expected 1 boundaries");
  });
});
