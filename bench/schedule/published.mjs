// Published runs of one plan under several pipeline schedules (Qi et al., "Zero Bubble Pipeline Parallelism",
// ICLR 2024, table 4), predicted by the library's cost model and simulator. `library` holds the modules to use, so
// that the benchmark runs the build and the tests the sources.

/** Settings of the hardware that published runs do not say; they are fitted, one value for all rows. */
export const parameterNames = ["gemmShare", "memoryShare", "transferLatencySeconds"];

/** Rows of a CSV file without quotes. */
export function rowsOf(text) {
  const [head, ...lines] = text.trim().split("\n");
  const names = head.split(",");
  return lines.map((line) => {
    const cells = line.split(",");
    return Object.fromEntries(
      names.map((name, i) => [name, Number.isNaN(Number(cells[i])) ? cells[i] : Number(cells[i])]),
    );
  });
}

/**
 * A100 as a preset, with its curves scaled: matrix products and memory-bound kernels of a real training step reach a
 * share of what a benchmark reaches, and a transfer between stages costs both ranks a fixed time.
 */
function clusterOf(library, row, parameters) {
  const nodes = Math.ceil(row.pp / row.gpus_per_node);
  const cluster = structuredClone(library.clusterPreset(`a100-80:${row.gpus_per_node}x${nodes}`));
  for (const table of cluster.devices[0].compute) {
    const share = table.unit === "flop" ? parameters.gemmShare : parameters.memoryShare;
    for (const point of table.points) point.rate *= share;
    table.provenance = "fitted";
  }
  for (const { link } of cluster.topology.levels) {
    link.latencySeconds.value += parameters.transferLatencySeconds;
    link.latencySeconds.provenance = "fitted";
  }
  return cluster;
}

/** GPT of the paper's table 3: GPT-2's architecture, attention that writes its scores, dropout as by default. */
function modelOf(library, row) {
  const config = {
    model_type: "gpt2",
    n_layer: row.layers,
    n_embd: row.hidden,
    n_head: row.heads,
    n_positions: row.seq,
    vocab_size: 50304,
  };
  const kernels = { attention: "materialized", dropout: true };
  return library.importHuggingFace(config, row.model, { kernels });
}

/** Costs of the layers of a row's model. */
async function layersOf(library, row, parameters) {
  const cluster = clusterOf(library, row, parameters);
  const job = library.jobSchema.parse({
    schema: "mpopt.job/1",
    globalBatch: row.global_batch,
    sequence: row.seq,
  });
  const models = library.costModels(cluster, job);
  const configuration = {
    tensor: 1,
    pipeline: row.pp,
    data: 1,
    microBatch: row.micro_batch,
    microBatches: row.global_batch / row.micro_batch,
    sequenceParallel: false,
    recompute: "none",
    zero: 0,
  };
  const chain = await new library.LayerChains(modelOf(library, row), models).chain(configuration);
  const update = new library.UpdateCosts(configuration, models);
  return { chain, models, update, state: library.stateBytes(job) };
}

/** Times and bytes of every stage: equal parts, with one layer less where embedding and head are. */
function stagesOf({ chain, models, state }, row, chunks) {
  const stages = row.pp * chunks;
  const perStage = (row.layers + 2) / stages;
  const block = chain.blocks[0];
  const transfer = models.communication.transferSeconds(block.outputBytes, 1);
  return Array.from({ length: stages }, (_, s) => {
    const ends = [...(s === 0 ? chain.embedding : []), ...(s === stages - 1 ? chain.head : [])];
    const blocks = perStage - ends.filter((layer, i) => i === 0 || layer !== ends[0]).length;
    const layers = [...ends, ...new Array(blocks).fill(block)];
    const sum = (field) => layers.reduce((all, layer) => all + layer[field], 0);
    const weight = sum("backwardWeightSeconds");
    const parameters = sum("parameters");
    return {
      forward: sum("forwardSeconds") + (s < stages - 1 ? transfer : 0),
      input: sum("backwardSeconds") - weight + (s > 0 ? transfer : 0),
      weight,
      savedBytes: blocks * block.savedBytes.none,
      logitsBytes: sum("logitsBytes"),
      workspaceBytes: Math.max(...layers.map((layer) => layer.workspaceBytes)),
      parameters,
      stateBytes: parameters * (state.parameter + state.gradient + state.optimizer),
    };
  });
}

/** The paper's schedules: how they are made, what ends a step, and what ranks hold. */
const schedules = {
  "1F1B": { name: "1f1b", chunks: () => 1 },
  "1F1B-I": { name: "interleaved", chunks: (row) => (row.layers + 2) / row.pp },
  // Searched schedules within the activations of p and 2p micro-batches; as fast as the handcrafted ones (table 5).
  // Their optimizer does not wait for all ranks (section 4), so that a step is the longest rank's span.
  "ZB-1p": { name: "zb-h1", chunks: () => 1, heldMicroBatches: (row) => row.pp, unsynchronised: true },
  "ZB-2p": { name: "zb-h2", chunks: () => 1, heldMicroBatches: (row) => 2 * row.pp, unsynchronised: true },
};

/** Seconds of a step and GiB of the fullest device, without the driver's context, as PyTorch counts. */
function predictRow(library, row, costs) {
  const { name, chunks, heldMicroBatches, unsynchronised } = schedules[row.schedule];
  const stages = stagesOf(costs, row, chunks(row));
  const microBatches = row.global_batch / row.micro_batch;
  const table = library.scheduleByName(name, { ranks: row.pp, chunks: chunks(row), microBatches });
  const times = {
    forwardSeconds: stages.map((stage) => stage.forward),
    backwardInputSeconds: stages.map((stage) => stage.input),
    backwardWeightSeconds: stages.map((stage) => stage.weight),
  };
  const { stepSeconds, spanSeconds } = library.simulate(library.compileSchedule(table), times);
  const pipeline = unsynchronised ? spanSeconds : stepSeconds;
  const held = table.ranks.map((actions) => peakBytes(actions, stages));
  let update = 0;
  let bytes = 0;
  for (let rank = 0; rank < row.pp; rank++) {
    const own = stages.filter((_, s) => s % row.pp === rank);
    const total = (field) => own.reduce((sum, stage) => sum + stage[field], 0);
    const activations = heldMicroBatches ? heldMicroBatches(row) * total("savedBytes") : held[rank];
    const workspace = Math.max(...own.map((stage) => stage.workspaceBytes));
    bytes = Math.max(bytes, total("stateBytes") + activations + total("logitsBytes") + workspace);
    update = Math.max(update, costs.update.optimizer(total("parameters")));
  }
  return { stepSeconds: pipeline + update, memoryGiB: bytes / 2 ** 30 };
}

/** Most bytes between forwards and backwards on one rank. */
function peakBytes(actions, stages) {
  let now = 0;
  let most = 0;
  for (const { kind, stage } of actions) {
    if (kind === "forward") now += stages[stage].savedBytes;
    most = Math.max(most, now);
    if (kind === "backward" || kind === "backward-weight") now -= stages[stage].savedBytes;
  }
  return most;
}

/** All rows with predicted step and memory, and their errors. */
export async function predict(library, rows, parameters) {
  const known = new Map();
  const result = [];
  for (const row of rows) {
    const key = [
      row.layers,
      row.hidden,
      row.heads,
      row.seq,
      row.pp,
      row.micro_batch,
      row.global_batch,
    ].join();
    if (!known.has(key)) known.set(key, await layersOf(library, row, parameters));
    const { stepSeconds, memoryGiB } = predictRow(library, row, known.get(key));
    result.push({
      id: row.id,
      model: row.model,
      schedule: row.schedule,
      globalBatch: row.global_batch,
      stepSeconds,
      measuredSeconds: row.step_time_s,
      stepError: stepSeconds / row.step_time_s - 1,
      memoryGiB,
      measuredGiB: row.memory_GiB,
      memoryError: memoryGiB / row.memory_GiB - 1,
    });
  }
  return result;
}

/** Pairs of schedules of one setting that come out in the wrong order, of all pairs. */
export function misordered(predictions) {
  const wrong = [];
  let pairs = 0;
  predictions.forEach((a, i) => {
    for (const b of predictions.slice(i + 1)) {
      if (a.model !== b.model || a.globalBatch !== b.globalBatch) continue;
      pairs++;
      if ((a.stepSeconds - b.stepSeconds) * (a.measuredSeconds - b.measuredSeconds) <= 0)
        wrong.push([a.id, b.id]);
    }
  });
  return { wrong, pairs };
}

/** Least squares of the relative errors over a grid that is made finer twice; a wrong order counts as 4 %. */
export async function fitParameters(library, rows) {
  let best = { gemmShare: 0.9, memoryShare: 0.6, transferLatencySeconds: 4e-4 };
  let least = Number.POSITIVE_INFINITY;
  for (const step of [0.08, 0.04, 0.02]) {
    const centre = best;
    for (const gemm of [-2, -1, 0, 1, 2]) {
      for (const memory of [-2, -1, 0, 1, 2]) {
        for (const latency of [-2, -1, 0, 1, 2]) {
          const parameters = {
            gemmShare: centre.gemmShare * (1 + step * gemm),
            memoryShare: centre.memoryShare * (1 + 2 * step * memory),
            transferLatencySeconds: centre.transferLatencySeconds * (1 + 3 * step * latency),
          };
          const found = await predict(library, rows, parameters);
          const squares = found.reduce((sum, { stepError }) => sum + stepError ** 2, 0);
          const loss = squares + 0.04 ** 2 * misordered(found).wrong.length;
          if (loss >= least) continue;
          least = loss;
          best = parameters;
        }
      }
    }
  }
  return best;
}
