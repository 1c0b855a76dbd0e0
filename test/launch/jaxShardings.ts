import { execFileSync, spawnSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Plan } from "../../src/contracts/index.js";

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
