import type { Model } from "../contracts/index.js";

/** Loop dimension that each operator of a layer is split along, null for none. */
export type Splits = readonly (string | null)[];

/**
 * Shardings that were chosen before, for chains of the same model and degrees under other cluster parameters: their
 * layers are priced again and not solved. The choice is then that of the parameters that came first.
 */
export class KnownShardings {
  readonly #ofModel = new WeakMap<Model, Map<string, Splits>>();

  /** @param key what the choice depends on beside the model and the block. */
  get(model: Model, block: string, key: string): Splits | undefined {
    return this.#ofModel.get(model)?.get(`${block}/${key}`);
  }

  set(model: Model, block: string, key: string, splits: Splits): void {
    const known = this.#ofModel.get(model) ?? new Map<string, Splits>();
    known.set(`${block}/${key}`, splits);
    this.#ofModel.set(model, known);
  }
}
