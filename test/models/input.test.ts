import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { serialize } from "../../src/contracts/index.js";
import {
  importHuggingFace,
  loadModel,
  presetConfig,
  presetNames,
  supportedFamilies,
} from "../../src/models/index.js";
import { errorOf } from "./errors.js";
import { samples } from "./published.js";

/** The error of the small Llama with some fields changed; undefined removes a field. */
const llamaError = (more: object) =>
  errorOf(() => importHuggingFace(JSON.parse(JSON.stringify({ ...samples.llama, ...more })), "c.json"));

describe("a bad configuration", () => {
  it.each([
    [{ hidden_size: undefined }, "expected a positive whole number for field hidden_size but found nothing."],
    [{ hidden_size: "64" }, 'expected a positive whole number for field hidden_size but found "64".'],
    [{ hidden_size: -64 }, "expected a positive whole number for field hidden_size but found -64."],
    [{ hidden_size: 0 }, "expected a positive whole number for field hidden_size but found 0."],
    [{ hidden_size: 64.5 }, "expected a positive whole number for field hidden_size but found 64.5."],
    [{ hidden_size: null }, "expected a positive whole number for field hidden_size but found null."],
    [{ vocab_size: [1] }, "expected a positive whole number for field vocab_size but found a list of 1."],
    [{ vocab_size: 1e12 }, "expected at most 2147483648 for field vocab_size but found 1000000000000."],
    [{ num_hidden_layers: 1e9 }, "expected at most 10000 for field num_hidden_layers but found 1000000000."],
    [
      { num_attention_heads: 5 },
      "expected field num_attention_heads to divide hidden_size (64) but found 5.",
    ],
    [
      { num_key_value_heads: 3 },
      "expected field num_key_value_heads to divide num_attention_heads (4) but found 3.",
    ],
    [{ attention_bias: "yes" }, 'expected true or false for field attention_bias but found "yes".'],
    [{ rms_norm_eps: -1 }, "expected a number above 0 for field rms_norm_eps but found -1."],
    [{ hidden_act: 3 }, "expected a text for field hidden_act but found 3."],
    [{ architectures: "x" }, 'expected a list of class names for field architectures but found "x".'],
    [{ rope_parameters: 1 }, "expected an object for field rope_parameters but found 1."],
  ])("%j is named in one sentence", (more, sentence) => {
    const error = llamaError(more);
    expect(error.code).toBe("E_FIELD");
    expect(error.message).toBe(`c.json: ${sentence}`);
  });

  it("says how to mend a missing field", () => {
    expect(llamaError({ vocab_size: undefined }).notes.join()).toContain('Add "vocab_size"');
  });

  it.each([
    ["gpt2", "n_embd"],
    ["gpt2", "n_positions"],
    ["opt", "ffn_dim"],
    ["gpt_neox", "intermediate_size"],
    ["mixtral", "num_local_experts"],
    ["qwen3_moe", "num_experts"],
    ["deepseek_v3", "kv_lora_rank"],
    ["deepseek_v2", "n_shared_experts"],
    ["gpt_oss", "num_local_experts"],
    ["llama4_text", "intermediate_size_mlp"],
    ["glm4_moe", "n_routed_experts"],
    ["qwen2_moe", "shared_expert_intermediate_size"],
    ["bloom", "n_layer"],
  ])("%s needs %s", (name, field) => {
    const { [field]: _removed, ...rest } = samples[name]!;
    const error = errorOf(() => importHuggingFace(rest, "c.json"));
    expect(error.code).toBe("E_FIELD");
    expect(error.message).toMatch(
      new RegExp(`^c\\.json: expected .* for field ${field} but found nothing\\.$`),
    );
  });

  it("allows no more choices than experts", () => {
    const error = errorOf(() => importHuggingFace({ ...samples.mixtral, num_experts_per_tok: 5 }, "c.json"));
    expect(error.message).toBe(
      "c.json: expected at most num_local_experts (4) for field num_experts_per_tok but found 5.",
    );
  });

  it("names an unknown architecture and all that are supported", () => {
    const error = llamaError({ model_type: "mamba" });
    expect(error.code).toBe("E_ARCHITECTURE");
    expect(error.message).toBe(
      `c.json: expected one of the architectures ${supportedFamilies.join(", ")} but found mamba.`,
    );
    expect(error.notes.join()).toContain("mpopt.model/1");
    expect(llamaError({ model_type: "__proto__" }).code).toBe("E_ARCHITECTURE");
  });

  it("asks for the architecture where nothing names it", () => {
    const error = llamaError({ model_type: undefined });
    expect(error.message).toBe(
      "c.json: expected the name of an architecture for field model_type but found nothing.",
    );
  });

  it("refuses a classifier and a model of several parts", () => {
    const classifier = llamaError({ architectures: ["LlamaForSequenceClassification"] });
    expect(classifier.code).toBe("E_ARCHITECTURE");
    expect(classifier.message).toContain("found LlamaForSequenceClassification");
    const nested = errorOf(() =>
      importHuggingFace({ model_type: "llava", text_config: samples.llama, vision_config: {} }, "c.json"),
    );
    expect(nested.code).toBe("E_ARCHITECTURE");
    expect(nested.message).toContain("whose language model is under text_config");
  });

  it("refuses what is no object", () => {
    for (const value of [null, [], 3, "x"]) {
      expect(errorOf(() => importHuggingFace(value, "c.json")).code).toBe("E_FIELD");
    }
  });
});

describe("loadModel", () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "mpopt-model-"));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  function write(name: string, text: string): string {
    const path = join(folder, name);
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, text);
    return path;
  }

  it("knows its presets", () => {
    for (const name of presetNames) expect(loadModel(name)).toMatchObject({ name, source: name });
    expect(errorOf(() => presetConfig("toString")).code).toBe("E_USAGE");
    expect(errorOf(() => presetConfig("grok-1")).code).toBe("E_USAGE");
  });

  it("reads a config.json, the folder that holds it, and a document", () => {
    const path = write("tiny/config.json", JSON.stringify(presetConfig("tiny-gpt")));
    const model = loadModel(path);
    expect(model).toMatchObject({ name: "tiny", source: path });
    expect(loadModel(join(folder, "tiny"))).toEqual(model);
    const document = write("model.json", serialize(model));
    expect(loadModel(document)).toEqual(model);
  });

  it("says what is wrong with a reference", () => {
    const unknown = errorOf(() => loadModel("llama-9"));
    expect(unknown.code).toBe("E_USAGE");
    expect(unknown.notes.join()).toContain("llama-3.1-8b");
    expect(errorOf(() => loadModel("none/config.json")).code).toBe("E_FILE");
    mkdirSync(join(folder, "empty"));
    expect(errorOf(() => loadModel(join(folder, "empty"))).message).toContain("Expected a config.json");
  });

  it("says that a file is truncated or from another version", () => {
    const text = JSON.stringify(loadModel("tiny-gpt"));
    const truncated = errorOf(() => loadModel(write("a.json", text.slice(0, 500))));
    expect(truncated.code).toBe("E_PARSE");
    expect(truncated.message).toContain("a truncated one");
    const newer = text.replace("mpopt.model/1", "mpopt.model/2");
    expect(errorOf(() => loadModel(write("b.json", newer))).code).toBe("E_VERSION");
  });

  it.each<[string, (model: ReturnType<typeof loadModel>) => void, string]>([
    ["a tensor that is nowhere", (m) => m.tensors.splice(5, 1), "a tensor's id"],
    [
      "an operator twice",
      (m) => {
        m.operators[3]!.id = m.operators[4]!.id;
      },
      "ids that differ",
    ],
    [
      "another parameter count",
      (m) => {
        m.parameterCount += 1;
      },
      "for field parameterCount",
    ],
    [
      "layers with a gap",
      (m) => {
        m.layers[2]!.operators.start += 1;
      },
      "a range from",
    ],
    [
      "an axis beyond its dimension",
      (m) => {
        m.operators[4]!.dims[1]!.size = 7;
      },
      "an axis that divides",
    ],
    [
      "a dimension that is nowhere",
      (m) => {
        m.operators[4]!.dims[0]!.name = "x";
      },
      "a loop dimension's name",
    ],
    [
      "a layer in no block",
      (m) => {
        m.blocks[1]!.layers.pop();
      },
      "the block that lists the layer",
    ],
    [
      "a module in two layers",
      (m) => {
        m.layers[2]!.modules.push("transformer.wte");
      },
      "ids that differ",
    ],
  ])("refuses a document with %s", (_what, break_, expected) => {
    const model = loadModel("tiny-gpt");
    break_(model);
    const error = errorOf(() => loadModel(write("broken.json", JSON.stringify(model))));
    expect(error.code).toBe("E_FIELD");
    expect(error.message).toContain(expected);
  });
});
