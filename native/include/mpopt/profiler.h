#pragma once

#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mpopt/statistics.h"

namespace mpopt {

/// What a backend throws when it cannot work at all; `what()` is one sentence with the remedy.
class BackendError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct DeviceInfo {
  int index = 0;
  /// Name as the hardware reports it.
  std::string name;
  /// "cuda" or "cpu".
  std::string type;
  double memoryBytes = 0;
  /// What else is known, by name with its unit: `multiprocessors`, `clockHertz`, `l2Bytes`, `contextBytes`.
  std::map<std::string, double> attributes;
};

struct Environment {
  std::string processor;
  std::string driver;
  std::map<std::string, std::string> libraries;
  std::map<std::string, double> clocks;
};

/// Every core is busy with the same probe, or only the measured one.
enum class Load { alone, together };

/// One measured size of one operation.
struct Measurement {
  /// "gemm", "elementwise", "reduction", "copy", "launch" or "link".
  std::string operation;
  std::string dtype;
  /// Size of one operation in `unit`: "flop", "byte" or "call".
  double work = 0;
  std::string unit;
  /// Dimensions of the operation, where it has any.
  std::vector<std::pair<std::string, double>> shape;
  Load load = Load::alone;
  Summary seconds;
  bool converged = false;
  std::string method;
};

struct FailedProbe {
  std::string probe;
  std::string reason;
};

struct Report {
  std::string backend;
  Environment environment;
  std::vector<DeviceInfo> devices;
  std::vector<Measurement> measurements;
  std::vector<FailedProbe> failedProbes;
};

struct Request {
  bool quick = false;
  /// Devices to occupy at once; 0 takes all.
  int devices = 0;
  /// Wall-clock limit of all probes together; what does not fit is recorded as failed. 0 takes the mode's own.
  double budgetSeconds = 0;
};

/// Called on the measuring thread with the share done (0 to 1) and one sentence.
using Progress = std::function<void(double fraction, const std::string& message)>;

class Backend {
 public:
  virtual ~Backend() = default;
  /// Devices and environment, without measuring. Throws BackendError.
  virtual Report list() = 0;
  /// Runs the probes. Throws BackendError when there is no device; a probe that fails is recorded instead.
  virtual Report profile(const Request& request, const Progress& progress) = 0;
};

std::unique_ptr<Backend> makeCpuBackend();
std::unique_ptr<Backend> makeCudaBackend();

/// Backend by its name, "cpu" or "cuda". Throws BackendError for another name.
std::unique_ptr<Backend> makeBackend(const std::string& name);

/// The report as one JSON document.
std::string toJson(const Report& report);

}  // namespace mpopt
