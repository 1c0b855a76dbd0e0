#include "cublaslt.h"

#include "mpopt/profiler.h"

namespace mpopt::cuda {
namespace {

template <class Function>
void load(const DynamicLibrary& library, Function& function, const char* name) {
  function = reinterpret_cast<Function>(library.symbol(name));
  if (!function) throw BackendError("The library " + library.path() + " has no " + name + ".");
}

void check(Status status, const char* what) {
  if (status == 0) return;
  throw BackendError(std::string("cuBLASLt answered status ") + std::to_string(status) + " to " + what + ".");
}

}  // namespace

std::unique_ptr<CublasLt> openCublasLt(int driverVersion) {
  // A library of a newer major than the driver's CUDA does not run; an older one does.
  std::vector<std::string> sonames;
  if (driverVersion >= 13000) sonames.push_back("libcublasLt.so.13");
  sonames.push_back("libcublasLt.so.12");
  std::string error;
  auto library = std::make_unique<CublasLt>();
  library->library = DynamicLibrary::find(libraryFolders(), sonames, &error);
  if (!library->library) {
    throw BackendError("No cuBLASLt for CUDA " + std::to_string(driverVersion / 1000) + " was found (" + error +
                       "); install PyTorch with CUDA, or set MPOPT_CUDA_LIB_DIR to the folder that holds " +
                       sonames.front() + ".");
  }
  const DynamicLibrary& file = *library->library;
  load(file, library->getVersion, "cublasLtGetVersion");
  load(file, library->create, "cublasLtCreate");
  load(file, library->destroy, "cublasLtDestroy");
  load(file, library->descriptorCreate, "cublasLtMatmulDescCreate");
  load(file, library->descriptorSet, "cublasLtMatmulDescSetAttribute");
  load(file, library->descriptorDestroy, "cublasLtMatmulDescDestroy");
  load(file, library->layoutCreate, "cublasLtMatrixLayoutCreate");
  load(file, library->layoutDestroy, "cublasLtMatrixLayoutDestroy");
  load(file, library->preferenceCreate, "cublasLtMatmulPreferenceCreate");
  load(file, library->preferenceSet, "cublasLtMatmulPreferenceSetAttribute");
  load(file, library->preferenceDestroy, "cublasLtMatmulPreferenceDestroy");
  load(file, library->heuristic, "cublasLtMatmulAlgoGetHeuristic");
  load(file, library->matmul, "cublasLtMatmul");
  library->version = library->getVersion();
  return library;
}

LinearProduct::LinearProduct(const CublasLt& library, DataType type, ComputeType compute, std::uint64_t m,
                             std::uint64_t n, std::uint64_t k, std::size_t workspaceBytes)
    : library_(library) {
  CublasLt::Preference preference = nullptr;
  try {
    check(library.create(&handle_), "cublasLtCreate");
    check(library.descriptorCreate(&descriptor_, static_cast<int>(compute), static_cast<int>(DataType::f32)),
          "cublasLtMatmulDescCreate");
    // Column-major: y' (n x m) = w (n x k, stored as k x n) * x' (k x m).
    const Operation transpose = Operation::transpose;
    const Operation none = Operation::none;
    check(library.descriptorSet(descriptor_, static_cast<int>(DescriptorAttribute::transposeA), &transpose,
                                sizeof transpose),
          "set the first operand's transposition");
    check(library.descriptorSet(descriptor_, static_cast<int>(DescriptorAttribute::transposeB), &none, sizeof none),
          "set the second operand's transposition");
    const int element = static_cast<int>(type);
    check(library.layoutCreate(&w_, element, k, n, static_cast<std::int64_t>(k)), "cublasLtMatrixLayoutCreate");
    check(library.layoutCreate(&x_, element, k, m, static_cast<std::int64_t>(k)), "cublasLtMatrixLayoutCreate");
    check(library.layoutCreate(&y_, element, n, m, static_cast<std::int64_t>(n)), "cublasLtMatrixLayoutCreate");
    check(library.preferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const std::uint64_t limit = workspaceBytes;
    check(library.preferenceSet(preference, static_cast<int>(PreferenceAttribute::maximumWorkspaceBytes), &limit,
                                sizeof limit),
          "set the workspace limit");
    int found = 0;
    check(library.heuristic(handle_, descriptor_, w_, x_, y_, y_, preference, 1, &choice_, &found),
          "cublasLtMatmulAlgoGetHeuristic");
    if (found == 0) throw BackendError("cuBLASLt has no algorithm for this shape.");
    check(choice_.state, "the chosen algorithm");
    library.preferenceDestroy(preference);
  } catch (...) {
    if (preference) library.preferenceDestroy(preference);
    release();
    throw;
  }
}

LinearProduct::~LinearProduct() { release(); }

void LinearProduct::release() {
  for (const CublasLt::Layout layout : {w_, x_, y_}) {
    if (layout) library_.layoutDestroy(layout);
  }
  if (descriptor_) library_.descriptorDestroy(descriptor_);
  if (handle_) library_.destroy(handle_);
}

void LinearProduct::enqueue(DevicePointer x, DevicePointer w, DevicePointer y, DevicePointer workspace,
                            Stream stream) const {
  const float one = 1;
  const float zero = 0;
  const auto address = [](DevicePointer pointer) { return reinterpret_cast<void*>(pointer); };
  check(library_.matmul(handle_, descriptor_, &one, address(w), w_, address(x), x_, &zero, address(y), y_, address(y),
                        y_, &choice_.algorithm, address(workspace), choice_.workspaceBytes, stream),
        "cublasLtMatmul");
}

}  // namespace mpopt::cuda
