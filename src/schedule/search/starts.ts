import { MpoptError } from "../../contracts/index.js";
import type { ScheduleTable } from "../actions.js";
import { scheduleByName, scheduleNames, scheduleShape } from "../named/index.js";
import type { ScheduleProblem } from "./problem.js";

/**
 * All named schedules with a flush that lay the problem's stages on its ranks as the problem does. Some exist
 * only for certain counts.
 */
export function namedStarts({ stages, ranks, microBatches }: ScheduleProblem): ScheduleTable[] {
  const count = ranks ?? 1 + Math.max(...stages.map(({ rank }) => rank));
  const chunks = stages.length / count;
  if (!Number.isInteger(chunks)) return [];
  const tables: ScheduleTable[] = [];
  for (const name of scheduleNames) {
    try {
      const shape = scheduleShape(name, count, chunks);
      if (shape.stages !== stages.length) continue;
      if (
        shape.placement === "bidirectional" ||
        stages.some(({ rank }, s) => rank !== shape.rankOfStage[s])
      ) {
        continue;
      }
      const table = scheduleByName(name, { ranks: count, microBatches, chunks });
      if (!table.weightVersions) tables.push(table);
    } catch (error) {
      if (!(error instanceof MpoptError)) throw error;
    }
  }
  return tables;
}
