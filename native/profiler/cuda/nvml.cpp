#include "nvml.h"

#include <cstdlib>

namespace mpopt::cuda {
namespace {

struct Memory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

/// nvmlClockType_t.
constexpr int clockSm = 1;
constexpr int clockMemory = 2;

template <class... Arguments>
bool ask(const DynamicLibrary& library, const char* name, Arguments... arguments) {
  using Function = int (*)(Arguments...);
  const auto function = reinterpret_cast<Function>(library.symbol(name));
  return function && function(arguments...) == 0;
}

}  // namespace

Nvml::Nvml() {
  std::vector<std::string> folders;
  if (const char* folder = std::getenv("MPOPT_CUDA_LIB_DIR"); folder && *folder) folders.emplace_back(folder);
  library_ = DynamicLibrary::find(folders, {"libnvidia-ml.so.1"});
  if (library_ && !ask(*library_, "nvmlInit_v2")) library_.reset();
}

Nvml::~Nvml() {
  if (library_) ask(*library_, "nvmlShutdown");
}

std::string Nvml::driverVersion() const {
  char version[96] = {};
  if (!library_ || !ask<char*, unsigned>(*library_, "nvmlSystemGetDriverVersion", version, sizeof version)) return "";
  return version;
}

void* Nvml::device(const std::string& pciBusId) const {
  void* handle = nullptr;
  if (!library_ || !ask<const char*, void**>(*library_, "nvmlDeviceGetHandleByPciBusId_v2", pciBusId.c_str(), &handle)) {
    return nullptr;
  }
  return handle;
}

std::map<std::string, double> Nvml::state(const std::string& pciBusId) const {
  std::map<std::string, double> values;
  void* const handle = device(pciBusId);
  if (!handle) return values;
  unsigned number = 0;
  if (ask<void*, int, unsigned*>(*library_, "nvmlDeviceGetClockInfo", handle, clockSm, &number)) {
    values["smClockHertz"] = number * 1e6;
  }
  if (ask<void*, int, unsigned*>(*library_, "nvmlDeviceGetMaxClockInfo", handle, clockSm, &number)) {
    values["smMaximumClockHertz"] = number * 1e6;
  }
  if (ask<void*, int, unsigned*>(*library_, "nvmlDeviceGetClockInfo", handle, clockMemory, &number)) {
    values["memoryClockHertz"] = number * 1e6;
  }
  if (ask<void*, unsigned*>(*library_, "nvmlDeviceGetPowerManagementLimit", handle, &number)) {
    values["powerLimitWatts"] = number / 1e3;
  }
  return values;
}

double Nvml::usedBytes(const std::string& pciBusId) const {
  void* const handle = device(pciBusId);
  Memory memory{};
  if (!handle || !ask<void*, Memory*>(*library_, "nvmlDeviceGetMemoryInfo", handle, &memory)) return -1;
  return static_cast<double>(memory.used);
}

}  // namespace mpopt::cuda
