import type { Plan } from "../contracts/index.js";
import { formatChange, formatInteger, formatPercent, formatSeconds } from "./format.js";
import { cleanText } from "./text.js";

/** How far predictions on the plan's cluster are to be trusted. */
export interface Confidence {
  calibrated: boolean;
  /** Step times between which 90 % of the calibrated runs would lie, seconds. */
  lowSeconds?: number;
  highSeconds?: number;
  sentence: string;
}

/**
 * Confidence from the residuals of the cluster's calibration. A run that was off by at most p90 either way lies between
 * predicted / (1 + p90) and predicted / (1 - p90).
 */
export function confidenceOf({ cluster, estimate }: Plan): Confidence {
  const { calibration } = cluster;
  if (!calibration) {
    return {
      calibrated: false,
      sentence:
        "Not calibrated: no measured run stands behind the figures of this cluster; mpopt validate with --calibrate compares them with runs and states the error here.",
    };
  }
  const { rows, bias, p50, p90, source, date } = calibration;
  const { stepSeconds } = estimate;
  return {
    calibrated: true,
    lowSeconds: stepSeconds / (1 + p90),
    ...(p90 < 1 && { highSeconds: stepSeconds / (1 - p90) }),
    sentence:
      `Predicted ${formatSeconds(stepSeconds)}; 90 % of ${formatInteger(rows)} calibrated runs were within ${formatPercent(p90)}, ` +
      `half within ${formatPercent(p50)}, ${formatChange(bias)} on average (${cleanText(source)}${date ? `, ${cleanText(date)}` : ""}).`,
  };
}
