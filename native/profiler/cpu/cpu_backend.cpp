#include <algorithm>
#include <cstdio>

#include "loopback.h"
#include "mpopt/timing.h"
#include "probe.h"
#include "team.h"

namespace mpopt {
namespace {

using namespace cpu;

/// Time of the whole run and how it is shared out: what one probe leaves over, the later ones may use. On a
/// busy machine preparation takes longer than planned; a short measurement is better than none then.
class Budget {
 public:
  Budget(double seconds, std::size_t points)
      : end_(monotonicClock().seconds() + seconds), last_(end_ + seconds), points_(points) {}

  bool spent() const { return monotonicClock().seconds() >= last_; }
  /// Limit of the next point.
  double next() {
    const double left = std::max(0.0, end_ - monotonicClock().seconds());
    const double share = left / static_cast<double>(std::max<std::size_t>(1, points_));
    if (points_ > 0) --points_;
    return std::clamp(share, 0.01, 2.0);
  }

 private:
  double end_;
  double last_;
  std::size_t points_;
};

std::string title(const Measurement& measurement) {
  std::string text = measurement.operation + " " + measurement.dtype;
  char number[64];
  if (!measurement.shape.empty()) {
    for (const auto& [name, size] : measurement.shape) {
      std::snprintf(number, sizeof number, " %s=%.0f", name.c_str(), size);
      text += number;
    }
  } else {
    std::snprintf(number, sizeof number, " %.0f %ss", measurement.work, measurement.unit.c_str());
    text += number;
  }
  return text;
}

class CpuBackend final : public Backend {
 public:
  Report list() override {
    Report report;
    report.backend = "cpu";
    describe(report, readProcessor(), 0);
    return report;
  }

  Report profile(const Request& request, const Progress& progress) override {
    const Processor processor = readProcessor();
    Report report;
    report.backend = "cpu";
    describe(report, processor, request.devices);
    const int members = static_cast<int>(report.devices.size());

    const Kernels kernels = selectKernels(processor, report.failedProbes);
    report.environment.libraries["gemm"] = kernels.blas ? kernels.blas->path() : kernels.gemm ? kernels.gemm->name : "";
    const std::vector<Probe> probes = collect(processor, kernels, members, request.quick);
    const std::vector<std::size_t> messages = loopbackSizes(request.quick);
    std::size_t points = messages.size();
    for (const Probe& probe : probes) points += probe.alsoAlone && members > 1 ? 2 : 1;
    const std::size_t allPoints = points;

    Budget budget(request.budgetSeconds > 0 ? request.budgetSeconds : request.quick ? 4.5 : 40, points);
    const auto step = [&](const std::string& message) {
      if (progress) progress(static_cast<double>(allPoints - points) / static_cast<double>(allPoints), message);
      --points;
    };
    // A link needs two processes and no team: measured first, while this process holds little memory.
    measureLink(report, processor, messages, budget, step);
    Team team(processor.cores, members);
    Team single(processor.cores, 1);
    for (const Probe& probe : probes) {
      step(title(probe.description));
      measureProbe(report, probe, members > 1 ? Load::together : Load::alone, team, budget);
      if (!probe.alsoAlone || members == 1) continue;
      step(title(probe.description) + ", one core");
      measureProbe(report, probe, Load::alone, single, budget);
    }
    return report;
  }

 private:
  static void describe(Report& report, const Processor& processor, int devices) {
    const int count = devices > 0 ? devices : static_cast<int>(processor.cores.size());
    report.environment.processor = processor.name;
    if (processor.clockHertz > 0) report.environment.clocks["coreHertz"] = processor.clockHertz;
    for (int index = 0; index < count; ++index) {
      DeviceInfo device;
      device.index = index;
      device.name = processor.name;
      device.type = "cpu";
      device.memoryBytes = processor.memoryBytes / count;
      device.attributes = {{"cores", static_cast<double>(processor.cores.size())},
                           {"l1Bytes", processor.l1Bytes},
                           {"l2Bytes", processor.l2Bytes},
                           {"lastLevelBytes", processor.lastLevelBytes}};
      report.devices.push_back(device);
    }
  }

  static std::vector<Probe> collect(const Processor& processor, const Kernels& kernels, int members, bool quick) {
    std::vector<Probe> probes;
    const auto append = [&probes](std::vector<Probe> more) {
      probes.insert(probes.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
    };
    const std::vector<double> sizes = streamSizes(processor, members, quick);
    if (kernels.stream) append(launchProbes(kernels));
    if (kernels.stream) append(elementwiseProbes(sizes, kernels));
    if (kernels.stream) append(reductionProbes(sizes, kernels));
    append(copyProbes(sizes));
    if (kernels.gemm || kernels.blas) append(gemmProbes(processor, kernels, quick));
    return probes;
  }

  static void measureProbe(Report& report, const Probe& probe, Load load, Team& team, Budget& budget) {
    Measurement measurement = probe.description;
    measurement.load = load;
    measurement.method += load == Load::together
                              ? "; every core busy with it: " + std::to_string(team.size()) + " threads, mean over them"
                              : "; one thread, the other cores idle";
    if (!team.pinned()) measurement.method += ", not bound to cores";
    try {
      if (budget.spent()) throw BackendError("the time limit of the run was reached before it began");
      TimingOptions options;
      options.maximumSeconds = budget.next();
      options.warmupSeconds = std::min(0.05, options.maximumSeconds / 5);
      // Long enough that starting together and ending apart does not show.
      options.sampleSeconds = load == Load::together ? 500e-6 : 100e-6;
      std::vector<std::unique_ptr<Work>> work(static_cast<std::size_t>(team.size()));
      team.run([&](int member) {
        work[static_cast<std::size_t>(member)] = probe.make(member);
        return 0.0;
      });
      const Timing timing = measure(
          [&](std::uint64_t calls) {
            return team.run([&](int member) {
              const double start = monotonicClock().seconds();
              work[static_cast<std::size_t>(member)]->run(calls);
              return monotonicClock().seconds() - start;
            });
          },
          options, monotonicClock());
      measurement.seconds = timing.seconds;
      measurement.converged = timing.converged;
      report.measurements.push_back(std::move(measurement));
    } catch (const std::exception& error) {
      report.failedProbes.push_back({title(probe.description), error.what()});
    }
  }

  template <class Step>
  static void measureLink(Report& report, const Processor& processor, const std::vector<std::size_t>& messages,
                          Budget& budget, const Step& step) {
    const auto& cores = processor.cores;
    try {
      // The measuring end is a thread bound to the first core, its partner a process on the second.
      Team end(cores, 1);
      end.run([&](int) {
        Loopback loopback(messages.back(), cores.size() > 1 ? cores[1] : -1, 5);
        for (const std::size_t bytes : messages) {
          step("link " + std::to_string(bytes) + " bytes");
          TimingOptions options;
          options.maximumSeconds = budget.next();
          options.sampleSeconds = 200e-6;
          const Timing timing = measure(
              [&](std::uint64_t calls) { return loopback.pingPong(bytes, calls) / 2; }, options, monotonicClock());
          Measurement measurement;
          measurement.operation = "link";
          measurement.dtype = "i8";
          measurement.work = static_cast<double>(bytes);
          measurement.unit = "byte";
          measurement.load = Load::alone;
          measurement.seconds = timing.seconds;
          measurement.converged = timing.converged;
          measurement.method = "one way over loopback TCP between two processes, half of there and back";
          report.measurements.push_back(std::move(measurement));
        }
        return 0.0;
      });
    } catch (const std::exception& error) {
      report.failedProbes.push_back({"link", error.what()});
    }
  }
};

}  // namespace

std::unique_ptr<Backend> makeCpuBackend() { return std::make_unique<CpuBackend>(); }

}  // namespace mpopt
