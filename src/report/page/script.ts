import { memoryScript } from "./memoryScript.js";
import { timelineScript } from "./timelineScript.js";

/** The page's only script. Without it the page shows the same figures, and the timeline at its full length. */
export const script = `${timelineScript}${memoryScript}`;
