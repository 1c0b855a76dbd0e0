#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mpopt/profiler.h"
#include "blas.h"
#include "gemm.h"
#include "processor.h"

namespace mpopt::cpu {

/// One size of one probe with its own buffers; made and run on the thread that is measured.
class Work {
 public:
  virtual ~Work() = default;
  virtual void run(std::uint64_t calls) = 0;
};

struct Probe {
  /// All but the times; `load` is set by who runs it.
  Measurement description;
  /// Memory that one member's buffers take.
  double bytes = 0;
  std::function<std::unique_ptr<Work>(int member)> make;
  /// Worth measuring on one busy core too, to show what the others cost.
  bool alsoAlone = false;
};

/// What the probes have in common: chosen once, after a check of every kernel.
struct Kernels {
  const GemmKernel* gemm = nullptr;
  /// Null where the processor has no bf16 instructions.
  const GemmKernel* gemmBf16 = nullptr;
  const StreamKernels* stream = nullptr;
  /// Used for f32 instead of `gemm`.
  std::shared_ptr<const Blas> blas;
};

/// The fastest kernels that this processor runs, each checked once; one that computes wrongly is left out and
/// recorded. A BLAS library is used where the user named it or where it is faster than the own kernel.
Kernels selectKernels(const Processor& processor, std::vector<FailedProbe>& failed);

/// Largest error of the kernel against a triple loop in double precision on shapes that fill no tile, relative
/// to k times the largest product of elements; below `gemmTolerance` when the kernel is right.
double gemmError(const GemmKernel& kernel);
double blasError(const Blas& blas);
/// Half a unit in the last place of a float, times a growth of the square root of the longest sum.
constexpr double gemmTolerance = 1e-6;

/// Empty where the add, sum and copy kernels are right, else what is wrong.
std::string streamError(const StreamKernels& stream);

std::vector<Probe> gemmProbes(const Processor& processor, const Kernels& kernels, bool quick);
std::vector<Probe> elementwiseProbes(const std::vector<double>& sizes, const Kernels& kernels);
std::vector<Probe> reductionProbes(const std::vector<double>& sizes, const Kernels& kernels);
std::vector<Probe> copyProbes(const std::vector<double>& sizes);
std::vector<Probe> launchProbes(const Kernels& kernels);

/// Bytes of one member's buffers along the curve: powers of four (sixteen when quick) from inside level 1 to
/// past the last level, which the members share; all of them together stay under an eighth of the memory.
std::vector<double> streamSizes(const Processor& processor, int members, bool quick);

}  // namespace mpopt::cpu
