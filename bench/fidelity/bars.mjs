// What predictions of measured runs should reach, in percent: mean absolute error of step times after a calibration on
// other runs of the same sources, regret of the chosen plan, memory.

/** By prefix of the runs' ids: the bar and the goal beyond it. */
export const timeBars = {
  VTS: [4.5, 3],
  VTM: [8, 5],
  SC21T1: [5, 3],
  SC21T2: [5, 3],
  KOR22: [5, 3],
  MPT: [10],
  NEMO: [12],
  DGXC: [12],
  MCOREH100: [12],
  AUTOM: [12],
  BLOOM: [8],
  INTERN: [8],
  ZB: [8],
};

/** Of every group, from presets alone. */
export const presetBar = 20;

/** Share of the rows that can be scored. */
export const coverageBar = 95;

export const regretBars = { VTS: 2, VTM: 1, BLOOM: 3 };

/** Mean absolute error of memory, and the goal beyond it. */
export const memoryBar = [5, 2];

/** Share of the runs that ran and are called infeasible; every run that ran out of memory must be. */
export const falseAlarmBar = 2;
