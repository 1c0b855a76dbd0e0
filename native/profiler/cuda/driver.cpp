#include "driver.h"

#include <cstdlib>
#include <sstream>

#include "mpopt/profiler.h"

namespace mpopt::cuda {
namespace {

/// The oldest CUDA whose cuBLASLt this code knows.
constexpr int oldestMajor = 12;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

template <class Function>
void load(const DynamicLibrary& library, Function& function, const char* name) {
  function = reinterpret_cast<Function>(library.symbol(name));
  if (!function) {
    throw BackendError("The NVIDIA driver library " + library.path() + " has no " + name +
                       ", so it is not one that mpopt knows; install a driver for CUDA 12 or newer.");
  }
}

}  // namespace

void Driver::check(Result result, const char* what) const {
  if (result == success) return;
  const char* name = nullptr;
  if (getErrorName(result, &name) != success || !name) name = "an unknown error";
  throw BackendError(std::string("The NVIDIA driver answered ") + name + " (" + std::to_string(result) + ") to " +
                     what + ".");
}

std::vector<std::string> libraryFolders() {
  std::vector<std::string> folders;
  if (const std::string folder = environment("MPOPT_CUDA_LIB_DIR"); !folder.empty()) folders.push_back(folder);
  std::istringstream sites(environment("MPOPT_PYTHON_SITE"));
  for (std::string site; std::getline(sites, site, ':');) {
    if (site.empty()) continue;
    // CUDA 13 wheels share one folder; CUDA 12 wheels have one a library.
    folders.push_back(site + "/nvidia/cu13/lib");
    folders.push_back(site + "/nvidia/cublas/lib");
    folders.push_back(site + "/nvidia/nccl/lib");
  }
  if (const std::string prefix = environment("CONDA_PREFIX"); !prefix.empty()) folders.push_back(prefix + "/lib");
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const std::string home = environment(name); !home.empty()) folders.push_back(home + "/lib64");
  }
  return folders;
}

std::string ncclVersion() {
  const auto library = DynamicLibrary::find(libraryFolders(), {"libnccl.so.2"});
  if (!library) return "";
  const auto getVersion = reinterpret_cast<int (*)(int*)>(library->symbol("ncclGetVersion"));
  int version = 0;
  if (!getVersion || getVersion(&version) != 0) return "";
  return std::to_string(version) + " from " + library->path();
}

std::unique_ptr<Driver> openDriver() {
  auto driver = std::make_unique<Driver>();
  std::string error;
  // The driver belongs to the system; only an explicit folder comes before it. A toolkit's folder may hold a
  // stub of it that answers nothing.
  std::vector<std::string> folders;
  if (const std::string folder = environment("MPOPT_CUDA_LIB_DIR"); !folder.empty()) folders.push_back(folder);
  driver->library = DynamicLibrary::find(folders, {"libcuda.so.1"}, &error);
  if (!driver->library) {
    throw BackendError("No NVIDIA driver was found (" + error + "); install one, or profile the processor instead.");
  }
  const DynamicLibrary& library = *driver->library;
  load(library, driver->init, "cuInit");
  load(library, driver->driverGetVersion, "cuDriverGetVersion");
  load(library, driver->getErrorName, "cuGetErrorName");
  load(library, driver->deviceGetCount, "cuDeviceGetCount");
  load(library, driver->deviceGet, "cuDeviceGet");
  load(library, driver->deviceGetName, "cuDeviceGetName");
  load(library, driver->deviceTotalMem, "cuDeviceTotalMem_v2");
  load(library, driver->deviceGetAttribute, "cuDeviceGetAttribute");
  load(library, driver->deviceGetPciBusId, "cuDeviceGetPCIBusId");
  load(library, driver->primaryRetain, "cuDevicePrimaryCtxRetain");
  load(library, driver->primaryRelease, "cuDevicePrimaryCtxRelease_v2");
  load(library, driver->setCurrent, "cuCtxSetCurrent");
  load(library, driver->memAlloc, "cuMemAlloc_v2");
  load(library, driver->memFree, "cuMemFree_v2");
  load(library, driver->memGetInfo, "cuMemGetInfo_v2");
  load(library, driver->copyToDevice, "cuMemcpyHtoD_v2");
  load(library, driver->copyToHost, "cuMemcpyDtoH_v2");
  load(library, driver->copyOnDevice, "cuMemcpyDtoDAsync_v2");
  load(library, driver->streamCreate, "cuStreamCreate");
  load(library, driver->streamDestroy, "cuStreamDestroy_v2");
  load(library, driver->eventCreate, "cuEventCreate");
  load(library, driver->eventRecord, "cuEventRecord");
  load(library, driver->eventQuery, "cuEventQuery");
  load(library, driver->eventElapsed, "cuEventElapsedTime");
  load(library, driver->eventDestroy, "cuEventDestroy_v2");

  driver->check(driver->driverGetVersion(&driver->version), "cuDriverGetVersion");
  if (driver->version / 1000 < oldestMajor) {
    throw BackendError("Expected an NVIDIA driver for CUDA 12 or newer but found one for CUDA " +
                       std::to_string(driver->version / 1000) + "." + std::to_string(driver->version % 1000 / 10) +
                       "; update the driver.");
  }
  const Result initialised = driver->init(0);
  int count = 0;
  if (initialised == success) driver->check(driver->deviceGetCount(&count), "cuDeviceGetCount");
  if (initialised == noDevice || initialised == stubLibrary || (initialised == success && count == 0)) {
    throw BackendError("The NVIDIA driver is installed but sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES.");
  }
  driver->check(initialised, "cuInit");
  return driver;
}

}  // namespace mpopt::cuda
