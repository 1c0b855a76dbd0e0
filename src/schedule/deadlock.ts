import type { Action, ScheduleTable } from "./actions.js";
import { checkActions } from "./check.js";
import { describeAction, isCompute, type StageLinks, stageLinks } from "./routes.js";

export interface DeadlockOptions {
  /**
   * A send ends only when its receive has begun (MPI's rendezvous, NCCL on one stream). By default sends are
   * buffered. A table without transfers is then read as one that receives right before the action that needs the
   * data and sends right after the one that makes it.
   */
  blockingSends?: boolean;
}

/** What a rank does at once: an action, or two overlapped ones. */
type Step = Action[];

/**
 * Checks that the ranks, each in its own order, do not wait for each other in a circle.
 * @returns one sentence a circle, naming its ranks and what each waits for; the findings of `checkActions` for a
 * table that breaks it; empty for a table that runs to its end.
 */
export function checkDeadlock(table: ScheduleTable, options: DeadlockOptions = {}): string[] {
  const findings = checkActions(table);
  if (findings.length) return findings;
  const links = stageLinks(table);
  const blocking = options.blockingSends ?? false;
  const explicit = table.ranks.some((actions) => actions.some(({ kind }) => kind === "send"));
  const steps = table.ranks.map((actions) => stepsOf(actions, blocking && !explicit ? links : undefined));
  const transfers = explicit || blocking;

  const slots = table.stages * table.microBatches;
  const forwards = new Uint8Array(slots);
  const gradients = new Uint8Array(slots);
  // Activations and gradients that have left their stage; buffered sends only.
  const sent = [new Uint8Array(slots), new Uint8Array(slots)] as const;
  const next = table.ranks.map(() => 0);
  const slot = (stage: number, microBatch: number) => stage * table.microBatches + microBatch;
  const sourceOf = (receive: Action) =>
    receive.payload === "activation" ? links.before[receive.stage]! : links.after[receive.stage]!;
  const targetOf = (send: Action) =>
    send.payload === "activation" ? links.after[send.stage]! : links.before[send.stage]!;

  /** Rank that the step waits for; -1 where it can go on. */
  const waitsFor = (rank: number, step: Step): number => {
    const [first] = step;
    if (first!.kind === "send") {
      if (!blocking) return -1;
      const target = targetOf(first!);
      const peer = links.rank[target]!;
      const [other] = steps[peer]![next[peer]!] ?? [];
      const meets =
        other?.kind === "receive" &&
        other.payload === first!.payload &&
        other.stage === target &&
        other.microBatch === first!.microBatch;
      return meets ? -1 : peer;
    }
    if (first!.kind === "receive") {
      const source = sourceOf(first!);
      const made = !blocking && sent[first!.payload === "gradient" ? 1 : 0][slot(source, first!.microBatch)];
      return made ? -1 : links.rank[source]!;
    }
    for (const { kind, stage, microBatch } of step) {
      const isForward = kind === "forward";
      if (!isForward && kind !== "backward" && kind !== "backward-input") continue;
      const source = isForward ? links.before[stage]! : links.after[stage]!;
      if (source === -1 || (isForward ? forwards : gradients)[slot(source, microBatch)]) continue;
      // With transfers the receive before has waited already.
      if (!transfers || links.rank[source] === rank) return links.rank[source]!;
    }
    return -1;
  };
  const finish = (step: Step) => {
    for (const { kind, stage, microBatch, payload } of step) {
      if (microBatch === -1) continue;
      const at = slot(stage, microBatch);
      if (kind === "forward") forwards[at] = 1;
      else if (kind === "backward" || kind === "backward-input") gradients[at] = 1;
      else if (kind === "send") sent[payload === "gradient" ? 1 : 0][at] = 1;
    }
  };

  for (let progress = true; progress; ) {
    progress = false;
    for (let rank = 0; rank < steps.length; rank++) {
      const own = steps[rank]!;
      while (next[rank]! < own.length && waitsFor(rank, own[next[rank]!]!) === -1) {
        const step = own[next[rank]!]!;
        finish(step);
        next[rank] = next[rank]! + 1;
        // A blocking send takes its receive along.
        if (blocking && step[0]!.kind === "send") {
          const peer = links.rank[targetOf(step[0]!)]!;
          next[peer] = next[peer]! + 1;
        }
        progress = true;
      }
    }
  }
  return circles(steps, next, waitsFor);
}

/** The ranks that are stuck, one sentence a circle. Each waits for one other, so that every walk ends in one. */
function circles(steps: Step[][], next: number[], waitsFor: (rank: number, step: Step) => number): string[] {
  const findings: string[] = [];
  const visited = new Set<number>();
  for (let start = 0; start < steps.length; start++) {
    const walk: number[] = [];
    let rank = start;
    while (!visited.has(rank) && next[rank]! < steps[rank]!.length) {
      visited.add(rank);
      walk.push(rank);
      rank = waitsFor(rank, steps[rank]![next[rank]!]!);
    }
    const from = walk.indexOf(rank);
    if (from !== -1) {
      const circle = walk.slice(from);
      const parts = circle.map((each) => {
        const [first] = steps[each]![next[each]!]!;
        const peer = waitsFor(each, steps[each]![next[each]!]!);
        return `rank ${each} waits for rank ${peer} at the ${describeAction(first!)}`;
      });
      findings.push(`Expected the ranks to finish but found a circle: ${parts.join(", ")}.`);
    }
  }
  return findings;
}

/** Actions in order, overlapped ones together; with `links`, transfers between ranks right around the work. */
function stepsOf(actions: Action[], links: StageLinks | undefined): Step[] {
  const steps: Step[] = [];
  for (let i = 0; i < actions.length; i++) {
    const step = actions[i]!.overlapped ? [actions[i]!, actions[++i]!] : [actions[i]!];
    if (links) {
      for (const action of step) {
        const { input, payload } = transferOf(action, links);
        if (input !== -1)
          steps.push([{ kind: "receive", stage: action.stage, microBatch: action.microBatch, payload }]);
      }
    }
    steps.push(step);
    if (links) {
      for (const action of step) {
        const { output, payload } = transferOf(action, links);
        if (output !== -1)
          steps.push([{ kind: "send", stage: action.stage, microBatch: action.microBatch, payload }]);
      }
    }
  }
  return steps;
}

/** Stages on other ranks that an action's input comes from and its output goes to; -1 for none. */
export function transferOf(
  action: Action,
  links: StageLinks,
): { input: number; output: number; payload: "activation" | "gradient" } {
  const { kind, stage } = action;
  const onward = kind === "forward";
  const payload = onward ? "activation" : "gradient";
  if (!isCompute(action) || kind === "backward-weight") return { input: -1, output: -1, payload };
  const elsewhere = (other: number) => (other !== -1 && links.rank[other] !== links.rank[stage] ? other : -1);
  const { before, after } = links;
  return onward
    ? { input: elsewhere(before[stage]!), output: elsewhere(after[stage]!), payload }
    : { input: elsewhere(after[stage]!), output: elsewhere(before[stage]!), payload };
}
