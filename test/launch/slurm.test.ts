import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { axisSize, type Plan, readDocument, serialize } from "../../src/contracts/index.js";
import { exporters, exportPlan } from "../../src/launch/index.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "mpopt slurm "));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const slurm = exporters.slurm!;
const root = fileURLToPath(new URL("../..", import.meta.url));

/** `#SBATCH --name=value` lines before the first command, as sbatch reads them: words end at spaces. */
function directives(script: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const line of script.split("\n").slice(1)) {
    if (line !== "" && !line.startsWith("#")) break;
    const match = /^#SBATCH\s+--([a-z-]+)(?:=(\S+))?$/.exec(line);
    if (line.startsWith("#SBATCH")) expect(match, line).not.toBeNull();
    if (match) found.set(match[1]!, match[2] ?? "");
  }
  return found;
}

function nodesOf(plan: Plan): { nodes: number; perNode: number } {
  const script = slurm.files(plan)["job.sbatch"]!;
  const found = directives(script);
  const table = slurm.files(plan)["ranks.csv"]!.trimEnd().split("\n").slice(1);
  return { nodes: Number(found.get("nodes")), perNode: table.length / Number(found.get("nodes")) };
}

/** A plan with another runtime. */
const searchedFor = (plan: Plan, runtime: Plan["job"]["runtime"]): Plan => ({
  ...plan,
  job: { ...plan.job, runtime },
});

const wishes: fc.Arbitrary<PlanWishes> = fc
  .record({
    name: fc.oneof(fc.string({ minLength: 1 }), fc.string({ minLength: 1, unit: "binary" })),
    pipeline: fc.constantFrom(1, 2, 4),
    data: fc.constantFrom(1, 2, 3, 8),
    tensor: fc.constantFrom(1, 2),
    devicesPerNode: fc.constantFrom(1, 2, 4, 8),
    deviceType: fc.constantFrom("cuda" as const, "rocm" as const, "cpu" as const),
    microBatches: fc.constantFrom(1, 4),
    layers: fc.constantFrom(4, 5),
    zero: fc.constantFrom(0, 1),
  })
  .map((each) => ({
    ...each,
    devicesPerNode: Math.min(each.devicesPerNode, each.pipeline * each.data * each.tensor),
  }));

describe("job.sbatch", () => {
  it("asks for the plan's nodes, and ranks.csv holds its rank table, over 2,000 random plans", () => {
    for (const plan of fc.sample(wishes, { numRuns: 2000, seed: 8 }).map(makePlan)) {
      const files = slurm.files(plan);
      const found = directives(files["job.sbatch"]!);
      const world = plan.mesh.sizes.reduce((product, size) => product * size, 1);
      const [header, ...rows] = files["ranks.csv"]!.trimEnd().split("\n");
      const cells = rows.map((row) => row.split(",").map(Number));
      const perNode = world / Number(found.get("nodes"));
      expect(Number.isInteger(perNode) && perNode <= plan.cluster.devicesPerNode).toBe(true);
      expect(found.get("ntasks-per-node")).toBe("1");
      expect(found.get("gpus-per-node")).toBe(
        plan.cluster.deviceType === "cpu" ? undefined : String(perNode),
      );
      expect(found.get("job-name")).toMatch(/^[a-z]([a-z0-9-]*[a-z0-9])?$/);
      expect(header).toBe("rank,node,device,pipeline,data,tensor");
      const expected = plan.rankTable.map((row, rank) => [
        rank,
        Math.floor(rank / perNode),
        rank % perNode,
        ...row,
      ]);
      expect(cells).toEqual(expected);
      expect(files["run/plan.json"]).toBe(serialize(plan));
      const layers = plan.stages.flatMap(({ layers: { start, end } }) =>
        Array.from({ length: end - start }, (_, i) => start + i),
      );
      expect(layers).toEqual(Array.from({ length: plan.model.blockLayers }, (_, i) => i));
    }
  });

  it("wraps the launcher of the plan's runtime, and refuses what that refuses", () => {
    const cuda: PlanWishes = { deviceType: "cuda", parameters: "bf16", data: 2, tensor: 2 };
    const inner = (plan: Plan) =>
      Object.keys(slurm.files(plan)).filter((path) => path.startsWith("run/") && path.endsWith(".sh"));
    const plan = makePlan({ ...cuda, architecture: { keyValueHeads: 4 } });
    expect(inner(plan)).toEqual(["run/run.sh"]);
    expect(inner(searchedFor(plan, "megatron"))).toEqual(["run/train.sh"]);
    expect(Object.keys(slurm.files(searchedFor(plan, "jax")))).toContain("run/plan_sharding.py");
    // What PyTorch's launcher does not express of a portable plan, Megatron-LM may.
    const context = makePlan({ ...cuda, context: 2, contextExchange: "ring" });
    expect(exporters.torch!.lossy(context)).not.toEqual([]);
    expect(slurm.lossy(context)).toEqual([]);
    expect(inner(context)).toEqual(["run/train.sh"]);
    const several = makePlan({ data: 8, devicesPerNode: 4, deviceType: "cuda", parameters: "bf16" });
    expect(slurm.lossy(searchedFor(several, "deepspeed")).join()).toMatch(/starts all nodes from one/);
    expect(slurm.lossy(searchedFor(context, "torch"))).toEqual(exporters.torch!.lossy(context));
  });
});

interface Run {
  argv: string[][];
  status: number | null;
  stderr: string;
  stdout: string;
}

/**
 * Runs job.sbatch with Slurm's commands replaced: `srun` runs its task once a node with what Slurm would set, Python
 * prints its arguments, and every call is recorded as one line of JSON.
 */
function runBatch(
  out: string,
  plan: Plan,
  args: string[],
  environment: Record<string, string> = {},
  srun?: string,
): Run {
  const { nodes, perNode } = nodesOf(plan);
  const tools = mkdtempSync(join(folder, "tools "));
  const record = join(tools, "record");
  const script = (name: string, text: string) => {
    writeFileSync(join(tools, name), text);
    chmodSync(join(tools, name), 0o755);
  };
  const recorder = `{ printf '%s\\0' "\${0##*/}" "$@"; printf '\\1'; } >>"$RECORD"`;
  script("scancel", `#!/bin/bash\n${recorder}\nkill -TERM "$(cat "$RECORD.pid")"\n`);
  script(
    "scontrol",
    `#!/bin/bash\n${recorder}\n[ "$1" = show ] && printf 'node%d\\n' $(seq 1 ${nodes})\nexit 0\n`,
  );
  script(
    "srun",
    srun ??
      `#!/bin/bash
${recorder}
while [ "$1" != bash ]; do shift; done
for node in $(seq 0 ${nodes - 1}); do
  SLURM_NODEID=$node SLURM_PROCID=$node SLURM_NTASKS=${nodes} "$@" || exit $?
done
`,
  );
  script(
    "python",
    `#!/bin/bash\n${recorder}\nprintf 'node=%s of %s master=%s:%s\\n' "$NODE_RANK" "$NNODES" "$MASTER_ADDR" "$MASTER_PORT"\n`,
  );
  script("torchrun", `#!/bin/bash\n${recorder}\n`);
  const { status, stdout, stderr } = spawnSync("bash", [join(out, "job.sbatch"), ...args], {
    cwd: out,
    env: {
      PATH: `${tools}:${process.env.PATH}`,
      RECORD: record,
      MPOPT_PYTHON: join(tools, "python"),
      SLURM_JOB_ID: "77",
      SLURM_JOB_NUM_NODES: String(nodes),
      SLURM_JOB_NODELIST: `node[1-${nodes}]`,
      SLURM_SUBMIT_DIR: out,
      SLURM_GPUS_ON_NODE: String(perNode),
      ...environment,
    },
    encoding: "utf8",
    timeout: 60_000,
  });
  const text = existsSync(record) ? readFileSync(record, "utf8") : "";
  const argv = text
    .split("\u0001")
    .slice(0, -1)
    .map((call) => call.split("\0").slice(0, -1));
  return { argv, status, stdout, stderr };
}

const nastyNames = [
  "$(touch pwned)",
  "`touch pwned`",
  "a'; touch pwned; '",
  'line\n#SBATCH --nodes=99\ntouch pwned\n"',
  "; touch pwned",
];

describe("job.sbatch, run with recorders in place of Slurm", () => {
  it.each(nastyNames)("starts the ranks of every node in order, whatever the plan is called: %j", (name) => {
    const out = join(folder, "it's $(touch pwned)");
    const plan = makePlan({ name, data: 4, pipeline: 2, tensor: 2, devicesPerNode: 8, deviceType: "cuda" });
    exportPlan(plan, "slurm", out);
    expect(readDocument("plan", join(out, "run", "plan.json"))).toEqual(plan);
    expect(directives(readFileSync(join(out, "job.sbatch"), "utf8")).get("nodes")).toBe("2");
    const { argv, status, stdout, stderr } = runBatch(out, plan, ["my train.py", "$(touch pwned); 'x'"]);
    expect(status, stderr).toBe(0);
    const [hosts, srun, ...starts] = argv;
    expect(hosts).toEqual(["scontrol", "show", "hostnames", "node[1-2]"]);
    const task = srun!.indexOf("bash");
    expect(srun!.slice(0, task)).toEqual([
      ...["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--distribution=block:block"],
      ...["--cpu-bind=none", "--kill-on-bad-exit=1"],
    ]);
    const [, option, , ...command] = srun!.slice(task);
    expect(option).toBe("-c");
    expect(command).toEqual([join(out, "run", "run.sh"), "my train.py", "$(touch pwned); 'x'"]);
    const world = starts.map((start) => {
      const value = (option: string) => start[start.indexOf(option) + 1];
      expect(start.slice(-2)).toEqual(["my train.py", "$(touch pwned); 'x'"]);
      return [value("--nnodes"), value("--node-rank"), value("--nproc-per-node"), value("--rdzv-endpoint")];
    });
    expect(world).toEqual([
      ["2", "0", "8", "node1:29500"],
      ["2", "1", "8", "node1:29500"],
    ]);
    expect(stdout).toBe("node=0 of 2 master=node1:29500\nnode=1 of 2 master=node1:29500\n");
    expect(existsSync(join(out, "pwned"))).toBe(false);
  });

  it("starts Megatron-LM with the plan's flags on every node", () => {
    const wish: PlanWishes = {
      data: 2,
      tensor: 2,
      pipeline: 2,
      devicesPerNode: 4,
      deviceType: "cuda",
      parameters: "bf16",
    };
    const plan = searchedFor(makePlan(wish), "megatron");
    const out = join(folder, "megatron");
    exportPlan(plan, "slurm", out);
    const { argv, status, stderr } = runBatch(out, plan, ["--lr", "1e-4"], { MASTER_PORT: "1234" });
    expect(status, stderr).toBe(0);
    const starts = argv.filter(([name]) => name === "torchrun");
    expect(starts.map((start) => start[start.indexOf("--node-rank") + 1])).toEqual(["0", "1"]);
    for (const start of starts) {
      expect(start).toContain("--tensor-model-parallel-size");
      expect(start.slice(start.indexOf("--master-port"), start.indexOf("--master-port") + 2)).toEqual([
        "--master-port",
        "1234",
      ]);
      expect(start.slice(-2)).toEqual(["--lr", "1e-4"]);
    }
  });

  it("refuses another number of nodes or GPUs, another folder and misplaced tasks before any rank starts", () => {
    const plan = makePlan({ data: 8, devicesPerNode: 4, deviceType: "cuda" });
    const out = join(folder, "checks");
    exportPlan(plan, "slurm", out);
    const refused = (environment: Record<string, string>) => {
      const { argv, status, stderr } = runBatch(out, plan, ["train.py"], environment);
      expect(status).toBe(2);
      expect(argv.some(([name]) => name === "srun" || name === "python")).toBe(false);
      return stderr;
    };
    expect(refused({ SLURM_JOB_NUM_NODES: "1" })).toMatch(
      /Expected 2 nodes of 4 ranks \(8 ranks\) .* found 1 nodes/,
    );
    expect(refused({ SLURM_GPUS_ON_NODE: "8" })).toMatch(/Expected 4 GPUs a node .* found 8/);
    expect(refused({ SLURM_SUBMIT_DIR: folder })).toMatch(/Expected run\/run.sh beside job.sbatch/);
    const misplaced = `#!/bin/bash\nwhile [ "$1" != bash ]; do shift; done\nSLURM_NODEID=0 SLURM_PROCID=1 SLURM_NTASKS=2 exec "$@"\n`;
    const { status, stderr } = runBatch(out, plan, ["train.py"], {}, misplaced);
    expect(status).toBe(2);
    expect(stderr).toMatch(/Expected task 0 of 2 on node 0 but found 1 of 2/);
  });

  it("hands a failed step's exit status on", () => {
    const plan = makePlan({ data: 2, deviceType: "cuda" });
    const out = join(folder, "status");
    exportPlan(plan, "slurm", out);
    expect(runBatch(out, plan, ["train.py"], {}, "#!/bin/bash\nexit 7\n").status).toBe(7);
  });

  it("passes the image and further options to srun", () => {
    const plan = makePlan({ data: 2, deviceType: "cuda" });
    const out = join(folder, "image");
    exportPlan(plan, "slurm", out);
    const environment = {
      CONTAINER_IMAGE: "an image",
      CONTAINER_MOUNTS: "/data",
      SRUN_OPTIONS: "--mpi=none -v",
    };
    const [, srun] = runBatch(out, plan, ["train.py"], environment).argv;
    expect(srun!.slice(7, 11)).toEqual([
      ...["--container-image=an image", `--container-mounts=${out}:${out},/data`, "--mpi=none", "-v"],
    ]);
  });

  it.each([
    ["1", true],
    ["0", false],
  ])("tells the ranks to save before the time limit, then queues again: REQUEUE=%s", (requeue, queued) => {
    const plan = makePlan({ data: 2, deviceType: "cuda" });
    const out = join(folder, `signal ${requeue}`);
    mkdirSync(out);
    exportPlan(plan, "slurm", out);
    // The step sends the batch shell what Slurm would, then trains until it is told to stop, and saves.
    const step = `#!/bin/bash
echo $$ >"$RECORD.pid"
trap 'sleep 0.2; echo saved; exit 0' TERM
kill -USR1 $PPID
for i in $(seq 200); do sleep 0.1; done
exit 1
`;
    const { argv, status, stdout, stderr } = runBatch(out, plan, ["train.py"], { REQUEUE: requeue }, step);
    expect(status, stderr).toBe(0);
    expect(stdout).toBe("saved\n");
    expect(argv).toContainEqual(["scancel", "--signal=TERM", "77"]);
    expect(argv.some((call) => call.join(" ") === "scontrol requeue 77")).toBe(queued);
  });
});

it("lays ranks out as the rank table of a plan over several nodes", () => {
  const plan = makePlan({ data: 3, tensor: 2, pipeline: 2, devicesPerNode: 8 });
  // 12 ranks on nodes of 8: two nodes of 6.
  expect(nodesOf(plan)).toEqual({ nodes: 2, perNode: 6 });
  expect(axisSize(plan, "data") * axisSize(plan, "tensor") * axisSize(plan, "pipeline")).toBe(12);
});

it("is submitted by the example with a site's settings, and without", () => {
  const out = join(folder, "to submit");
  exportPlan(makePlan({ data: 2, deviceType: "cuda" }), "slurm", out);
  const tools = mkdtempSync(join(folder, "sbatch "));
  const recorder = `#!/bin/sh\nprintf '%s\\n' "$MPOPT_FOLDER" "$@"\n`;
  writeFileSync(join(tools, "sbatch"), recorder, { mode: 0o755 });
  const submit = (environment: Record<string, string>) =>
    spawnSync("bash", [join(root, "examples/slurm/submit.sh"), out, "my train.py"], {
      cwd: folder,
      env: { PATH: `${tools}:${process.env.PATH}`, ...environment },
      encoding: "utf8",
    }).stdout.split("\n");
  const job = [join(out, "job.sbatch"), "my train.py", ""];
  expect(submit({})).toEqual([out, `--chdir=${folder}`, ...job]);
  const site = { PARTITION: "a b", ACCOUNT: "me", TIME: "1:00", WORK: "/tmp" };
  const options = ["--chdir=/tmp", "--partition=a b", "--account=me", "--time=1:00"];
  expect(submit(site)).toEqual([out, ...options, ...job]);
});
