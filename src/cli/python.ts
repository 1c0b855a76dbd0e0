import { execFile } from "node:child_process";
import { findPython, type Python } from "../launch/python.js";

/** What mpopt wants to know of the user's Python beyond its version. */
export interface PythonFacts extends Python {
  /** Folders that packages are installed in. */
  sites: string[];
  /** PyTorch's library for the processor, which carries the BLAS that it multiplies with. */
  torchLibrary?: string;
  /** CUDA version that PyTorch was built for; null for a build without CUDA. */
  torchCuda?: string | null;
  /** Packages that plans are launched with → whether they can be imported. */
  launchers: Record<string, boolean>;
}

const question = `
import importlib.util, json, os, site, sysconfig
def found(name):
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:
        return False
facts = {
    "sites": sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}),
    "launchers": {name: found(name) for name in ("torch.distributed.run", "megatron.core", "deepspeed", "torchtitan", "accelerate")},
}
spec = importlib.util.find_spec("torch")
if spec and spec.submodule_search_locations:
    folder = spec.submodule_search_locations[0]
    library = os.path.join(folder, "lib", "libtorch_cpu.so")
    if os.path.exists(library):
        facts["torchLibrary"] = library
    # torch/version.py states the CUDA version without loading PyTorch.
    version = {}
    try:
        with open(os.path.join(folder, "version.py")) as file:
            exec(file.read(), version)
        facts["torchCuda"] = version.get("cuda")
    except Exception:
        pass
print(json.dumps(facts))
`;

/** Finds the user's Python and asks it; undefined where there is none. */
export async function pythonFacts(signal?: AbortSignal): Promise<PythonFacts | undefined> {
  const python = await findPython(process.env, signal);
  if (!python) return undefined;
  return await new Promise((resolve) => {
    execFile(python.executable, ["-c", question], { timeout: 30_000, signal }, (_error, stdout) => {
      const nothing = { ...python, sites: [], launchers: {} };
      try {
        resolve({ ...nothing, ...(JSON.parse(stdout) as Partial<PythonFacts>) });
      } catch {
        resolve(nothing);
      }
    });
  });
}
