// @ts-check
// The solver's worker thread: it runs HiGHS and the kernel, one task at a time, and keeps what it loaded for
// the next task. Plain JavaScript, so that it starts the same from src/ (tests) and from dist/.
import { readFile } from "node:fs/promises";
import { parentPort } from "node:worker_threads";

if (!parentPort) throw new Error("worker.mjs must run in a worker thread.");
const port = parentPort;

/** @typedef {import("./protocol.js").KernelTask} KernelTask */
/** @typedef {import("./protocol.js").KernelReply} KernelReply */
/** @typedef {import("./protocol.js").MilpTask} MilpTask */
/** @typedef {import("./protocol.js").MilpReply} MilpReply */
/** @typedef {import("./protocol.js").Progress} Progress */

/** @param {Progress} progress */
const report = (progress) => port.postMessage({ progress });

/** @type {Promise<import("highs").Highs> | undefined} */
let highsLoaded;

/** @param {MilpTask} task @returns {Promise<MilpReply>} */
async function solveMilp(task) {
  highsLoaded ??= import("highs").then((module) => module.default());
  const highs = await highsLoaded;
  const model = highs.createModel({
    numCols: task.columns,
    numRows: task.rows,
    colCost: task.costs,
    colLower: new Float64Array(task.columns),
    colUpper: new Float64Array(task.columns).fill(1),
    rowLower: task.rowLower,
    rowUpper: task.rowUpper,
    integrality: task.integrality,
    matrix: {
      format: "csr",
      numRows: task.rows,
      numCols: task.columns,
      starts: task.starts,
      indices: task.indices,
      values: task.values,
    },
  });
  try {
    model.options.set({
      output_flag: false,
      random_seed: task.seed,
      time_limit: task.seconds,
      mip_rel_gap: task.gap,
      mip_abs_gap: 0,
      mip_feasibility_tolerance: 1e-9,
      primal_feasibility_tolerance: 1e-9,
    });
    if (task.start) model.setSolution({ colValue: task.start });
    /** @type {Float64Array | undefined} */
    let incumbent;
    const { callbackType, modelStatus } = highs.constants;
    model.run({
      [callbackType.mipImprovingSolution]({ data }) {
        incumbent = data.mip_solution;
        if (incumbent) report({ solution: incumbent, bound: data.mip_dual_bound ?? -Infinity });
      },
      [callbackType.mipLogging]({ data }) {
        report({ bound: data.mip_dual_bound ?? -Infinity });
      },
    });
    const status = model.getModelStatus();
    const values = model.getSolution().colValue;
    if (status === modelStatus.optimal) incumbent = values;
    const bound = Number(model.info.get("mip_dual_bound"));
    return {
      status:
        status === modelStatus.optimal
          ? "optimal"
          : status === modelStatus.infeasible
            ? "infeasible"
            : "limit",
      solution: incumbent,
      bound: Number.isFinite(bound) ? bound : -Infinity,
    };
  } finally {
    model.dispose();
  }
}

/** @type {Promise<WebAssembly.Module> | undefined} */
let kernelCompiled;

/**
 * A fresh instance a task: linear memory never shrinks, and an instance costs a fraction of a millisecond.
 * @param {string} path
 */
async function kernelInstance(path) {
  kernelCompiled ??= readFile(path).then((bytes) => WebAssembly.compile(bytes));
  const instance = await WebAssembly.instantiate(await kernelCompiled, {
    env: {
      now: () => performance.now() / 1000,
      report: (/** @type {number} */ objective, /** @type {number} */ bound) => report({ objective, bound }),
    },
    // Only the C library's abort message can reach these; EBADF (8) makes it give up and trap.
    wasi_snapshot_preview1: { fd_close: () => 8, fd_seek: () => 8, fd_write: () => 8 },
  });
  const exports = /** @type {any} */ (instance.exports);
  exports._initialize();
  return exports;
}

/** @param {KernelTask} task @returns {Promise<KernelReply>} */
async function runKernel(task) {
  const kernel = await kernelInstance(task.wasm);
  /** @param {number} bytes */
  const allocate = (bytes) => {
    const block = kernel.mpopt_allocate(Math.max(bytes, 8)) >>> 0;
    if (block === 0) throw new Error("The kernel has no memory left.");
    return block;
  };
  /** @param {Int32Array | Float64Array} values */
  const write = (values) => {
    const block = allocate(values.byteLength);
    new Uint8Array(kernel.memory.buffer, block, values.byteLength).set(
      new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    );
    return block;
  };
  const { counts, costs, usages, intervals, ends, tables } = task;
  const blocks = [counts, costs, usages, intervals, ends, tables].map(write);
  const solver = kernel.mpopt_create(counts.length, ends.length / 2, ...blocks, task.usageLimit) >>> 0;
  for (const block of blocks) kernel.mpopt_free(block);
  const assignment = allocate(counts.byteLength);
  const result = allocate(48);
  const { seconds, gap, searchNodes, tableEntries } = task;
  kernel.mpopt_run(solver, seconds, gap, searchNodes, tableEntries, assignment, result);
  // mpopt_result of mpopt/solver.h: int32 status, variables; double objective, bound; int64 nodes, entries;
  // int32 exact_tables, time_steps.
  const view = new DataView(kernel.memory.buffer, result, 48);
  const status = /** @type {const} */ (["optimal", "feasible", "infeasible", "unknown"])[
    view.getInt32(0, true)
  ];
  if (!status) throw new Error("The kernel returned an unknown status.");
  return {
    status,
    variables: view.getInt32(4, true),
    objective: view.getFloat64(8, true),
    bound: view.getFloat64(16, true),
    searchNodes: Number(view.getBigInt64(24, true)),
    tableEntries: Number(view.getBigInt64(32, true)),
    exactTables: view.getInt32(40, true) === 1,
    timeSteps: view.getInt32(44, true),
    assignment:
      status === "optimal" || status === "feasible"
        ? new Int32Array(kernel.memory.buffer, assignment, counts.length).slice()
        : undefined,
    core:
      task.wantCore && (status === "feasible" || status === "unknown")
        ? readCore(kernel, solver, counts.length)
        : undefined,
  };
}

/**
 * mpopt_core of mpopt/solver.h on wasm32: four int32, one double, nine pointers, four int64.
 * @param {any} kernel @param {number} solver @param {number} nodes @returns {import("./protocol.js").Core}
 */
function readCore(kernel, solver, nodes) {
  const memory = kernel.memory.buffer;
  const at = kernel.mpopt_core_of(solver) >>> 0;
  const view = new DataView(memory, at, 96);
  const [variables, edges, uses, steps] = [0, 4, 8, 12].map((offset) => view.getInt32(offset, true));
  const pointer = (/** @type {number} */ index) => view.getUint32(24 + 4 * index, true);
  const entries = [0, 1, 2, 3].map((index) => Number(view.getBigInt64(64 + 8 * index, true)));
  const ints = (/** @type {number} */ index, /** @type {number} */ length) =>
    length === 0 ? new Int32Array() : new Int32Array(memory, pointer(index), length).slice();
  const doubles = (/** @type {number} */ index, /** @type {number} */ length) =>
    length === 0 ? new Float64Array() : new Float64Array(memory, pointer(index), length).slice();
  return {
    constant: view.getFloat64(16, true),
    counts: ints(0, variables),
    costs: doubles(1, entries[0]),
    ends: ints(2, 2 * edges),
    tables: doubles(3, entries[1]),
    uses: ints(4, 3 * uses),
    usages: doubles(5, entries[2]),
    limits: doubles(6, steps),
    nodeVariables: ints(7, nodes),
    nodeStrategies: ints(8, entries[3]),
  };
}

port.on("message", async (/** @type {{ milp?: MilpTask, kernel?: KernelTask }} */ task) => {
  try {
    const reply = task.milp
      ? await solveMilp(task.milp)
      : task.kernel
        ? await runKernel(task.kernel)
        : undefined;
    port.postMessage({ reply });
  } catch (error) {
    port.postMessage({ failure: error instanceof Error ? error.message : String(error) });
  }
});
