import { attentionShare } from "../../dist/cluster/kernelShares.js";
import { attentionConstants, attentionSeconds } from "../../dist/cost/attention.js";
import { fitParameters, summary } from "./fit.mjs";
import { attentionRows, devices } from "./rows.mjs";

/** Seconds by the model. `rate` scales the forward and the backward pass; `gap` is what a benchmark adds to each. */
const priced =
  (constants, { forward = 1, backward = 1, gap = 0 } = {}) =>
  (row) => {
    const device = devices[row.gpu];
    const rate = row.shape.backward ? backward : forward;
    const roofs = { ...device, flopsPerSecond: device.flopsPerSecond * attentionShare * rate };
    const added = row.shape.backward ? 0 : gap;
    return (
      attentionSeconds(row.shape, row.flops, row.bytes, roofs, { ...attentionConstants, ...constants }) +
      added
    );
  };

const unpack = ({ backwardShare, rampForward, rampBackward, wideForward, wideBackward }) => ({
  backwardShare,
  ramp: [rampForward, rampBackward],
  wide: [wideForward, wideBackward],
});
const ranges = {
  backwardShare: [0.5, 1],
  rampForward: [0, 2],
  rampBackward: [0, 2],
  wideForward: [0, 1],
  wideBackward: [0, 1],
  forward: [0.7, 1.3],
};
const start = {
  backwardShare: attentionConstants.backwardShare,
  rampForward: attentionConstants.ramp[0],
  rampBackward: attentionConstants.ramp[1],
  wideForward: attentionConstants.wide[0],
  wideBackward: attentionConstants.wide[1],
  forward: 1,
};

export function attention(rows) {
  const all = attentionRows(rows);
  const a100 = all.filter((row) => row.gpu.startsWith("A100"));
  const b200 = all.filter((row) => row.gpu.startsWith("B200"));
  const lines = [];
  const add = (what, over, predict, parameters) =>
    lines.push({ what, ...summary(over, predict), ...(parameters ? { parameters } : {}) });
  add("A100, shipped constants", a100, priced({}));
  for (const backward of [false, true]) {
    const some = a100.filter((row) => row.shape.backward === backward);
    add(`A100, shipped constants, ${backward ? "backward" : "forward"}`, some, priced({}));
  }
  const own = fitParameters(
    a100,
    start,
    ranges,
    (all) => priced(unpack(all), { forward: all.forward, backward: all.forward }),
    3000,
  );
  add(
    "A100, constants fitted to it again",
    a100,
    priced(unpack(own), { forward: own.forward, backward: own.forward }),
    own,
  );
  add("B200, shipped constants", b200, priced({}));
  const gap = fitParameters(b200, { gap: 5e-5 }, { gap: [0, 2e-4] }, (all) => priced({}, all), 150);
  add("B200, shipped constants, a gap before each forward pass", b200, priced({}, gap), gap);
  const rates = fitParameters(
    b200,
    { forward: 1, backward: 0.9, gap: 5e-5 },
    { forward: [0.6, 1.3], backward: [0.6, 1.3], gap: [0, 2e-4] },
    (all) => priced({}, all),
    400,
  );
  add("B200, shipped constants, gap and one rate a pass", b200, priced({}, rates), rates);
  return { lines };
}
