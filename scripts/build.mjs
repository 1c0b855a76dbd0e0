// Builds everything that a checkout needs: TypeScript, the JSON Schemas, the WASM kernel, the native addon.
// `npm ci` runs it as its last step. Only the addon may be missing afterwards: it needs a compiler.
import { spawnSync } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");

function run(command, ...args) {
  const done = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  if (done.error) throw done.error;
  if (done.status !== 0) process.exit(done.status ?? 1);
}

/** Files that the compiler leaves alone: worker entries and Python templates. */
function copyAssets(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) copyAssets(path);
    else if (/\.(mjs|py)$/.test(entry.name)) {
      const target = join(root, "dist", relative(join(root, "src"), path));
      mkdirSync(dirname(target), { recursive: true });
      cpSync(path, target);
    }
  }
}

rmSync(join(root, "dist"), { recursive: true, force: true });
run(process.execPath, join(root, "node_modules/typescript/bin/tsc"), "-p", "tsconfig.build.json");
copyAssets(join(root, "src"));
chmodSync(join(root, "dist/cli/main.js"), 0o755);
run(process.execPath, join(root, "scripts/schemas.mjs"));
for (const step of ["build-wasm.mjs", "build-native.mjs"]) {
  const script = join(root, "scripts", step);
  if (existsSync(script)) run(process.execPath, script);
}
