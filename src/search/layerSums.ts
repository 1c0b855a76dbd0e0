import { layerFields, type PricedLayer } from "./pricedLayer.js";

export type LayerField = (typeof layerFields)[number];

/** Sums over the first i layers, for every i: any range's sum is a difference. */
export type LayerSums = Readonly<Record<LayerField, Float64Array>>;

export function layerSums(layers: readonly PricedLayer[]): LayerSums {
  const sums = Object.fromEntries(
    layerFields.map((field) => [field, new Float64Array(layers.length + 1)]),
  ) as Record<LayerField, Float64Array>;
  for (const field of layerFields) {
    const list = sums[field];
    for (let i = 0; i < layers.length; i++) list[i + 1] = list[i]! + layers[i]![field];
  }
  return sums;
}
