#include <algorithm>
#include <cmath>
#include <cstring>

#include "../random.h"
#include "probe.h"

namespace mpopt::cpu {
namespace {

/// The compiler may not drop a result that it must assume is read.
void keep(const void* value) { asm volatile("" : : "r"(value) : "memory"); }

class Add final : public Work {
 public:
  Add(std::size_t count, const StreamKernels& kernels, int member) : kernels_(kernels), x_(count), y_(count), z_(count) {
    fillRandom(x_.data(), count, static_cast<std::uint64_t>(member) + 21);
    fillRandom(y_.data(), count, static_cast<std::uint64_t>(member) + 22);
    std::memset(z_.data(), 0, count * sizeof(float));
  }
  void run(std::uint64_t calls) override {
    for (std::uint64_t call = 0; call < calls; ++call) {
      kernels_.add(x_.data(), y_.data(), z_.data(), z_.size());
      keep(z_.data());
    }
  }

 private:
  const StreamKernels& kernels_;
  Aligned<float> x_, y_, z_;
};

class Sum final : public Work {
 public:
  Sum(std::size_t count, const StreamKernels& kernels, int member) : kernels_(kernels), x_(count) {
    fillRandom(x_.data(), count, static_cast<std::uint64_t>(member) + 31);
  }
  void run(std::uint64_t calls) override {
    for (std::uint64_t call = 0; call < calls; ++call) {
      const float sum = kernels_.sum(x_.data(), x_.size());
      keep(&sum);
    }
  }

 private:
  const StreamKernels& kernels_;
  Aligned<float> x_;
};

class Copy final : public Work {
 public:
  Copy(std::size_t count, int member) : from_(count), to_(count) {
    fillRandom(from_.data(), count, static_cast<std::uint64_t>(member) + 41);
    std::memset(to_.data(), 0, count * sizeof(float));
  }
  void run(std::uint64_t calls) override {
    for (std::uint64_t call = 0; call < calls; ++call) {
      std::memcpy(to_.data(), from_.data(), from_.size() * sizeof(float));
      keep(to_.data());
    }
  }

 private:
  Aligned<float> from_, to_;
};

Probe describe(const char* operation, double bytes, std::string method, bool alsoAlone) {
  Probe probe;
  probe.description.operation = operation;
  probe.description.dtype = "f32";
  probe.description.work = bytes;
  probe.description.unit = "byte";
  probe.description.method = std::move(method);
  probe.bytes = bytes;
  probe.alsoAlone = alsoAlone;
  return probe;
}

/// Elements of the smallest useful call.
constexpr std::size_t smallest = 64;

std::size_t elements(double bytes, int arrays) { return static_cast<std::size_t>(bytes / (4.0 * arrays)); }

}  // namespace

std::string streamError(const StreamKernels& stream) {
  constexpr std::size_t count = 1031;
  Aligned<float> x(count), y(count), z(count);
  fillRandom(x.data(), count, 51);
  fillRandom(y.data(), count, 52);
  stream.add(x.data(), y.data(), z.data(), count);
  double exact = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (z[i] != x[i] + y[i]) return "the element-wise kernel adds wrongly";
    exact += static_cast<double>(x[i]);
  }
  const double difference = std::abs(static_cast<double>(stream.sum(x.data(), count)) - exact);
  if (!(difference < 1e-3)) return "the reduction kernel sums wrongly";
  std::memcpy(z.data(), x.data(), count * sizeof(float));
  for (std::size_t i = 0; i < count; ++i) {
    if (z[i] != x[i]) return "the copy differs from its source";
  }
  return "";
}

std::vector<double> streamSizes(const Processor& processor, int members, bool quick) {
  constexpr double mebi = 1024 * 1024;
  const double past = std::clamp(2 * processor.lastLevelBytes / members, 64 * mebi, 512 * mebi);
  const double end = std::max(std::min(past, processor.memoryBytes / (8 * members)), mebi);
  const double step = quick ? 16 : 4;
  std::vector<double> sizes;
  for (double bytes = 16 * 1024; bytes < end; bytes *= step) sizes.push_back(bytes);
  sizes.push_back(end);
  return sizes;
}

std::vector<Probe> elementwiseProbes(const std::vector<double>& sizes, const Kernels& kernels) {
  std::vector<Probe> probes;
  for (const double size : sizes) {
    const std::size_t count = elements(size, 3);
    probes.push_back(describe("elementwise", 12.0 * static_cast<double>(count),
                              std::string("z = x + y, read and written bytes, ") + kernels.stream->name, size == sizes.back()));
    probes.back().make = [count, stream = kernels.stream](int member) {
      return std::make_unique<Add>(count, *stream, member);
    };
  }
  return probes;
}

std::vector<Probe> reductionProbes(const std::vector<double>& sizes, const Kernels& kernels) {
  std::vector<Probe> probes;
  for (const double size : sizes) {
    const std::size_t count = elements(size, 1);
    probes.push_back(describe("reduction", 4.0 * static_cast<double>(count),
                              std::string("sum of all elements, read bytes, ") + kernels.stream->name, false));
    probes.back().make = [count, stream = kernels.stream](int member) {
      return std::make_unique<Sum>(count, *stream, member);
    };
  }
  return probes;
}

std::vector<Probe> copyProbes(const std::vector<double>& sizes) {
  std::vector<Probe> probes;
  for (const double size : sizes) {
    const std::size_t count = elements(size, 2);
    probes.push_back(describe("copy", 8.0 * static_cast<double>(count), "memcpy, read and written bytes", false));
    probes.back().make = [count](int member) { return std::make_unique<Copy>(count, member); };
  }
  return probes;
}

std::vector<Probe> launchProbes(const Kernels& kernels) {
  Probe probe = describe("launch", 1, "z = x + y of 64 elements, the smallest useful call", false);
  probe.description.unit = "call";
  probe.bytes = 12 * smallest;
  probe.make = [stream = kernels.stream](int member) {
    return std::make_unique<Add>(smallest, *stream, member);
  };
  return {probe};
}

}  // namespace mpopt::cpu
