import { LinearProgram, solveProgram } from "../../solver/linearProgram.js";
import type { Budget } from "./dnnPartitioningBudget.js";
import type { PlacementProblem } from "./dnnPartitioningProblem.js";

/** Beyond this many columns HiGHS in WASM nears the end of its memory. */
const maximumColumns = 150_000;

export interface MilpOutcome {
  /** Every placement whose load is below the ceiling loads some device at least this much. */
  bound: number;
  /** No placement has a load below the ceiling. */
  closed: boolean;
}

/**
 * The placement as a mixed-integer program: x[b,d] is 1 where block b is on device d, and y[n,d] in [0, 1] is
 * 1 where accelerator d holds some but not all of net n, forced by y[n,d] >= x[b,d] - x[c,d] around the ring
 * of the net's blocks: where they differ, one of these differences is 1. Devices are told apart by the blocks
 * of most time: the i-th such block is on one of the first i + 1 accelerators, or on a processor.
 */
export async function solvePlacementMilp(
  problem: PlacementProblem,
  ceiling: number,
  options: {
    gap: number;
    budget: Budget;
    start?: ArrayLike<number>;
    onPlacement: (deviceOf: Int32Array) => void;
    onBound: (bound: number) => void;
  },
): Promise<MilpOutcome> {
  const { blocks, nets, acceleratorMs, processorMs, bytes, memoryBytes, devices, processors } = problem;
  const count = devices + processors;
  if ((blocks.length + nets.length) * count > maximumColumns) return { bound: 0, closed: false };
  const program = new LinearProgram();
  const load = program.column(1, false);
  const order = [...blocks.keys()].sort((a, b) => size(b) - size(a) || a - b);
  function size(block: number): number {
    return Number.isFinite(acceleratorMs[block]!) ? acceleratorMs[block]! : -1;
  }
  const rank = new Int32Array(blocks.length);
  for (const [at, block] of order.entries()) rank[block] = at;
  const loads: [number, number][][] = Array.from({ length: count }, () => [[load, -1]]);
  const held: [number, number][][] = Array.from({ length: devices }, () => []);
  const x: number[][] = [];
  for (const block of blocks.keys()) {
    x[block] = [];
    for (let device = 0; device < count; device++) {
      const time = device < devices ? acceleratorMs[block]! : processorMs[block]!;
      const open = time < ceiling && (device >= devices || device <= rank[block]!);
      const column = open ? program.column(0, true) : -1;
      x[block].push(column);
      if (!open) continue;
      loads[device]!.push([column, time / ceiling]);
      if (device < devices) held[device]!.push([column, bytes[block]! / memoryBytes]);
    }
    const row = x[block].filter((column) => column >= 0).map((column): [number, number] => [column, 1]);
    if (row.length === 0) return { bound: ceiling, closed: true };
    program.row(row, 1, 1);
  }
  const y: number[][] = nets.map(() => []);
  for (const [net, { cost, members }] of nets.entries()) {
    for (let device = 0; device < devices; device++) {
      const column = program.column(0, false);
      y[net]!.push(column);
      loads[device]!.push([column, cost / ceiling]);
      for (const [i, block] of members.entries()) {
        const [here, next] = [x[block]![device]!, x[members[(i + 1) % members.length]!]![device]!];
        if (here < 0) continue;
        const row: [number, number][] = [
          [column, 1],
          [here, -1],
        ];
        if (next >= 0) row.push([next, 1]);
        program.row(row, 0, Number.POSITIVE_INFINITY);
      }
    }
  }
  for (const row of loads) program.row(row, Number.NEGATIVE_INFINITY, 0);
  if (memoryBytes < Number.POSITIVE_INFINITY) {
    for (const row of held) program.row(row, Number.NEGATIVE_INFINITY, 1);
  }

  const read = (solution: Float64Array) =>
    Int32Array.from(x, (columns) => {
      let chosen = 0;
      for (const [device, column] of columns.entries()) {
        if (column >= 0 && solution[column]! > (solution[columns[chosen]!] ?? -1)) chosen = device;
      }
      return chosen;
    });
  let bound = 0;
  const raise = (found: number) => {
    // HiGHS works to tolerances; so much of its bound is given away.
    if (found <= 0) return;
    bound = Math.max(bound, found * ceiling * (1 - 1e-8));
    options.onBound(bound);
  };
  const answer = await solveProgram(program, {
    seconds: Math.max(0.1, options.budget.left()),
    gap: options.gap,
    signal: options.budget.signal,
    start: options.start && startValues(),
    onProgress: (progress) => {
      raise(progress.bound);
      if (progress.solution) options.onPlacement(read(progress.solution));
    },
  });
  raise(answer.bound);
  if (answer.solution) options.onPlacement(read(answer.solution));
  return { bound, closed: answer.status === "infeasible" };

  /** The given placement, its accelerators renumbered in the order of their largest blocks. */
  function startValues(): Float64Array {
    const start = options.start!;
    const values = new Float64Array(program.columns);
    const number = new Map<number, number>();
    for (const block of order) {
      const device = start[block]!;
      if (device < devices && !number.has(device)) number.set(device, number.size);
    }
    const renumbered = (block: number) => {
      const device = start[block]!;
      return device < devices ? number.get(device)! : device;
    };
    for (const block of blocks.keys()) {
      const column = x[block]![renumbered(block)]!;
      if (column >= 0) values[column] = 1;
    }
    for (const [net, { members }] of nets.entries()) {
      const homes = new Set(members.map(renumbered));
      if (homes.size > 1) for (const device of homes) if (device < devices) values[y[net]![device]!] = 1;
    }
    values[load] = 1;
    return values;
  }
}
