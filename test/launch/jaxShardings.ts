import { execFileSync, spawnSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { axisSize, type Plan } from "../../src/contracts/index.js";

const here = fileURLToPath(new URL("./jax", import.meta.url));

/** [rank][dimension] → [start, end). */
export type Bounds = [number, number][][];

export interface Answer {
  parameters: Bounds[];
  states: Bounds[];
  activations: Bounds[];
  batch: Bounds;
  constants: Record<string, unknown>;
  refused: string[];
}

/** A parameter of the small models that `makePlan` names, and which of its dimensions tensor ranks share. */
export interface Leaf {
  path: string;
  shape: number[];
  tensorDimension?: number;
}

/** Where parameters of a plan's model lie in JAX's form; kernels are [inputs, outputs]. */
export function leavesOf(plan: Plan): Leaf[] {
  const { hidden, ffn, heads, keyValueHeads, headSize, vocabulary } = plan.model.architecture!;
  const block = "model/layers/1";
  const layers = plan.model.blockLayers;
  return [
    { path: "model/embed_tokens/embedding", shape: [vocabulary, hidden], tensorDimension: 0 },
    { path: `${block}/input_layernorm/scale`, shape: [hidden] },
    { path: `${block}/self_attn/q_proj/kernel`, shape: [hidden, heads * headSize], tensorDimension: 1 },
    {
      path: `params/${block}/self_attn/k_proj/weight/value`,
      shape: [keyValueHeads * headSize, hidden],
      tensorDimension: 0,
    },
    { path: `${block}/self_attn/q_proj/bias`, shape: [heads * headSize], tensorDimension: 0 },
    { path: `0/mu/${block}/self_attn/o_proj/kernel`, shape: [heads * headSize, hidden], tensorDimension: 0 },
    { path: "model.layers.0.mlp.down_proj.weight", shape: [hidden, ffn], tensorDimension: 1 },
    { path: "model/layers_0/mlp/gate_proj/kernel", shape: [hidden, ffn], tensorDimension: 1 },
    // Layers stacked for a scan.
    { path: "model/layers/mlp/up_proj/kernel", shape: [layers, hidden, ffn], tensorDimension: 2 },
    { path: "model/layers/self_attn/o_proj/bias", shape: [layers, hidden] },
    { path: "lm_head/kernel", shape: [hidden, vocabulary], tensorDimension: 1 },
  ];
}

/** Asks Python about exported folders; with the stand-in where `python` is not said to have JAX. */
export function readShardings(
  python: string,
  requests: { file: string; plan: Plan; unknown?: [string, number[]][] }[],
  options: { real?: boolean } = {},
): Answer[] {
  const lines = requests.map(({ file, plan, unknown }) =>
    JSON.stringify({
      file,
      unknown,
      devices: plan.rankTable.length,
      leaves: leavesOf(plan).map(({ path, shape }) => [path, shape]),
      activations: activationShapes(plan),
    }),
  );
  const environment: NodeJS.ProcessEnv = options.real
    ? { JAX_PLATFORMS: "cpu", XLA_FLAGS: "--xla_force_host_platform_device_count=8" }
    : { PYTHONPATH: join(here, "standIn") };
  const { status, stdout, stderr } = spawnSync(python, [join(here, "readShardings.py")], {
    input: `${lines.join("\n")}\n`,
    env: { ...process.env, ...environment },
    encoding: "utf8",
    maxBuffer: 1 << 30,
  });
  if (status !== 0) throw new Error(stderr);
  return stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Answer);
}

/** Kinds of activations with their shapes over all replicas, for one micro-batch of each. */
export function activationShapes(plan: Plan): [string, number[]][] {
  const { hidden, ffn, heads, headSize, vocabulary } = plan.model.architecture!;
  const data = plan.mesh.sizes[plan.mesh.axes.indexOf("data")]!;
  const [batch, sequence] = [plan.batch.micro * data, plan.batch.sequence];
  return [
    ["tokens", [batch, sequence]],
    ["residual", [batch, sequence, hidden]],
    ["heads", [batch, sequence, heads, headSize]],
    ["features", [batch, sequence, ffn]],
    ["logits", [batch, sequence, vocabulary]],
  ];
}

/** A Python that imports JAX: MPOPT_JAX_PYTHON, MPOPT_PYTHON or python3; undefined where none does. */
export function findJaxPython(): string | undefined {
  for (const python of [process.env.MPOPT_JAX_PYTHON, process.env.MPOPT_PYTHON, "python3"]) {
    if (!python) continue;
    try {
      execFileSync(python, ["-c", "import jax, numpy"], { stdio: "ignore" });
      return python;
    } catch {
      // The next one.
    }
  }
  return undefined;
}

const part = (size: number, parts: number, index: number): [number, number] => [
  (size / parts) * index,
  (size / parts) * (index + 1),
];

/** Expects arrays to lie as the plan's rank table and degrees say, rank by rank. */
export function expectPlanned(plan: Plan, answer: Answer): void {
  const at = (rank: number, axis: "data" | "context" | "tensor") => {
    const i = plan.mesh.axes.indexOf(axis);
    return i < 0 ? 0 : plan.rankTable[rank]![i]!;
  };
  const [data, context, tensor] = (["data", "context", "tensor"] as const).map((axis) =>
    axisSize(plan, axis),
  ) as [number, number, number];
  const world = data * context * tensor;
  const shards = plan.optimizer.zero === 0 ? 1 : (plan.optimizer.shards ?? data * context);
  expect(plan.rankTable).toHaveLength(world);

  const ranks = plan.rankTable.map((_, rank) => rank);
  const tensorParts = leavesOf(plan).map(({ shape, tensorDimension }) =>
    ranks.map((rank) =>
      shape.map((size, d) =>
        d === tensorDimension && tensor > 1 ? part(size, tensor, at(rank, "tensor")) : [0, size],
      ),
    ),
  );
  expect(answer.parameters).toEqual(plan.optimizer.zero < 3 ? tensorParts : answer.states);
  const copies = ranks.map((rank) => at(rank, "data") * context + at(rank, "context"));
  const problems = leavesOf(plan).flatMap(({ path }, leaf) =>
    notSharded(answer.states[leaf]!, tensorParts[leaf]!, (rank) => ({
      replica: Math.floor(copies[rank]! / shards),
      shard: copies[rank]! % shards,
      tensor: at(rank, "tensor"),
    })).map((problem) => `${path}: ${problem}`),
  );
  expect(problems).toEqual([]);

  const { micro, sequence, global } = plan.batch;
  const activations = activationShapes(plan).map(([kind, shape]) =>
    ranks.map((rank) => {
      const [d, c, t] = [at(rank, "data"), at(rank, "context"), at(rank, "tensor")];
      const tokens = part(sequence, context, c);
      const scattered = part(sequence, context * tensor, c * tensor + t);
      const expected: Record<string, [number, number][]> = {
        tokens: [tokens],
        residual: [plan.mesh.sequenceParallel ? scattered : tokens, [0, shape[2]!]],
        heads: [[0, sequence], part(shape[2]!, tensor * context, t * context + c), [0, shape[3] ?? 0]],
        features: [tokens, part(shape[2]!, tensor, t)],
        logits: [tokens, part(shape[2]!, tensor, t)],
      };
      return [[micro * d, micro * (d + 1)], ...expected[kind]!];
    }),
  );
  expect(answer.activations).toEqual(activations);
  expect(answer.batch).toEqual(ranks.map((rank) => [part(global, data, at(rank, "data"))]));

  const { constants } = answer;
  expect(constants.PLAN).toBe(plan.name);
  expect(Number(constants.HOSTS) * Number(constants.DEVICES_PER_HOST)).toBe(world);
  expect([
    constants.GLOBAL_BATCH,
    constants.MICRO_BATCH,
    constants.MICRO_BATCHES,
    constants.SEQUENCE,
  ]).toEqual([global, micro, plan.schedule.microBatches, sequence]);
  expect(Number(constants.MICRO_BATCH) * Number(constants.MICRO_BATCHES) * data).toBe(global);
  expect([constants.REMAT, constants.REMAT_LAYERS, constants.LAYERS]).toEqual([
    plan.stages[0]!.recompute,
    plan.stages[0]!.recomputeLayers ?? 0,
    plan.model.blockLayers,
  ]);
}

/**
 * What speaks against ranks of one group tiling their tensor rank's part, each with its own tile, the same in every
 * group; or holding all of it each, where no dimension divides.
 */
function notSharded(
  states: Bounds,
  whole: number[][][],
  place: (rank: number) => { replica: number; shard: number; tensor: number },
): string[] {
  const problems: string[] = [];
  const elements = (bounds: number[][]) => bounds.reduce((n, [start, end]) => n * (end! - start!), 1);
  const tileOf = new Map<string, string>();
  const covered = new Map<string, Map<string, number>>();
  states.forEach((bounds, rank) => {
    const { replica, shard, tensor } = place(rank);
    const inside = bounds.every(
      ([start, end], d) => start! >= whole[rank]![d]![0]! && end! <= whole[rank]![d]![1]!,
    );
    if (!inside) problems.push(`rank ${rank} holds ${JSON.stringify(bounds)}`);
    const text = JSON.stringify(bounds);
    const key = `shard ${shard} of tensor rank ${tensor}`;
    if ((tileOf.get(key) ?? text) !== text) problems.push(`${key} differs between groups`);
    tileOf.set(key, text);
    const group = `group ${replica} of tensor rank ${tensor}`;
    covered.set(group, (covered.get(group) ?? new Map()).set(text, elements(bounds)));
  });
  for (const [group, tiles] of covered) {
    const sum = [...tiles.values()].reduce((total, n) => total + n, 0);
    if (sum !== elements(whole[0]!))
      problems.push(`${group} holds ${sum} of ${elements(whole[0]!)} elements`);
  }
  return problems;
}
