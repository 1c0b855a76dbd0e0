import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Action, checkActions, type ScheduleTable } from "../../src/schedule/actions.js";
import { checkDeadlock } from "../../src/schedule/deadlock.js";
import { addSharding, addTransfers } from "../../src/schedule/lower.js";
import { oneForwardOneBackward, scheduleByName } from "../../src/schedule/named/index.js";
import { anySchedule } from "./namedTables.js";

const copy = (table: ScheduleTable): ScheduleTable => structuredClone(table);

/** The findings of a schedule after one change, as one text. */
const findings = (table: ScheduleTable, change: (table: ScheduleTable) => void): string => {
  const changed = copy(table);
  change(changed);
  return checkActions(changed).join("\n");
};
const first = (list: Action[], wanted: Partial<Action>): number => {
  const at = list.findIndex((action) =>
    Object.entries(wanted).every(([key, value]) => action[key as keyof Action] === value),
  );
  expect(at).toBeGreaterThanOrEqual(0);
  return at;
};
const swap = (list: Action[], a: number, b: number) => {
  [list[a], list[b]] = [list[b]!, list[a]!];
};

describe("checkActions", () => {
  const plain = oneForwardOneBackward(3, 4);
  const split = scheduleByName("zb-h1", { ranks: 3, microBatches: 4 });
  const vee = scheduleByName("zbv", { ranks: 2, microBatches: 4 });
  const chimera = scheduleByName("chimera", { ranks: 4, microBatches: 4 });
  const overlapped = scheduleByName("dualpipev", { ranks: 2, microBatches: 6 });
  const full = addTransfers(addSharding(plain));
  const asynchronous = scheduleByName("1f1b-async", { ranks: 3, microBatches: 4 });

  it("passes them unchanged", () => {
    for (const table of [plain, split, vee, chimera, overlapped, full, asynchronous]) {
      expect(checkActions(table)).toEqual([]);
    }
  });

  it("finds a dropped, doubled, foreign or misplaced action", () => {
    expect(findings(plain, (t) => t.ranks[1]!.pop())).toContain("micro-batch 3 to pass stage 1 both ways");
    expect(findings(plain, (t) => t.ranks[0]!.unshift({ ...t.ranks[0]![0]! }))).toContain(
      "each action once but again found the forward of micro-batch 0 at stage 0 (rank 0, action 1)",
    );
    expect(findings(plain, (t) => t.ranks[0]!.push({ kind: "forward", stage: 3, microBatch: 0 }))).toContain(
      "a stage from 0 to 2",
    );
    expect(findings(plain, (t) => t.ranks[0]!.push({ kind: "forward", stage: 0, microBatch: 4 }))).toContain(
      "a micro-batch from 0 to 3",
    );
    expect(findings(plain, (t) => t.ranks[0]!.push(t.ranks[1]!.pop()!))).toContain("stage 1 on rank 0 alone");
    expect(findings(plain, (t) => t.ranks[2]!.reverse())).toContain("Expected the forward first");
    expect(findings(plain, (t) => Object.assign(t.ranks[1]![2]!, { kind: "forwards" }))).toBe(
      'Expected a known kind of action but found "forwards" (rank 1, action 2).',
    );
    expect(findings(plain, (t) => Object.assign(t.ranks[1]![2]!, { microBatch: 0.5 }))).toContain(
      "found the",
    );
    expect(findings(plain, (t) => Object.assign(t.ranks[1]![2]!, { payload: "gradient" }))).toContain(
      "Expected no payload",
    );
  });

  it("finds counts, ranks and lists that do not fit", () => {
    expect(findings(plain, (t) => Object.assign(t, { stages: 0 }))).toContain("at least 1 stage but found 0");
    expect(findings(plain, (t) => Object.assign(t, { microBatches: 1.5 }))).toContain("found 1.5");
    expect(findings(plain, (t) => t.ranks.splice(0))).toBe("Expected at least 1 rank but found none.");
    expect(findings(plain, (t) => t.ranks.push([]))).toContain("as many stages as ranks (4) but found 3");
    expect(findings(vee, (t) => t.ranks.push([]))).toBe("Expected work for rank 2 but found no action.");
    expect(findings(plain, (t) => Object.assign(t, { microBatches: 1e12 }))).toContain("24 actions in all");
    expect(findings(chimera, (t) => t.layersOf!.pop())).toContain("8 entries for layersOf");
    expect(findings(asynchronous, (t) => t.weightVersions!.fill(0))).toContain(
      "at least 1 for weightVersions of stage 0 but found 0",
    );
  });

  it("finds split backwards in the wrong order or mixed with whole ones", () => {
    const list = split.ranks[1]!;
    const input = first(list, { kind: "backward-input", microBatch: 1 });
    const weight = first(list, { kind: "backward-weight", microBatch: 1 });
    expect(findings(split, (t) => swap(t.ranks[1]!, input, weight))).toContain(
      "the input half of the backward first",
    );
    expect(findings(split, (t) => t.ranks[1]!.splice(weight, 1))).toBe(
      "Expected micro-batch 1 to pass stage 1 both ways but found no weight half of the backward.",
    );
    expect(findings(split, (t) => t.ranks[1]!.splice(input, 1))).toContain("input half");
    expect(findings(split, (t) => Object.assign(t.ranks[1]![weight]!, { kind: "backward" }))).toContain(
      "a whole backward or its two halves",
    );
    expect(findings(split, (t) => Object.assign(t.ranks[1]![input]!, { kind: "backward" }))).toContain(
      "a whole backward or its two halves",
    );
  });

  it("finds a stage that runs before the one on the same rank that feeds it", () => {
    const list = vee.ranks[1]!;
    const feeding = first(list, { kind: "forward", stage: 1, microBatch: 0 });
    const fed = first(list, { kind: "forward", stage: 2, microBatch: 0 });
    expect(findings(vee, (t) => swap(t.ranks[1]!, feeding, fed))).toContain(
      "the activation of stage 1 first",
    );
    const gradient = first(list, { kind: "backward-input", stage: 1, microBatch: 0 });
    expect(
      findings(vee, (t) => t.ranks[1]!.splice(fed + 1, 0, ...t.ranks[1]!.splice(gradient, 1))),
    ).toContain("the gradient of stage 2 first");
  });

  it("finds routes that leave out, share or mix stages and micro-batches", () => {
    expect(findings(chimera, (t) => t.routes![0]!.microBatches.pop())).toContain("a route for micro-batch 1");
    expect(findings(chimera, (t) => t.routes![1]!.microBatches.push(1))).toContain(
      "micro-batch 1 on route 0 alone",
    );
    expect(findings(chimera, (t) => t.routes![1]!.stages.push(0))).toContain("stage 0 on route 0 alone");
    expect(findings(chimera, (t) => t.routes![1]!.stages.pop())).toContain("a route for stage 7");
    expect(findings(chimera, (t) => t.routes![1]!.stages.push(8))).toContain(
      "from 0 to 7 on route 1 but found 8",
    );
    expect(findings(chimera, (t) => t.routes!.push({ stages: [], microBatches: [] }))).toContain(
      "on route 2",
    );
    const list = chimera.ranks[0]!;
    const own = first(list, { stage: 0, microBatch: 0 });
    expect(findings(chimera, (t) => Object.assign(t.ranks[0]![own]!, { microBatch: 2 }))).toContain(
      "Expected a stage of route 1 but found the forward of micro-batch 2 at stage 0",
    );
  });

  it("finds overlapped actions without a partner or that need each other", () => {
    const list = overlapped.ranks[0]!;
    const pair = first(list, { overlapped: true });
    expect(findings(overlapped, (t) => Object.assign(t.ranks[0]!.at(-1)!, { overlapped: true }))).toContain(
      "to overlap but found",
    );
    expect(
      findings(overlapped, (t) => Object.assign(t.ranks[0]![pair + 1]!, { overlapped: true })),
    ).toContain("to overlap but found");
    // A forward and its backward, the halves of a backward, and two stages of one rank that feed each other.
    expect(findings(plain, (t) => Object.assign(t.ranks[2]![0]!, { overlapped: true }))).toContain(
      "not to need each other but found the forward of micro-batch 0 at stage 2 (rank 2, action 0)",
    );
    const input = first(vee.ranks[1]!, { kind: "backward-input", stage: 2, microBatch: 0 });
    expect(findings(vee, (t) => Object.assign(t.ranks[1]![input]!, { overlapped: true }))).toContain(
      "not to need each other but found the backward-input of micro-batch 0 at stage 2",
    );
    const one = scheduleByName("looped-bfs", { ranks: 1, microBatches: 1 });
    for (const at of [0, 2]) {
      expect(findings(one, (t) => Object.assign(t.ranks[0]![at]!, { overlapped: true }))).toContain(
        "not to need each other",
      );
    }
  });

  it("finds transfers without a partner, in the wrong place or on one rank", () => {
    const list = full.ranks[1]!;
    const send = first(list, { kind: "send", payload: "activation", microBatch: 1 });
    const receive = first(list, { kind: "receive", payload: "activation", microBatch: 1 });
    expect(findings(full, (t) => t.ranks[1]!.splice(send, 1))).toContain(
      "a send and a receive of micro-batch 1's activation from stage 1 to stage 2 but found no send",
    );
    expect(findings(full, (t) => t.ranks[1]!.splice(receive, 1))).toContain("but found no receive");
    expect(findings(full, (t) => t.ranks[1]!.push(t.ranks[1]![send]!))).toContain("each action once");
    expect(findings(full, (t) => t.ranks[1]!.unshift(...t.ranks[1]!.splice(send, 1)))).toContain(
      "the activation before its send",
    );
    expect(findings(full, (t) => t.ranks[1]!.push(...t.ranks[1]!.splice(receive, 1)))).toContain(
      "the activation of stage 0 first",
    );
    expect(
      findings(full, (t) =>
        t.ranks[2]!.push({ kind: "send", stage: 2, microBatch: 0, payload: "activation" }),
      ),
    ).toContain("transfers between ranks only");
    expect(findings(full, (t) => Object.assign(t.ranks[1]![send]!, { payload: undefined }))).toContain(
      "an activation or a gradient to move",
    );
  });

  it("finds gathers, reductions and updates out of place", () => {
    const list = full.ranks[0]!;
    const gather = first(list, { kind: "all-gather" });
    const reduce = first(list, { kind: "reduce" });
    const reshard = first(list, { kind: "reshard" });
    expect(findings(full, (t) => t.ranks[0]!.push(...t.ranks[0]!.splice(gather, 1)))).toContain(
      "Expected gathered parameters but found the forward",
    );
    expect(findings(full, (t) => t.ranks[0]!.splice(gather, 0, t.ranks[0]![gather]!))).toContain(
      "sharded parameters before a gather",
    );
    expect(findings(full, (t) => t.ranks[0]!.push(t.ranks[0]![reshard]!))).toContain("before a reshard");
    expect(findings(full, (t) => t.ranks[0]!.splice(2, 0, ...t.ranks[0]!.splice(reduce, 1)))).toContain(
      "Expected gradients to reduce",
    );
    expect(
      findings(full, (t) => t.ranks[0]!.splice(reduce - 2, 0, ...t.ranks[0]!.splice(reduce, 1))),
    ).toContain("a reduction after the last backward of stage 0 on rank 0");
    expect(findings(full, (t) => Object.assign(t.ranks[0]![reduce]!, { microBatch: 0 }))).toContain(
      "-1 for the micro-batch of a reduce",
    );
    const update: Action = { kind: "optimizer", stage: 0, microBatch: -1 };
    const updateAll = (t: ScheduleTable) =>
      t.ranks.forEach((actions, stage) => {
        actions.push({ ...update, stage });
      });
    expect(findings(full, updateAll)).toBe("");
    expect(findings(full, (t) => t.ranks[0]!.push(update))).toContain("last backward of stage 1 on rank 1");
    expect(findings(full, (t) => t.ranks[0]!.splice(reduce, 0, update))).toContain(
      "Expected reduced gradients",
    );
    expect(findings(plain, (t) => t.ranks[0]!.splice(-1, 0, update))).toContain("all 4 backwards of stage 0");
    expect(findings(plain, (t) => t.ranks[0]!.push(update, update))).toContain("gradients to apply");
    expect(findings(asynchronous, (t) => t.ranks[0]!.pop())).toContain("an update after the last backward");
  });

  it("finds any single removal, doubling or shift to another rank", () => {
    fc.assert(
      fc.property(anySchedule, fc.nat(), fc.nat(), fc.integer({ min: 0, max: 2 }), (table, r, a, change) => {
        const changed = copy(table);
        // A stage may update once for several backwards, so that one update less is no fault.
        for (const list of changed.ranks) {
          for (let i = list.length - 1; i >= 0; i--) if (list[i]!.kind === "optimizer") list.splice(i, 1);
        }
        const list = changed.ranks[r % changed.ranks.length]!;
        const at = a % list.length;
        const action = list[at]!;
        if (change === 1) list.splice(at, 0, { ...action });
        else list.splice(at, 1);
        if (change === 2) changed.ranks[(r + 1) % changed.ranks.length]!.push(action);
        fc.pre(change !== 2 || changed.ranks.length > 1);
        expect(checkActions(changed).length).toBeGreaterThan(0);
      }),
      { numRuns: 300 },
    );
  });

  it("finds any transfer, gather or reduction that is missing", () => {
    fc.assert(
      fc.property(anySchedule, fc.nat(), fc.nat(), (table, r, a) => {
        fc.pre(!table.weightVersions && table.ranks.length > 1);
        const changed = addTransfers(addSharding(table));
        const list = changed.ranks[r % changed.ranks.length]!;
        const removable = list.filter(({ kind }) => kind !== "reshard");
        list.splice(list.indexOf(removable[a % removable.length]!), 1);
        expect(checkActions(changed).length).toBeGreaterThan(0);
      }),
      { numRuns: 200 },
    );
  });

  it("keeps to limits in micro-batches and bytes", () => {
    expect(checkActions(plain, { limitMicroBatches: 3 })).toEqual([]);
    expect(checkActions(plain, { limitMicroBatches: [2, 2, 2] })).toEqual([
      "Expected at most 2 micro-batches in flight on rank 0 but found 3.",
    ]);
    const memory = { limitBytes: 130, fixedBytes: [100, 100, 100], activationBytes: [10, 10, 10] };
    expect(checkActions(plain, { memory })).toEqual([]);
    expect(checkActions(plain, { memory: { ...memory, limitBytes: [129, 119, 110] } })).toEqual([
      "Expected at most 129 bytes on rank 0 but found 130 at the forward of micro-batch 2 at stage 0 (action 2).",
      "Expected at most 119 bytes on rank 1 but found 120 at the forward of micro-batch 1 at stage 1 (action 1).",
    ]);
    // ZB-H1 holds p - i whole activations and i between the halves (Qi et al., ICLR 2024, section 2.3.1).
    const halves = { ...memory, betweenHalvesBytes: [4, 4, 4] };
    expect(checkActions(split, { memory: { ...halves, limitBytes: [130, 124, 118] } })).toEqual([]);
    expect(checkActions(split, { memory: { ...halves, limitBytes: [129, 123, 117] } })).toHaveLength(3);
  });

  it("stops at 20 sentences", () => {
    const table: ScheduleTable = {
      name: "empty",
      stages: 10,
      microBatches: 10,
      ranks: [[{ kind: "forward", stage: 0, microBatch: 0 }]],
    };
    expect(checkActions(table)).toHaveLength(20);
  });
});

describe("checkDeadlock", () => {
  const two = (...ranks: Action[][]): ScheduleTable => ({ name: "two", stages: 2, microBatches: 2, ranks });
  const act = (kind: Action["kind"], stage: number, microBatch: number): Action => ({
    kind,
    stage,
    microBatch,
  });

  it("names the ranks that wait in a circle", () => {
    const table = two(
      [act("forward", 0, 0), act("backward", 0, 0), act("forward", 0, 1), act("backward", 0, 1)],
      [act("forward", 1, 0), act("forward", 1, 1), act("backward", 1, 0), act("backward", 1, 1)],
    );
    expect(checkActions(table)).toEqual([]);
    expect(checkDeadlock(table)).toEqual([
      "Expected the ranks to finish but found a circle: rank 0 waits for rank 1 at the backward of micro-batch 0 at stage 0, rank 1 waits for rank 0 at the forward of micro-batch 1 at stage 1.",
    ]);
  });

  it("names each of several circles once", () => {
    // Two pairs of ranks, each with one direction in the wrong order.
    const table: ScheduleTable = {
      name: "pairs",
      stages: 4,
      microBatches: 4,
      routes: [
        { stages: [0, 1], microBatches: [0, 1] },
        { stages: [2, 3], microBatches: [2, 3] },
      ],
      ranks: [0, 2].flatMap((s) => [
        [act("forward", s, s), act("backward", s, s), act("forward", s, s + 1), act("backward", s, s + 1)],
        [
          act("forward", s + 1, s),
          act("forward", s + 1, s + 1),
          act("backward", s + 1, s),
          act("backward", s + 1, s + 1),
        ],
      ]),
    };
    expect(checkDeadlock(table).map((sentence) => sentence.match(/rank \d/g)!.join())).toEqual([
      "rank 0,rank 1,rank 1,rank 0",
      "rank 2,rank 3,rank 3,rank 2",
    ]);
  });

  it("finds that 1F1B deadlocks where sends block, and that GPipe does not", () => {
    const table = oneForwardOneBackward(2, 4);
    expect(checkDeadlock(table)).toEqual([]);
    expect(checkDeadlock(table, { blockingSends: true })).toEqual([
      "Expected the ranks to finish but found a circle: rank 0 waits for rank 1 at the send of the activation of micro-batch 1 at stage 0, rank 1 waits for rank 0 at the send of the gradient of micro-batch 0 at stage 1.",
    ]);
    expect(
      checkDeadlock(scheduleByName("gpipe", { ranks: 4, microBatches: 4 }), { blockingSends: true }),
    ).toEqual([]);
  });

  it("finds receives that two ranks post in different orders", () => {
    const table = addTransfers(scheduleByName("gpipe", { ranks: 2, microBatches: 2 }));
    const list = table.ranks[1]!;
    const early = first(list, { kind: "receive", microBatch: 0 });
    const late = first(list, { kind: "receive", microBatch: 1 });
    const moved = copy(table);
    moved.ranks[1]!.splice(early, 0, ...moved.ranks[1]!.splice(late, 1));
    expect(checkActions(moved)).toEqual([]);
    expect(checkDeadlock(moved)).toEqual([]);
    expect(checkDeadlock(moved, { blockingSends: true })).toHaveLength(1);
  });

  it("passes every named schedule, and with its transfers added also where sends block", () => {
    fc.assert(
      fc.property(anySchedule, fc.integer({ min: 1, max: 4 }), (table, activeStages) => {
        expect(checkDeadlock(table)).toEqual([]);
        const lowered = addTransfers(table.weightVersions ? table : addSharding(table, activeStages));
        expect(checkDeadlock(lowered)).toEqual([]);
        expect(checkDeadlock(lowered, { blockingSends: true })).toEqual([]);
      }),
      { numRuns: 200 },
    );
  });

  it("hands on what checkActions finds", () => {
    expect(checkDeadlock(two([act("forward", 0, 0)], [act("forward", 1, 0)]))[0]).toContain(
      "to pass stage 0",
    );
    expect(() => addTransfers(two([act("forward", 0, 0)], [act("forward", 1, 0)]))).toThrow(
      "to pass stage 0",
    );
    const table = addTransfers(oneForwardOneBackward(2, 2));
    expect(() => addTransfers(table)).toThrow("without transfers but found some");
    expect(() => addSharding(table)).toThrow('with forwards and backwards alone but found "send"');
    expect(() => addSharding(oneForwardOneBackward(2, 2), 0)).toThrow("at least 1 for the active stages");
  });
});
