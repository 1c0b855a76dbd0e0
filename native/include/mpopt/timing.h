#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "mpopt/statistics.h"

namespace mpopt {

/// A source of time, so that the engine can be tested without waiting.
class Clock {
 public:
  virtual ~Clock() = default;
  /// Seconds since some fixed moment; never goes back.
  virtual double seconds() = 0;
};

/// The host's monotonic clock.
Clock& monotonicClock();

/// Runs `calls` operations back to back and returns the seconds that all of them took together.
using Sampler = std::function<double(std::uint64_t calls)>;

struct TimingOptions {
  /// Warm-up lasts until both are reached, or until half of `maximumSeconds` is gone.
  double warmupSeconds = 0.01;
  std::size_t warmupSamples = 3;
  std::size_t minimumSamples = 10;
  std::size_t maximumSamples = 1000;
  /// Wall-clock limit of the whole measurement, warm-up included. Half of `minimumSamples` may take up to three
  /// times as long; one sample is always taken.
  double maximumSeconds = 0.5;
  /// Sampling stops when the 95 % interval of the median is this narrow, relative to the median.
  double targetHalfWidth = 0.01;
  /// Operations are grouped so that one sample lasts at least this long: far above the clock's resolution.
  double sampleSeconds = 50e-6;
};

struct Timing {
  /// Seconds of one operation.
  Summary seconds;
  std::uint64_t callsPerSample = 1;
  /// False where a limit ended the sampling before the interval was narrow enough.
  bool converged = false;
};

/// Groups, warms up, then samples until the interval of the median is narrow or a limit is reached.
/// Throws what the sampler throws, and std::runtime_error when it returns something that is no time.
Timing measure(const Sampler& sampler, const TimingOptions& options, Clock& clock);

}  // namespace mpopt
