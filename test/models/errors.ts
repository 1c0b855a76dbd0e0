import { MpoptError } from "../../src/contracts/index.js";

/** What a call throws, which must be an error of the library. */
export function errorOf(run: () => unknown): MpoptError {
  try {
    run();
  } catch (error) {
    if (error instanceof MpoptError) return error;
    throw error;
  }
  throw new Error("expected an error");
}
