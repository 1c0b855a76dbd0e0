#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

#include "../random.h"
#include "probe.h"

namespace mpopt::cpu {
namespace {

struct Shape {
  int m;
  int n;
  int k;
};

/// Cubes from cache-resident to compute-bound, and the flat shapes of a linear layer: m tokens, n x k weight.
constexpr std::array<Shape, 17> shapes{{
    {64, 64, 64},
    {96, 96, 96},
    {128, 128, 128},
    {192, 192, 192},
    {256, 256, 256},
    {384, 384, 384},
    {512, 512, 512},
    {768, 768, 768},
    {1024, 1024, 1024},
    {128, 256, 256},
    {128, 1024, 256},
    {256, 256, 1024},
    {256, 1024, 1024},
    {512, 768, 768},
    {512, 2048, 512},
    {384, 2048, 2048},
    {512, 2048, 2048},
}};
constexpr std::array<std::size_t, 10> quickShapes{0, 2, 4, 6, 8, 9, 11, 12, 13, 14};

void fill(float* values, std::size_t count, std::uint64_t seed) { fillRandom(values, count, seed); }
void fill(std::uint16_t* values, std::size_t count, std::uint64_t seed) { fillRandomBf16(values, count, seed); }

template <class Element>
double asDouble(Element value) {
  if constexpr (std::is_same_v<Element, float>) {
    return static_cast<double>(value);
  } else {
    return static_cast<double>(fromBf16(value));
  }
}

template <class Element>
struct Operands {
  Operands(const Shape& shape, std::uint64_t seed)
      : a(static_cast<std::size_t>(shape.m) * static_cast<std::size_t>(shape.k)),
        b(static_cast<std::size_t>(shape.k) * static_cast<std::size_t>(shape.n)),
        c(static_cast<std::size_t>(shape.m) * static_cast<std::size_t>(shape.n)) {
    fill(a.data(), a.size(), seed);
    fill(b.data(), b.size(), seed + 1);
    std::fill(c.data(), c.data() + c.size(), 0.0f);
  }
  Aligned<Element> a;
  Aligned<Element> b;
  Aligned<float> c;
};

template <class Element>
double error(const Shape& shape, const Operands<Element>& operands) {
  double worst = 0;
  double largest = 0;
  const auto n = static_cast<std::size_t>(shape.n);
  const auto k = static_cast<std::size_t>(shape.k);
  for (std::size_t i = 0; i < static_cast<std::size_t>(shape.m); ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      double exact = 0;
      for (std::size_t p = 0; p < k; ++p) {
        const double product = asDouble(operands.a[i * k + p]) * asDouble(operands.b[p * n + j]);
        exact += product;
        largest = std::max(largest, std::abs(product));
      }
      const double difference = std::abs(exact - static_cast<double>(operands.c[i * n + j]));
      // A NaN must not slip through a comparison.
      worst = difference >= 0 ? std::max(worst, difference / static_cast<double>(k)) : INFINITY;
    }
  }
  return worst / largest;
}

/// Odd on every side, and with each of the small blocks crossed at least once.
constexpr std::array<Shape, 4> oddShapes{{{1, 1, 1}, {13, 7, 5}, {61, 131, 67}, {150, 97, 301}}};

template <class Element>
double kernelError(const GemmKernel& kernel) {
  double worst = 0;
  for (const Shape& shape : oddShapes) {
    // Blocks far below the usual ones, so that small matrices take every path.
    Gemm<Element> gemm(kernel, {static_cast<std::size_t>(2 * kernel.mr), static_cast<std::size_t>(2 * kernel.nr), 64});
    Operands<Element> operands(shape, 11);
    gemm.run(static_cast<std::size_t>(shape.m), static_cast<std::size_t>(shape.n), static_cast<std::size_t>(shape.k),
             operands.a.data(), operands.b.data(), operands.c.data());
    worst = std::max(worst, error(shape, operands));
  }
  return worst;
}

template <class Element>
class OwnGemm final : public Work {
 public:
  OwnGemm(const Shape& shape, const GemmKernel& kernel, const Processor& processor, int member)
      : shape_(shape),
        operands_(shape, static_cast<std::uint64_t>(member) * 2 + 1),
        gemm_(kernel, chooseBlocking(kernel, processor.l1Bytes, processor.l2Bytes, processor.lastLevelBytes)) {}
  void run(std::uint64_t calls) override {
    for (std::uint64_t call = 0; call < calls; ++call) {
      gemm_.run(static_cast<std::size_t>(shape_.m), static_cast<std::size_t>(shape_.n),
                static_cast<std::size_t>(shape_.k), operands_.a.data(), operands_.b.data(), operands_.c.data());
    }
  }

 private:
  Shape shape_;
  Operands<Element> operands_;
  Gemm<Element> gemm_;
};

class BlasGemm final : public Work {
 public:
  BlasGemm(const Shape& shape, std::shared_ptr<const Blas> blas, int member)
      : shape_(shape), operands_(shape, static_cast<std::uint64_t>(member) * 2 + 1), blas_(std::move(blas)) {
    blas_->useOneThread();
  }
  void run(std::uint64_t calls) override {
    for (std::uint64_t call = 0; call < calls; ++call) {
      blas_->multiply(shape_.m, shape_.n, shape_.k, operands_.a.data(), operands_.b.data(), operands_.c.data());
    }
  }

 private:
  Shape shape_;
  Operands<float> operands_;
  std::shared_ptr<const Blas> blas_;
};

template <class Element>
Probe probe(const Shape& shape, const Processor& processor, const Kernels& kernels, bool quick) {
  constexpr bool single = std::is_same_v<Element, float>;
  const bool useBlas = single && kernels.blas;
  const GemmKernel* kernel = single ? kernels.gemm : kernels.gemmBf16;
  const double m = shape.m;
  const double n = shape.n;
  const double k = shape.k;
  Probe probe;
  probe.description.operation = "gemm";
  probe.description.dtype = single ? "f32" : "bf16";
  probe.description.work = 2 * m * n * k;
  probe.description.unit = "flop";
  probe.description.shape = {{"m", m}, {"n", n}, {"k", k}};
  probe.description.method = useBlas ? "sgemm of " + kernels.blas->path() : kernel->name;
  if (!single) probe.description.method += ", bf16 inputs, f32 sums and result";
  probe.bytes = static_cast<double>(sizeof(Element)) * (m * k + k * n) + 4 * m * n;
  const bool cube = shape.m == shape.n && shape.n == shape.k;
  probe.alsoAlone = cube && (!quick || shape.m == 1024);
  if (useBlas) {
    probe.make = [shape, blas = kernels.blas](int member) { return std::make_unique<BlasGemm>(shape, blas, member); };
  } else {
    probe.make = [shape, kernel, processor](int member) {
      return std::make_unique<OwnGemm<Element>>(shape, *kernel, processor, member);
    };
  }
  return probe;
}

}  // namespace

double gemmError(const GemmKernel& kernel) {
  return kernel.group == 1 ? kernelError<float>(kernel) : kernelError<std::uint16_t>(kernel);
}

double blasError(const Blas& blas) {
  blas.useOneThread();
  double worst = 0;
  for (const Shape& shape : oddShapes) {
    Operands<float> operands(shape, 11);
    blas.multiply(shape.m, shape.n, shape.k, operands.a.data(), operands.b.data(), operands.c.data());
    worst = std::max(worst, error(shape, operands));
  }
  return worst;
}

std::vector<Probe> gemmProbes(const Processor& processor, const Kernels& kernels, bool quick) {
  std::vector<Probe> probes;
  const auto append = [&](auto make) {
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      if (quick && std::find(quickShapes.begin(), quickShapes.end(), i) == quickShapes.end()) continue;
      probes.push_back(make(shapes[i], processor, kernels, quick));
    }
  };
  append(probe<float>);
  if (kernels.gemmBf16) append(probe<std::uint16_t>);
  return probes;
}

}  // namespace mpopt::cpu
