import { createWriteStream, mkdirSync, type WriteStream } from "node:fs";
import { join } from "node:path";
import { MpoptError } from "../contracts/index.js";

/** One file a rank, and one for what the starter says: `rank-3.log`, `starter.log`. */
export class RankLogs {
  readonly #folder: string;
  readonly #streams = new Map<string, WriteStream>();
  #failure: Error | undefined;

  /** @throws MpoptError E_FILE where the folder cannot be made. */
  constructor(folder: string) {
    this.#folder = folder;
    try {
      mkdirSync(folder, { recursive: true });
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw new MpoptError(
        "E_FILE",
        `Expected to make the folder ${folder} but the system answered ${code}.`,
      );
    }
  }

  write(rank: number | undefined, text: string): void {
    this.open(rank).write(`${text}\n`);
  }

  /** The log of a rank, which is there although it says nothing. */
  open(rank: number | undefined): WriteStream {
    const name = rank === undefined ? "starter.log" : `rank-${rank}.log`;
    let stream = this.#streams.get(name);
    if (!stream) {
      stream = createWriteStream(join(this.#folder, name), { flags: "a" });
      stream.on("error", (error) => {
        this.#failure ??= error;
      });
      this.#streams.set(name, stream);
    }
    return stream;
  }

  /** @returns why a line is missing, as a sentence; undefined where all were written. */
  async close(): Promise<string | undefined> {
    await Promise.all(
      [...this.#streams.values()].map((stream) => new Promise<void>((done) => end(stream, done))),
    );
    this.#streams.clear();
    return this.#failure && `Expected to write the logs in ${this.#folder} but ${this.#failure.message}.`;
  }
}

function end(stream: WriteStream, done: () => void): void {
  if (stream.destroyed) done();
  else stream.once("close", done).end();
}
