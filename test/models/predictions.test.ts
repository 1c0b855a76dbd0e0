import { describe, expect, it } from "vitest";
import type { Tensor } from "../../src/contracts/index.js";
import {
  importHuggingFace,
  loadModel,
  modelFlops,
  presetConfig,
  tensorsById,
} from "../../src/models/index.js";
import { samples } from "./published.js";

const plain = loadModel("deepseek-v3");
const trained = loadModel("deepseek-v3-mtp");
const elements = ({ shape }: Tensor) => shape.reduce((all, size) => all * size, 1);
const sum = (tensors: Tensor[]) => tensors.reduce((all, tensor) => all + elements(tensor), 0);
const parameters = trained.tensors.filter(({ kind }) => kind === "parameter");

/** Blocks of 128 x 128 that fp8 training scales each by itself, of a stored matrix [rows, columns]. */
function scaleBlocks({ axes, shape }: Tensor): number {
  const size = (...names: string[]) =>
    axes.reduce((all, axis, i) => (names.includes(axis) ? all * shape[i]! : all), 1);
  const matrices = size("expert", "part");
  // The output projection stores [hidden, (head, value)], all others [outputs, input].
  const columns = axes[0] === "hidden" ? size("head", "valueFeature", "ffn") : shape.at(-1)!;
  const inner = axes.includes("expert") && axes[1] === "hidden" ? shape.at(-1)! : columns;
  const rows = shape.reduce((all, n) => all * n, 1) / matrices / inner;
  return matrices * Math.ceil(rows / 128) * Math.ceil(inner / 128);
}

describe("multi-token prediction", () => {
  it("leaves the published count alone, and fills DeepSeek-V3's checkpoint to the last parameter", () => {
    expect(trained.parameterCount).toBe(plain.parameterCount);
    const added = parameters.filter((tensor) => tensor.auxiliary);
    // The checkpoint holds copies of the embedding and the head for it; the head is no tensor of its own here.
    const copies = sum(added.filter((tensor) => tensor.tiedTo)) + 129280 * 7168;
    const own = sum(added.filter((tensor) => !tensor.tiedTo));
    const narrow = parameters.filter(
      ({ name, shape }) => shape.length > 1 && /_proj|experts/.test(name!) && !name!.includes("eh_proj"),
    );
    const scales = narrow.reduce((all, tensor) => all + scaleBlocks(tensor), 0);
    // Number of elements in the published safetensors, fp8 scales included.
    expect(trained.parameterCount + own + copies + scales).toBe(684_531_386_000);
  });

  it("is one more layer of the last stage: two norms, a projection, a decoder layer, a norm", () => {
    const [last, prediction, head] = trained.layers.slice(-3);
    expect([last!.kind, prediction!.kind, head!.kind]).toEqual(["block", "head", "head"]);
    expect(prediction!.modules).toEqual(["model.layers.61"]);
    expect(prediction!.predecessors).toEqual(["layers.60"]);
    expect(head!.predecessors).toEqual(["layers.60", "predictions.0"]);
    const names = (layer: typeof last) =>
      trained.operators.slice(layer!.operators.start, layer!.operators.end).map(({ name }) => name);
    expect(names(prediction)).toEqual([
      "embedding",
      "rms_norm",
      "rms_norm",
      "concat",
      "eh_proj",
      ...names(last),
      "rms_norm",
    ]);
  });

  it("costs its layer, its projection, and the head once more", () => {
    const before = modelFlops(plain).forward;
    const { sequence } = plain.reference;
    const layer = plain.layers.find(({ id }) => id === "layers.60")!;
    const block = plain.operators
      .slice(layer.operators.start, layer.operators.end)
      .reduce((all, { flops }) => all + flops.forward, 0);
    const head = plain.operators
      .filter(({ id }) => id === "head.lm_head" || id === "head.cross_entropy")
      .reduce((all, { flops }) => all + flops.forward, 0);
    const norms = 3 * 4 * sequence * 7168;
    const projection = 2 * sequence * 2 * 7168 * 7168;
    expect(modelFlops(trained).forward - before).toBe(block + head + norms + projection);
  });

  it("has one head for all predictions and a copy of the embedding for each", () => {
    const model = importHuggingFace(samples["deepseek_v3, two further predictions"], "two");
    const tensors = tensorsById(model);
    expect(tensors.get("head.logits")).toMatchObject({
      axes: ["batch", "sequence", "prediction", "vocabulary"],
      shape: [1, 256, 3, 96],
    });
    const copies = model.tensors.filter(({ tiedTo }) => tiedTo !== undefined);
    expect(copies.map(({ name, tiedTo }) => [name, tiedTo])).toEqual(
      [4, 5].map((i) => [`model.layers.${i}.embed_tokens.weight`, "model.embed_tokens.weight"]),
    );
    expect(model.blocks.find(({ id }) => id === "prediction")!.layers).toEqual([
      "predictions.0",
      "predictions.1",
    ]);
    // Depth 1 reads what depth 0 made.
    const second = model.operators.find(({ id }) => id === "predictions.1.hidden_norm")!;
    expect(second.inputs[0]!.tensor).toBe("predictions.0.mlp_add.out");
    expect(model.architecture!.nextTokenPredictions).toBe(2);
  });

  it("fills GLM-4.5-Air's checkpoint as well", () => {
    const model = importHuggingFace({ ...presetConfig("glm-4.5-air"), num_nextn_predict_layers: 1 }, "air");
    const own = sum(model.tensors.filter(({ auxiliary, tiedTo }) => auxiliary && !tiedTo));
    expect(model.parameterCount + own + 2 * 151552 * 4096).toBe(110_468_824_832);
  });
});
