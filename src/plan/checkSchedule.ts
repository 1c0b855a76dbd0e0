import { axisSize, MpoptError, type Plan } from "../contracts/index.js";
import { scheduleRefusal, searchedSchedule } from "../runtimes/index.js";
import { asynchronousSchedules, scheduleNames, scheduleOfPlan, simulatePlan } from "../schedule/index.js";
import { layoutOfTable, type StageLayout } from "../search/layout.js";
import { isClosedForm, scheduleKey } from "../search/scheduleChoices.js";

/** Reports a broken invariant where `holds` is false. */
export type Expect = (holds: boolean, field: string, message: string) => void;

/** The schedule is one that the job and its runtime allow, and lays its stages where the plan has them. */
export function checkSchedule(plan: Plan, expect: Expect): void {
  const { job, stages } = plan;
  const { name, microBatches, actions } = plan.schedule;
  const known = scheduleNames.includes(name) || (actions !== undefined && name === searchedSchedule);
  expect(
    known,
    "schedule.name",
    `Expected a schedule among ${scheduleNames.join(", ")}, or ${searchedSchedule} with its actions, but found ${name}.`,
  );
  if (!known) return;
  expect(
    !asynchronousSchedules.has(name) || job.pins.schedule !== undefined,
    "schedule.name",
    `Expected a schedule with a flush where the job pins none but found ${name}.`,
  );
  const ranks = axisSize(plan, "pipeline");
  const refusal = scheduleRefusal(job.runtime, actions ? searchedSchedule : name, {
    ranks,
    chunks: stages.length / ranks,
    microBatches,
    recompute: stages.find(({ recompute }) => recompute !== "none")?.recompute ?? "none",
  });
  expect(refusal === undefined, "schedule.name", `Expected a schedule that fits the job, but ${refusal}.`);
  let layout: StageLayout;
  try {
    layout = layoutOfTable(scheduleOfPlan(plan));
  } catch (error) {
    if (!(error instanceof MpoptError)) throw error;
    expect(false, "schedule", error.message);
    return;
  }
  expect(
    layout.ranks === ranks,
    "schedule",
    `Expected actions for ${ranks} pipeline ranks but found ${layout.ranks}.`,
  );
  const chunks = new Array<number>(layout.ranks).fill(0);
  for (const [index, rank] of layout.rankOfStage.entries()) {
    const stage = stages[index]!;
    const chunk = chunks[rank]!++;
    expect(
      stage.rank === rank && stage.chunk === chunk,
      "stages",
      `Expected stage ${index} as chunk ${chunk} of rank ${rank}, where ${name} has it, but found chunk ${stage.chunk} of rank ${stage.rank}.`,
    );
  }
}

/** Seconds of the pipeline by the stages' own times: in closed form, or played by the simulator. */
export function pipelineSecondsOf(plan: Plan, expect: Expect): number {
  const { stages, schedule, job } = plan;
  if (isClosedForm(job, schedule.name) && !schedule.actions) {
    const times = stages.map((stage) => stage.forwardSeconds + stage.backwardSeconds);
    const sum = times.reduce((all, seconds) => all + seconds, 0);
    return sum + (schedule.microBatches - 1) * Math.max(...times);
  }
  try {
    return simulatePlan(plan).pipeline.stepSeconds;
  } catch (error) {
    if (!(error instanceof MpoptError)) throw error;
    expect(false, "schedule", error.message);
    return Number.NaN;
  }
}

/** Pins may write a schedule's name in any case, or as PyTorch does. */
export function sameSchedule(pin: string | undefined, name: string): boolean {
  if (pin === undefined) return false;
  try {
    return scheduleKey(pin) === name;
  } catch {
    return false;
  }
}
