import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import type { Job, Plan } from "../../src/contracts/index.js";
import { axisSize } from "../../src/contracts/index.js";
import { transformerModel } from "../../src/models/index.js";
import { createPlan } from "../../src/plan/index.js";
import { stateMovement } from "../../src/plan/movement.js";

/** Tied, so that two stages hold one parameter; slices end inside rows of it. */
const model = transformerModel({
  name: "small",
  layers: 4,
  hidden: 32,
  ffn: 48,
  heads: 8,
  keyValueHeads: 4,
  vocabulary: 64,
  sequence: 64,
  gated: true,
  activation: "silu",
  norm: "rms_norm",
  positions: "rotary",
  biases: false,
  tiedEmbeddings: true,
});
const tensors = new Map(model.tensors.map((tensor) => [tensor.id, tensor]));

const plans = new Map<string, Plan>();

async function planOf(pins: Job["pins"]): Promise<Plan> {
  const known = plans.get(JSON.stringify(pins));
  if (known) return known;
  const { data = 1, tensor = 1, pipeline = 1 } = pins;
  const plan = await createPlan({
    model,
    cluster: clusterPreset(`h100-sxm:${data * tensor * pipeline}x1`),
    job: {
      globalBatch: 16,
      sequence: 64,
      runtime: "torch",
      pins: { ...pins, microBatch: 1, schedule: "1f1b" },
    },
    plain: true,
  });
  plans.set(JSON.stringify(pins), plan);
  return plan;
}

/**
 * What each rank stores, element by element: keys `part/parameter/element`, from the plan's documents alone. ZeRO-1
 * slices the concatenated parameters of a rank, ZeRO-2 and 3 each parameter by itself.
 */
function storedElements(plan: Plan): Set<string>[] {
  const [data, tensor] = [axisSize(plan, "data"), axisSize(plan, "tensor")];
  return plan.rankTable.map((row) => {
    const at = (axis: Plan["mesh"]["axes"][number]) => row[plan.mesh.axes.indexOf(axis)] ?? 0;
    const stored = new Set<string>();
    const local: { id: string; elements: number[] }[] = [];
    const known = new Set<string>();
    for (const stage of plan.stages.filter(({ rank }) => rank === at("pipeline"))) {
      const blocks = model.layers.filter(({ kind }) => kind === "block");
      const layers = [
        ...(stage.embedding ? model.layers.filter(({ kind }) => kind === "embedding") : []),
        ...blocks.slice(stage.layers.start, stage.layers.end),
        ...(stage.head ? model.layers.filter(({ kind }) => kind === "head") : []),
      ];
      for (const layer of layers) {
        const placements = plan.operators.filter(({ block }) => block === layer.block);
        model.operators.slice(layer.operators.start, layer.operators.end).forEach((operator, i) => {
          operator.inputs.forEach(({ tensor: id }, input) => {
            const { kind, shape, tiedTo } = tensors.get(id)!;
            const name = tiedTo ?? id;
            if (kind !== "parameter" || known.has(name)) return;
            known.add(name);
            const split = /^Shard\((\d)\)$/.exec(placements[i]!.sharding.tensor!.inputs[input]!)?.[1];
            const axis = split === undefined ? undefined : Number(split);
            const mine: (typeof local)[number] = { id: name, elements: [] };
            const stride = (of: number) => shape.slice(of + 1).reduce((product, n) => product * n, 1);
            for (let element = 0; element < shape[0]! * stride(0); element++) {
              const index = (of: number) => Math.floor(element / stride(of)) % shape[of]!;
              if (axis !== undefined && Math.floor((index(axis) * tensor) / shape[axis]!) !== at("tensor"))
                continue;
              mine.elements.push(element);
            }
            local.push(mine);
          });
        });
      }
    }
    const { zero } = plan.optimizer;
    const total = local.reduce((sum, { elements }) => sum + elements.length, 0);
    let offset = 0;
    for (const { id, elements } of local) {
      elements.forEach((element, k) => {
        const slice = zero === 1 ? ((offset + k) * data) / total : (k * data) / elements.length;
        const own = zero === 0 || Math.floor(slice) === at("data");
        if (zero < 3 || own) stored.add(`parameters/${id}/${element}`);
        if (own) stored.add(`optimizer/${id}/${element}`);
      });
      offset += elements.length;
    }
    return stored;
  });
}

/** Bytes that one stored element of a part takes under the plan's types: bf16, and f32 master with two moments. */
const bytes = (key: string) => (key.startsWith("optimizer") ? 12 : 2);

describe("stateMovement", () => {
  const degrees = fc.constantFrom<Job["pins"]>(
    { data: 2, zero: 1 },
    { data: 4, zero: 0 },
    { data: 2, tensor: 2, zero: 0 },
    { data: 2, tensor: 2, zero: 3 },
    { tensor: 4, zero: 0 },
    { pipeline: 2, data: 2, zero: 0 },
    { pipeline: 2, tensor: 2, zero: 0 },
    { data: 4, zero: 2 },
    { data: 4, zero: 3 },
    { pipeline: 4, zero: 0 },
  );

  it("moves as many bytes as a count of every element says, to every rank", async () => {
    await fc.assert(
      fc.asyncProperty(degrees, degrees, fc.nat(3), async (before, after, gone) => {
        const [old, next] = [await planOf(before), await planOf(after)];
        const size = old.rankTable.length;
        const left = Array.from({ length: size }, (_, rank) => rank).filter((rank) => rank !== gone % size);
        const former = next.rankTable.map((_, rank) => left[rank]);
        const movement = stateMovement(old, next, model, former);
        const had = storedElements(old);
        const survivors = left.filter((rank) => former.includes(rank)).map((rank) => had[rank]!);
        for (const [rank, wanted] of storedElements(next).entries()) {
          const own = former[rank] === undefined ? new Set<string>() : had[former[rank]!]!;
          const count = { needed: 0, kept: 0, moved: 0, lost: 0 };
          for (const key of wanted) {
            count.needed += bytes(key);
            if (own.has(key)) count.kept += bytes(key);
            else if (survivors.some((each) => each.has(key))) count.moved += bytes(key);
            else count.lost += bytes(key);
          }
          const found = movement.ranks[rank]!;
          const moved = found.from.reduce((sum, each) => sum + each.bytes, 0);
          const { neededBytes: needed, keptBytes: kept, checkpointBytes: lost } = found;
          expect({ needed, kept, moved, lost }).toEqual(count);
          for (const { formerRank } of found.from) expect(left).toContain(formerRank);
        }
      }),
      { numRuns: 15, seed: 7 },
    );
  });

  it("moves nothing where nothing changes, and gives a new device all from its neighbours", async () => {
    const plan = await planOf({ data: 4, zero: 0 });
    const same = stateMovement(plan, plan, model, [0, 1, 2, 3]);
    expect(same.movedBytes).toBe(0);
    expect(same.keptBytes).toBe(same.neededBytes);
    const replaced = stateMovement(plan, plan, model, [0, 1, 2, undefined]);
    expect(replaced.movedBytes).toBe(replaced.neededBytes / 4);
    expect(replaced.checkpointBytes).toBe(0);
    // Holders take turns, so that none sends it all.
    expect(replaced.ranks[3]!.from.map(({ formerRank }) => formerRank).sort()).toEqual([0, 1, 2]);
  });

  it("names what no device holds any more", async () => {
    const plan = await planOf({ pipeline: 4, zero: 0 });
    const alone = await planOf({ data: 2, zero: 0 });
    const movement = stateMovement(plan, alone, model, [0, 1]);
    expect(movement.checkpointBytes).toBeGreaterThan(0);
    expect(movement.movedBytes + movement.keptBytes + movement.checkpointBytes).toBe(movement.neededBytes);
  });
});
