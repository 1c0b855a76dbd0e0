#include "mpopt/profiler.h"

namespace mpopt {

std::unique_ptr<Backend> makeBackend(const std::string& name) {
  if (name == "cpu") return makeCpuBackend();
  if (name == "cuda") return makeCudaBackend();
  throw BackendError("Expected the backend cpu or cuda but found " + name + ".");
}

}  // namespace mpopt
