// A planner as a service, on loopback: POST /plans with {"model", "cluster", "globalBatch", "sequence"}, presets by
// name. The answer is a stream of JSON lines: {"progress"} while the search runs, then {"plan"} or {"error"}. A
// client that goes away ends its search. GET / says how many searches run.
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";
import { clusterPreset, loadModel, MpoptError, plan, presetNames } from "mpopt";

const mostAtOnce = 4;
const mostBodyBytes = 65536;

/** The service, not listening yet. */
export function createService() {
  let running = 0;
  return createServer(async (request, response) => {
    if (request.method === "GET" && request.url === "/") return answer(response, 200, { running });
    if (request.method !== "POST" || request.url !== "/plans") {
      return answer(response, 404, { error: { message: "Expected GET / or POST /plans." } });
    }
    if (running >= mostAtOnce) {
      return answer(response, 503, {
        error: { message: `${running} searches run already; ask again later.` },
      });
    }
    running++;
    const stop = new AbortController();
    response.on("close", () => stop.abort());
    const say = (line) => response.write(`${JSON.stringify(line)}\n`);
    try {
      const inputs = planInputs(await readJson(request));
      response.writeHead(200, { "content-type": "application/x-ndjson" });
      const onProgress = (progress) => say({ progress });
      say({ plan: await plan({ ...inputs, signal: stop.signal, onProgress }) });
    } catch (error) {
      if (!(error instanceof MpoptError)) throw error;
      const { code, message, notes } = error;
      if (!response.headersSent) response.writeHead(400, { "content-type": "application/x-ndjson" });
      say({ error: { code, message, notes } });
    } finally {
      running--;
      response.end();
    }
  });
}

function answer(response, status, document) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(`${JSON.stringify(document)}\n`);
}

async function readJson(request) {
  let text = "";
  for await (const chunk of request) {
    text += chunk;
    if (text.length > mostBodyBytes) {
      throw new MpoptError("E_USAGE", `Expected a body of at most ${mostBodyBytes} bytes but found more.`);
    }
  }
  try {
    return JSON.parse(text);
  } catch {
    throw new MpoptError("E_PARSE", "Expected a body of JSON but found none.");
  }
}

/** Presets alone: a service opens no file because a client names it. */
function planInputs({ model, cluster, globalBatch, sequence, runtime }) {
  if (!presetNames.includes(model)) {
    throw new MpoptError("E_USAGE", `Expected the name of a preset for the model but found ${model}.`);
  }
  const job = { globalBatch, sequence, ...(runtime === undefined ? {} : { runtime }) };
  return { model: loadModel(model), cluster: clusterPreset(String(cluster)), job };
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const service = createService();
  service.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () => {
    console.log(`http://127.0.0.1:${service.address().port}`);
  });
}
