import { gzipSync } from "node:zlib";
import { Document, type Scalar } from "yaml";
import type { Plan } from "../contracts/index.js";
import type { Exporter } from "./exporter.js";
import { innerExporter, labelOf, lostInside, type NodeExporters, startScript } from "./inner.js";
import { nodeLayout } from "./layout.js";

/**
 * Kubernetes: what another exporter writes in a ConfigMap, and two ways to run it, a TrainJob of Kubeflow's trainer
 * (trainer.kubeflow.org/v1alpha1, August 2026) and a plain indexed Job with a headless Service.
 */
export function kubernetesOver(exporters: NodeExporters): Exporter {
  return {
    name: "kubernetes",
    runtime: "portable",
    lossy(plan) {
      const inner = innerExporter(plan, exporters);
      const lost = lostInside(plan, inner);
      // A plan that the launcher refuses cannot always be written, and needs no second reason.
      return lost.length > 0 ? lost : lostSize(plan, inner);
    },
    files(plan) {
      const inner = innerExporter(plan, exporters);
      const content = contentOf(plan, inner);
      const pod = mounts(plan, content);
      return {
        "configmap.yaml": yamlOf(configMap(plan, content)),
        "trainjob.yaml": yamlOf(trainJob(plan, inner, pod)),
        "job.yaml": yamlOf(headlessService(plan), indexedJob(plan, inner, pod)),
      };
    },
  };
}

/** Bytes of all values in a ConfigMap that an API server takes (MaxSecretSize of its validation). */
const configMapBytes = 1 << 20;
/** Where the ConfigMap is mounted. */
const mountPath = "/mpopt";
/** Launchers that bring the training program. */
const withProgram = new Set(["megatron", "megatron-bridge", "torchtitan"]);
const port = "29500";

type Manifest = Record<string, unknown>;

/** A ConfigMap's values: text as it is, bytes in base64. */
interface Content {
  data: Record<string, string>;
  binaryData: Record<string, string>;
  /** Path below the folder of each key. */
  items: { key: string; path: string }[];
  bytes: number;
}

function lostSize(plan: Plan, inner: Exporter): string[] {
  const { bytes } = contentOf(plan, inner);
  if (bytes <= configMapBytes) return [];
  const size = (bytes / (1 << 20)).toFixed(1);
  return [`The files of ${inner.name} take ${size} MiB compressed, but a ConfigMap holds 1 MiB.`];
}

/** The files of the inner exporter with start.sh; compressed where they would not fit. */
function contentOf(plan: Plan, inner: Exporter): Content {
  const files = inner.files(plan);
  const script = startScript(inner, files);
  const bytes = Object.values(files).reduce((sum, text) => sum + Buffer.byteLength(text), 0);
  const packed = bytes > configMapBytes - 4096;
  const content: Content = { data: {}, binaryData: {}, items: [], bytes: 0 };
  const add = (path: string, value: string | Buffer) => {
    // Keys have no folders.
    const key = path.replaceAll("/", "..");
    content.items.push({ key, path });
    content.bytes += Buffer.byteLength(value);
    if (typeof value === "string" && isPlainText(value)) content.data[key] = value;
    else content.binaryData[key] = Buffer.from(value).toString("base64");
  };
  add("start.sh", startText(plan, script, files[script]!, packed));
  for (const [path, text] of Object.entries(files)) {
    if (packed) add(`${path}.gz`, gzipSync(text, { level: 9 }));
    else add(path, text);
  }
  return content;
}

/** Whether every YAML reader gives a text back as it is: no control characters, no breaks but line feeds. */
function isPlainText(text: string): boolean {
  return /^[\t\n\x20-\x7e\u00a0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\u{10000}-\u{10ffff}]*$/u.test(
    text,
  );
}

/** Finds out which node this is, in Kubeflow's words or an indexed Job's, and starts its ranks. */
function startText(plan: Plan, script: string, text: string, packed: boolean): string {
  const { world, nodes, ranksPerNode } = nodeLayout(plan);
  const shell = /^#!.*bash/.test(text) ? "bash" : "sh";
  const unpack = `folder=$(mktemp -d)
(cd "$here" && find -L . -name '*.gz' ! -path './..*') | while read -r file; do
  mkdir -p "$folder/$(dirname "$file")"
  gzip -dc "$here/$file" >"$folder/\${file%.gz}"
done
`;
  return `#!/bin/sh
# Starts the ranks of one node of the plan's ${nodes}, ${ranksPerNode} on each, ${world} in all.
set -eu
nodes="\${PET_NNODES:-\${JAX_NUM_PROCESSES:-\${NNODES:-none}}}"
ranks="\${PET_NPROC_PER_NODE:-${ranksPerNode}}"
if [ "$nodes" != ${nodes} ] || [ "$ranks" != ${ranksPerNode} ]; then
  echo "Expected ${nodes} nodes of ${ranksPerNode} ranks for this plan but found $nodes of $ranks." >&2
  exit 2
fi
coordinator="\${JAX_COORDINATOR_ADDRESS:-}"
export NNODES=${nodes}
export NODE_RANK="\${PET_NODE_RANK:-\${JAX_PROCESS_ID:-\${JOB_COMPLETION_INDEX:?the index of this node, from 0}}}"
export MASTER_ADDR="\${PET_MASTER_ADDR:-\${MASTER_ADDR:-\${coordinator%:*}}}"
export MASTER_PORT="\${PET_MASTER_PORT:-\${MASTER_PORT:-\${coordinator##*:}}}"
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
${packed ? unpack : "folder=$here\n"}exec ${shell} "$folder/${script}" "$@"
`;
}

function configMap(plan: Plan, { data, binaryData }: Content): Manifest {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: `${labelOf(plan.name)}-plan` },
    data,
    ...(Object.keys(binaryData).length > 0 ? { binaryData } : {}),
  };
}

/** What a pod mounts: the ConfigMap, and shared memory for NCCL and data loaders, of which containers get 64 MB. */
interface Mounts {
  volumes: Manifest[];
  volumeMounts: Manifest[];
}

function mounts(plan: Plan, { items }: Content): Mounts {
  return {
    volumes: [
      { name: "mpopt-plan", configMap: { name: `${labelOf(plan.name)}-plan`, items } },
      { name: "shared-memory", emptyDir: { medium: "Memory" } },
    ],
    volumeMounts: [
      { name: "mpopt-plan", mountPath, readOnly: true },
      { name: "shared-memory", mountPath: "/dev/shm" },
    ],
  };
}

function resources(plan: Plan): { limits: Record<string, number> } | undefined {
  const names = { cuda: "nvidia.com/gpu", rocm: "amd.com/gpu", cpu: undefined };
  const name = names[plan.cluster.deviceType];
  return name ? { limits: { [name]: nodeLayout(plan).ranksPerNode } } : undefined;
}

/** What a container runs; further arguments reach the launcher's script. */
function command({ name }: Exporter): { command: string[]; args: string[] } {
  return { command: ["sh", `${mountPath}/start.sh`], args: withProgram.has(name) ? [] : ["train.py"] };
}

function trainJob(plan: Plan, inner: Exporter, { volumes, volumeMounts }: Mounts): Manifest {
  const { nodes, ranksPerNode } = nodeLayout(plan);
  const limits = resources(plan);
  const isJax = inner.name === "jax";
  return {
    apiVersion: "trainer.kubeflow.org/v1alpha1",
    kind: "TrainJob",
    metadata: { name: labelOf(plan.name) },
    spec: {
      runtimeRef: { name: isJax ? "jax-distributed" : "torch-distributed" },
      trainer: {
        numNodes: nodes,
        // JAX has one process a node, whatever devices it holds.
        ...(isJax ? {} : { numProcPerNode: ranksPerNode }),
        ...command(inner),
        ...(limits ? { resourcesPerNode: limits } : {}),
      },
      runtimePatches: [
        {
          manager: "mpopt",
          trainingRuntimeSpec: {
            template: {
              spec: {
                replicatedJobs: [
                  {
                    name: "node",
                    template: {
                      spec: {
                        template: { spec: { volumes, containers: [{ name: "node", volumeMounts }] } },
                      },
                    },
                  },
                ],
              },
            },
          },
        },
      ],
    },
  };
}

/** Gives the pods of the Job names that others find. */
function headlessService(plan: Plan): Manifest {
  const name = labelOf(plan.name);
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name },
    spec: {
      clusterIP: "None",
      publishNotReadyAddresses: true,
      selector: { "batch.kubernetes.io/job-name": name },
    },
  };
}

function indexedJob(plan: Plan, inner: Exporter, { volumes, volumeMounts }: Mounts): Manifest {
  const { nodes } = nodeLayout(plan);
  const name = labelOf(plan.name);
  const limits = resources(plan);
  const container = {
    name: "node",
    image: "TRAINING_IMAGE",
    ...command(inner),
    env: [
      { name: "NNODES", value: String(nodes) },
      { name: "MASTER_ADDR", value: `${name}-0.${name}` },
      { name: "MASTER_PORT", value: port },
    ],
    ...(limits ? { resources: limits } : {}),
    volumeMounts,
  };
  return {
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: { name },
    spec: {
      completions: nodes,
      parallelism: nodes,
      completionMode: "Indexed",
      // Ranks of a job cannot go on without one of them: the first failure ends all pods.
      backoffLimit: 0,
      template: {
        spec: { subdomain: name, restartPolicy: "Never", containers: [container], volumes },
      },
    },
  };
}

/** Manifests as YAML, with a comment where something is the user's. */
function yamlOf(...manifests: Manifest[]): string {
  return manifests
    .map((manifest) => {
      const document = new Document(manifest, { aliasDuplicateObjects: false });
      for (const [path, comment] of yours) {
        const node = document.getIn(path, true) as Scalar | undefined;
        if (node) node.comment = comment;
      }
      return document.toString({ lineWidth: 0 });
    })
    .join("---\n");
}

const yours: [(string | number)[], string][] = [
  [["spec", "template", "spec", "containers", 0, "image"], " yours"],
  [["spec", "template", "spec", "containers", 0, "args", 0], " yours"],
  [
    ["spec", "trainer", "args", 0],
    " yours; image and environment come from the runtime, or stand beside this",
  ],
];
