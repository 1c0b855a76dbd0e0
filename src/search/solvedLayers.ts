import { type LayerCost, priceElsewhere } from "./intra.js";
import { buildLayerProblem, type LayerProblem, type LayerProblemInput } from "./intraProblem.js";

/** A layer that was solved for some number of micro-batches, and its prices elsewhere. */
interface Solved {
  microBatches: number;
  cost: LayerCost;
  splits: string;
  /** The same shardings with experts over other devices, or keys exchanged another way. */
  elsewhere: Map<string, LayerCost>;
}

/** Finds and prices the shardings of a layer; the problem is built where it is asked for. */
type Solve = (input: LayerProblemInput, problem: () => LayerProblem) => Promise<LayerCost>;

/**
 * What is known of one layer under one shape. Its objective is linear in the share 1 / m that each of m micro-batches
 * has in the reduction of weight gradients, for every choice of shardings, so that the optimum is concave in it: what is
 * optimal for fewer and for more micro-batches is so for every number between.
 */
export class SolvedLayer {
  readonly #solved: Solved[] = [];
  /** Where the layer was first asked for: it is solved there for all places. */
  #first: { input: LayerProblemInput; place: string } | undefined;
  #problem: LayerProblem | undefined;

  /**
   * The cost of the layer, solved only where what is known leaves its shardings open.
   * @param place what names the devices of its experts and how its keys are exchanged.
   * @param ends numbers of micro-batches that bracket all that will be asked for; empty where they do not matter.
   */
  async cost(
    input: LayerProblemInput,
    place: string,
    ends: readonly number[],
    solve: Solve,
  ): Promise<LayerCost> {
    this.#first ??= { input, place };
    if (this.#solved.length === 0) {
      for (const end of ends) await this.#solve(this.#first, end, solve);
    }
    const solved =
      this.#find(input.microBatches) ?? (await this.#solve(this.#first, input.microBatches, solve));
    let cost = solved.elsewhere.get(place);
    if (!cost) {
      cost = priceElsewhere(solved.cost, this.#first.input, input);
      solved.elsewhere.set(place, cost);
    }
    return cost;
  }

  /** What is known to be optimal for so many micro-batches. */
  #find(microBatches: number): Solved | undefined {
    let fewer: Solved | undefined;
    let more: Solved | undefined;
    for (const each of this.#solved) {
      const { microBatches: m } = each;
      if (m <= microBatches && (!fewer || m > fewer.microBatches)) fewer = each;
      if (m >= microBatches && (!more || m < more.microBatches)) more = each;
    }
    if (fewer?.microBatches === microBatches) return fewer;
    return fewer && more && fewer.splits === more.splits ? fewer : undefined;
  }

  async #solve(
    { input, place }: { input: LayerProblemInput; place: string },
    microBatches: number,
    solve: Solve,
  ): Promise<Solved> {
    const found = await solve({ ...input, microBatches }, () => {
      this.#problem ??= buildLayerProblem({ ...input, microBatches });
      return this.#problem;
    });
    const splits = found.strategies.map(({ split }) => split ?? "").join();
    // Equal shardings are one cost, so that whatever is priced from it is shared.
    const same = this.#solved.find((each) => each.splits === splits);
    const solved = same
      ? { ...same, microBatches }
      : { microBatches, cost: found, splits, elsewhere: new Map([[place, found]]) };
    this.#solved.push(solved);
    return solved;
  }
}
