import { readdirSync, readFileSync } from "node:fs";

/** A process with the time it started, so that a number given to another process is not taken for it. */
interface Process {
  pid: number;
  parent: number;
  startedAt: string;
}

/** Reads Linux's /proc; undefined where there is no such process or no /proc. */
function readProcess(pid: number): Process | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    // Fields follow the command's name, which may hold spaces and brackets itself (proc(5)).
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    if (fields[0] === "Z") return undefined;
    return { pid, parent: Number(fields[1]), startedAt: fields[19]! };
  } catch {
    return undefined;
  }
}

/**
 * Remembers the processes below one, so that they can be ended after it has gone: torchrun gives every rank a
 * session of its own, which a signal to torchrun's process group does not reach. Knows nothing where there is
 * no /proc; torchrun alone ends the ranks there.
 */
export class ProcessTree {
  readonly #known = new Map<number, Process>();
  readonly #root: number;

  constructor(root: number) {
    this.#root = root;
  }

  /** Adds the descendants that live now. */
  look(): void {
    let names: string[];
    try {
      names = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
    } catch {
      return;
    }
    const all = names.map((name) => readProcess(Number(name))).filter((each) => each !== undefined);
    const found = new Set([this.#root, ...this.#living().map(({ pid }) => pid)]);
    for (let before = 0; before !== found.size; ) {
      before = found.size;
      for (const { pid, parent } of all) if (found.has(parent)) found.add(pid);
    }
    found.delete(this.#root);
    for (const process of all) if (found.has(process.pid)) this.#known.set(process.pid, process);
  }

  /** Sends a signal to every known descendant that still lives. */
  signal(name: NodeJS.Signals): void {
    for (const { pid } of this.#living()) {
      try {
        process.kill(pid, name);
      } catch {
        // It ended in between.
      }
    }
  }

  #living(): Process[] {
    return [...this.#known.values()].filter(
      ({ pid, startedAt }) => readProcess(pid)?.startedAt === startedAt,
    );
  }
}
