// All checks: types, lint and format, schemas, vitest, CTest. The last line is `N passed, N failed`.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const bin = (path) => join(root, "node_modules", path);
const results = join(root, "build", "test");
let passed = 0;
let failed = 0;

function run(title, args, options = {}) {
  console.log(`\n== ${title}`);
  const done = spawnSync(process.execPath, args, { cwd: root, stdio: "inherit", ...options });
  return done.status === 0;
}

function check(title, ...args) {
  if (run(title, args)) passed++;
  else failed++;
}

mkdirSync(results, { recursive: true });
check("Types", bin("typescript/bin/tsc"), "-p", "tsconfig.json", "--noEmit");
check("Lint and format", bin("@biomejs/biome/bin/biome"), "check", ".");
check("Schemas", join(root, "scripts/schemas.mjs"), "--check");

const vitest = join(results, "vitest.json");
rmSync(vitest, { force: true });
run("Tests in TypeScript and Python", [
  bin("vitest/vitest.mjs"),
  "run",
  "--reporter=default",
  "--reporter=json",
  `--outputFile.json=${vitest}`,
]);
if (existsSync(vitest)) {
  const { numPassedTests, numFailedTests, numFailedTestSuites, numTotalTests } = JSON.parse(
    readFileSync(vitest, "utf8"),
  );
  passed += numPassedTests;
  // A file that does not load has no tests to fail.
  failed += numFailedTests || (numFailedTestSuites > 0 || numTotalTests === 0 ? 1 : 0);
} else failed++;

const native = join(results, "native.json");
rmSync(native, { force: true });
const nativeHeld = run("Tests in C++", [join(root, "scripts/test-native.mjs")], {
  env: { ...process.env, MPOPT_TEST_RESULTS: native },
});
if (existsSync(native)) {
  const counts = JSON.parse(readFileSync(native, "utf8"));
  passed += counts.passed;
  failed += counts.failed;
} else if (!nativeHeld) failed++;

console.log(`\n${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
