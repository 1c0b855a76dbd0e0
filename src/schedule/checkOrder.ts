import type { ScheduleTable } from "./actions.js";
import { describeAction, routesOf, type StageLinks } from "./routes.js";

/** What happened to one micro-batch at one stage, one bit each. */
const seen = {
  forward: 1,
  backward: 2,
  "backward-input": 4,
  "backward-weight": 8,
  sendActivation: 16,
  receiveActivation: 32,
  sendGradient: 64,
  receiveGradient: 128,
} as const;
const gradientOfInput = seen.backward | seen["backward-input"];
const gradientOfWeight = seen.backward | seen["backward-weight"];

/** All work and every transfer once, each after what it needs as far as its own rank shows. */
export function checkOrder(
  table: ScheduleTable,
  links: StageLinks,
  report: (sentence: string) => void,
): void {
  const { stages, microBatches, ranks } = table;
  const { rank: home, before, after, route } = links;
  const routes = routesOf(table);
  const routeOf = new Int32Array(microBatches);
  routes.forEach((each, index) => {
    for (const microBatch of each.microBatches) routeOf[microBatch] = index;
  });
  const transfers = ranks.some((actions) =>
    actions.some(({ kind }) => kind === "send" || kind === "receive"),
  );
  const state = new Uint8Array(stages * microBatches);
  const has = (stage: number, microBatch: number, bits: number) =>
    (state[stage * microBatches + microBatch]! & bits) !== 0;
  /** Whether a neighbour's output is there, as far as this rank can know. */
  const arrived = (stage: number, from: number, microBatch: number, made: number, received: number) =>
    from === -1 ||
    (home[from] === home[stage]
      ? has(from, microBatch, made)
      : !transfers || has(stage, microBatch, received));

  ranks.forEach((actions, rank) => {
    for (let i = 0; i < actions.length; i++) {
      const action = actions[i]!;
      const { kind, stage, microBatch, payload } = action;
      if (microBatch === -1) continue;
      const found = () => `found the ${describeAction(action)} (rank ${rank}, action ${i})`;
      if (route[stage] !== routeOf[microBatch]) {
        report(`Expected a stage of route ${routeOf[microBatch]} but ${found()}.`);
        continue;
      }
      let bit: number;
      if (kind === "send" || kind === "receive") {
        const activation = payload === "activation";
        const onward = activation === (kind === "send");
        const peer = onward ? after[stage]! : before[stage]!;
        if (peer === -1 || home[peer] === rank) {
          report(`Expected transfers between ranks only but ${found()}.`);
        }
        if (kind === "send") {
          bit = activation ? seen.sendActivation : seen.sendGradient;
          if (!has(stage, microBatch, activation ? seen.forward : gradientOfInput)) {
            report(`Expected the ${payload} before its send but ${found()}.`);
          }
        } else bit = activation ? seen.receiveActivation : seen.receiveGradient;
      } else {
        bit = seen[kind as keyof typeof seen];
        if (kind === "forward") {
          if (!arrived(stage, before[stage]!, microBatch, seen.forward, seen.receiveActivation)) {
            report(`Expected the activation of stage ${before[stage]} first but ${found()}.`);
          }
        } else if (!has(stage, microBatch, seen.forward)) {
          report(`Expected the forward first but ${found()}.`);
        } else if (kind === "backward-weight") {
          if (!has(stage, microBatch, seen["backward-input"])) {
            report(`Expected the input half of the backward first but ${found()}.`);
          }
        } else if (!arrived(stage, after[stage]!, microBatch, gradientOfInput, seen.receiveGradient)) {
          report(`Expected the gradient of stage ${after[stage]} first but ${found()}.`);
        }
        const other = kind === "backward" ? seen["backward-input"] | seen["backward-weight"] : seen.backward;
        if (kind !== "forward" && has(stage, microBatch, other)) {
          report(`Expected a whole backward or its two halves but ${found()} beside the other.`);
        }
      }
      if (has(stage, microBatch, bit)) report(`Expected each action once but again ${found()}.`);
      state[stage * microBatches + microBatch]! |= bit;
    }
  });

  for (const each of routes) {
    for (const stage of each.stages) {
      for (const microBatch of each.microBatches) {
        const bits = state[stage * microBatches + microBatch]!;
        const missing: string[] = [];
        if (!(bits & seen.forward)) missing.push("no forward");
        if (!(bits & gradientOfInput)) missing.push("no backward");
        else if (!(bits & gradientOfWeight)) missing.push("no weight half of the backward");
        if (missing.length) {
          const what = missing.length === 2 ? "neither direction" : missing[0];
          report(`Expected micro-batch ${microBatch} to pass stage ${stage} both ways but found ${what}.`);
        }
        const next = after[stage]!;
        if (!transfers || next === -1 || home[next] === home[stage]) continue;
        const there = state[next * microBatches + microBatch]!;
        for (const [payload, from, to, sent, received] of [
          ["activation", stage, next, bits & seen.sendActivation, there & seen.receiveActivation],
          ["gradient", next, stage, there & seen.sendGradient, bits & seen.receiveGradient],
        ] as const) {
          if (sent && received) continue;
          const lack = sent ? "no receive" : received ? "no send" : "neither";
          report(
            `Expected a send and a receive of micro-batch ${microBatch}'s ${payload} from stage ${from} to stage ${to} but found ${lack}.`,
          );
        }
      }
    }
  }
}
