import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { simulate } from "../../src/schedule/index.js";
import { scheduleByName } from "../../src/schedule/named/index.js";
import { longestPath, type UnitTimes } from "./longestPath.js";
import { anySchedule, fits } from "./namedTables.js";

/** Micro-batches m, ranks p, chunks v, and the times of one stage: forward, the backward's halves. */
interface Size {
  p: number;
  m: number;
  v: number;
  F: number;
  B: number;
  W: number;
}

interface Form {
  /** Where the form is published. */
  source: string;
  schedule: string;
  /** Sizes for which it is claimed. */
  holds: (size: Size) => boolean;
  /** Idle time of the busiest rank, in the time of one stage. */
  bubble?: (size: Size) => number;
  /** The same from a rank's own first action to its last: what is left where the optimizer waits for nobody. */
  ownBubble?: (size: Size) => number;
  /** Share of the step that the ranks are idle on the average. */
  ratio?: (size: Size) => number;
  /** Stage activations that rank i holds at most; one that waits for its weight half counts `w`. */
  peak: (size: Size, i: number, w: number) => number;
  chunks?: number[];
}

const always = () => true;
const splitPays = ({ F, B, W }: Size) => W <= F && W <= B;
const equal = ({ F, B, W }: Size) => F === B && B === W;

const forms: Form[] = [
  {
    source:
      "GPipe: Huang et al., NeurIPS 2019, section 2.3: bubble O((K - 1) / (M + K - 1)), all micro-batches held",
    schedule: "gpipe",
    holds: always,
    bubble: ({ p, F, B, W }) => (p - 1) * (F + B + W),
    ratio: ({ p, m }) => (p - 1) / (m + p - 1),
    peak: ({ m }) => m,
  },
  {
    source:
      "1F1B: Narayanan et al., SC'21, section 2.2.1: t_pb = (p - 1)(t_f + t_b), at most p micro-batches held",
    schedule: "1f1b",
    holds: always,
    bubble: ({ p, F, B, W }) => (p - 1) * (F + B + W),
    ratio: ({ p, m }) => (p - 1) / (m + p - 1),
    peak: ({ p, m }, i) => Math.min(p - i, m),
  },
  {
    source:
      "Interleaved 1F1B: Narayanan et al., SC'21, section 2.2.2: (p - 1)(t_f + t_b) / v of the whole rank's times; memory: Korthikanti et al., MLSys 2023, section 4.2.3, L (1 + (p - 1) / (p v)) layers on the first rank",
    schedule: "interleaved",
    holds: ({ p, m }) => m % p === 0,
    bubble: ({ p, F, B, W }) => (p - 1) * (F + B + W),
    ratio: ({ p, m, v }) => (p - 1) / (m * v + p - 1),
    peak: ({ p, m, v }, i) => Math.min((v - 1) * p + 2 * (p - 1 - i) + 1, m * v),
    chunks: [1, 2, 3, 4],
  },
  {
    source:
      "Looped breadth-first: Lamy-Poirier, MLSys 2023, section 3: overhead (N_PP - 1) / (N_mb N_loop) for N_mb >= N_PP, all micro-batches of all stages held",
    schedule: "looped-bfs",
    holds: ({ p, m }) => m >= p,
    bubble: ({ p, F, B, W }) => (p - 1) * (F + B + W),
    ratio: ({ p, m, v }) => (p - 1) / (m * v + p - 1),
    peak: ({ m, v }) => m * v,
    chunks: [1, 2, 3, 4],
  },
  {
    source:
      "ZB-H1: Qi et al., ICLR 2024, table 2 and section 2.3.1: (p - 1)(T_F + T_B - T_W); rank i holds (p - i) M_B + i M_W",
    schedule: "zb-h1",
    holds: (size) => splitPays(size) && size.m >= size.p,
    bubble: ({ p, F, B, W }) => (p - 1) * (F + B - W),
    peak: ({ p }, i, w) => p - i + i * w,
  },
  {
    source:
      "Interleaved zero bubble: Qi et al., ICLR 2024, ZB-H1's (p - 1)(T_F + T_B - T_W) with the times of a v-th of the layers; p v stage activations",
    schedule: "interleaved-zb",
    holds: (size) => splitPays(size) && size.m % size.p === 0,
    bubble: ({ p, F, B, W }) => (p - 1) * (F + B - W),
    peak: ({ p, v }, i, w) => p * v - i + i * w,
    chunks: [1, 2, 3, 4],
  },
  {
    source:
      "ZB-H2: Qi et al., ICLR 2024, table 2 and section 2.3.2: (p - 1)(T_F + T_B - 2 T_W) between a rank's own first and last action; rank i holds (2p - 2i - 1) M_B + 2i M_W",
    schedule: "zb-h2",
    holds: (size) => splitPays(size) && size.m >= 2 * size.p - 1,
    ownBubble: ({ p, F, B, W }) => (p - 1) * (F + B - 2 * W),
    peak: ({ p }, i, w) => 2 * p - 2 * i - 1 + 2 * i * w,
  },
  {
    source:
      "ZB-V: Qi et al., ICLR 2024, section 6, and 'Pipeline Parallelism with Controllable Memory', NeurIPS 2024, table 2: no bubble between a rank's own first and last action for T_F = T_B = T_W, 1F1B's memory (2p half stages)",
    schedule: "zbv",
    holds: (size) => equal(size) && size.m >= 2 * size.p - 1,
    bubble: ({ p, F }) => (p - 1) * F,
    ownBubble: () => 0,
    peak: ({ p }, _i, w) => (w === 1 ? 2 * p : Number.NaN),
  },
  {
    source:
      "DualPipe: DeepSeek-V3 Technical Report, table 2: (PP / 2 - 1)(F&B + B - 3 W) for chunks whose forward and input half are even, PP + 1 activations",
    schedule: "dualpipe",
    holds: ({ F, B, W }) => F === B && W <= B,
    bubble: ({ p, F, B, W }) => (p / 2 - 1) * (F + B + W + (B + W) - 3 * W),
    peak: ({ p }, _i, w) => (w === 1 ? p + 1 : Number.NaN),
  },
  {
    source:
      "DualPipeV: DeepSeek-AI's DualPipe repository, table of bubbles: (PP / 2 - 1)(F&B + B - 3 W) with PP = 2p stages, PP + 1 activations",
    schedule: "dualpipev",
    holds: ({ F, B, W }) => F === B && W <= B,
    bubble: ({ p, F, B, W }) => (p - 1) * (F + B + W + (B + W) - 3 * W),
    peak: ({ p }, _i, w) => (w === 1 ? 2 * p + 1 : Number.NaN),
  },
  {
    source:
      "Chimera: Li and Hoefler, SC'21, table 2: bubble ratio (D - 2) / (2N + D - 2) for even forwards and backwards, D / 2 + 1 to D activations",
    schedule: "chimera",
    holds: ({ p, m, F, B, W }) => m % p === 0 && F === B + W,
    bubble: ({ p, F }) => (p - 2) * F,
    ratio: ({ p, m }) => (p - 2) / (2 * m + p - 2),
    peak: ({ p }, i) => p / 2 + 1 + Math.min(i, p - 1 - i),
  },
  {
    source:
      "Chimera: Li and Hoefler, SC'21, section 3.4: C_f F_t + C_b B_t with C_f = D and C_b = 2D - 2 for N = D",
    schedule: "chimera",
    holds: ({ p, m, F, B, W }) => m === p && B + W >= F,
    bubble: ({ p, F, B, W }) => p * F + (2 * p - 2) * (B + W) - p * (F + B + W),
    peak: ({ p }, i) => p / 2 + 1 + Math.min(i, p - 1 - i),
  },
];

const times = [
  [1, 1, 1],
  [1, 1, 0],
  [1, 2, 0],
  [2, 1, 1],
  [2, 2, 1],
  [3, 3, 2],
  [3, 4, 2],
  [10, 12, 8],
].map(([F, B, W]) => ({ F: F!, B: B!, W: W! }));

describe.each(forms)("$source", ({ schedule, holds, bubble, ownBubble, ratio, peak, chunks = [1] }) => {
  it("holds over a grid of sizes and times", () => {
    let checked = 0;
    for (const p of [1, 2, 3, 4, 5, 6, 8]) {
      for (const m of [...new Set([1, 2, 3, 5, p, p + 1, 2 * p, 2 * p + 2, 3 * p, 4 * p])]) {
        if (!fits(schedule, p, m)) continue;
        for (const v of chunks) {
          const table = scheduleByName(schedule, {
            ranks: p,
            microBatches: m,
            chunks: chunks.length > 1 ? v : undefined,
          });
          const sizes = times.map((each) => ({ p, m, v, ...each })).filter(holds);
          sizes.forEach((size, index) => {
            const { F, B, W } = size;
            const unit: UnitTimes = { forward: F, backwardInput: B, backwardWeight: W };
            const ranks = longestPath(table, unit);
            const step = Math.max(...ranks.map(({ end }) => end));
            const idle = ranks.map(({ busy }) => step - busy);
            const own = ranks.map(({ start, end, busy }) => end - start - busy);
            if (bubble) expect({ size, bubble: Math.max(...idle) }).toEqual({ size, bubble: bubble(size) });
            if (ownBubble) expect({ size, own: Math.max(...own) }).toEqual({ size, own: ownBubble(size) });
            const share = idle.reduce((a, b) => a + b, 0) / (step * p);
            if (ratio && step > 0) expect(share).toBeCloseTo(ratio(size), 12);
            // What is held depends on the order alone.
            for (const w of index === 0 ? [1, 0.5, 0] : []) {
              const held = longestPath(table, unit, w).map((rank) => rank.peak);
              const published = ranks.map((_, i) => peak(size, i, w));
              if (published.some(Number.isNaN)) continue;
              expect({ size, w, held }).toEqual({ size, w, held: published });
            }
            checked++;
          });
        }
      }
    }
    expect(checked).toBeGreaterThan(5);
  });
});

describe("schedules without a flush", () => {
  it.each(["1f1b-async", "2bw"])(
    "%s takes m (F + B) more for m more micro-batches: no bubble but the fill",
    (name) => {
      // PipeDream: Narayanan et al., SOSP'19, section 3.2; PipeDream-2BW: ICML'21, section 3.1.
      for (const p of [1, 2, 4, 6]) {
        for (const m of [p, p + 3]) {
          const step = (microBatches: number) =>
            Math.max(
              ...longestPath(scheduleByName(name, { ranks: p, microBatches }), {
                forward: 1,
                backwardInput: 1,
                backwardWeight: 1,
              }).map(({ end }) => end),
            );
          expect(step(2 * m) - step(m)).toBe(3 * m);
        }
      }
    },
  );
});

describe("DualPipe with cheaper overlap", () => {
  it("has no larger bubble than the published (PP / 2 - 1)(F&B + B - 3 W)", () => {
    // With F&B < F + B the warm-up, which overlaps nothing, sets the pace in part, so that the form is a bound.
    for (const [name, half] of [
      ["dualpipe", (p: number) => p / 2],
      ["dualpipev", (p: number) => p],
    ] as const) {
      for (const p of [2, 4, 6, 8]) {
        for (const overlapped of [6, 7, 8]) {
          const unit = { forward: 3, backwardInput: 3, backwardWeight: 2, overlapped };
          const ranks = longestPath(scheduleByName(name, { ranks: p, microBatches: 3 * p }), unit);
          const step = Math.max(...ranks.map(({ end }) => end));
          const bubble = Math.max(...ranks.map(({ busy }) => step - busy));
          expect(bubble).toBeLessThanOrEqual((half(p) - 1) * (overlapped + 5 - 6));
        }
      }
    }
  });
});

describe("the simulator", () => {
  it("finds the same step and the same activations in flight for every schedule with a flush", () => {
    fc.assert(
      fc.property(anySchedule, fc.constantFrom(...times), (table, { F, B, W }) => {
        fc.pre(!table.weightVersions);
        const every = (seconds: number) => Array.from({ length: table.stages }, () => seconds);
        const { stepSeconds, ranks } = simulate(table, {
          forwardSeconds: every(F),
          backwardInputSeconds: every(B),
          backwardWeightSeconds: every(W),
        });
        const reference = longestPath(table, { forward: F, backwardInput: B, backwardWeight: W });
        expect(stepSeconds).toBe(Math.max(...reference.map(({ end }) => end)));
        expect(ranks.map(({ peakMicroBatches }) => peakMicroBatches)).toEqual(
          reference.map(({ peak }) => peak),
        );
      }),
      { numRuns: 200 },
    );
  });
});
