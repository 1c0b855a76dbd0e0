import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseAllDocuments } from "yaml";
import type { Plan } from "../../src/contracts/index.js";
import { exporters, exportPlan } from "../../src/launch/index.js";
import { makePlan, type PlanWishes } from "./planFactory.js";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "mpopt kubernetes "));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const kubernetes = exporters.kubernetes!;
// biome-ignore lint/suspicious/noExplicitAny: manifests are read as a stranger would.
type Manifest = any;

function documents(text: string): Manifest[] {
  return parseAllDocuments(text, { uniqueKeys: true }).map((document) => {
    expect(document.errors).toEqual([]);
    expect(document.warnings).toEqual([]);
    return document.toJS();
  });
}

interface Manifests {
  configMap: Manifest;
  trainJob: Manifest;
  service: Manifest;
  job: Manifest;
}

/** All manifests; the ConfigMap with its files takes the reader a while, so that some tests go without. */
function manifestsOf(plan: Plan, files = kubernetes.files(plan), whole = true): Manifests {
  expect(Object.keys(files).sort()).toEqual(["configmap.yaml", "job.yaml", "trainjob.yaml"]);
  const [configMap] = whole ? documents(files["configmap.yaml"]!) : [undefined];
  const [trainJob] = documents(files["trainjob.yaml"]!);
  const [service, job] = documents(files["job.yaml"]!);
  return { configMap, trainJob, service, job };
}

/** What a pod finds below its mount: path → content. */
function mounted(configMap: Manifest, volume: Manifest): Record<string, Buffer> {
  const found: Record<string, Buffer> = {};
  for (const { key, path } of volume.configMap.items) {
    const text = configMap.data?.[key];
    found[path] = text === undefined ? Buffer.from(configMap.binaryData[key], "base64") : Buffer.from(text);
  }
  return found;
}

const volumeOf = ({ volumes }: Manifest) => volumes.find(({ name }: Manifest) => name === "mpopt-plan");
const jobPod = ({ job }: Manifests) => job.spec.template.spec;
const trainPod = ({ trainJob }: Manifests) =>
  trainJob.spec.runtimePatches[0].trainingRuntimeSpec.template.spec.replicatedJobs[0].template.spec.template
    .spec;

const label = /^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$/;

const wishes: fc.Arbitrary<PlanWishes> = fc
  .record({
    name: fc.oneof(
      fc.string({ minLength: 1 }),
      fc.string({ minLength: 1, unit: "binary" }),
      fc.constantFrom(
        "\u2028",
        "a\r\nb",
        "\x85",
        " x",
        "- a: b\n...\n---\n",
        "\t",
        "9",
        "\ufeff",
        "\u0007\x7f",
      ),
    ),
    pipeline: fc.constantFrom(1, 2, 4),
    data: fc.constantFrom(1, 2, 3, 8),
    tensor: fc.constantFrom(1, 2),
    devicesPerNode: fc.constantFrom(1, 2, 4, 8),
    deviceType: fc.constantFrom("cuda" as const, "rocm" as const, "cpu" as const),
    layers: fc.constantFrom(4, 5),
    zero: fc.constantFrom(0, 1),
  })
  .map((each) => ({
    ...each,
    devicesPerNode: Math.min(each.devicesPerNode, each.pipeline * each.data * each.tensor),
  }));

/** Expects the manifests to say what the plan says. */
function expectPlanned(plan: Plan, whole = true): void {
  const manifests = manifestsOf(plan, kubernetes.files(plan), whole);
  const { configMap, trainJob, service, job } = manifests;
  const world = plan.mesh.sizes.reduce((product, size) => product * size, 1);
  const { numNodes, numProcPerNode, args, command, env = [], resourcesPerNode } = trainJob.spec.trainer;
  const isJax = plan.job.runtime === "jax";
  const perNode = world / numNodes;
  expect(perNode <= plan.cluster.devicesPerNode).toBe(true);
  expect(numProcPerNode).toBe(isJax ? undefined : perNode);
  expect(trainJob.spec.runtimeRef.name).toBe(isJax ? "jax-distributed" : "torch-distributed");
  expect([job.spec.completions, job.spec.parallelism]).toEqual([numNodes, numNodes]);
  expect([job.spec.completionMode, job.spec.backoffLimit]).toEqual(["Indexed", 0]);

  const name = trainJob.metadata.name as string;
  expect(name).toMatch(label);
  for (const { metadata } of [service, job]) expect(metadata.name).toBe(name);
  for (const { volumes } of [jobPod(manifests), trainPod(manifests)]) {
    expect(volumes[0].configMap.name).toBe(`${name}-plan`);
  }
  // What Kubernetes makes of them are labels, too.
  expect(`${name}-node-0-${numNodes}-abcde`.length).toBeLessThanOrEqual(63);
  const pod = jobPod(manifests);
  expect(service.spec).toEqual({
    clusterIP: "None",
    publishNotReadyAddresses: true,
    selector: { "batch.kubernetes.io/job-name": name },
  });
  expect(pod.subdomain).toBe(service.metadata.name);

  const [container] = pod.containers;
  expect([container.command, container.args]).toEqual([command, args]);
  expect(command.length + args.length).toBeLessThanOrEqual(128);
  for (const variable of [...env, ...container.env]) {
    expect(typeof variable.value).toBe("string");
    expect(variable.name).not.toMatch(/^PET_/);
  }
  expect(container.env).toContainEqual({ name: "MASTER_ADDR", value: `${name}-0.${name}` });
  const device = { cuda: "nvidia.com/gpu", rocm: "amd.com/gpu", cpu: undefined }[plan.cluster.deviceType];
  expect(resourcesPerNode).toEqual(device && { limits: { [device]: perNode } });
  expect(container.resources).toEqual(resourcesPerNode);

  if (!whole) return;
  expect(configMap.metadata.name).toBe(`${name}-plan`);
  const keys = [...Object.keys(configMap.data), ...Object.keys(configMap.binaryData ?? {})];
  for (const key of keys) expect(key).toMatch(/^[-._a-zA-Z0-9]+$/);
  const files = mounted(configMap, volumeOf(pod));
  expect(mounted(configMap, volumeOf(trainPod(manifests)))).toEqual(files);
  expect(Object.keys(files)).toHaveLength(keys.length);
  const inner = exporters[isJax ? "jax" : "torch"]!.files(plan);
  const { "start.sh": start, ...rest } = files;
  expect(start!.toString()).toContain("#!/bin/sh");
  expect(Object.keys(rest).sort()).toEqual(Object.keys(inner).sort());
  for (const [path, content] of Object.entries(rest)) {
    expect(content.equals(Buffer.from(inner[path]!)), path).toBe(true);
  }
  expect(JSON.parse(files["plan.json"]!.toString())).toEqual(JSON.parse(JSON.stringify(plan)));
}

describe("manifests", () => {
  it("say of 2,000 random plans what the plans say", () => {
    fc.sample(wishes, { numRuns: 2000, seed: 4 }).forEach((wish, i) => {
      expectPlanned(makePlan(wish), i % 20 === 0);
    });
  });

  it("use JAX's runtime, with one process a node", () => {
    const plan = makePlan({ data: 8, devicesPerNode: 4, deviceType: "cuda" });
    expectPlanned({ ...plan, job: { ...plan.job, runtime: "jax" } });
  });

  it("bring no script where the launcher has a program of its own", () => {
    const plan = makePlan({ data: 2, deviceType: "cuda", parameters: "bf16" });
    const { trainJob } = manifestsOf({ ...plan, job: { ...plan.job, runtime: "megatron" } });
    expect(trainJob.spec.trainer.args).toEqual([]);
  });

  it("refuse what the inner launcher refuses", () => {
    const plan = makePlan({ data: 2, experts: { expert: 2, tensor: 1 } });
    expect(kubernetes.lossy(plan)).toEqual(exporters.torch!.lossy(plan));
  });

  it("mark what is the user's", () => {
    const files = kubernetes.files(makePlan({ data: 2 }));
    expect(files["job.yaml"]).toMatch(/image: TRAINING_IMAGE # yours\n/);
    expect(files["job.yaml"]).toMatch(/- train.py # yours\n/);
    expect(files["trainjob.yaml"]).toMatch(/- train.py # yours/);
  });
});

/** A plan whose JSON takes so many bytes more; `seed` makes text that does not shrink. */
function largePlan(bytes: number, shrinks: boolean): Plan {
  let state = 1;
  const text = Array.from({ length: bytes }, () => {
    state = (state * 48271) % 2147483647;
    return String.fromCharCode(33 + (shrinks ? 0 : state % 94));
  }).join("");
  const plan = makePlan({ data: 4, devicesPerNode: 2, deviceType: "cuda" });
  return { ...plan, certificate: { ...plan.certificate, space: text.replaceAll(/["\\]/g, "x") } };
}

describe("large plans", () => {
  it("are stored compressed where a ConfigMap would not hold them", () => {
    const plan = largePlan(1_200_000, true);
    expect(kubernetes.lossy(plan)).toEqual([]);
    const manifests = manifestsOf(plan);
    const files = mounted(manifests.configMap, volumeOf(jobPod(manifests)));
    const bytes = Object.values(files).reduce((sum, content) => sum + content.length, 0);
    expect(bytes).toBeLessThan(1 << 20);
    expect(JSON.parse(gunzipSync(files["plan.json.gz"]!).toString())).toEqual(plan);
    const { argv, stderr, status } = runStart(files, {
      JOB_COMPLETION_INDEX: "1",
      MASTER_ADDR: "a",
      MASTER_PORT: "1",
      NNODES: "2",
    });
    expect(status, stderr).toBe(0);
    expect(argv).toContain("--node-rank");
  });

  it("are refused where that does not help", () => {
    const [reason, ...others] = kubernetes.lossy(largePlan(2_000_000, false));
    expect(reason).toMatch(/^The files of torch take 1\.\d MiB compressed, but a ConfigMap holds 1 MiB\.$/);
    expect(others).toEqual([]);
    const out = join(folder, "refused");
    expect(() => exportPlan(largePlan(2_000_000, false), "kubernetes", out)).toThrow(/ConfigMap holds 1 MiB/);
    expect(existsSync(out)).toBe(false);
  });
});

/** Runs start.sh from a mounted folder, with Python and torchrun replaced by one that prints arguments and place. */
function runStart(
  files: Record<string, Buffer>,
  environment: Record<string, string>,
  args = ["my train.py", "$(x); 'y'"],
) {
  const mount = mkdtempSync(join(folder, "mount "));
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(mount, path)), { recursive: true });
    writeFileSync(join(mount, path), content);
  }
  const fake = `#!/bin/sh\nprintf '%s\\n' "$NODE_RANK $NNODES $MASTER_ADDR $MASTER_PORT" "$@"\n`;
  for (const name of ["python", "torchrun"]) writeFileSync(join(mount, name), fake, { mode: 0o755 });
  const { status, stdout, stderr } = spawnSync("sh", [join(mount, "start.sh"), ...args], {
    cwd: folder,
    env: { PATH: `${mount}:${process.env.PATH}`, MPOPT_PYTHON: join(mount, "python"), ...environment },
    encoding: "utf8",
  });
  const [place, ...argv] = stdout.trimEnd().split("\n");
  return { place, argv, status, stderr };
}

const filesOf = (plan: Plan) => {
  const manifests = manifestsOf(plan);
  return mounted(manifests.configMap, volumeOf(jobPod(manifests)));
};

describe("start.sh", () => {
  const kubeflow = {
    PET_NNODES: "2",
    PET_NPROC_PER_NODE: "4",
    PET_NODE_RANK: "1",
    PET_MASTER_ADDR: "plan-node-0-0.plan",
    PET_MASTER_PORT: "29400",
  };
  const wish: PlanWishes = { data: 8, devicesPerNode: 4, deviceType: "cuda" };

  it.each(["$(touch pwned)", "`touch pwned`", "a'; touch pwned; '", '\ntouch pwned\n"', "; touch pwned"])(
    "starts the ranks of this node, whatever the plan is called: %j",
    (name) => {
      const { place, argv, status, stderr } = runStart(filesOf(makePlan({ ...wish, name })), kubeflow);
      expect(status, stderr).toBe(0);
      expect(stderr).toBe(`Plan ${name}: 8 ranks\n`);
      expect(place).toBe("1 2 plan-node-0-0.plan 29400");
      expect(argv).toEqual([
        ...["-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", "1", "--rdzv-backend", "c10d"],
        ...["--rdzv-endpoint", "plan-node-0-0.plan:29400", "--rdzv-id", "mpopt", "--nproc-per-node", "4"],
        ...["my train.py", "$(x); 'y'"],
      ]);
      expect(existsSync(join(folder, "pwned"))).toBe(false);
    },
  );

  it("reads the words of an indexed Job and of JAX's runtime", () => {
    const plan = makePlan(wish);
    const indexed = {
      JOB_COMPLETION_INDEX: "1",
      NNODES: "2",
      MASTER_ADDR: "plan-0.plan",
      MASTER_PORT: "29500",
    };
    expect(runStart(filesOf(plan), indexed).place).toBe("1 2 plan-0.plan 29500");
    const jax = filesOf({ ...plan, job: { ...plan.job, runtime: "jax" } });
    const variables = {
      JAX_NUM_PROCESSES: "2",
      JAX_PROCESS_ID: "1",
      JAX_COORDINATOR_ADDRESS: "p-node-0-0.p:29500",
    };
    expect(runStart(jax, variables).place).toBe("1 2 p-node-0-0.p 29500");
  });

  it("starts Megatron-LM with its flags", () => {
    const plan = makePlan({ ...wish, parameters: "bf16" });
    const files = filesOf({ ...plan, job: { ...plan.job, runtime: "megatron" } });
    const { argv, status, stderr } = runStart(files, kubeflow, ["--lr", "1e-4"]);
    expect(status, stderr).toBe(0);
    expect(argv.slice(0, 6)).toEqual(["--nnodes", "2", "--nproc-per-node", "4", "--node-rank", "1"]);
    expect(argv.slice(-2)).toEqual(["--lr", "1e-4"]);
  });

  it("refuses another world before any rank starts", () => {
    const files = filesOf(makePlan(wish));
    for (const change of [{ PET_NNODES: "1" }, { PET_NPROC_PER_NODE: "8" }, { PET_NNODES: "" }]) {
      const { status, stderr, argv } = runStart(files, { ...kubeflow, ...change });
      expect(status).toBe(2);
      expect(stderr).toMatch(/Expected 2 nodes of 4 ranks for this plan but found/);
      expect(argv).toEqual([]);
    }
    expect(runStart(files, { NNODES: "2", MASTER_ADDR: "a", MASTER_PORT: "1" }).stderr).toMatch(
      /JOB_COMPLETION_INDEX/,
    );
  });
});

it("is written whole: three files", () => {
  const out = join(folder, "out");
  const { files } = exportPlan(makePlan({ data: 2 }), "kubernetes", out);
  expect(files.map((file) => readFileSync(file, "utf8").length > 0)).toEqual([true, true, true]);
});

it("has the fields that the example patches", () => {
  const { trainJob } = manifestsOf(makePlan({ data: 4, devicesPerNode: 2, deviceType: "cuda" }));
  const example = new URL("../../examples/kubernetes/kustomization.yaml", import.meta.url);
  const [kustomization] = documents(readFileSync(example, "utf8"));
  expect(kustomization.resources).toEqual(["manifests/configmap.yaml", "manifests/trainjob.yaml"]);
  const [operations] = documents(kustomization.patches[0].patch);
  for (const { op, path } of operations) {
    const parts = path.split("/").slice(1) as string[];
    const at = (keys: string[]) => keys.reduce((node, key) => node?.[key], trainJob);
    const parent = at(parts.slice(0, -1));
    expect(parent, path).toBeTypeOf("object");
    if (parts.at(-1) === "-") expect(Array.isArray(parent), path).toBe(true);
    else expect(at(parts) !== undefined, path).toBe(op === "replace");
  }
});
