/**
 * Schedules without a flush: weights are updated while micro-batches are in flight, which changes what is trained.
 * Nobody gets them without asking.
 */
export const asynchronousSchedules: ReadonlySet<string> = new Set(["1f1b-async", "2bw"]);
