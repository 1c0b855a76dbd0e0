/** The memory curves' part of the page's script: reads the curve under the pointer. */
export const memoryScript = `(() => {
"use strict";
const block = document.getElementById("memory-data");
if (!block) return;
const data = JSON.parse(block.textContent);
const readout = document.getElementById("memory-readout");
const hint = "Point at a curve to read it.";
const gib = (mebibytes) => (mebibytes / 1024).toFixed(1) + " GiB";
const time = (seconds) => {
  const [unit, size] = [["s", 1], ["ms", 1e-3], ["\\u00b5s", 1e-6]].find(([, size]) => data.seconds >= size) ?? ["ns", 1e-9];
  return (seconds / size).toPrecision(4) + " " + unit;
};
readout.textContent = hint;
for (const chart of document.querySelectorAll("[data-curve]")) {
  const { rank, runs } = data.curves[chart.dataset.curve];
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    let at = Math.floor(share * (data.buckets - 1));
    let i = 0;
    while (i + 3 < runs.length && at >= runs[i]) { at -= runs[i]; i += 3; }
    readout.textContent = "Rank " + rank + " \\u00b7 " + time(share * data.seconds) + " \\u00b7 " + gib(runs[i + 1]) +
      " allocated, " + gib(runs[i + 2]) + " of it activations";
  });
  chart.addEventListener("pointerleave", () => { readout.textContent = hint; });
}
})();
`;
