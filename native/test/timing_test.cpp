#include <cmath>
#include <stdexcept>

#include "check.h"
#include "mpopt/timing.h"

using namespace mpopt;

namespace {

/// Time passes only where a test lets it.
class FakeClock final : public Clock {
 public:
  double seconds() override { return now; }
  double now = 100;
};

/// An operation of known cost; every sample also costs a little of the clock, as real ones do.
struct Operation {
  FakeClock& clock;
  double secondsPerCall;
  std::uint64_t calls = 0;
  std::size_t samples = 0;

  double operator()(std::uint64_t count) {
    calls += count;
    ++samples;
    const double seconds = secondsPerCall * static_cast<double>(count);
    clock.now += seconds + 1e-7;
    return seconds;
  }
};

void steadyOperation() {
  FakeClock clock;
  Operation operation{clock, 1e-3};
  const Timing timing = measure(std::ref(operation), {}, clock);
  CHECK(timing.converged);
  CHECK(timing.callsPerSample == 1);
  CHECK(timing.seconds.samples == 10);
  NEAR(timing.seconds.median, 1e-3, 1e-12);
  // Ten samples and a warm-up of at least three and 10 ms.
  CHECK(operation.samples >= 10 + 10);
}

void shortOperationIsGrouped() {
  FakeClock clock;
  Operation operation{clock, 4e-9};
  TimingOptions options;
  options.sampleSeconds = 50e-6;
  const Timing timing = measure(std::ref(operation), options, clock);
  CHECK(static_cast<double>(timing.callsPerSample) * 4e-9 >= 50e-6);
  CHECK(static_cast<double>(timing.callsPerSample) * 4e-9 <= 10 * 50e-6);
  NEAR(timing.seconds.median, 4e-9, 1e-15);
}

void noisyOperationStopsAtTheLimitOfSamples() {
  FakeClock clock;
  std::uint64_t state = 1;
  TimingOptions options;
  options.maximumSamples = 200;
  options.maximumSeconds = 1e6;
  const Timing timing = measure(
      [&](std::uint64_t calls) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        const double seconds = 1e-3 * (1 + static_cast<double>(state >> 33) / 2147483648.0);
        clock.now += seconds * static_cast<double>(calls);
        return seconds * static_cast<double>(calls);
      },
      options, clock);
  CHECK(!timing.converged);
  CHECK(timing.seconds.samples == 200);
  CHECK(timing.seconds.p05 < timing.seconds.median && timing.seconds.median < timing.seconds.p95);
}

void slowOperationStopsAtTheLimitOfTime() {
  FakeClock clock;
  Operation operation{clock, 10};
  TimingOptions options;
  options.maximumSeconds = 1;
  const Timing timing = measure(std::ref(operation), options, clock);
  CHECK(timing.seconds.samples == 1);
  CHECK(!timing.converged);
  // One call to find the group, none to warm up, one sample.
  CHECK(operation.calls == 2);
  NEAR(timing.seconds.confidence95, 1, 0);
}

void fewSamplesMayTakeLonger() {
  FakeClock clock;
  Operation operation{clock, 0.3};
  TimingOptions options;
  options.maximumSeconds = 1;
  const Timing timing = measure(std::ref(operation), options, clock);
  CHECK(timing.seconds.samples == 5);
  CHECK(clock.now <= 100 + 3 + 0.3);
}

void warmupIsNotCounted() {
  FakeClock clock;
  std::size_t samples = 0;
  const Timing timing = measure(
      [&](std::uint64_t calls) {
        // The first ones are ten times slower, as with cold caches and clocks.
        const double seconds = (samples++ < 4 ? 1e-2 : 1e-3) * static_cast<double>(calls);
        clock.now += seconds;
        return seconds;
      },
      {}, clock);
  NEAR(timing.seconds.p95, 1e-3, 1e-9);
}

void brokenClock() {
  FakeClock clock;
  THROWN(std::runtime_error, [&] { measure([](std::uint64_t) { return -1.0; }, {}, clock); });
  THROWN(std::runtime_error, [&] { measure([](std::uint64_t) { return NAN; }, {}, clock); });
}

}  // namespace

int main() {
  return test::run({{"a steady operation converges at the least number of samples", steadyOperation},
                    {"a short operation is grouped", shortOperationIsGrouped},
                    {"a noisy operation stops at the limit of samples", noisyOperationStopsAtTheLimitOfSamples},
                    {"a slow operation stops at the limit of time", slowOperationStopsAtTheLimitOfTime},
                    {"a few samples may take longer", fewSamplesMayTakeLonger},
                    {"warm-up is not counted", warmupIsNotCounted},
                    {"a clock that goes backwards is an error", brokenClock}});
}
