import type { Potentials, Relaxation, StageLimits } from "./generalBound.js";
import type { WorkBudget } from "./generalBudget.js";
import { emptyLabel, grow, type Label, objectiveOf } from "./generalLabel.js";
import type { StageModel, StageVariant } from "./stageModel.js";

export interface BeamOptions {
  limits: StageLimits;
  /** Least units of devices that the stages up to each cut need within the limits. */
  need: Float64Array;
  /** `step`: what the stages up to each cut cost at least, with a price on units of devices. */
  sums?: Potentials;
  price: number;
  /** Seconds of synchronisation that cost nothing when partial plans are compared. */
  freeSync?: number;
  /** Partial plans kept at one cut. */
  width: number;
  /** Plans at or above this value are dropped. */
  below: number;
}

/**
 * Plans within limits, from the last stage to the first, each stage at its true place and on as few devices as
 * the limits allow, or as few as start it at the beginning of a host. At each cut the partial plans that use
 * the fewest devices (`steady`) or that are cheapest at the price of a device (`step`) are kept, one for each
 * place in a host first.
 */
export function beamSearch(
  model: StageModel,
  relaxation: Relaxation,
  budget: WorkBudget,
  options: BeamOptions,
): Label | undefined {
  const { limits, need, sums, price, width, freeSync = 0 } = options;
  const { machine, microBatches, objective, replicate } = model.options;
  const steady = objective === "steady";
  const { devices } = machine;
  const host = hostOf(machine.levels[0]!.groupOf);
  const last = model.cuts - 1;
  const before = relaxation.before;
  const score = (label: Label) => {
    const used = relaxation.total - before[label.device]!;
    return steady ? used : label.sum + Math.max(label.sync, freeSync) + price * used;
  };
  // Where groups keep to domains, few places of a host are of use: the same one of several hosts is kept.
  const places = machine.domainOf ? 8 * host : host;
  const beams: Beam[] = Array.from({ length: model.cuts }, () => new Beam(width, places));
  // The line may end a few devices early where that puts the last stage into one host.
  for (let end = devices; end > 0 && end > devices - Math.min(host, width); end--) {
    const label = emptyLabel(end);
    beams[last]!.add(label, score(label));
  }
  let best: Label | undefined;
  let value = options.below;
  const enter = (
    label: Label,
    variant: StageVariant,
    from: number,
    to: number,
    replicas: number,
  ): boolean => {
    const { tensor, recompute } = variant;
    const first = label.device - replicas * tensor;
    if (first < (from === 0 ? 0 : 1)) return false;
    const shape = { tensor, recompute, replicas };
    const cost = model.cost(from, to, first, shape, label.replicas);
    if (!cost || cost.memoryBytes > cost.limitBytes) return false;
    const grown = grow(model, label, from, first, shape, cost);
    if (grown.worst > (steady ? limits.steady! : limits.repeat!) * (1 + 1e-9)) return false;
    if (limits.sync !== undefined && grown.sync > limits.sync * (1 + 1e-9)) return false;
    if (from === 0) {
      const found = objectiveOf(grown, steady);
      if (found < value || (found === value && best && grown.sum < best.sum)) {
        best = grown;
        value = found;
      }
      return true;
    }
    if (need[from]! > before[first]! * (1 + 1e-9)) return false;
    if (!steady && sums) {
      const rest = sums.cost[from]! - price * before[first]!;
      if (grown.sum + rest + grown.worst + grown.sync >= value) return true;
    }
    beams[from]!.add(grown, score(grown));
    return true;
  };
  for (let to = last; to > 0; to--) {
    const labels = beams[to]!.labels;
    if (labels.length === 0) continue;
    const inner = relaxation.innerOf(to);
    const count = inner ? inner.length : to;
    let seen = 0;
    for (let i = 0; i < count; i++) {
      const from = inner ? inner[i]! : to - 1 - i;
      let hopeless = true;
      for (const variant of model.variants) {
        for (const label of labels) {
          seen++;
          const hope = relaxation.stage(variant, from, to, label.replicas, limits);
          if (hope >= 0) hopeless = false;
          if (hope <= 0) continue;
          const ideal = relaxation.replicas;
          if (before[label.device]! * (1 + 1e-9) < need[from]! + relaxation.units) continue;
          const { tensor } = variant;
          const most = replicate === false ? 1 : Math.min(microBatches, Math.floor(label.device / tensor));
          seen += 3;
          // True links and speeds may ask for a little more than the relaxation does.
          let replicas = ideal;
          for (let more = 0; more < 3 && replicas <= most; more++, replicas++) {
            if (enter(label, variant, from, to, replicas)) break;
          }
          const over = (((label.device - ideal * tensor) % host) + host) % host;
          const aligned = ideal + over / tensor;
          if (over > 0 && over % tensor === 0 && aligned !== replicas && aligned <= most) {
            enter(label, variant, from, to, aligned);
          }
        }
      }
      if (hopeless && model.chain) break;
    }
    budget.add(seen);
    beams[to]!.labels = [];
  }
  return best;
}

/** Size of the innermost groups where they are even, otherwise 1. */
function hostOf(groupOf: Int32Array): number {
  const size = groupOf.findIndex((group) => group !== groupOf[0]);
  if (size < 2) return 1;
  return groupOf.every((group, device) => group === Math.floor(device / size)) ? size : 1;
}

/** The best few partial plans of one cut. */
class Beam {
  labels: Label[] = [];
  #scores: number[] = [];

  constructor(
    readonly width: number,
    readonly host: number,
  ) {}

  add(label: Label, score: number): void {
    const { labels } = this;
    const scores = this.#scores;
    const place = label.device % this.host;
    let worst = -1;
    for (let i = 0; i < labels.length; i++) {
      const other = labels[i]!;
      // One plan a place in the host: the next one may need just that place.
      if (other.device % this.host === place) {
        if (scores[i]! < score || (scores[i]! === score && other.sum <= label.sum)) return;
        labels[i] = label;
        scores[i] = score;
        return;
      }
      if (worst < 0 || scores[i]! > scores[worst]!) worst = i;
    }
    if (labels.length < this.width) {
      labels.push(label);
      scores.push(score);
    } else if (scores[worst]! > score) {
      labels[worst] = label;
      scores[worst] = score;
    }
  }
}
