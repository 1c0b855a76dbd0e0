import { MpoptError, type Plan } from "../contracts/index.js";
import type { Exporter } from "./exporter.js";
import { nodeLayout } from "./layout.js";

/** Exporters whose files start the ranks of one node, by name: what a scheduler's job runs on every node. */
export type NodeExporters = Readonly<Record<string, Exporter> & { torch: Exporter; megatron: Exporter }>;

/**
 * The exporter that a plan was searched for. Of those that share `portable` and `any` it is the first that expresses all
 * of the plan, PyTorch before others, and PyTorch where none does.
 */
export function innerExporter(plan: Plan, exporters: NodeExporters): Exporter {
  const { runtime } = plan.job;
  const own = Object.hasOwn(exporters, runtime) ? exporters[runtime] : undefined;
  if (own) return own;
  const { torch, megatron, ...others } = exporters;
  const open = [torch, megatron, ...(runtime === "portable" ? [] : Object.values(others))];
  return open.find((exporter) => exporter.lossy(plan).length === 0) ?? torch;
}

/** What an exporter cannot express of a plan, or what keeps a job from starting its script once on every node. */
export function lostInside(plan: Plan, exporter: Exporter): string[] {
  const lost = exporter.lossy(plan);
  if (exporter.name === "deepspeed" && nodeLayout(plan).nodes > 1) {
    lost.push("The deepspeed command starts all nodes from one of them, but a job starts a script on each.");
  }
  return lost;
}

/**
 * The script among an exporter's files that starts the ranks of one node. It reads NODE_RANK, MASTER_ADDR, MASTER_PORT
 * and NNODES.
 * @throws MpoptError E_LAUNCH where there is not one.
 */
export function startScript({ name }: Exporter, files: Record<string, string>): string {
  const scripts = Object.keys(files).filter((path) => /^[^/]+\.sh$/.test(path));
  if (scripts.length === 1) return scripts[0]!;
  const found = scripts.length > 0 ? scripts.join(", ") : "none";
  throw new MpoptError("E_LAUNCH", `Expected one script from ${name} that starts ranks but found ${found}.`);
}

/**
 * A name for jobs and Kubernetes' objects: an RFC 1035 label of at most `length` characters. What a label cannot hold
 * becomes a hyphen.
 */
export function labelOf(name: string, length = 40): string {
  const label = name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^[^a-z]+/, "")
    .slice(0, length)
    .replace(/-+$/, "");
  return label || "plan";
}
