import { deviceCount, evenLevels, fastDomain } from "../cluster/index.js";
import {
  type Cluster,
  type ContextExchange,
  type Job,
  type Model,
  MpoptError,
  type Zero,
} from "../contracts/index.js";
import type { StateSharding } from "../cost/memory.js";
import { distinctLayers } from "../models/workload.js";
import { type Division, describeRuntime, type RuntimeDescription } from "../runtimes/index.js";
import { divisors } from "./candidates.js";
import { type Configuration, singleDevice } from "./configuration.js";

/** Micro-batches larger than this many sequences are not searched: no kernel gains from them. */
export const largestMicroBatch = 64;

/** Context-parallel ranks have at least so many tokens of a sequence: with fewer, their kernels are all overhead. */
export const leastContextTokens = 1024;

/** Degrees of one way to use all devices. */
export type Degrees = Pick<Configuration, "tensor" | "context" | "pipeline" | "data">;

/**
 * The space that a job leaves open, as a tree. A shape fixes how work is divided; its roots fix what ZeRO shards, with
 * nothing recomputed or offloaded; each relief of a configuration saves memory and never time, so that what is under a
 * configuration takes at least as long as itself.
 */
export class Space {
  readonly #job: Job;
  readonly #model: Model;
  readonly #devices: number;
  readonly #domain: number;
  readonly #blockLayers: number;
  readonly #experts: number;
  readonly #runtime: RuntimeDescription;
  /** Ranks of one group of each level. */
  readonly #spans: ReadonlySet<number>;

  /** @throws MpoptError E_USAGE for a pin that the runtime does not execute. */
  constructor(model: Model, cluster: Cluster, job: Job) {
    this.#job = job;
    this.#model = model;
    this.#devices = deviceCount(cluster);
    this.#domain = fastDomain(cluster);
    this.#blockLayers = model.layers.filter((layer) => layer.kind === "block").length;
    this.#experts = expertsOf(model);
    this.#runtime = describeRuntime(job.runtime);
    let span = 1;
    const spans = new Set<number>();
    for (const level of evenLevels(cluster)) {
      span *= level.groupSize;
      spans.add(span);
    }
    this.#spans = spans;
    this.#checkPins();
  }

  /**
   * All ways to divide the devices: degrees multiply to the device count, tensor parallelism stays inside the fast
   * links, the pipeline has at most one stage more than block layers at each end, batch and sequence divide.
   * @throws MpoptError E_INFEASIBLE, with the rule that excludes everything.
   */
  degrees(): Degrees[] {
    const { pins, globalBatch } = this.#job;
    const devices = this.#devices;
    const result: Degrees[] = [];
    let fitsModel = false;
    for (const tensor of this.#tensorDegrees()) {
      for (const context of this.#contextDegrees(devices / tensor)) {
        if (this.#exchanges({ tensor, context }).length === 0) continue;
        for (const pipeline of divisors(devices / tensor / context)) {
          if (pipeline > this.#mostStages || !pinned(pins.pipeline, pipeline)) continue;
          const data = devices / tensor / context / pipeline;
          if (!pinned(pins.data, data)) continue;
          if (!(this.#runtime.divides?.({ tensor, context, pipeline, data }) ?? true)) continue;
          fitsModel = true;
          if (globalBatch % data === 0) result.push({ tensor, context, pipeline, data });
        }
      }
    }
    if (result.length > 0) return result;
    throw fitsModel ? this.#batchRefusal() : this.#degreesRefusal();
  }

  /** Every shape of one division of the devices: ZeRO, recomputation and offload are as light as they can be. */
  shapes(degrees: Degrees): Configuration[] {
    const { pins, globalBatch, sequence } = this.#job;
    const { tensor, context, data } = degrees;
    const perReplica = globalBatch / data;
    const result: Configuration[] = [];
    for (const microBatch of divisors(perReplica)) {
      if (microBatch > largestMicroBatch && microBatch !== pins.microBatch) continue;
      if (!pinned(pins.microBatch, microBatch)) continue;
      for (const sequenceParallel of tensor > 1 ? this.#runtime.sequenceParallel : [false]) {
        if (tensor > 1 && !pinned(pins.sequenceParallel, sequenceParallel)) continue;
        if (sequenceParallel && sequence % (tensor * context) !== 0) continue;
        if (!this.#splitsExperts({ tensor, sequenceParallel })) continue;
        for (const contextExchange of this.#exchanges(degrees)) {
          for (const experts of this.#expertDegrees(degrees, sequenceParallel)) {
            result.push({
              ...singleDevice,
              ...degrees,
              ...experts,
              contextExchange,
              microBatch,
              microBatches: perReplica / microBatch,
              sequenceParallel,
              recompute: pins.recompute ?? "none",
              recomputeLayers: pins.recomputeLayers ?? 0,
              offload: pins.offload ?? "none",
            });
          }
        }
      }
    }
    return result;
  }

  /** What ZeRO may shard in a shape. */
  roots(shape: Configuration): Configuration[] {
    const { pins } = this.#job;
    const { tensor, context, data } = shape;
    const copies = data * context;
    if (copies === 1) return [shape];
    const result: Configuration[] = [];
    for (const zero of this.#runtime.zero) {
      if (!pinned(pins.zero, zero)) continue;
      if (zero === 0) {
        const away = shape.offload !== "none" && !this.#offloads(shape);
        const root = { ...shape, zero, shards: 1 };
        if (pinned(pins.shards, 1) && !away && this.#shards(root)) result.push(shape);
        continue;
      }
      const roots = divisors(copies).map((shards) => ({ ...shape, zero, shards }));
      const executed = roots.reverse().filter((root) => this.#shards(root));
      for (const root of executed) {
        const { shards } = root;
        // Where a runtime cannot shard over all replicas, its largest groups stand for them.
        const whole = shards === copies || (this.#runtime.hybrid && root === executed[0]);
        const aligned = this.#runtime.hybrid && shards > 1 && this.#spans.has(shards * tensor);
        if (pins.shards === undefined ? whole || aligned : pins.shards === shards) result.push(root);
      }
    }
    return result;
  }

  /**
   * The next configurations with less memory: recomputation first, then layers recomputed whole, offload last, so that
   * each is reached once.
   */
  reliefs(configuration: Configuration): Configuration[] {
    const { pins } = this.#job;
    const { recompute, recomputeLayers, offload } = configuration;
    if (offload !== (pins.offload ?? "none")) return [];
    const result: Configuration[] = [];
    const { besideWholeLayers: beside } = this.#runtime;
    const pinnedLayers = pins.recomputeLayers ?? 0;
    if (recomputeLayers === pinnedLayers && pins.recompute === undefined) {
      const open = this.#runtime.recompute;
      const next = open[open.indexOf(recompute) + 1];
      // Whole recomputation of all layers leaves nothing to choose layers from.
      if (next && (pinnedLayers === 0 || beside.includes(next))) {
        result.push({ ...configuration, recompute: next });
      }
    }
    const layersOpen = pins.recomputeLayers === undefined && beside.includes(recompute);
    if (layersOpen && recomputeLayers + 1 < this.#blockLayers) {
      result.push({ ...configuration, recomputeLayers: recomputeLayers + 1 });
    }
    if (pins.offload === undefined && this.#offloads(configuration)) {
      for (const next of this.#runtime.offload) {
        if (next !== "none") result.push({ ...configuration, offload: next });
      }
    }
    return result;
  }

  /** How the state of a shape is divided at best. */
  lightestSharding({ tensor, context, data, expert, expertTensor }: Configuration): StateSharding {
    const { pins } = this.#job;
    const zero = pins.zero ?? (Math.max(...this.#runtime.zero) as Zero);
    const away = pins.offload ?? this.#runtime.offload.at(-1)!;
    const copies = data * context;
    return {
      zero,
      shards: copies,
      expertShards: Math.max(1, (tensor * copies) / (expert * expertTensor)),
      offloadOptimizer: away === "optimizer" || away === "both",
    };
  }

  /** The configuration under a root that needs the least memory. */
  lightest(root: Configuration): Configuration {
    const { pins } = this.#job;
    return {
      ...root,
      recompute: pins.recompute ?? "full",
      recomputeLayers:
        pins.recompute === undefined || pins.recompute === "full"
          ? root.recomputeLayers
          : this.#mostLayers(root),
      offload: pins.offload ?? this.#runtime.offload.at(-1)!,
    };
  }

  /** Layers of each stage that may be recomputed whole. */
  #mostLayers({ recomputeLayers }: Configuration): number {
    const { pins } = this.#job;
    const open = this.#runtime.besideWholeLayers.length > 0 && pins.recomputeLayers === undefined;
    return open ? Math.max(0, this.#blockLayers - 1) : recomputeLayers;
  }

  /** Every configuration of one division of the devices; the tree with nothing left out. */
  *all(degrees: Degrees): Generator<Configuration> {
    for (const shape of this.shapes(degrees)) for (const root of this.roots(shape)) yield* this.#under(root);
  }

  *#under(configuration: Configuration): Generator<Configuration> {
    yield configuration;
    for (const relief of this.reliefs(configuration)) yield* this.#under(relief);
  }

  /** What is open beside degrees, micro-batches and schedules, in words. */
  describe(): string[] {
    const { context, experts, zero, hybrid, besideWholeLayers, offload } = this.#runtime;
    const { sequenceParallel, recompute } = this.#runtime;
    const stages = [...zero].sort();
    return [
      ...(context.length > 0
        ? [`context parallelism (${context.join(", ")}) with at least ${leastContextTokens} tokens a rank`]
        : []),
      ...(experts && this.#experts > 0 ? ["expert parallelism over any divisor of the experts"] : []),
      `sequence parallelism ${sequenceParallel.map((on) => (on ? "on" : "off")).join(" or ")}, ZeRO ${stages.slice(0, -1).join(", ")} or ${stages.at(-1)}${hybrid ? " over all replicas, nodes or fast domains" : ""}`,
      `recomputation ${recompute.slice(0, -1).join(", ")} or ${recompute.at(-1)}${besideWholeLayers.length > 0 ? ", or full for the first layers of each stage" : " (one for all stages)"}`,
      ...(offload.length > 1 ? [`offload of ${offload.slice(1).join(", ")}`] : []),
    ];
  }

  #tensorDegrees(): number[] {
    return divisors(this.#devices).filter(
      (tensor) =>
        tensor <= this.#domain &&
        this.#domain % tensor === 0 &&
        pinned(this.#job.pins.tensor, tensor) &&
        this.#splitsExperts({ tensor, sequenceParallel: this.#runtime.sequenceParallel[0]! }),
    );
  }

  #contextDegrees(devices: number): number[] {
    const { pins, sequence } = this.#job;
    const open = divisors(devices).filter((context) => {
      if (context === 1) return true;
      // Ranks hold an early and a late chunk each, so that causal attention is even.
      if (sequence % (2 * context) !== 0) return false;
      if (pins.context !== undefined) return true;
      return this.#runtime.context.length > 0 && sequence / context >= leastContextTokens;
    });
    return open.filter((context) => pinned(pins.context, context));
  }

  /** Stages that a pipeline may have: one more than block layers at each end. */
  get #mostStages(): number {
    const { pipeline, dividesLayers } = this.#runtime;
    const { architecture } = this.#model;
    const divided = pipeline && (!architecture || (dividesLayers?.(architecture) ?? true));
    return divided ? this.#blockLayers + 2 : 1;
  }

  #splitsExperts(division: Pick<Division, "tensor" | "sequenceParallel">): boolean {
    if (this.#experts === 0 || division.tensor === 1) return true;
    return this.#runtime.splitsExperts?.(division) ?? true;
  }

  #shards(division: Division): boolean {
    return this.#runtime.shards?.(division, this.#model.architecture) ?? true;
  }

  #offloads(division: Division): boolean {
    return this.#runtime.offloads?.(division, this.#job.optimizer) ?? true;
  }

  /** Exchanged all-to-all, every rank gets whole heads, of queries and of keys. */
  #exchangesKeys(
    exchange: ContextExchange,
    { tensor, context }: Pick<Degrees, "tensor" | "context">,
  ): boolean {
    const { architecture } = this.#model;
    if (!architecture) return true;
    if (!(this.#runtime.exchanges?.(exchange, architecture, this.#job.sequence) ?? true)) return false;
    const { heads, keyValueHeads } = architecture;
    if (exchange === "ring") return true;
    return (heads / tensor) % context === 0 && Math.max(1, keyValueHeads / tensor) % context === 0;
  }

  #exchanges(degrees: Pick<Degrees, "tensor" | "context">): readonly ContextExchange[] {
    const { contextExchange } = this.#job.pins;
    if (degrees.context === 1) return ["ring"];
    const open = contextExchange ? [contextExchange] : this.#runtime.context;
    return open.filter((exchange) => this.#exchangesKeys(exchange, degrees));
  }

  #expertDegrees(
    degrees: Degrees,
    sequenceParallel: boolean,
  ): Pick<Configuration, "expert" | "expertTensor">[] {
    const { tensor, context, data } = degrees;
    const { pins } = this.#job;
    if (this.#experts === 0 || !this.#runtime.experts) {
      return pinned(pins.expert, 1) && pinned(pins.expertTensor, tensor)
        ? [{ expert: 1, expertTensor: tensor }]
        : [];
    }
    const result: Pick<Configuration, "expert" | "expertTensor">[] = [];
    const ranks = tensor * context * data;
    for (const expertTensor of tensor > 1 && sequenceParallel ? [tensor, 1] : [tensor]) {
      if (!pinned(pins.expertTensor, expertTensor)) continue;
      for (const expert of divisors(this.#experts)) {
        if (!pinned(pins.expert, expert) || ranks % (expert * expertTensor) !== 0) continue;
        if (this.#runtime.dividesExperts?.({ ...degrees, expert, expertTensor }) === false) continue;
        result.push({ expert, expertTensor });
      }
    }
    return result;
  }

  #checkPins(): void {
    const { pins, runtime } = this.#job;
    const { context, experts, zero, hybrid, besideWholeLayers, offload, recompute } = this.#runtime;
    const { pipeline, sequenceParallel } = this.#runtime;
    const refuse = (name: string, found: unknown, allowed: string) => {
      throw new MpoptError(
        "E_USAGE",
        `Expected ${name} that runtime ${runtime} executes (${allowed}) but found ${found} pinned.`,
        ["Choose another runtime: --runtime megatron, or any."],
      );
    };
    if (pins.zero !== undefined && !zero.includes(pins.zero)) {
      refuse("a ZeRO stage", pins.zero, [...zero].sort().join(", "));
    }
    if ((pins.pipeline ?? 1) > 1 && !pipeline) refuse("a pipeline degree", pins.pipeline, "1");
    if (pins.sequenceParallel !== undefined && !sequenceParallel.includes(pins.sequenceParallel)) {
      refuse("sequence parallelism", pins.sequenceParallel, sequenceParallel.join(", "));
    }
    if (pins.recompute !== undefined && !recompute.includes(pins.recompute)) {
      refuse("a recomputation", pins.recompute, recompute.join(", "));
    }
    if ((pins.context ?? 1) > 1 && context.length === 0) refuse("a context degree", pins.context, "1");
    if ((pins.expert ?? 1) > 1 && !experts) refuse("an expert degree", pins.expert, "1");
    if ((pins.recomputeLayers ?? 0) > 0) {
      if (besideWholeLayers.length === 0) refuse("recomputed layers", pins.recomputeLayers, "0");
      if (pins.recompute && !besideWholeLayers.includes(pins.recompute)) {
        const which = besideWholeLayers.join(", ");
        refuse("a recomputation beside layers recomputed whole", pins.recompute, which);
      }
    }
    if (pins.shards !== undefined && !hybrid) refuse("a sharding group", pins.shards, "all replicas");
    if (pins.offload !== undefined && !offload.includes(pins.offload)) {
      refuse("an offload", pins.offload, offload.join(", "));
    }
  }

  #degreesRefusal(): MpoptError {
    const named = Object.entries(this.#job.pins)
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => `${name} ${value}`);
    const which = named.length > 0 ? ` with ${named.join(", ")} pinned` : "";
    return new MpoptError(
      "E_INFEASIBLE",
      `Expected degrees that multiply to ${this.#devices} devices${which} but found none with tensor parallelism inside ${this.#domain} devices and at most ${this.#mostStages} stages.`,
      ["Remove a pin, or change the number of devices."],
    );
  }

  /** Names the smallest data-parallel degree that the devices allow: every batch must be a multiple of some degree. */
  #batchRefusal(): MpoptError {
    let smallest = this.#devices;
    for (const tensor of this.#tensorDegrees()) {
      for (const context of this.#contextDegrees(this.#devices / tensor)) {
        for (const pipeline of divisors(this.#devices / tensor / context)) {
          if (pipeline > this.#mostStages) continue;
          smallest = Math.min(smallest, this.#devices / tensor / context / pipeline);
        }
      }
    }
    return new MpoptError(
      "E_INFEASIBLE",
      `Expected a global batch that some data-parallel degree divides but found ${this.#job.globalBatch} for ${this.#devices} devices.`,
      [`Use a multiple of ${smallest}, or fewer devices.`],
    );
  }
}

/** Experts of a layer: the most that any layer has, 0 without any. */
function expertsOf(model: Model): number {
  let most = 0;
  for (const { operators } of distinctLayers(model)) {
    for (const operator of operators) {
      if (operator.kind !== "grouped_linear") continue;
      most = Math.max(most, operator.dims.find((dim) => dim.name === "expert")?.size ?? 0);
    }
  }
  return most;
}

function pinned<T>(pin: T | undefined, value: T): boolean {
  return pin === undefined || pin === value;
}
