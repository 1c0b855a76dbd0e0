// Runs the addon in a process of its own: node run.cjs ADDON ACTION [REQUEST]. A driver that crashes takes only
// this process with it. Answers over the IPC channel: {progress}, then {report} or {error, loaded}.
"use strict";

const [, , addonPath, action, request] = process.argv;
let loaded = false;

function send(message, done) {
  process.send(message, undefined, undefined, done ?? (() => {}));
}

// The parent went away: nobody wants the answer any more.
process.on("disconnect", () => process.exit(0));

async function main() {
  const addon = require(addonPath);
  if (typeof addon.list !== "function" || typeof addon.profile !== "function") {
    throw new Error("it is not the addon of mpopt");
  }
  loaded = true;
  if (action === "load") return "{}";
  const options = JSON.parse(request);
  if (action === "list") return addon.list(options.backend);
  return addon.profile(options, (fraction, message) => send({ progress: { fraction, message } }));
}

main().then(
  (report) => send({ report }, () => process.exit(0)),
  (error) => send({ error: String(error?.message ?? error), loaded }, () => process.exit(1)),
);
