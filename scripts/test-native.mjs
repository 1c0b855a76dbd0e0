#!/usr/bin/env node
// Configures, builds and runs the C++ tests with the address and undefined-behaviour sanitizers in
// build/native-test. Where there is no compiler it says so and exits 0: there is nothing that could be tested.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findCompiler, findProgram } from "./build-native.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = join(root, "build", "native-test");

function run(program, args, seconds, stdio = "inherit") {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd: root, stdio });
    const timer = setTimeout(() => {
      console.error(`Stopped ${program} after ${seconds} s.`);
      child.kill("SIGKILL");
    }, seconds * 1000);
    child.on("error", () => resolve(1));
    child.on("close", (code) => {
      clearTimeout(timer);
      resolve(code ?? 1);
    });
  });
}

/** Some compilers come without the sanitizers' run-time libraries. */
async function sanitizersWork(compiler) {
  const scratch = mkdtempSync(join(tmpdir(), "mpopt-"));
  try {
    const source = join(scratch, "empty.cpp");
    writeFileSync(source, "int main() { return 0; }\n");
    const flags = ["-fsanitize=address,undefined", source, "-o", join(scratch, "empty")];
    return (await run(compiler, flags, 60, "ignore")) === 0;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Leaves {passed, failed} where the caller of all tests looks for it. */
function writeCounts(report) {
  const wanted = process.env.MPOPT_TEST_RESULTS;
  if (!wanted || !existsSync(report)) return;
  const cases = readFileSync(report, "utf8").match(/<testcase\b[^>]*>/g) ?? [];
  const passed = cases.filter((each) => each.includes('status="run"')).length;
  writeFileSync(wanted, JSON.stringify({ passed, failed: cases.length - passed }));
}

const compiler = findCompiler();
const cmake = findProgram("cmake");
if (!compiler || !cmake || !findProgram("make", "ninja")) {
  console.log("Skipped the C++ tests: they need a C++ compiler, cmake and make or ninja.");
} else {
  const sanitize = await sanitizersWork(compiler);
  if (!sanitize) console.log("The compiler has no sanitizers; the C++ tests run without them.");
  const configure = ["-S", join(root, "native"), "-B", folder, `-DMPOPT_SANITIZE=${sanitize ? "ON" : "OFF"}`];
  configure.push("-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DMPOPT_TESTS=ON");
  if (findProgram("ninja")) configure.push("-G", "Ninja");
  const quiet = ["ignore", "ignore", "inherit"];
  let code = await run(cmake, configure, 120, quiet);
  if (code !== 0) {
    // A cache of another machine, compiler or generator: once from nothing.
    rmSync(folder, { recursive: true, force: true });
    code = await run(cmake, configure, 120, quiet);
  }
  if (code === 0) code = await run(cmake, ["--build", folder, "--parallel", "2"], 900);
  if (code === 0) {
    const report = join(folder, "results.xml");
    rmSync(report, { force: true });
    const options = ["--test-dir", folder, "--output-on-failure", "--output-junit", report];
    code = await run(findProgram("ctest") ?? "ctest", options, 600);
    writeCounts(report);
  }
  process.exitCode = code;
}
