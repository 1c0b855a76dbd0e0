#include <algorithm>

#include "mpopt/timing.h"
#include "../random.h"
#include "probe.h"

namespace mpopt::cpu {
namespace {

bool right(const GemmKernel& kernel, std::vector<FailedProbe>& failed) {
  const double error = gemmError(kernel);
  if (error < gemmTolerance) return true;
  failed.push_back({std::string("gemm with the ") + kernel.name,
                    "the kernel computes wrongly on this processor: relative error " + std::to_string(error)});
  return false;
}

bool right(const StreamKernels& kernels, std::vector<FailedProbe>& failed) {
  const std::string error = streamError(kernels);
  if (error.empty()) return true;
  failed.push_back({std::string("element-wise and reduction, ") + kernels.name, error});
  return false;
}

/// Least time of a few multiplications at 512 cubed: enough to tell which of two kernels is faster.
template <class Multiply>
double leastSeconds(const Multiply& multiply) {
  constexpr std::size_t n = 512;
  Aligned<float> a(n * n), b(n * n), c(n * n);
  fillRandom(a.data(), n * n, 61);
  fillRandom(b.data(), n * n, 62);
  double least = 1e9;
  for (int i = 0; i < 5; ++i) {
    const double start = monotonicClock().seconds();
    multiply(n, a.data(), b.data(), c.data());
    least = std::min(least, monotonicClock().seconds() - start);
  }
  return least;
}

std::shared_ptr<const Blas> selectBlas(const Processor& processor, const GemmKernel* own,
                                       std::vector<FailedProbe>& failed) {
  std::string error;
  std::shared_ptr<const Blas> blas = Blas::open(&error);
  const char* named = std::getenv("MPOPT_BLAS_LIB");
  if (!blas) {
    if (named && *named) failed.push_back({"gemm with MPOPT_BLAS_LIB", "the library does not open: " + error});
    return nullptr;
  }
  if (!(blasError(*blas) < gemmTolerance)) {
    failed.push_back({"gemm with " + blas->path(), "the library computes wrongly on this processor"});
    return nullptr;
  }
  if (blas->chosen() || !own) return blas;
  const double theirs = leastSeconds([&](std::size_t n, const float* a, const float* b, float* c) {
    blas->multiply(static_cast<int>(n), static_cast<int>(n), static_cast<int>(n), a, b, c);
  });
  Gemm<float> gemm(*own, chooseBlocking(*own, processor.l1Bytes, processor.l2Bytes, processor.lastLevelBytes));
  const double ours = leastSeconds(
      [&](std::size_t n, const float* a, const float* b, float* c) { gemm.run(n, n, n, a, b, c); });
  return theirs < ours ? blas : nullptr;
}

}  // namespace

Kernels selectKernels(const Processor& processor, std::vector<FailedProbe>& failed) {
  std::vector<const GemmKernel*> gemm;
  std::vector<const StreamKernels*> stream;
  Kernels kernels;
#ifdef MPOPT_X86
  if (processor.avx512) {
    gemm.push_back(&gemmAvx512);
    stream.push_back(&streamAvx512);
  }
  if (processor.avx2) {
    gemm.push_back(&gemmAvx2);
    stream.push_back(&streamAvx2);
  }
  if (processor.avx512Bf16 && right(gemmAvx512Bf16, failed)) kernels.gemmBf16 = &gemmAvx512Bf16;
#endif
  gemm.push_back(&gemmPortable);
  stream.push_back(&streamPortable);
  for (const GemmKernel* candidate : gemm) {
    if (!kernels.gemm && right(*candidate, failed)) kernels.gemm = candidate;
  }
  for (const StreamKernels* candidate : stream) {
    if (!kernels.stream && right(*candidate, failed)) kernels.stream = candidate;
  }
  kernels.blas = selectBlas(processor, kernels.gemm, failed);
  return kernels;
}

}  // namespace mpopt::cpu
