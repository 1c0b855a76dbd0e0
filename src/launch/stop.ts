import type { ChildProcess } from "node:child_process";
import { MpoptError } from "../contracts/index.js";
import { ProcessTree } from "./processes.js";

/** A starter that was told to stop, or one of whose ranks has died, is killed with everything below it after this. */
const graceMilliseconds = { afterStop: 8000, afterDeath: 5000 };

/** Ends a starter and, with it or after it, every process below it on this machine. */
export class Stopper {
  readonly ended: Promise<number>;
  readonly #child: ChildProcess;
  readonly #tree: ProcessTree;
  #lastLook = 0;
  #killTimer: NodeJS.Timeout | undefined;
  #deathTimer: NodeJS.Timeout | undefined;

  constructor(child: ChildProcess) {
    this.#child = child;
    this.#tree = new ProcessTree(child.pid ?? -1);
    this.ended = new Promise((done, fail) => {
      child.once("error", (error) =>
        fail(new MpoptError("E_LAUNCH", `Expected to start ${child.spawnfile} but ${error.message}.`)),
      );
      child.once("exit", (code, name) => {
        clearTimeout(this.#killTimer);
        clearTimeout(this.#deathTimer);
        done(code ?? 128 + (name ? signalNumber(name) : 0));
      });
    });
  }

  /** Notes the ranks that live now, at most once a second. */
  look(): void {
    const now = Date.now();
    if (now - this.#lastLook < 1000) return;
    this.#lastLook = now;
    this.#tree.look();
  }

  /** A rank has died: starters end the others by themselves, but some give those that hang half a minute. */
  rankDied(): void {
    this.#tree.look();
    this.#deathTimer ??= setTimeout(() => this.#kill(), graceMilliseconds.afterDeath);
  }

  stop(): void {
    this.#tree.look();
    this.#signalGroup("SIGTERM");
    this.#killTimer ??= setTimeout(() => this.#kill(), graceMilliseconds.afterStop);
  }

  /** What the starter has left behind. */
  killRest(): void {
    this.#tree.signal("SIGKILL");
  }

  #kill(): void {
    this.#tree.look();
    this.#signalGroup("SIGKILL");
    this.#tree.signal("SIGKILL");
  }

  #signalGroup(name: NodeJS.Signals): void {
    try {
      if (this.#child.pid !== undefined) process.kill(-this.#child.pid, name);
    } catch {
      // It has ended.
    }
  }
}

function signalNumber(name: NodeJS.Signals): number {
  return { SIGHUP: 1, SIGINT: 2, SIGABRT: 6, SIGKILL: 9, SIGSEGV: 11, SIGTERM: 15 }[name as string] ?? 0;
}
