import { type Model, MpoptError, type Plan, type Tensor } from "../contracts/index.js";
import { stateBytes } from "../cost/memory.js";
import { tensorsById } from "../models/workload.js";
import { type Groups, groupsOf } from "../search/groups.js";
import { configurationOf } from "./estimate.js";

/** A half-open part of one axis, as a share of its length: [0, 1) is all of it. */
export type Interval = readonly [start: number, end: number];

/** A block of a tensor, an interval an axis. */
export type Box = readonly Interval[];

/** What is stored of each parameter: itself, and its optimizer's state with the master copy. */
export const stateParts = ["parameters", "optimizer"] as const;
export type StatePart = (typeof stateParts)[number];

/** One parameter on the ranks of a stage. */
export interface PlacedParameter {
  /** Tied parameters are one, under the id of the first. */
  id: string;
  elements: number;
  /** The block that a rank keeps, by its place among the ranks of its stage. */
  box: (part: StatePart, place: number) => Box;
}

/** Where the training state of a plan lies. */
export interface StateLayout {
  /** Ranks of each pipeline rank. */
  width: number;
  bytesEach: Readonly<Record<StatePart, number>>;
  /** Parameters of each pipeline rank; its ranks are `pipelineRank * width + place`. */
  byPipelineRank: readonly (readonly PlacedParameter[])[];
}

/**
 * The layout of parameters and optimizer state over a plan's ranks. Tensor and expert parallelism divide axes as the
 * plan's operators say. ZeRO-1 shares out the parameters of a rank one after another in equal slices, as the flat
 * buffers of `apply_plan.py` and Megatron-LM's distributed optimizer do; ZeRO-2 and 3 divide each along its first axis,
 * as FSDP2 does. Where a slice ends inside a row it is taken to end at the same share of all rows.
 * @throws MpoptError E_PLAN_INVALID for a plan that was made from another model.
 */
export function stateLayout(plan: Plan, model: Model): StateLayout {
  const groups = groupsOf(configurationOf(plan));
  const { parameter, optimizer } = stateBytes(plan.job);
  const pipeline = Math.max(...plan.stages.map(({ rank }) => rank)) + 1;
  const tensors = tensorsById(model);
  const blocks = model.layers.filter(({ kind }) => kind === "block");
  const ends = (kind: "embedding" | "head") => model.layers.filter((layer) => layer.kind === kind);
  return {
    width: groups.tensor.size * groups.data.size,
    bytesEach: { parameters: parameter, optimizer },
    byPipelineRank: Array.from({ length: pipeline }, (_, rank) => {
      const layers = plan.stages
        .filter((stage) => stage.rank === rank)
        .flatMap(({ embedding, head, layers: { start, end } }) => [
          ...(embedding ? ends("embedding") : []),
          ...blocks.slice(start, end),
          ...(head ? ends("head") : []),
        ]);
      const found = new Map<string, Held>();
      for (const layer of layers) {
        for (const held of parametersOf(plan, model, layer, tensors, groups)) {
          if (!found.has(held.id)) found.set(held.id, held);
        }
      }
      return placed([...found.values()], plan.optimizer.zero, groups);
    }),
  };
}

/** A parameter that a stage holds, before ZeRO. */
interface Held {
  id: string;
  axes: number;
  elements: number;
  expert: boolean;
  /** Axis that tensor ranks divide, and the one that ranks with different experts do. */
  tensorAxis: number | undefined;
  expertAxis: number | undefined;
}

function parametersOf(
  plan: Plan,
  model: Model,
  layer: Model["layers"][number],
  tensors: ReadonlyMap<string, Tensor>,
  { expert }: Groups,
): Held[] {
  const operators = model.operators.slice(layer.operators.start, layer.operators.end);
  const placements = plan.operators.filter(({ block }) => block === layer.block);
  return operators.flatMap((operator, i) => {
    const sharding = placements[i]?.sharding.tensor;
    return operator.inputs.flatMap(({ tensor: id, dims }, input): Held[] => {
      const tensor = tensors.get(id)!;
      if (tensor.kind !== "parameter") return [];
      const placement = sharding?.inputs[input] ?? "Replicate";
      if (sharding && placements[i]!.operator !== operator.name) {
        throw new MpoptError(
          "E_PLAN_INVALID",
          `Expected operator ${operator.name} in block ${layer.block} of the plan but found ${placements[i]!.operator}.`,
        );
      }
      const split = /^Shard\((\d+)\)$/.exec(placement)?.[1];
      const expertAxis = dims.indexOf("expert");
      const ofExperts = plan.mesh.experts !== undefined && expertAxis >= 0;
      return [
        {
          id: tensor.tiedTo ?? id,
          axes: Math.max(1, tensor.shape.length),
          elements: tensor.shape.reduce((product, n) => product * n, 1),
          expert: ofExperts,
          tensorAxis: split === undefined ? undefined : Number(split),
          expertAxis: ofExperts && expert.size > 1 ? expertAxis : undefined,
        },
      ];
    });
  });
}

/** Gives every rank its part of what a stage holds. */
function placed(all: readonly Held[], zero: number, groups: Groups): PlacedParameter[] {
  const slices = { dense: sliceStarts(all, false, groups), expert: sliceStarts(all, true, groups) };
  return all.map((held) => {
    const [tensor, shards] = held.expert
      ? [groups.expertTensor, groups.expertShards]
      : [groups.tensor, groups.shards];
    const sharded = (part: StatePart) => shards.size > 1 && (part === "optimizer" ? zero >= 1 : zero >= 3);
    const { start, local, total } = slices[held.expert ? "expert" : "dense"].get(held.id)!;
    const box = (part: StatePart, place: number): Box => {
      const intervals: Interval[] = new Array(held.axes).fill([0, 1]);
      const cut = (axis: number, size: number, index: number) => {
        intervals[axis] = inside(intervals[axis]!, [index / size, (index + 1) / size]);
      };
      if (held.expertAxis !== undefined) {
        cut(
          held.expertAxis,
          groups.expert.size,
          Math.floor(place / groups.expert.stride) % groups.expert.size,
        );
      }
      if (held.tensorAxis !== undefined && tensor.size > 1) {
        cut(held.tensorAxis, tensor.size, Math.floor(place / tensor.stride) % tensor.size);
      }
      if (sharded(part)) {
        const index = Math.floor(place / shards.stride) % shards.size;
        const share: Interval =
          zero === 1
            ? [
                clampShare(((index * total) / shards.size - start) / local),
                clampShare((((index + 1) * total) / shards.size - start) / local),
              ]
            : [index / shards.size, (index + 1) / shards.size];
        intervals[0] = inside(intervals[0]!, share);
      }
      return intervals;
    };
    return { id: held.id, elements: held.elements, box };
  });
}

/** Where each parameter begins in the flat buffer of a rank, with its own length there and the buffer's. */
function sliceStarts(all: readonly Held[], expert: boolean, groups: Groups) {
  const own = all.filter((held) => held.expert === expert);
  const local = ({ elements, tensorAxis, expertAxis }: Held) =>
    elements /
    (tensorAxis === undefined ? 1 : (expert ? groups.expertTensor : groups.tensor).size) /
    (expertAxis === undefined ? 1 : groups.expert.size);
  const total = own.reduce((sum, held) => sum + local(held), 0);
  let start = 0;
  return new Map(
    own.map((held) => {
      const entry = [held.id, { start, local: local(held), total }] as const;
      start += local(held);
      return entry;
    }),
  );
}

function clampShare(share: number): number {
  return Math.min(1, Math.max(0, share));
}

function inside([start, end]: Interval, [low, high]: Interval): Interval {
  return [start + (end - start) * low, start + (end - start) * high];
}

/** What two blocks of a tensor have in common; undefined where that is nothing. */
export function commonBox(a: Box, b: Box): Box | undefined {
  const common = a.map(
    ([start, end], axis): Interval => [Math.max(start, b[axis]![0]), Math.min(end, b[axis]![1])],
  );
  return common.every(([start, end]) => start < end) ? common : undefined;
}

/** Share of the tensor that a block is. */
export function boxShare(box: Box): number {
  return box.reduce((share, [start, end]) => share * Math.max(0, end - start), 1);
}
