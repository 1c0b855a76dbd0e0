/**
 * The page's only script, plain ECMAScript in one function: zoom, move, and name the action under the pointer.
 * Without it the page shows the same timeline at its full length.
 */
export const script = `(() => {
"use strict";
const find = (id) => document.getElementById(id);
const [view, strip, drawing, labels, axis, readout, block] =
  ["view", "strip", "drawing", "labels", "axis", "readout", "data"].map((name) => find("timeline-" + name));
if (!block) return;
const data = JSON.parse(block.textContent);
const namespace = drawing.namespaceURI;
document.documentElement.classList.add("scripted");

const rows = data.rows.map((row) => {
  const starts = [], ends = [], codes = [];
  let at = 0;
  for (let i = 0; i < row.events.length; i += 2) {
    const code = row.events[i + 1];
    const stage = Math.floor((code >> 1) / data.microBatches);
    at += row.events[i];
    starts.push(at);
    ends.push(at + (code & 1 ? data.backward : data.forward)[stage]);
    codes.push(code);
  }
  return { rank: row.rank, starts, ends, codes };
});

// Seconds with a chosen resolution, in the unit that fits.
const units = [["s", 1], ["ms", 1e-3], ["\\u00b5s", 1e-6], ["ns", 1e-9]];
const time = (seconds, resolution, largest = Math.max(seconds, resolution)) => {
  if (seconds === 0) return "0 s";
  const [unit, size] = units.find(([, size]) => largest >= size) ?? units[3];
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(resolution / size))));
  return (seconds / size).toFixed(digits) + " " + unit;
};
const secondsOf = (ticks) => ticks * data.seconds / data.ticks;

let zoom = 1;
const shortest = Math.min(...data.forward.concat(data.backward).filter((n) => n > 0), data.ticks);
// Zoomed in fully, the shortest action is 60 pixels wide; layout engines want less than a million pixels.
const maximumZoom = () => Math.max(1, Math.min(60 * data.ticks / shortest, 400000) / view.clientWidth);

// Where actions are narrow, alternating shades only flicker.
const typical = (data.forward.concat(data.backward).reduce((sum, n) => sum + n, 0)) / (2 * data.forward.length);

const node = (parent, name, attributes, text) => {
  const made = document.createElementNS(namespace, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
};

const firstAfter = (list, value) => {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
};

// Numbers and ticks of what is in view, and half a view to either side.
const decorate = () => {
  const width = view.clientWidth * zoom;
  const perPixel = data.ticks / width;
  drawing.classList.toggle("dense", typical / perPixel < 6);
  const from = (view.scrollLeft - view.clientWidth / 2) * perPixel;
  const to = (view.scrollLeft + view.clientWidth * 1.5) * perPixel;
  labels.replaceChildren();
  if (data.rowHeight >= 14) {
    rows.forEach((row, r) => {
      const y = r * data.rowHeight + (data.rowHeight - data.gap) / 2 + 4;
      for (let i = firstAfter(row.ends, from); i < row.starts.length && row.starts[i] <= to; i++) {
        const label = String((row.codes[i] >> 1) % data.microBatches);
        if ((row.ends[i] - row.starts[i]) / perPixel < 6 + 6.5 * label.length) continue;
        const x = 100 * (row.starts[i] + row.ends[i]) / 2 / data.ticks + "%";
        node(labels, "text", { x, y, class: row.codes[i] & 1 ? "b" : "f" }, label);
      }
    });
  }
  axis.replaceChildren();
  const rough = secondsOf(Math.min(110, view.clientWidth / 3) * perPixel);
  if (!(rough > 0)) return;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((n) => n * power >= rough);
  for (let i = Math.max(0, Math.floor(secondsOf(from) / step)); i * step <= Math.min(secondsOf(to), data.seconds); i++) {
    const share = i * step / data.seconds;
    const x = 100 * share + "%";
    const place = i === 0 ? "first" : (1 - share) * width < 30 ? "last" : "inner";
    node(axis, "line", { x1: x, x2: x, y1: 0, y2: 5 });
    node(axis, "text", { x, y: 19, class: place }, i === 0 ? "0" : time(i * step, step, Math.min(data.seconds, 9e3 * step)));
  }
};

// Keeps the point under \`pixel\` of the view where it is.
const setZoom = (next, pixel = view.clientWidth / 2) => {
  next = Math.max(1, Math.min(maximumZoom(), next));
  const share = (view.scrollLeft + pixel) / (view.clientWidth * zoom);
  zoom = next;
  strip.style.width = zoom * 100 + "%";
  view.scrollLeft = share * view.clientWidth * zoom - pixel;
  decorate();
};

const actions = { in: () => setZoom(zoom * 1.6), out: () => setZoom(zoom / 1.6), fit: () => setZoom(1) };
for (const button of document.querySelectorAll("[data-zoom]")) {
  button.addEventListener("click", actions[button.dataset.zoom]);
}
view.addEventListener("keydown", (event) => {
  const action = { "+": "in", "=": "in", "-": "out", _: "out", 0: "fit" }[event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  actions[action]();
});
view.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  setZoom(zoom * 1.2 ** (-event.deltaY / 60), event.clientX - view.getBoundingClientRect().left);
}, { passive: false });
let pending = false;
view.addEventListener("scroll", () => {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; decorate(); });
});

const hint = "Point at an action to read it. Zoom with + and \\u2212, or with Ctrl and the wheel.";
drawing.addEventListener("pointermove", (event) => {
  const box = drawing.getBoundingClientRect();
  const tick = (event.clientX - box.left) / box.width * data.ticks;
  const row = rows[Math.floor((event.clientY - box.top) / data.rowHeight)];
  if (!row) return;
  const i = firstAfter(row.ends, tick);
  if (i >= row.starts.length || row.starts[i] > tick) {
    const before = i > 0 ? row.ends[i - 1] : 0;
    const gap = i < row.starts.length ? row.starts[i] - before : 0;
    const idle = gap > 0 ? " \\u00b7 idle for " + time(secondsOf(gap), secondsOf(gap) / 100) : "";
    readout.textContent = "Rank " + row.rank + " \\u00b7 " + time(secondsOf(tick), data.seconds / 1e4) + idle;
    return;
  }
  const code = row.codes[i] >> 1;
  const length = secondsOf(row.ends[i] - row.starts[i]);
  readout.textContent = "Rank " + row.rank + " \\u00b7 stage " + Math.floor(code / data.microBatches) +
    " \\u00b7 " + (row.codes[i] & 1 ? "backward" : "forward") + " of micro-batch " + code % data.microBatches +
    " \\u00b7 starts at " + time(secondsOf(row.starts[i]), data.seconds / 1e5) + ", takes " + time(length, length / 1000);
});
drawing.addEventListener("pointerleave", () => { readout.textContent = hint; });
readout.textContent = hint;
addEventListener("resize", decorate);
decorate();
})();
`;
