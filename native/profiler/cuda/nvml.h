#pragma once

#include <map>
#include <memory>
#include <string>

#include "../dynamic_library.h"

namespace mpopt::cuda {

/// What the management library tells and the driver does not: driver version, clocks, power limit. Everything
/// here is optional; a missing library or a refused question only leaves a value out.
class Nvml {
 public:
  Nvml();
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  /// "580.95.05", or empty.
  std::string driverVersion() const;
  /// `smClockHertz`, `smMaximumClockHertz`, `memoryClockHertz`, `powerLimitWatts` of the device with this PCI bus id.
  std::map<std::string, double> state(const std::string& pciBusId) const;
  /// Memory in use on the device by anyone, bytes; negative where it is not known.
  double usedBytes(const std::string& pciBusId) const;

 private:
  void* device(const std::string& pciBusId) const;
  std::unique_ptr<DynamicLibrary> library_;
};

}  // namespace mpopt::cuda
