import { type Model, MpoptError, type Plan, type Tensor } from "../contracts/index.js";
import { stateBytes } from "../cost/memory.js";
import { tensorsById } from "../models/workload.js";
import { type Groups, groupsOf } from "../search/groups.js";
import { configurationOf } from "./estimate.js";

/** A half-open range of one axis. */
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
  /** The blocks that a rank keeps, by its place among the ranks of its stage. */
  boxes: (part: StatePart, place: number) => Box[];
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
 * buffers of `apply_plan.py` and Megatron-LM's distributed optimizer do; ZeRO-2 and 3 divide each by itself, as FSDP2
 * does.
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
  shape: readonly number[];
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
          shape: tensor.shape.length > 0 ? tensor.shape : [1],
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
    const shards = held.expert ? groups.expertShards : groups.shards;
    const sharded = (part: StatePart) => shards.size > 1 && (part === "optimizer" ? zero >= 1 : zero >= 3);
    const { start, total } = slices[held.expert ? "expert" : "dense"].get(held.id)!;
    const boxes = (part: StatePart, place: number): Box[] => {
      const whole = dividedBox(held, place, groups);
      if (!sharded(part)) return [whole];
      const index = Math.floor(place / shards.stride) % shards.size;
      const elements = boxElements(whole);
      const at = (slice: number) =>
        Math.min(
          elements,
          Math.max(
            0,
            Math.ceil(((zero === 1 ? total : elements) * slice) / shards.size) - (zero === 1 ? start : 0),
          ),
        );
      return boxesOfRange(whole, at(index), at(index + 1));
    };
    return { id: held.id, boxes };
  });
}

/** What tensor and expert parallelism leave of a parameter for one rank. */
function dividedBox({ shape, expert, tensorAxis, expertAxis }: Held, place: number, groups: Groups): Box {
  const box: Interval[] = shape.map((length) => [0, length]);
  const cut = (axis: number | undefined, { size, stride }: Groups["tensor"]) => {
    if (axis === undefined || size === 1) return;
    const index = Math.floor(place / stride) % size;
    const [start, end] = box[axis]!;
    const at = (part: number) => start + Math.round(((end - start) * part) / size);
    box[axis] = [at(index), at(index + 1)];
  };
  cut(expertAxis, groups.expert);
  cut(tensorAxis, expert ? groups.expertTensor : groups.tensor);
  return box;
}

/** Where each parameter begins in the flat buffer of a rank, and the buffer's length. */
function sliceStarts(all: readonly Held[], expert: boolean, groups: Groups) {
  const own = all.filter((held) => held.expert === expert);
  // Ranks whose parts differ by a row have buffers that differ as little.
  const length = (held: Held) => boxElements(dividedBox(held, 0, groups));
  const total = own.reduce((sum, held) => sum + length(held), 0);
  let start = 0;
  return new Map(
    own.map((held) => {
      const entry = [held.id, { start, total }] as const;
      start += length(held);
      return entry;
    }),
  );
}

/** The elements [start, end) of a block in the order of its last axis, as blocks. */
function boxesOfRange([first, ...rest]: Box, start: number, end: number): Box[] {
  if (start >= end) return [];
  if (!first) return [[]];
  const [offset] = first;
  const row = boxElements(rest);
  const [top, bottom] = [Math.ceil(start / row), Math.floor(end / row)];
  const one = (index: number, from: number, to: number): Box[] =>
    boxesOfRange(rest, from, to).map((box) => [[offset + index, offset + index + 1], ...box]);
  // All inside one row.
  if (top > bottom) return one(bottom, start - bottom * row, end - bottom * row);
  return [
    ...(start < top * row ? one(top - 1, start - (top - 1) * row, row) : []),
    ...(top < bottom ? [[[offset + top, offset + bottom] as Interval, ...rest]] : []),
    ...(bottom * row < end ? one(bottom, 0, end - bottom * row) : []),
  ];
}

/** What two blocks of a tensor have in common; undefined where that is nothing. */
export function commonBox(a: Box, b: Box): Box | undefined {
  const common = a.map(
    ([start, end], axis): Interval => [Math.max(start, b[axis]![0]), Math.min(end, b[axis]![1])],
  );
  return common.every(([start, end]) => start < end) ? common : undefined;
}

export function boxElements(box: Box): number {
  return box.reduce((product, [start, end]) => product * (end - start), 1);
}
