#include "processor.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>
#include <thread>

#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

namespace mpopt::cpu {
namespace {

std::string firstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// Value of the first line of a "key : value" file whose key is one of the given.
std::string field(const std::string& path, std::initializer_list<const char*> keys) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    const auto keyEnd = line.find_last_not_of(" \t", colon - 1);
    const std::string key = line.substr(0, keyEnd == std::string::npos ? 0 : keyEnd + 1);
    for (const char* wanted : keys) {
      if (key != wanted) continue;
      const auto begin = line.find_first_not_of(" \t", colon + 1);
      return begin == std::string::npos ? "" : line.substr(begin);
    }
  }
  return "";
}

/// "32K" or "16384K" or "32M" in bytes; 0 where it is something else.
double cacheBytes(const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  if (end == text.c_str()) return 0;
  if (*end == 'K') return number * 1024;
  if (*end == 'M') return number * 1024 * 1024;
  return number;
}

void readCaches(Processor& processor) {
  double last = 0;
  for (int index = 0; index < 8; ++index) {
    const std::string folder =
        "/sys/devices/system/cpu/cpu" + std::to_string(processor.cores.front()) + "/cache/index" + std::to_string(index);
    const std::string level = firstLine(folder + "/level");
    const double bytes = cacheBytes(firstLine(folder + "/size"));
    if (level.empty() || bytes <= 0 || firstLine(folder + "/type") == "Instruction") continue;
    if (level == "1") processor.l1Bytes = bytes;
    if (level == "2") processor.l2Bytes = bytes;
    last = std::max(last, bytes);
  }
  if (last > 0) processor.lastLevelBytes = last;
}

#ifdef __linux__
/// CPUs that the control group grants, at least one; the maximum where it sets no quota.
std::size_t quotaCores() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (file >> quota >> period && quota != "max" && period > 0) {
    return std::max<std::size_t>(1, static_cast<std::size_t>(std::strtod(quota.c_str(), nullptr) / period));
  }
  return std::numeric_limits<std::size_t>::max();
}
#endif

}  // namespace

Processor readProcessor() {
  Processor processor;
#ifdef __linux__
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &mask)) processor.cores.push_back(core);
    }
  }
  if (processor.cores.size() > quotaCores()) processor.cores.resize(quotaCores());
#endif
  if (processor.cores.empty()) {
    const int count = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    for (int core = 0; core < count; ++core) processor.cores.push_back(core);
  }
  processor.name = field("/proc/cpuinfo", {"model name", "Model", "cpu model"});
#ifdef __APPLE__
  char brand[256] = {};
  std::size_t length = sizeof brand - 1;
  if (sysctlbyname("machdep.cpu.brand_string", brand, &length, nullptr, 0) == 0) processor.name = brand;
#endif
  if (processor.name.empty()) processor.name = "unknown processor";
  const std::string megahertz = field("/proc/cpuinfo", {"cpu MHz"});
  if (!megahertz.empty()) processor.clockHertz = std::strtod(megahertz.c_str(), nullptr) * 1e6;

  processor.memoryBytes = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  const std::string limit = firstLine("/sys/fs/cgroup/memory.max");
  if (!limit.empty() && limit != "max") {
    const double bytes = std::strtod(limit.c_str(), nullptr);
    if (bytes > 0) processor.memoryBytes = std::min(processor.memoryBytes, bytes);
  }
  readCaches(processor);
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  processor.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  processor.avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl");
  processor.avx512Bf16 = processor.avx512 && __builtin_cpu_supports("avx512bf16");
#endif
  return processor;
}

bool pinToCore(int core) {
#ifdef __linux__
  cpu_set_t mask;
  CPU_ZERO(&mask);
  CPU_SET(core, &mask);
  return sched_setaffinity(0, sizeof mask, &mask) == 0;
#else
  (void)core;
  return false;
#endif
}

}  // namespace mpopt::cpu
