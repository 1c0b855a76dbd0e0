/**
 * The cheapest choice of one option a group whose sizes fit a limit: a multiple-choice knapsack, solved exactly.
 *
 * Groups are merged one by one into a list of undominated (size, cost) states (Nemhauser and Ullmann 1969); a
 * state goes when its Lagrangian bound at the slope of the linear relaxation reaches the best choice known
 * (Pisinger 1995, "A minimal algorithm for the multiple-choice knapsack problem"). Groups of equal sizes fall
 * together through dominance, so equal layers cost a list of their number and not of their subsets.
 */
export class Knapsack {
  /** No choice that fits costs less; infinite where none fits. */
  lower = 0;
  /** Cost of the best choice found; equal to `lower` but for a list that outgrew its limit. */
  upper = 0;
  /** Option of each group in the best choice; filled only on demand. */
  choice: number[] = [];

  private groups = 0;
  private readonly first: number[] = [0];
  private readonly costs: number[] = [];
  private readonly sizes: number[] = [];

  /** @param states Longest list before the search gives up on exactness. */
  constructor(private readonly states = 20_000) {}

  /** Forgets the groups. */
  clear(): void {
    this.groups = 0;
    this.costs.length = 0;
    this.sizes.length = 0;
    this.first.length = 1;
  }

  option(cost: number, size: number): void {
    this.costs.push(cost);
    this.sizes.push(size);
  }

  endGroup(): void {
    this.groups += 1;
    this.first.push(this.costs.length);
  }

  /** Fills `lower` and `upper`, and `choice` where it is wanted. */
  solve(limit: number, wantChoice = false): void {
    const open = this.relax(limit, wantChoice);
    if (open) this.enumerate(open.groups, open.slope, limit, wantChoice);
  }

  /**
   * Fills `lower` from the linear relaxation and `upper` from rounding it. Returns what the enumeration needs,
   * nothing where the two ends meet already.
   */
  relax(limit: number, wantChoice = false): { groups: number[][]; slope: number } | undefined {
    const { costs, sizes } = this;
    this.choice = [];
    // Undominated options of each group by rising cost, so falling size.
    const groups: number[][] = [];
    let cost = 0;
    let size = 0;
    let leastSize = 0;
    for (let g = 0; g < this.groups; g++) {
      const options: number[] = [];
      for (let o = this.first[g]!; o < this.first[g + 1]!; o++) options.push(o);
      if (options.length > 1) options.sort((a, b) => costs[a]! - costs[b]! || sizes[a]! - sizes[b]! || a - b);
      let kept = 1;
      for (let i = 1; i < options.length; i++) {
        if (sizes[options[i]!]! < sizes[options[kept - 1]!]!) options[kept++] = options[i]!;
      }
      options.length = kept;
      groups.push(options);
      cost += costs[options[0]!]!;
      size += sizes[options[0]!]!;
      leastSize += sizes[options[kept - 1]!]!;
    }
    const answer = (options: number[]) => {
      if (wantChoice) this.choice = options.map((option, g) => option - this.first[g]!);
    };
    const cheapest = groups.map((options) => options[0]!);
    if (size <= limit) {
      this.lower = this.upper = cost;
      answer(cheapest);
      return undefined;
    }
    if (leastSize > limit) {
      this.lower = this.upper = Number.POSITIVE_INFINITY;
      return undefined;
    }

    // The linear relaxation: steps along the lower hull of each group, flattest first.
    const steps: { group: number; option: number; cost: number; size: number; slope: number }[] = [];
    groups.forEach((options, group) => {
      let at = 0;
      while (at < options.length - 1) {
        let best = -1;
        let slope = Number.POSITIVE_INFINITY;
        for (let i = at + 1; i < options.length; i++) {
          const rise = costs[options[i]!]! - costs[options[at]!]!;
          const it = rise / (sizes[options[at]!]! - sizes[options[i]!]!);
          if (it <= slope) {
            slope = it;
            best = i;
          }
        }
        const [from, to] = [options[at]!, options[best]!];
        steps.push({
          group,
          option: to,
          cost: costs[to]! - costs[from]!,
          size: sizes[from]! - sizes[to]!,
          slope,
        });
        at = best;
      }
    });
    steps.sort((a, b) => a.slope - b.slope || a.group - b.group || a.cost - b.cost);
    const picked = [...cheapest];
    let slope = 0;
    let relaxed = cost;
    let over = size - limit;
    for (const step of steps) {
      slope = step.slope;
      relaxed += step.cost * Math.min(1, over / step.size);
      cost += step.cost;
      over -= step.size;
      picked[step.group] = step.option;
      if (over <= 0) break;
    }
    if (over > 0) {
      // Rounding left the last step short; every group is at its smallest, which fits.
      groups.forEach((options, g) => {
        picked[g] = options.at(-1)!;
      });
      cost = picked.reduce((sum, option) => sum + costs[option]!, 0);
    }
    this.upper = cost;
    answer(picked);
    this.lower = Math.min(relaxed, cost);
    if (over === 0) {
      this.lower = cost;
      return undefined;
    }
    return { groups, slope };
  }

  private enumerate(groups: number[][], slope: number, limit: number, wantChoice: boolean): void {
    const { costs, sizes } = this;
    const reduced = (option: number) => costs[option]! + slope * sizes[option]!;
    // Groups whose choice is clearest go first: their other options fall to the bound at once.
    const plan = groups.map((options, group) => {
      let best = Number.POSITIVE_INFINITY;
      let second = Number.POSITIVE_INFINITY;
      for (const option of options) {
        const value = reduced(option);
        if (value < best) {
          second = best;
          best = value;
        } else if (value < second) second = value;
      }
      return { group, options, best, clearness: second - best };
    });
    plan.sort((a, b) => b.clearness - a.clearness || a.group - b.group);
    const depth = plan.length;
    const restReduced = new Float64Array(depth + 1);
    const restLeast = new Float64Array(depth + 1);
    const restCheapest = new Float64Array(depth + 1);
    const restWidest = new Float64Array(depth + 1);
    for (let i = depth - 1; i >= 0; i--) {
      const { options, best } = plan[i]!;
      restReduced[i] = restReduced[i + 1]! + best;
      restLeast[i] = restLeast[i + 1]! + sizes[options.at(-1)!]!;
      restCheapest[i] = restCheapest[i + 1]! + costs[options[0]!]!;
      restWidest[i] = restWidest[i + 1]! + sizes[options[0]!]!;
    }
    type State = { cost: number; size: number; option: number; parent: State | undefined };
    let states: State[] = [{ cost: 0, size: 0, option: -1, parent: undefined }];
    let best: { state: State; depth: number } | undefined;
    for (let i = 0; i < depth && states.length > 0; i++) {
      let merged: State[] = [];
      for (const option of plan[i]!.options) {
        const list: State[] = [];
        for (const state of states) {
          const nextCost = state.cost + costs[option]!;
          const nextSize = state.size + sizes[option]!;
          if (nextSize + restLeast[i + 1]! > limit) continue;
          const bound = nextCost + slope * (nextSize - limit) + restReduced[i + 1]!;
          // Within rounding of the best choice known, nothing is left to gain.
          if (bound >= this.upper * (1 - 1e-14) || nextCost + restCheapest[i + 1]! >= this.upper) continue;
          const next = { cost: nextCost, size: nextSize, option, parent: wantChoice ? state : undefined };
          if (nextSize + restWidest[i + 1]! <= limit) {
            this.upper = nextCost + restCheapest[i + 1]!;
            best = { state: next, depth: i + 1 };
          } else list.push(next);
        }
        merged = merged.length === 0 ? list : mergeUndominated(merged, list);
      }
      states = merged;
      if (states.length > this.states) {
        // The relaxation stays as the bound.
        this.lower = Math.min(this.lower, this.upper);
        this.keep(best, plan, wantChoice);
        return;
      }
    }
    this.lower = this.upper;
    this.keep(best, plan, wantChoice);
  }

  private keep(
    best: { state: { option: number; parent: unknown }; depth: number } | undefined,
    plan: { group: number; options: number[] }[],
    wantChoice: boolean,
  ): void {
    if (!best || !wantChoice) return;
    const options = new Array<number>(plan.length);
    for (const { group, options: all } of plan) options[group] = all[0]!;
    let state = best.state as { option: number; parent: unknown } | undefined;
    for (let i = best.depth - 1; i >= 0; i--) {
      options[plan[i]!.group] = state!.option;
      state = state!.parent as typeof state;
    }
    this.choice = options.map((option, g) => option - this.first[g]!);
  }
}

/** Two lists by rising size become one in which cost falls as size rises. */
function mergeUndominated<T extends { cost: number; size: number }>(a: T[], b: T[]): T[] {
  const merged: T[] = [];
  let least = Number.POSITIVE_INFINITY;
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    const fromA =
      j >= b.length ||
      (i < a.length && (a[i]!.size < b[j]!.size || (a[i]!.size === b[j]!.size && a[i]!.cost <= b[j]!.cost)));
    const next = fromA ? a[i++]! : b[j++]!;
    if (next.cost >= least) continue;
    least = next.cost;
    merged.push(next);
  }
  return merged;
}
