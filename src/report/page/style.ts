import { actionShades, memoryColors, timeColors, waitColors } from "./colors.js";

const variables = (theme: "light" | "dark") =>
  [
    ...Object.entries(timeColors).map(([term, color]) => `--time-${term}:${color[theme]}`),
    ...Object.entries(memoryColors).map(([term, color]) => `--memory-${term}:${color[theme]}`),
    ...Object.entries(waitColors).map(([cause, color]) => `--wait-${cause}:${color[theme]}`),
    ...actionShades(theme).map(({ name, color, ink }) => `--${name}:${color};--${name}-ink:${ink}`),
  ].join(";");

const light = `
  --page:#f6f6f3; --surface:#ffffff; --ink:#1b1f24; --muted:#666d75; --line:#e3e3de; --soft:#f1f1ed;
  --idle:#ebebe6; --accent:#2f5b9c; --good:#2c7a57; --warn:#9a6412; --bad:#b3392f;
  --good-soft:#e3f1ea; --warn-soft:#f7ecd9; --bad-soft:#f8e3e0; ${variables("light")}`;
const dark = `
  --page:#15171a; --surface:#1d2024; --ink:#e8e9ea; --muted:#9aa1a9; --line:#31353b; --soft:#262a2f;
  --idle:#282c31; --accent:#8db4ea; --good:#6cc49a; --warn:#e0ae62; --bad:#ee8a7f;
  --good-soft:#1f352b; --warn-soft:#3a2f1d; --bad-soft:#402522; ${variables("dark")}`;

const termRules = [
  ...Object.keys(timeColors).map((term) => `.time-${term}{fill:var(--time-${term})}`),
  ...Object.keys(memoryColors).map((term) => `.memory-${term}{fill:var(--memory-${term})}`),
  ...Object.keys(waitColors).map((cause) => `.wait-${cause}{fill:var(--wait-${cause})}`),
  ...actionShades("light").map(({ name }) => `.${name}{fill:none;stroke:var(--${name})}`),
].join("\n");

/** The page's only style sheet. No style attributes: the page's policy forbids them. */
export const style = `
:root{color-scheme:light dark;${light}}
@media (prefers-color-scheme:dark){:root{${dark}}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.55 Inter,ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:break-word}
main,header,footer{max-width:1160px;margin:0 auto;padding:0 28px}
header{padding-top:44px}
.eyebrow{display:flex;gap:10px;align-items:center;color:var(--muted);font-size:13px;letter-spacing:.02em;margin:0 0 6px}
h1{font-size:32px;line-height:1.2;letter-spacing:-.02em;font-weight:650;margin:0}
h1 span{color:var(--muted);font-weight:400}
.degrees{display:flex;flex-wrap:wrap;gap:6px 8px;margin:16px 0 0;padding:0;list-style:none;font-size:13.5px}
.degrees li{background:var(--surface);border:1px solid var(--line);border-radius:6px;padding:2px 10px}
.degrees b{font-weight:600}
.cards{display:grid;grid-template-columns:repeat(6,minmax(0,1fr));margin:28px 0 0;padding:0;background:var(--surface);border:1px solid var(--line);border-radius:12px;overflow:hidden}
.cards>div{padding:18px 18px 16px;border-left:1px solid var(--line);margin-left:-1px}
.cards dt{color:var(--muted);font-size:12.5px}
.cards dd{margin:0}
.cards .value{font-size:23px;line-height:1.3;font-weight:620;letter-spacing:-.015em;margin-top:3px}
.cards .value.text{font-size:17px;line-height:22px;padding:4px 0;letter-spacing:-.01em}
.cards .detail{color:var(--muted);font-size:12.5px;line-height:1.4;margin-top:4px}
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}
.lead{margin:18px 2px 0;max-width:104ch;color:var(--ink)}
.lead span{color:var(--muted)}
.tag{display:inline-block;border-radius:99px;padding:0 9px;font-size:12px;line-height:20px;font-weight:550;background:var(--soft);color:var(--muted)}
.tag.measured,.tag.optimal{background:var(--good-soft);color:var(--good)}
.tag.fitted,.tag.assumed,.tag.feasible{background:var(--warn-soft);color:var(--warn)}
.tag.infeasible{background:var(--bad-soft);color:var(--bad)}
section{background:var(--surface);border:1px solid var(--line);border-radius:12px;padding:24px 26px 26px;margin:20px 0 0}
h2{font-size:18px;line-height:1.3;font-weight:620;letter-spacing:-.01em;margin:0}
.note{color:var(--muted);font-size:13.5px;margin:4px 0 0;max-width:112ch}
.head{display:flex;justify-content:space-between;align-items:flex-start;gap:8px 20px;margin-bottom:16px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th{font-weight:500;color:var(--muted);text-align:left;font-size:12.5px}
thead th{border-bottom:1px solid var(--line);padding:0 12px 7px 0;vertical-align:bottom}
td,tbody th{padding:6px 12px 6px 0;border-bottom:1px solid var(--soft);vertical-align:middle}
tbody th{color:var(--ink);font-size:13.5px}
tbody tr:last-child>*{border-bottom:0}
.number{text-align:right;white-space:nowrap}
tr>:last-child{padding-right:0}
.number+:not(.number){padding-left:20px}
.quiet{color:var(--muted)}
.strong{font-weight:620}
code,.mono{font:12.5px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
code,dd,h1,.degrees li{overflow-wrap:anywhere}
.compact td,.compact tbody th{padding-top:1px;padding-bottom:1px;font-size:13px}
.compact .bar{height:12px}
svg{display:block}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;list-style:none;margin:0;padding:0;font-size:12.5px;color:var(--muted)}
.legend li{display:flex;align-items:center;gap:6px}
.legend.above{margin-bottom:16px}
.keyed{display:inline-flex;vertical-align:middle;align-items:center;gap:9px}
.swatch{width:11px;height:11px;flex:none}
.bar{width:100%;height:16px}
.bar.thick{height:26px;margin-bottom:16px}
.track{fill:var(--idle)}
.limit{fill:var(--bad)}
.reserved{fill:var(--muted);opacity:.38}
.wide{width:56%}
#waits .wide{width:46%;min-width:150px}
#waits .sentence{white-space:nowrap}
${termRules}
.timeline{display:grid;grid-template-columns:auto minmax(0,1fr) auto}
.ranks text,.axis text{font:11px Inter,ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;font-variant-numeric:tabular-nums}
.ranks text,.axis text{fill:var(--muted)}
.ranks.left text{text-anchor:end}
.axis text{text-anchor:middle}
.axis .first{text-anchor:start}.axis .last{text-anchor:end}
.axis line{stroke:var(--muted);opacity:.6}
.view{overflow-x:auto;overflow-y:hidden;border-radius:4px;scrollbar-width:thin}
.view:focus-visible,button:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.strip{position:relative;width:100%}
.lane{fill:var(--idle)}
.steady,.sync,.step{fill:none}
.steady{stroke:var(--muted);opacity:.45}
.sync{stroke:var(--time-gradientSynchronisation)}.step{stroke:var(--time-optimizer)}
#timeline-canvas{position:sticky;left:0;cursor:crosshair}
.scripted #timeline-canvas{display:block}
@media screen{.scripted #timeline-drawing,.scripted #timeline-axis{display:none}}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:14px 22px}
figure{margin:0}
figcaption{display:flex;justify-content:space-between;font-size:12.5px;margin-bottom:4px}
figcaption span+span:not(.bad){color:var(--muted)}
.charts svg{width:100%;height:72px}
.limit-line{fill:none;stroke:var(--bad);stroke-width:1.5px;vector-effect:non-scaling-stroke}
.peak{fill:none;stroke:var(--ink);stroke-width:7px;stroke-linecap:round;vector-effect:non-scaling-stroke}
.controls{flex:none;gap:6px;align-items:center}
button{font:inherit;font-size:13px;line-height:1;color:var(--ink);background:var(--surface);border:1px solid var(--line);border-radius:6px;padding:6px 10px;cursor:pointer}
button:hover{background:var(--soft)}
.readout{min-height:21px;margin:8px 0 0;font-size:13px;color:var(--muted)}
.needs-script{display:none}
.scripted .needs-script{display:flex}
details{margin-top:14px}
summary{cursor:pointer;color:var(--muted);font-size:13.5px}
details[open] summary{margin-bottom:10px}
dl.facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:6px 22px;margin:0;font-size:13.5px}
dl.facts dt{color:var(--muted)}
dl.facts dd{margin:0}
footer{color:var(--muted);font-size:12.5px;padding-top:20px;padding-bottom:44px}
@media (max-width:1000px){.cards{grid-template-columns:repeat(3,minmax(0,1fr))}.cards>div{border-bottom:1px solid var(--line);margin-bottom:-1px}}
@media (max-width:640px){.head{flex-wrap:wrap}main,header,footer{padding-left:16px;padding-right:16px}.cards{grid-template-columns:repeat(2,minmax(0,1fr))}section{padding:18px 16px 20px}h1{font-size:25px}.wide{width:40%}}
@media print{
:root{${light}}
@page{margin:14mm}
body{background:#fff;font-size:11pt;-webkit-print-color-adjust:exact;print-color-adjust:exact}
main,header,footer{padding:0;max-width:none}header{padding-top:0}
section,.cards{border-radius:0;break-inside:avoid}
section{border-width:1px 0 0;padding:14px 0;margin:10px 0 0}
section.long{break-inside:auto}
tr{break-inside:avoid}
.scripted .needs-script.controls,.scripted .needs-script.readout,.scripted #timeline-canvas{display:none}
figure{break-inside:avoid}
.view{overflow:hidden}
.view .strip{width:100%!important}
}
`;
