import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { CommunicationModel } from "../../src/cost/communication.js";
import { mixtureBytes, mixtureCallCount } from "../../src/cost/mixture.js";
import { loadModel } from "../../src/models/index.js";
import { tensorsById } from "../../src/models/workload.js";

const gptOss = loadModel("gpt-oss-120b");
const qwen = loadModel("qwen3-30b-a3b");

function operatorOf(model: typeof gptOss, name: string) {
  const operator = model.operators.find((each) => each.name === name);
  if (!operator) throw new Error(name);
  return operator;
}

const unit = () => 1;
const nothing = { forward: 0, backward: 0 };

describe("what a mixture moves beside its operands", () => {
  const bytes = (model: typeof gptOss, name: string, division?: Parameters<typeof mixtureBytes>[3]) =>
    mixtureBytes(operatorOf(model, name), tensorsById(model), unit, division);
  const division = { parallel: 8, imbalance: 1 };

  it("is a copy each way where ranks that hold several experts exchange tokens", () => {
    for (const name of ["dispatch", "combine"]) {
      expect(bytes(qwen, name, division)).toEqual({ forward: 2, backward: 2 });
      expect(bytes(qwen, name, { ...division, parallel: 1 })).toEqual(nothing);
      expect(bytes(qwen, name, { ...division, parallel: 128 })).toEqual(nothing);
      expect(bytes(qwen, name, { ...division, fused: true })).toEqual(nothing);
      expect(bytes(qwen, name)).toEqual(nothing);
    }
  });

  it("is weighted biases in f32 and clamps where a model has them", () => {
    expect(bytes(gptOss, "down", division)).toEqual({ forward: 14, backward: 20 });
    // Both halves of the gated input.
    expect(bytes(gptOss, "silu_mul", division)).toEqual({ forward: 8, backward: 10 });
    expect(bytes(gptOss, "gate_up", division)).toEqual(nothing);
    for (const name of ["down", "silu_mul", "gate_up"]) expect(bytes(qwen, name, division)).toEqual(nothing);
  });
});

describe("calls of a mixture", () => {
  const calls = (name: string, parallel: number, narrow = false, padded = false) =>
    mixtureCallCount(operatorOf(qwen, name), tensorsById(qwen), { parallel, padded }, narrow);

  it("loop over the experts of a device, with a cast each where products are narrow", () => {
    const [all, eighth] = [calls("down", 1)!, calls("down", 8)!];
    expect((all.forward - 1) / (eighth.forward - 1)).toBeCloseTo(8, 12);
    expect((eighth.backward - 1) / (eighth.forward - 1)).toBeCloseTo(2, 12);
    const narrow = calls("down", 8, true)!;
    expect((narrow.forward - 1) / (eighth.forward - 1)).toBeCloseTo(2, 12);
    expect((narrow.backward - 1) / (eighth.backward - 1)).toBeCloseTo(1.5, 12);
  });

  it("are more with biases that are weighted behind the product", () => {
    const count = (name: string) =>
      mixtureCallCount(operatorOf(gptOss, name), tensorsById(gptOss), { parallel: 8 }, false)!;
    // 16 experts, three kernels a call.
    expect(count("down").forward - count("gate_up").forward).toBeCloseTo((16 * 2) / 3, 12);
    expect(count("down").backward - count("gate_up").backward).toBeCloseTo((16 * 7) / 3, 12);
  });

  it("are one for experts that are padded to equal numbers of tokens", () => {
    expect(calls("down", 8, true, true)).toEqual({ forward: 1, backward: 1 });
  });

  it("count the router and the exchange, and nothing of other operators", () => {
    for (const name of ["router", "dispatch", "combine"]) {
      expect(calls(name, 8)!.forward).toBeGreaterThan(1);
      expect(calls(name, 8)).toEqual(calls(name, 64));
    }
    expect(calls("o_proj", 8)).toBeUndefined();
  });
});

describe("tokens that go once to each rank", () => {
  const h100 = new CommunicationModel(clusterPreset("h100-sxm:8x8"));
  const bytes = 1e9;

  it("are as many as an all-to-all's where they have one copy", () => {
    const group = { size: 64, stride: 1 };
    const once = h100.dispatchSeconds(bytes, 1, group);
    expect(once / h100.collectiveSeconds("allToAll", bytes, group)).toBeCloseTo(1, 2);
  });

  it("cross a network once a node", () => {
    const two = { size: 16, stride: 1 };
    const eight = h100.dispatchSeconds(bytes, 8, two);
    // Of 8 copies half go to the other node; one does instead, unless none had to.
    const expected = (1 - 0.5 ** 8) / 4;
    expect(eight / h100.collectiveSeconds("allToAll", bytes, two)).toBeCloseTo(expected, 2);
  });

  it("cost less with more copies, and nothing alone", () => {
    const node = { size: 8, stride: 1 };
    const seconds = [1, 2, 4, 8].map((copies) => h100.dispatchSeconds(bytes, copies, node));
    for (let i = 1; i < seconds.length; i++) expect(seconds[i]!).toBeLessThan(seconds[i - 1]!);
    expect(h100.dispatchSeconds(bytes, 8, { size: 1, stride: 1 })).toBe(0);
    expect(h100.dispatchSeconds(0, 8, node)).toBe(0);
  });
});
