export type { ScheduleProblem, SearchStage } from "./problem.js";
export { type ScheduleSearch, type ScheduleSearchOptions, searchSchedule } from "./search.js";
export { namedStarts } from "./starts.js";
