/**
 * The timeline's part of the page's script, plain ECMAScript: draws what is in view on a canvas, zooms, moves, and
 * names the action under the pointer or the one that the keyboard chose.
 */
export const timelineScript = `(() => {
"use strict";
const find = (id) => document.getElementById("timeline-" + id);
const [view, strip, canvas, readout, block] = ["view", "strip", "canvas", "readout", "data"].map(find);
if (!block) return;
const data = JSON.parse(block.textContent);
const pen = canvas.getContext("2d");
document.documentElement.classList.add("scripted");

const letters = ["f", "b", "i", "w"];
const names = ["forward", "backward", "backward of the input", "backward of the weights"];
let shortest = data.ticks;
const rows = data.rows.map((row) => {
  const starts = [], ends = [], codes = [];
  let at = 0;
  for (let i = 0; i < row.events.length; i += 3) {
    at += row.events[i];
    starts.push(at);
    ends.push(at + row.events[i + 1]);
    codes.push(row.events[i + 2]);
    if (row.events[i + 1] > 0) shortest = Math.min(shortest, row.events[i + 1]);
  }
  return { ...row, starts, ends, codes };
});
// 1 and 2 for the upper and the lower of two actions side by side.
const half = ({ starts, ends }, i) => {
  const beside = (k) => starts[k] === starts[i] && ends[k] === ends[i] && ends[i] > starts[i];
  return beside(i + 1) ? 1 : beside(i - 1) ? 2 : 0;
};

// Seconds with a chosen resolution, in the unit that fits.
const units = [["s", 1], ["ms", 1e-3], ["\\u00b5s", 1e-6], ["ns", 1e-9]];
const time = (seconds, resolution, largest = Math.max(seconds, resolution)) => {
  if (seconds === 0) return "0 s";
  const [unit, size] = units.find(([, size]) => largest >= size) ?? units[3];
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(resolution / size))));
  return (seconds / size).toFixed(digits) + " " + unit;
};
const secondsOf = (ticks) => ticks * data.seconds / data.ticks;

let colors;
const readColors = () => {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue("--" + name).trim();
  colors = { fill: [], label: [] };
  letters.forEach((letter, kind) => {
    colors.fill[kind] = data.shades.map((shade) => value(letter + shade));
    colors.label[kind] = data.shades.map((shade) => value(letter + shade + "-ink"));
  });
  for (const name of ["idle", "muted", "ink"]) colors[name] = value(name);
  colors.sync = value("time-gradientSynchronisation");
  colors.step = value("time-optimizer");
};

let zoom = 1;
let chosen = null;
// Zoomed in fully, the shortest action is 60 pixels wide; layout engines have a largest width.
const maximumZoom = () => Math.max(1, Math.min(60 * data.ticks / shortest, 4e6) / view.clientWidth);
const firstAfter = (list, value) => {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
};

const axisHeight = 24;
const height = rows.length * data.rowHeight;
const draw = () => {
  const width = view.clientWidth;
  const dots = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * dots) || canvas.height !== Math.round((height + axisHeight) * dots)) {
    canvas.width = Math.round(width * dots);
    canvas.height = Math.round((height + axisHeight) * dots);
    canvas.style.width = width + "px";
    canvas.style.height = height + axisHeight + "px";
  }
  pen.setTransform(dots, 0, 0, dots, 0, 0);
  pen.clearRect(0, 0, width, height + axisHeight);
  const perPixel = data.ticks / (width * zoom);
  const from = view.scrollLeft * perPixel;
  const to = from + width * perPixel;
  const x = (ticks) => (ticks - from) / perPixel;
  const thickness = data.rowHeight - data.gap;
  const family = getComputedStyle(document.body).fontFamily;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  rows.forEach((row, r) => {
    const top = r * data.rowHeight;
    pen.fillStyle = colors.idle;
    pen.fillRect(0, top, width, thickness);
    if (row.steady) {
      pen.globalAlpha = 0.45;
      pen.fillStyle = colors.muted;
      pen.fillRect(x(row.steady[0]), top, x(row.steady[1]) - x(row.steady[0]), thickness);
      pen.globalAlpha = 1;
    }
    for (let i = firstAfter(row.ends, from); i < row.starts.length && row.starts[i] <= to; i++) {
      const code = row.codes[i];
      const kind = code & 3, chunk = Math.floor((code >> 2) / data.microBatches);
      const left = x(row.starts[i]), long = x(row.ends[i]) - left;
      const part = half(row, i);
      const y = part === 2 ? top + thickness / 2 : top;
      const tall = part ? thickness / 2 : thickness;
      pen.fillStyle = colors.fill[kind][chunk];
      pen.fillRect(left, y, Math.max(0.3, long > 4 ? long - 0.8 : long), tall);
      const label = String((code >> 2) % data.microBatches);
      if (tall < 9 || long < 6 + 6.5 * label.length) continue;
      pen.fillStyle = colors.label[kind][chunk];
      pen.font = (tall < 12 ? 9 : 11) + "px " + family;
      pen.fillText(label, left + long / 2, y + tall / 2 + 0.5);
    }
  });
  for (const { kind, start, end } of data.tail) {
    pen.fillStyle = colors[kind];
    pen.fillRect(x(start), 0, x(end) - x(start), height - data.gap);
  }
  if (chosen) {
    const { r, i } = chosen;
    const part = half(rows[r], i);
    const left = x(rows[r].starts[i]);
    pen.strokeStyle = colors.ink;
    pen.lineWidth = 1.5;
    pen.strokeRect(left, r * data.rowHeight + (part === 2 ? thickness / 2 : 0),
      Math.max(1, x(rows[r].ends[i]) - left), part ? thickness / 2 : thickness);
  }
  drawAxis(width, perPixel, from, to, x, family);
};

const drawAxis = (width, perPixel, from, to, x, family) => {
  const rough = secondsOf(Math.min(110, width / 3) * perPixel);
  if (!(rough > 0)) return;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((n) => n * power >= rough);
  pen.font = "11px " + family;
  pen.fillStyle = colors.muted;
  for (let i = Math.max(0, Math.floor(secondsOf(from) / step)); i * step <= Math.min(secondsOf(to), data.seconds); i++) {
    const at = x(i * step / data.seconds * data.ticks);
    pen.fillRect(at, height, 1, 5);
    pen.textAlign = i === 0 ? "left" : (1 - i * step / data.seconds) * data.ticks / perPixel < 30 ? "right" : "center";
    pen.fillText(i === 0 ? "0" : time(i * step, step, Math.min(data.seconds, 9e3 * step)), at, height + 15);
  }
};

let pending = false;
const redraw = () => {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; draw(); });
};

// Keeps the point under \`pixel\` of the view where it is.
const setZoom = (next, pixel = view.clientWidth / 2) => {
  next = Math.max(1, Math.min(maximumZoom(), next));
  const share = (view.scrollLeft + pixel) / (view.clientWidth * zoom);
  zoom = next;
  strip.style.width = zoom * 100 + "%";
  view.scrollLeft = share * view.clientWidth * zoom - pixel;
  redraw();
};

const describe = (r, i) => {
  const row = rows[r];
  const code = row.codes[i] >> 2;
  const chunk = Math.floor(code / data.microBatches);
  const length = secondsOf(row.ends[i] - row.starts[i]);
  return "Rank " + row.rank + " \\u00b7 " + names[row.codes[i] & 3] + " of micro-batch " + code % data.microBatches +
    " \\u00b7 stage " + row.stages[chunk] + (data.chunks > 1 ? ", chunk " + chunk : "") +
    " \\u00b7 starts at " + time(secondsOf(row.starts[i]), data.seconds / 1e5) + ", takes " + time(length, length / 1000) +
    (half(row, i) ? ", side by side with another" : "");
};
const choose = (r, i) => {
  chosen = { r, i };
  const left = rows[r].starts[i] / data.ticks * view.clientWidth * zoom;
  const right = rows[r].ends[i] / data.ticks * view.clientWidth * zoom;
  if (left < view.scrollLeft || right > view.scrollLeft + view.clientWidth) {
    view.scrollLeft = left - view.clientWidth / 4;
  }
  readout.textContent = describe(r, i);
  redraw();
};
const moveTo = (down, along) => {
  const middle = (view.scrollLeft + view.clientWidth / 2) / (view.clientWidth * zoom) * data.ticks;
  const r = chosen ? Math.max(0, Math.min(rows.length - 1, chosen.r + down)) : 0;
  const near = chosen ? rows[chosen.r].starts[chosen.i] : middle;
  const i = chosen && !down ? chosen.i + along : firstAfter(rows[r].ends, near + 1);
  if (rows[r].starts.length) choose(r, Math.max(0, Math.min(rows[r].starts.length - 1, i)));
};

const actions = {
  in: () => setZoom(zoom * 1.6), out: () => setZoom(zoom / 1.6), fit: () => setZoom(1),
  up: () => moveTo(-1, 0), down: () => moveTo(1, 0), previous: () => moveTo(0, -1), next: () => moveTo(0, 1),
};
for (const button of document.querySelectorAll("[data-zoom]")) {
  button.addEventListener("click", actions[button.dataset.zoom]);
}
const keys = { "+": "in", "=": "in", "-": "out", _: "out", 0: "fit", ArrowUp: "up", ArrowDown: "down", "[": "previous", "]": "next" };
view.addEventListener("keydown", (event) => {
  const action = keys[event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  actions[action]();
});
view.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  setZoom(zoom * 1.2 ** (-event.deltaY / 60), event.clientX - view.getBoundingClientRect().left);
}, { passive: false });
view.addEventListener("scroll", redraw);

// A mouse drags the drawing; fingers scroll it natively.
let dragged = null;
canvas.addEventListener("pointerdown", (event) => {
  if (event.pointerType !== "mouse" || event.button !== 0) return;
  dragged = { x: event.clientX, left: view.scrollLeft };
  canvas.setPointerCapture(event.pointerId);
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { dragged = null; });

const hint = "Point at an action to read it. Zoom with + and \\u2212, or with Ctrl and the wheel; drag to move.";
canvas.addEventListener("pointermove", (event) => {
  if (dragged) {
    view.scrollLeft = dragged.left + dragged.x - event.clientX;
    return;
  }
  const box = canvas.getBoundingClientRect();
  const tick = (view.scrollLeft + event.clientX - box.left) / (view.clientWidth * zoom) * data.ticks;
  const down = event.clientY - box.top;
  const r = Math.floor(down / data.rowHeight);
  const row = rows[r];
  if (!row) return;
  let i = firstAfter(row.ends, tick);
  if (i < row.starts.length && row.starts[i] <= tick) {
    if (half(row, i) === 1 && down - r * data.rowHeight > (data.rowHeight - data.gap) / 2) i++;
    chosen = { r, i };
    readout.textContent = describe(r, i);
    redraw();
    return;
  }
  chosen = null;
  redraw();
  const after = data.tail.find(({ start, end }) => start <= tick && tick < end);
  const before = i > 0 ? row.ends[i - 1] : 0;
  const gap = i < row.starts.length ? row.starts[i] - before : 0;
  const steady = row.steady && row.steady[0] <= tick && tick < row.steady[1];
  const what = after ? after.label : steady ? row.steady[2] + " actions, not drawn"
    : gap > 0 ? "idle for " + time(secondsOf(gap), secondsOf(gap) / 100) : "idle";
  readout.textContent = "Rank " + row.rank + " \\u00b7 " + time(secondsOf(tick), data.seconds / 1e4) + " \\u00b7 " + what;
});
canvas.addEventListener("pointerleave", () => {
  chosen = null;
  readout.textContent = hint;
  redraw();
});
readout.textContent = hint;
addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); redraw(); });
readColors();
draw();
})();
`;
