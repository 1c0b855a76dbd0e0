import { axisSize, MpoptError, type Plan } from "../contracts/index.js";
import {
  type ScheduleTable,
  scheduleByName,
  scheduleOfPlan,
  stageLinks,
  writeScheduleCsv,
} from "../schedule/index.js";

/** Whether the schedule's name says everything: 1F1B or GPipe with stage i on rank i. */
export function isPlainSchedule({ schedule, stages }: Plan): boolean {
  const oneEach = stages.every((stage, i) => stage.rank === i);
  return !schedule.actions && oneEach && (schedule.name === "1f1b" || schedule.name === "gpipe");
}

/**
 * The plan's schedule as the CSV that PyTorch's runtime reads, one row a pipeline rank.
 * @throws MpoptError E_LOSSY for schedules that the form cannot express, or whose stages lie on other ranks than
 * the plan's; otherwise as `scheduleOfPlan`.
 */
export function scheduleCsvOf(plan: Plan): string {
  const table = scheduleOfPlan(plan);
  const csv = writeScheduleCsv(table);
  const ranks = stageLinks(table).rank;
  for (const { index, rank } of plan.stages) {
    if (ranks[index] !== rank) {
      throw new MpoptError(
        "E_LOSSY",
        `Expected stage ${index} on pipeline rank ${ranks[index]} for ${plan.schedule.name} but found it on rank ${rank}.`,
      );
    }
  }
  return csv;
}

/**
 * The number of micro-batches that a rank of Megatron-LM runs through one of its stages before it turns to the next
 * (`microbatch_group_size_per_vp_stage`), where its interleaved 1F1B is the plan's schedule, action by action.
 * undefined where it is not. Megatron-LM wants at least as many as there are pipeline ranks.
 */
export function interleavedGroupSize(plan: Plan): number | undefined {
  const ranks = axisSize(plan, "pipeline");
  const chunks = plan.stages.length / ranks;
  return ifExpressible(() => {
    const csv = scheduleCsvOf(plan);
    const actions = scheduleOfPlan(plan).ranks[0]!;
    // Rank 0 first takes the group through stage 0.
    const group = actions.findIndex(({ kind, stage }) => kind !== "forward" || stage !== 0);
    if (group < ranks) return undefined;
    const options = { ranks, microBatches: plan.schedule.microBatches, chunks, groupSize: group };
    return sameActions(csv, scheduleByName("interleaved", options)) ? group : undefined;
  });
}

/** Whether 1F1B of one stage a rank is the plan's schedule, action by action. */
export function isOneForwardOneBackward(plan: Plan): boolean {
  const { microBatches } = plan.schedule;
  const found = ifExpressible(() =>
    sameActions(scheduleCsvOf(plan), scheduleByName("1f1b", { ranks: plan.stages.length, microBatches })),
  );
  return found ?? false;
}

function sameActions(csv: string, table: ScheduleTable): boolean {
  return csv === writeScheduleCsv(table);
}

/** The answer, or undefined where a schedule cannot be made or written. */
function ifExpressible<Answer>(ask: () => Answer): Answer | undefined {
  try {
    return ask();
  } catch (error) {
    if (error instanceof MpoptError) return undefined;
    throw error;
  }
}
