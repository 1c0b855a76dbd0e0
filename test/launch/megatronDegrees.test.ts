import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Plan, Recompute } from "../../src/contracts/index.js";
import { lossyFor } from "../../src/launch/index.js";
import { megatron } from "../../src/launch/megatron.js";
import { singleDevice } from "../../src/search/configuration.js";
import { groupsOf } from "../../src/search/groups.js";
import { megatronFlags, parseLayout } from "./megatronFlags.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

const gpu: PlanWishes = { deviceType: "cuda", parameters: "bf16" };
const power = (most: number) => fc.integer({ min: 0, max: most }).map((n) => 2 ** n);
const divisorsOf = (n: number) => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);

/** What a plan divides, at random; experts are 16 where there are some. */
const wishes = fc
  .record({
    layersPerStage: fc
      .array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 4 })
      .filter((layers) => layers.some((n) => n > 0)),
    data: fc.constantFrom(1, 2, 3, 4, 6),
    context: power(2),
    tensor: power(2),
    mixture: fc.boolean(),
    expert: power(4),
    wholeExperts: fc.boolean(),
    exchange: fc.constantFrom("ring", "all-to-all" as const),
    zero: fc.constantFrom(0, 1),
    shard: fc.nat(),
    offload: fc.boolean(),
    recompute: fc.constantFrom<Recompute>("none", "selective", "full"),
    recomputeLayers: fc.integer({ min: 0, max: 4 }),
    predictions: fc.integer({ min: 0, max: 2 }),
    fp8: fc.boolean(),
    microBatches: fc.integer({ min: 4, max: 8 }),
    micro: fc.integer({ min: 1, max: 2 }),
  })
  .map((w): PlanWishes => {
    const tensor = w.tensor;
    const copies = w.data * w.context;
    const shards = divisorsOf(copies)[w.shard % divisorsOf(copies).length]!;
    return {
      ...gpu,
      layersPerStage: w.layersPerStage,
      pipeline: w.layersPerStage.length,
      data: w.data,
      context: w.context,
      contextExchange: w.exchange,
      tensor,
      sequence: 64,
      sequenceParallel: tensor > 1,
      zero: w.zero,
      ...(w.zero === 1 && shards < copies ? { shards } : {}),
      ...(w.offload ? { offload: "optimizer" as const } : {}),
      recompute: w.recompute,
      recomputeLayers: w.recomputeLayers,
      microBatches: w.microBatches,
      micro: w.micro,
      dtypes: w.fp8 ? { linear: "fp8" } : {},
      ...(w.mixture ? { experts: { expert: w.expert, tensor: w.wholeExperts ? 1 : tensor } } : {}),
      architecture: {
        heads: 16,
        keyValueHeads: 16,
        headSize: 2,
        ...(w.predictions ? { nextTokenPredictions: w.predictions } : {}),
        ...(w.mixture
          ? { experts: { routed: 16, topK: 2, ffn: 64, shared: 0, sharedFfn: 0, denseLayers: 0 } }
          : {}),
      },
    };
  });

/** Ranks that share their coordinates on all axes but those named, in Megatron-LM's order with the first fastest. */
function megatronGroups(sizes: Readonly<Record<string, number>>, wanted: readonly string[]): string[] {
  const order = ["tp", "cp", "ep", "dp", "pp"];
  const world = order.reduce((product, name) => product * (sizes[name] ?? 1), 1);
  const groups = new Map<string, number[]>();
  for (let rank = 0; rank < world; rank++) {
    let rest = rank;
    const others: number[] = [];
    for (const name of order) {
      const size = sizes[name] ?? 1;
      others.push(wanted.includes(name) ? -1 : rest % size);
      rest = Math.floor(rest / size);
    }
    const key = others.join();
    groups.set(key, [...(groups.get(key) ?? []), rank]);
  }
  return [...groups.values()].map(String).sort();
}

/** The same from a plan's table of ranks. */
function tableGroups({ mesh, rankTable }: Plan, wanted: readonly string[]): string[] {
  const groups = new Map<string, number[]>();
  for (const [rank, row] of rankTable.entries()) {
    const key = row.map((at, i) => (wanted.includes(mesh.axes[i]!) ? -1 : at)).join();
    groups.set(key, [...(groups.get(key) ?? []), rank]);
  }
  return [...groups.values()].map(String).sort();
}

/** All groups of one size and stride. */
function strided(world: number, { size, stride }: { size: number; stride: number }): string[] {
  const firsts = Array.from({ length: world }, (_, rank) => rank).filter(
    (rank) => Math.floor(rank / stride) % size === 0,
  );
  return firsts.map((first) => String(Array.from({ length: size }, (_, i) => first + i * stride))).sort();
}

/** Pieces of every group, neighbours together. */
const piecesOf = (groups: readonly string[], length: number): string[] =>
  groups
    .flatMap((group) => {
      const ranks = group.split(",");
      return Array.from({ length: ranks.length / length }, (_, i) =>
        ranks.slice(i * length, (i + 1) * length).join(),
      );
    })
    .sort();

describe("plans of every degree", () => {
  test("are refused, or come back from Megatron-LM's flags", () => {
    let expressed = 0;
    fc.assert(
      fc.property(wishes, (wish) => {
        const plan = makePlan(wish);
        const lost = megatron.lossy(plan);
        expect(lossyFor(plan).megatron ?? []).toEqual(lost);
        if (lost.length > 0) return;
        expressed += 1;
        const flags = megatronFlags(plan);
        const number = (name: string, absent: number) => Number(flags.get(name) ?? absent);
        const { data = 1, context = 1, tensor = 1, pipeline = 1, experts, micro, microBatches } = wish;
        expect(number("--tensor-model-parallel-size", 1)).toBe(tensor);
        expect(number("--context-parallel-size", 1)).toBe(context);
        expect(number("--pipeline-model-parallel-size", 1)).toBe(pipeline);
        expect(number("--expert-model-parallel-size", 1)).toBe(experts?.expert ?? 1);
        expect(number("--expert-tensor-parallel-size", tensor)).toBe(experts?.tensor ?? tensor);
        const replicas = plan.cluster.devices / (tensor * context * pipeline);
        expect(number("--global-batch-size", 0)).toBe(micro! * microBatches! * replicas);
        expect(flags.get("--cp-comm-type")).toBe(
          context > 1 ? { ring: "p2p", "all-to-all": "a2a" }[wish.contextExchange!] : undefined,
        );
        const copies = data * context;
        const distributed = flags.has("--use-distributed-optimizer");
        expect(distributed).toBe(wish.zero === 1 || wish.offload !== undefined);
        expect(copies / number("--num-distributed-optimizer-instances", 1)).toBe(wish.shards ?? copies);
        expect(flags.has("--optimizer-cpu-offload")).toBe(wish.offload === "optimizer");
        expect(flags.get("--fp8-format")).toBe(wish.dtypes?.linear ? "hybrid" : undefined);
        const predicted = wish.architecture!.nextTokenPredictions ?? 0;
        expect(number("--mtp-num-layers", 0)).toBe(predicted);
        const stages =
          pipeline > 1
            ? parseLayout(flags.get("--pipeline-model-parallel-layout")!)
            : [`E${"t".repeat(number("--num-layers", 0))}${"m".repeat(predicted)}L`];
        expect(stages.at(-1)!.endsWith(`${"m".repeat(predicted)}L`)).toBe(true);
        // What Megatron-LM recomputes of each stage: see `checkpointed_forward` of megatron/core/recompute.py.
        for (const [i, stage] of stages.entries()) {
          const layers = stage.split("t").length - 1;
          expect(layers).toBe(wish.layersPerStage![i]);
          const granularity = flags.get("--recompute-granularity");
          const whole =
            granularity !== "full"
              ? 0
              : flags.get("--recompute-method") === "block"
                ? Math.min(layers, number("--recompute-num-layers", 0))
                : layers;
          const planned = wish.recompute === "full" ? layers : Math.min(wish.recomputeLayers!, layers);
          expect(whole).toBe(planned);
          if (whole < layers) expect(granularity === "selective").toBe(wish.recompute === "selective");
        }
      }),
      { numRuns: 400, seed: 7 },
    );
    // The property says nothing about plans that are refused.
    expect(expressed).toBeGreaterThan(60);
  });

  test("count ranks as Megatron-LM does, dense and for experts", () => {
    const degrees = fc.record({
      tensor: power(3),
      context: power(2),
      data: fc.constantFrom(1, 2, 3, 4, 8),
      pipeline: fc.constantFrom(1, 2, 3),
      expert: power(3),
      wholeExperts: fc.boolean(),
      shard: fc.nat(),
    });
    fc.assert(
      fc.property(degrees, ({ tensor, context, data, pipeline, expert, wholeExperts, shard }) => {
        const expertTensor = wholeExperts ? 1 : tensor;
        const width = tensor * context * data;
        fc.pre(width % (expert * expertTensor) === 0);
        const copies = data * context;
        const expertCopies = width / (expert * expertTensor);
        const instances = divisorsOf(copies).filter((n) => expertCopies % n === 0);
        const shards = copies / instances[shard % instances.length]!;
        const experts = { expert, tensor: expertTensor };
        const plan = makePlan({
          ...gpu,
          ...{ tensor, context, data, pipeline, experts, shards, zero: 1 },
          sequence: 64,
          sequenceParallel: tensor > 1,
          architecture: {
            heads: 8,
            keyValueHeads: 8,
            headSize: 4,
            experts: { routed: 8, topK: 2, ffn: 64, shared: 0, sharedFfn: 0, denseLayers: 0 },
          },
          layers: pipeline,
        });
        expect(megatron.lossy(plan)).toEqual([]);
        const flags = megatronFlags(plan);
        const size = (name: string) => Number(flags.get(name) ?? 1);
        const world = plan.rankTable.length;
        const [tp, cp, pp] = [
          size("--tensor-model-parallel-size"),
          size("--context-parallel-size"),
          size("--pipeline-model-parallel-size"),
        ];
        const dense = { tp, cp, pp, dp: world / (tp * cp * pp) };
        const [ep, etp] = [size("--expert-model-parallel-size"), size("--expert-tensor-parallel-size")];
        const sparse = { tp: etp, ep, pp, dp: world / (etp * ep * pp) };
        expect(tableGroups(plan, ["tensor"])).toEqual(megatronGroups(dense, ["tp"]));
        expect(tableGroups(plan, ["context"])).toEqual(megatronGroups(dense, ["cp"]));
        expect(tableGroups(plan, ["data"])).toEqual(megatronGroups(dense, ["dp"]));
        expect(tableGroups(plan, ["pipeline"])).toEqual(megatronGroups(dense, ["pp"]));
        expect(plan.stages.map(({ devices }) => String(devices))).toEqual(
          megatronGroups(dense, ["tp", "cp", "dp"]).sort(
            (a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10),
          ),
        );
        const configuration = {
          ...singleDevice,
          tensor,
          context,
          data,
          pipeline,
          expert,
          expertTensor,
          shards,
        };
        const groups = groupsOf({ ...configuration, zero: 1 });
        expect(strided(world, groups.data)).toEqual(megatronGroups(dense, ["dp", "cp"]));
        expect(strided(world, groups.expertTensor)).toEqual(megatronGroups(sparse, ["tp"]));
        expect(strided(world, groups.expert)).toEqual(megatronGroups(sparse, ["ep"]));
        expect(strided(world, groups.expertData)).toEqual(megatronGroups(sparse, ["dp"]));
        const parts = size("--num-distributed-optimizer-instances");
        const shared = (all: string[]) => piecesOf(all, all[0]!.split(",").length / parts);
        expect(strided(world, groups.shards)).toEqual(shared(megatronGroups(dense, ["dp", "cp"])));
        expect(strided(world, groups.expertShards)).toEqual(shared(megatronGroups(sparse, ["dp"])));
      }),
      { numRuns: 150, seed: 11 },
    );
  });
});
