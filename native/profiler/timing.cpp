#include "mpopt/timing.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <vector>

namespace mpopt {
namespace {

class MonotonicClock final : public Clock {
 public:
  double seconds() override {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
};

double sample(const Sampler& sampler, std::uint64_t calls) {
  const double seconds = sampler(calls);
  if (!(seconds >= 0) || !std::isfinite(seconds)) {
    throw std::runtime_error("The clock went backwards during a sample.");
  }
  // A clock that did not tick is not a speed: take the resolution as an upper limit.
  return std::max(seconds, 1e-9);
}

/// The number of calls that makes one sample long enough. The calls count as warm-up.
std::uint64_t groupSize(const Sampler& sampler, const TimingOptions& options, Clock& clock, double end) {
  constexpr std::uint64_t maximumCalls = std::uint64_t{1} << 24;
  std::uint64_t calls = 1;
  while (calls < maximumCalls) {
    const double seconds = sample(sampler, calls);
    if (seconds >= options.sampleSeconds || clock.seconds() >= end) break;
    // Aim a tenth too high, but grow at most tenfold: the first calls are cold.
    const double wanted = 1.1 * options.sampleSeconds / seconds;
    calls = std::min<std::uint64_t>(
        maximumCalls, static_cast<std::uint64_t>(
                          std::ceil(static_cast<double>(calls) * std::clamp(wanted, 1.5, 10.0))));
  }
  return calls;
}

}  // namespace

Clock& monotonicClock() {
  static MonotonicClock clock;
  return clock;
}

Timing measure(const Sampler& sampler, const TimingOptions& options, Clock& clock) {
  const double start = clock.seconds();
  const double warmupEnd = start + options.maximumSeconds / 2;
  const double end = start + options.maximumSeconds;
  const double latest = start + 3 * options.maximumSeconds;

  Timing timing;
  timing.callsPerSample = groupSize(sampler, options, clock, warmupEnd);
  const double perCall = 1.0 / static_cast<double>(timing.callsPerSample);

  for (std::size_t warmed = 0; clock.seconds() < warmupEnd; ++warmed) {
    if (warmed >= options.warmupSamples && clock.seconds() - start >= options.warmupSeconds) break;
    sample(sampler, timing.callsPerSample);
  }

  std::vector<double> samples;
  std::size_t nextCheck = std::max<std::size_t>(1, options.minimumSamples);
  do {
    samples.push_back(sample(sampler, timing.callsPerSample) * perCall);
    if (samples.size() < nextCheck) continue;
    // Checking costs a sort: the steps grow with the number of samples.
    nextCheck = samples.size() + std::max<std::size_t>(1, samples.size() / 8);
    if (summarize(samples).confidence95 <= options.targetHalfWidth) {
      timing.converged = true;
      break;
    }
    // A few samples are worth more than punctuality, up to a point: one sample has no spread.
  } while (samples.size() < options.maximumSamples &&
           clock.seconds() < (samples.size() < options.minimumSamples / 2 ? latest : end));

  timing.seconds = summarize(std::move(samples));
  return timing;
}

}  // namespace mpopt
