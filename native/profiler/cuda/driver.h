#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../dynamic_library.h"

namespace mpopt::cuda {

// The part of the CUDA driver's C interface that is used, declared here so that no NVIDIA header is needed to
// build. Names, values and layouts are those of the published driver interface (CUDA 12 and 13).
using Result = int;
using Device = int;
using Context = struct ContextOpaque*;
using Stream = struct StreamOpaque*;
using Event = struct EventOpaque*;
using DevicePointer = std::uint64_t;

constexpr Result success = 0;
constexpr Result notReady = 600;
constexpr Result noDevice = 100;
constexpr Result stubLibrary = 34;

/// CUdevice_attribute.
enum class Attribute : int {
  clockKilohertz = 13,
  multiprocessors = 16,
  memoryClockKilohertz = 36,
  l2Bytes = 38,
  computeCapabilityMajor = 75,
  computeCapabilityMinor = 76,
};

/// The driver library with its entry points; the ones with a version in their name are looked up under it.
struct Driver {
  std::unique_ptr<DynamicLibrary> library;
  /// CUDA version that the driver supports, 1000 * major + 10 * minor.
  int version = 0;

  Result (*init)(unsigned flags);
  Result (*driverGetVersion)(int*);
  Result (*getErrorName)(Result, const char**);
  Result (*deviceGetCount)(int*);
  Result (*deviceGet)(Device*, int ordinal);
  Result (*deviceGetName)(char*, int length, Device);
  Result (*deviceTotalMem)(std::size_t*, Device);
  Result (*deviceGetAttribute)(int*, int attribute, Device);
  Result (*deviceGetPciBusId)(char*, int length, Device);
  Result (*primaryRetain)(Context*, Device);
  Result (*primaryRelease)(Device);
  Result (*setCurrent)(Context);
  Result (*memAlloc)(DevicePointer*, std::size_t);
  Result (*memFree)(DevicePointer);
  Result (*memGetInfo)(std::size_t* free, std::size_t* total);
  Result (*copyToDevice)(DevicePointer, const void*, std::size_t);
  Result (*copyToHost)(void*, DevicePointer, std::size_t);
  Result (*copyOnDevice)(DevicePointer to, DevicePointer from, std::size_t, Stream);
  Result (*streamCreate)(Stream*, unsigned flags);
  Result (*streamDestroy)(Stream);
  Result (*eventCreate)(Event*, unsigned flags);
  Result (*eventRecord)(Event, Stream);
  Result (*eventQuery)(Event);
  Result (*eventElapsed)(float* milliseconds, Event start, Event end);
  Result (*eventDestroy)(Event);

  /// Throws BackendError with the driver's own name of the error.
  void check(Result result, const char* what) const;
};

/// Folders in which CUDA libraries are looked for before the system's own search: MPOPT_CUDA_LIB_DIR, the
/// wheels under each folder of MPOPT_PYTHON_SITE, CONDA_PREFIX, CUDA_HOME and CUDA_PATH.
std::vector<std::string> libraryFolders();

/// Version of the NCCL that the framework would load, and its file; empty where none is found.
std::string ncclVersion();

/// Opens and initialises the driver.
/// Throws BackendError when there is no driver, an unusable one, or no device.
std::unique_ptr<Driver> openDriver();

}  // namespace mpopt::cuda
