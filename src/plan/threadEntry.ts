import { parentPort, workerData } from "node:worker_threads";
import { MpoptError } from "../contracts/index.js";
import { createPlan } from "./index.js";
import type { ThreadMessage, ThreadRequest } from "./thread.js";

const say = (message: ThreadMessage) => parentPort!.postMessage(message);

try {
  const request = workerData as ThreadRequest;
  const plan = await createPlan({ ...request, onProgress: (progress) => say({ progress }) });
  say({ plan });
} catch (error) {
  if (!(error instanceof MpoptError)) throw error;
  const { code, message, notes } = error;
  say({ error: { code, message, notes } });
}
