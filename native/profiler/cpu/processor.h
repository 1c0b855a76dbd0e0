#pragma once

#include <string>
#include <vector>

namespace mpopt::cpu {

struct Processor {
  std::string name;
  /// Cores that this process may use: the affinity mask, cut to the control group's CPU quota.
  std::vector<int> cores;
  /// Memory that this process may use: the host's, cut to the control group's limit.
  double memoryBytes = 0;
  double l1Bytes = 32 * 1024;
  double l2Bytes = 512 * 1024;
  /// Last-level cache seen by the first core, shared or not.
  double lastLevelBytes = 8 * 1024 * 1024;
  /// Current frequency of the first core; 0 where the system does not tell.
  double clockHertz = 0;
  bool avx2 = false;
  bool avx512 = false;
  bool avx512Bf16 = false;
};

Processor readProcessor();

/// Binds the calling thread to one core; false where the system has no such call or refuses.
bool pinToCore(int core);

}  // namespace mpopt::cpu
