import type { RunRecord } from "./columns.js";

/** A prediction as the scorer takes it; any part may be missing. */
export interface ScoredPrediction {
  id: string;
  stepSeconds?: number;
  memoryGiB?: number;
  feasible?: boolean;
}

/** What a row is good for. */
export interface Scoreable {
  stepSeconds: number | undefined;
  memoryGiB: number | undefined;
  /** Whether the plan ran; undefined where the row does not tell. */
  ran: boolean | undefined;
}

/**
 * What a row can be scored on. It must give the model's dimensions and the plan, and degrees that make its number of
 * GPUs; rows of tier C are context.
 */
export function scoreable({ fields, measured }: RunRecord): Scoreable {
  const { stepSeconds, memoryGiB, outOfMemory, tier } = measured;
  const given = (["layers", "hidden", "heads", "seq", "n_gpus", "tp", "pp"] as const).every(
    (column) => fields.text(column) !== "",
  );
  const data = given ? fields.count("dp") : undefined;
  const whole =
    data === undefined ||
    fields.count("tp")! * fields.count("pp")! * data * (fields.count("cp") ?? 1) === fields.count("n_gpus");
  const nothing = { stepSeconds: undefined, memoryGiB: undefined, ran: undefined };
  if (!given || !whole || tier === "C") return nothing;
  if (outOfMemory) return { ...nothing, ran: false };
  return {
    stepSeconds: fields.text("global_batch") === "" ? undefined : stepSeconds,
    memoryGiB,
    ran: stepSeconds !== undefined || memoryGiB !== undefined ? true : undefined,
  };
}
