import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { kendallTau } from "../../src/validate/choice.js";
import { runRecords } from "../../src/validate/columns.js";
import { parseCsv, readCsv } from "../../src/validate/csv.js";
import { type GroupScore, score } from "../../src/validate/score.js";
import type { ScoredPrediction } from "../../src/validate/scoreable.js";
import { quantile } from "../../src/validate/statistics.js";

const data = (name: string) => new URL(`../data/validation/${name}`, import.meta.url).pathname;
const json = (name: string) => JSON.parse(readFileSync(data(name), "utf8"));

interface Given {
  id: string;
  step_time_s?: number;
  memory_GiB?: number;
  feasible?: boolean;
}

/** A group's score with the names of the other program. */
function renamed({ rows, time, memory, feasibility: f, choice }: GroupScore) {
  const errors = (each: GroupScore["time"]) => ({
    n: each.n,
    total: each.total,
    coverage: each.coverage,
    mape: each.mape,
    median_ape: each.medianApe,
    bias: each.bias,
    p90_ape: each.p90Ape,
    max_ape: each.maxApe,
    within10: each.within10,
  });
  return {
    rows,
    time: errors(time),
    memory: errors(memory),
    feasibility: {
      run_said_run: f.ranSaidRan,
      run_said_oom: f.ranSaidOutOfMemory,
      oom_said_run: f.outOfMemorySaidRan,
      oom_said_oom: f.outOfMemorySaidOutOfMemory,
      not_said: f.notSaid,
    },
    choice: choice && {
      groups: choice.groups,
      plans: choice.plans,
      mean_regret: choice.meanRegret,
      max_regret: choice.maxRegret,
      exact_best: choice.exactBest,
      mean_kendall: choice.meanTau,
      no_choice: choice.noChoice,
      picked_oom: choice.choseOutOfMemory,
      random_plan_regret: choice.randomRegret,
    },
  };
}

/** Numbers that agree to twelve digits are the same: sums in another order differ in the last. */
const rounded = (value: unknown) =>
  JSON.parse(JSON.stringify(value), (_, each) =>
    typeof each === "number" ? Number(each.toPrecision(12)) : each,
  );

describe("the score of predictions", () => {
  const records = runRecords(readCsv(data("runs.csv")));
  const given = (json("predictions.json") as Given[]).map(
    (each): ScoredPrediction => ({
      id: each.id,
      stepSeconds: each.step_time_s,
      memoryGiB: each.memory_GiB,
      feasible: each.feasible,
    }),
  );

  it("is that of another program with the same rules", () => {
    const { groups, overall, meanOfGroups } = score(records, given);
    const other = json("score.json");
    const wanted = ({ feasibility, ...rest }: { feasibility: Record<string, number> }) => {
      const { rows_run: _ran, rows_oom: _failed, ...said } = feasibility;
      return rounded({ ...rest, feasibility: said });
    };
    expect(Object.keys(groups)).toEqual(Object.keys(other.groups));
    for (const [name, group] of Object.entries(groups)) {
      expect(rounded(renamed(group)), name).toEqual(wanted(other.groups[name]));
    }
    const { mean_of_groups: means, ...all } = other.overall;
    expect(rounded(renamed(overall))).toEqual(wanted(all));
    expect(rounded([meanOfGroups.timeMape, meanOfGroups.memoryMape, meanOfGroups.regret])).toEqual(
      rounded([means.time_mape, means.memory_mape, means.regret]),
    );
  });

  it("interpolates quantiles and corrects tau for ties", () => {
    expect(quantile([3, 1, 2], 0.5)).toBe(2);
    expect(quantile([0, 10], 0.9)).toBeCloseTo(9, 12);
    expect(quantile([], 0.5)).toBeNull();
    expect(kendallTau([[1, 1], [2, 2], [3, 3]])).toBe(1); // biome-ignore format: pairs
    expect(kendallTau([[1, 3], [2, 2], [3, 1]])).toBe(-1); // biome-ignore format: pairs
    // Five of six pairs are ordered on the first side, all on the second: 5 / sqrt(5 x 6).
    expect(kendallTau([[1, 1], [1, 2], [2, 3], [3, 4]])).toBeCloseTo(5 / Math.sqrt(30), 12); // biome-ignore format: pairs
    expect(kendallTau([[1, 1], [1, 2]])).toBe(0); // biome-ignore format: pairs
  });

  it("counts a plan measured twice once, ties by their mean, and a refused or missing choice as the worst", () => {
    const head =
      "id,layers,hidden,heads,seq,n_gpus,tp,pp,dp,global_batch,step_time_s,choice_group,tier,notes";
    const row = (id: string, tp: number, seconds: string, notes = "") =>
      `X-${id},2,8,2,8,8,${tp},1,${8 / tp},8,${seconds},g,A,${notes}`;
    const lines = [
      row("1", 1, "1"),
      row("2", 1, "3"),
      row("3", 2, "1.5"),
      row("4", 4, "3"),
      row("5", 8, "4"),
    ];
    const table = runRecords(parseCsv([head, ...lines].join("\n"), "made up"));
    const choose = (times: Record<string, number>, infeasible: string[] = []) =>
      score(
        table,
        table.map(({ id }) => ({ id, stepSeconds: times[id], feasible: !infeasible.includes(id) })),
      ).overall.choice!;
    // The plan of rows 1 and 2 has a median of 2 s; the best is row 3's.
    expect(choose({ "X-1": 1, "X-2": 1, "X-3": 2, "X-4": 3, "X-5": 4 })).toMatchObject({
      plans: 4,
      meanRegret: 2 / 1.5 - 1,
      exactBest: 0,
    });
    expect(choose({ "X-3": 2, "X-4": 2, "X-5": 4 }).meanRegret).toBeCloseTo(0.5, 12);
    expect(choose({ "X-3": 2, "X-4": 3 }, ["X-3"]).meanRegret).toBeCloseTo(1, 12);
    expect(choose({})).toMatchObject({ noChoice: 1, meanRegret: 4 / 1.5 - 1, meanTau: 0 });
  });
});
