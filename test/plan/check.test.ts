import { describe, expect, it } from "vitest";
import { clusterPreset } from "../../src/cluster/index.js";
import { checkDocument, type Plan } from "../../src/contracts/index.js";
import { loadModel } from "../../src/models/index.js";
import { checkPlan, createPlan, estimatePlan } from "../../src/plan/index.js";

const model = loadModel("llama-3.1-8b");
const cluster = clusterPreset("h100-sxm:8x2");
const plan = await createPlan({
  model,
  cluster,
  job: { globalBatch: 32, sequence: 4096, pins: { pipeline: 4, tensor: 2, recompute: "none" } },
});
const inputs = { model, cluster };

/** Each entry breaks one invariant; the checker must notice from the plan's own fields. */
const mutations: Record<string, (plan: Plan) => void> = {
  "a layer dropped between two stages": (p) => {
    p.stages[1]!.layers.start += 1;
  },
  "a layer placed twice": (p) => {
    p.stages[1]!.layers.end += 1;
  },
  "the last layer dropped": (p) => {
    p.stages.at(-1)!.layers.end -= 1;
  },
  "a layer beyond the model": (p) => {
    p.stages.at(-1)!.layers.end += 1;
  },
  "stages swapped": (p) => {
    p.stages.reverse();
  },
  "a module twice": (p) => {
    p.stages[1]!.modules.push(p.stages[0]!.modules[0]!);
  },
  "two embeddings": (p) => {
    p.stages[2]!.embedding = true;
  },
  "no head": (p) => {
    p.stages.at(-1)!.head = false;
  },
  "degrees that do not multiply to the devices": (p) => {
    p.mesh.sizes[1]! *= 2;
  },
  "an axis twice": (p) => {
    p.mesh.axes[0] = "tensor";
  },
  "two ranks exchanged": (p) => {
    [p.rankTable[0], p.rankTable[1]] = [p.rankTable[1]!, p.rankTable[0]!];
  },
  "a rank missing": (p) => {
    p.rankTable.pop();
  },
  "a stage on the wrong devices": (p) => {
    p.stages[0]!.devices = p.stages[1]!.devices;
  },
  "a batch that the degrees do not give": (p) => {
    p.batch.micro += 1;
  },
  "a micro-batch lost": (p) => {
    p.schedule.microBatches -= 1;
  },
  "another global batch than the job's": (p) => {
    p.job.globalBatch *= 2;
  },
  "heads that do not divide": (p) => {
    p.model.architecture!.heads = 33;
  },
  "memory beyond the limit": (p) => {
    const entry = p.estimate.memory[0]!;
    entry.limitBytes = entry.reservedBytes / 2;
  },
  "memory terms that do not add up": (p) => {
    p.estimate.memory[1]!.terms.activations += 1e9;
  },
  "parameters that vanish": (p) => {
    for (const entry of p.estimate.memory) {
      entry.allocatedBytes -= entry.terms.parameters / 2;
      entry.terms.parameters /= 2;
    }
  },
  "a memory entry missing": (p) => {
    p.estimate.memory.pop();
  },
  "a step time that the stages do not give": (p) => {
    p.estimate.stepSeconds *= 0.9;
  },
  "time terms that do not add up": (p) => {
    p.estimate.terms.bubble = 0;
  },
  "a bound above the objective": (p) => {
    p.certificate.bound *= 1.01;
  },
  "an optimal status with a gap": (p) => {
    p.certificate.bound *= 0.9;
    p.certificate.gap = 0.1;
  },
  "a schedule that does not exist": (p) => {
    p.schedule.name = "zig-zag";
  },
  "a stage that recomputes alone": (p) => {
    p.stages[2]!.recompute = "full";
  },
  "a pin that was not kept": (p) => {
    p.job.pins.pipeline = 8;
  },
  "a stage's devices counted wrong": (p) => {
    p.estimate.memory[0]!.devices += 1;
  },
  "more tokens a second than the step gives": (p) => {
    p.estimate.tokensPerSecond *= 1.1;
  },
  "more model than hardware utilisation": (p) => {
    p.estimate.hfu = p.estimate.mfu / 2;
  },
  "an objective that is not the step time": (p) => {
    p.certificate.objective *= 0.5;
  },
};

describe("checkPlan", () => {
  it("accepts the plan that the search made, and its contract", () => {
    expect(checkPlan(plan, inputs)).toEqual([]);
    expect(() => checkDocument("plan", JSON.parse(JSON.stringify(plan)), "plan")).not.toThrow();
  });

  it.each(Object.entries(mutations))("rejects %s", (_name, mutate) => {
    const broken = structuredClone(plan);
    mutate(broken);
    const found = checkPlan(broken);
    expect(found.length).toBeGreaterThan(0);
    expect(found[0]!.message).toMatch(/^Expected .* but .*\.$|^Expected .*\.$/);
  });

  it("rejects modules that the model does not have, and lets none be missing", () => {
    const renamed = structuredClone(plan);
    renamed.stages[0]!.modules[0] = "model.embed";
    expect(
      checkPlan(renamed, inputs)
        .map((each) => each.message)
        .join(),
    ).toMatch(/embed_tokens.*found it in none/);
    const moved = structuredClone(plan);
    const module = moved.stages[1]!.modules.pop()!;
    moved.stages[2]!.modules.push(module);
    expect(checkPlan(moved, inputs).some((each) => each.message.includes(module))).toBe(true);
  });

  it("rejects an estimate that the cost model does not give", () => {
    const cheaper = structuredClone(plan);
    for (const stage of cheaper.stages) {
      stage.forwardSeconds /= 2;
      stage.backwardSeconds /= 2;
    }
    const { terms } = cheaper.estimate;
    for (const term of [
      "compute",
      "recompute",
      "tensorCommunication",
      "pipelineTransfer",
      "bubble",
      "host",
    ] as const) {
      terms[term] /= 2;
    }
    const total = Object.values(terms).reduce((sum, seconds) => sum + seconds, 0);
    cheaper.estimate.stepSeconds = total;
    cheaper.estimate.tokensPerSecond = (plan.batch.global * plan.batch.sequence) / total;
    cheaper.certificate.objective = total;
    cheaper.certificate.bound = total;
    expect(checkPlan(cheaper)).toEqual([]);
    expect(
      checkPlan(cheaper, inputs)
        .map((each) => each.message)
        .join(),
    ).toMatch(/by the cost model/);
  });
});

describe("checkPlan with the model and the cluster", () => {
  const priced: Record<string, (plan: Plan) => void> = {
    "an operator's sharding lost": (p) => {
      p.operators.splice(3, 1);
    },
    "another sharding": (p) => {
      p.operators.find((each) => each.operator === "qkv")!.sharding.tensor!.inputs[1] = "Replicate";
    },
    "ZeRO switched off": (p) => {
      p.optimizer.zero = 0;
    },
    "utilisation polished": (p) => {
      p.estimate.mfu *= 0.99;
    },
    "a limit raised": (p) => {
      p.estimate.memory[2]!.limitBytes *= 2;
    },
    "sequence parallelism switched off": (p) => {
      p.mesh.sequenceParallel = !p.mesh.sequenceParallel;
    },
  };
  it.each(Object.entries(priced))("rejects %s", (_name, mutate) => {
    const broken = structuredClone(plan);
    mutate(broken);
    expect(checkPlan(broken, inputs).length).toBeGreaterThan(0);
  });
});

/** Plans whose stages are several a rank, and one whose actions were searched. */
const pins = { pipeline: 4, tensor: 2, data: 2, microBatch: 1, recompute: "none" } as const;
const job = { globalBatch: 32, sequence: 4096, runtime: "torch" } as const;
const folded = await createPlan({ model, cluster, job: { ...job, pins: { ...pins, schedule: "zbv" } } });
const searched = await createPlan({
  model,
  cluster,
  job: { ...job, pins: { ...pins, schedule: "searched" } },
});

describe("checkPlan of other schedules than 1F1B", () => {
  const ofFolded: Record<string, (plan: Plan) => void> = {
    "stages laid out as another schedule has them": (p) => {
      p.stages[4]!.rank = 0;
      p.stages[4]!.devices = p.stages[0]!.devices;
      p.stages[7]!.rank = 3;
      p.stages[7]!.devices = p.stages[3]!.devices;
    },
    "two chunks exchanged": (p) => {
      p.stages[0]!.chunk = 1;
      p.stages[7]!.chunk = 0;
    },
    "another schedule of the same stages": (p) => {
      p.schedule.name = "interleaved";
    },
    "a schedule of other stages": (p) => {
      p.schedule.name = "1f1b";
    },
    "a schedule that the runtime does not execute": (p) => {
      p.job.runtime = "megatron";
    },
    "a schedule without a flush that nobody asked for": (p) => {
      p.job = { ...p.job, runtime: "any", pins: {} };
      p.schedule.name = "2bw";
    },
    "a schedule that the job does not pin": (p) => {
      p.job.pins.schedule = "dualpipev";
    },
    "chunks that the job does not pin": (p) => {
      p.job.pins.chunks = 3;
    },
    "weight halves that are longer than they are": (p) => {
      for (const stage of p.stages) stage.backwardWeightSeconds = 0;
    },
    "actions of another schedule": (p) => {
      p.schedule.actions = searched.schedule.actions!;
    },
    "a searched schedule without its actions": (p) => {
      p.schedule.name = "searched";
    },
    "a stage lost": (p) => {
      p.stages.splice(3, 1);
    },
  };
  it.each(Object.entries(ofFolded))("rejects %s", (_name, mutate) => {
    expect(checkPlan(folded, inputs)).toEqual([]);
    const broken = structuredClone(folded);
    mutate(broken);
    const found = checkPlan(broken);
    expect(found.length).toBeGreaterThan(0);
    expect(found[0]!.message).toMatch(/^Expected .* but .*\.$|^Expected .*\.$/);
  });

  const ofSearched: Record<string, (rows: string[]) => string[]> = {
    "an action left out": (rows) => rows.map((row, r) => (r === 1 ? row.split(",").slice(1).join() : row)),
    "an action twice": (rows) => rows.map((row, r) => (r === 2 ? `${row},${row.split(",").at(-1)}` : row)),
    "a backward before its forward": (rows) =>
      rows.map((row, r) => (r === 0 ? row.split(",").reverse().join() : row)),
    "ranks exchanged": ([first, second, ...rest]) => [second!, first!, ...rest],
    "a rank left out": (rows) => rows.slice(0, -1),
    "what is no action": (rows) => [...rows.slice(0, -1), "idle"],
    "a slower order": (rows) =>
      // Every rank puts all weight halves off to its end.
      rows.map((row) => {
        const cells = row.split(",");
        const late = (cell: string) => cell.includes("W");
        return [...cells.filter((cell) => !late(cell)), ...cells.filter(late)].join();
      }),
  };
  it.each(Object.entries(ofSearched))("rejects actions with %s", (_name, mutate) => {
    expect(checkPlan(searched, inputs)).toEqual([]);
    expect(() => checkDocument("plan", JSON.parse(JSON.stringify(searched)), "plan")).not.toThrow();
    const broken = structuredClone(searched);
    broken.schedule.actions = mutate(broken.schedule.actions!);
    expect(broken.schedule.actions).not.toEqual(searched.schedule.actions);
    expect(checkPlan(broken, inputs).length).toBeGreaterThan(0);
  });

  it("notices memory that the schedule does not leave", () => {
    for (const plan of [folded, searched]) {
      const broken = structuredClone(plan);
      const entry = broken.estimate.memory[1]!;
      entry.terms.activations /= 2;
      entry.allocatedBytes -= entry.terms.activations;
      entry.reservedBytes = entry.allocatedBytes;
      expect(checkPlan(broken)).toEqual([]);
      expect(checkPlan(broken, inputs).some(({ field }) => field.includes("memory[1]"))).toBe(true);
    }
  });
});

describe("estimatePlan", () => {
  it("prices the plan as the search did, and again on another cluster", () => {
    expect(estimatePlan(plan, model, cluster).stepSeconds).toBeCloseTo(plan.estimate.stepSeconds, 12);
    for (const other of [folded, searched])
      expect(estimatePlan(other, model, cluster)).toEqual(other.estimate);
    const slower = estimatePlan(plan, model, clusterPreset("a100-80:8x2"));
    expect(slower.stepSeconds).toBeGreaterThan(plan.estimate.stepSeconds * 1.5);
  });
});
