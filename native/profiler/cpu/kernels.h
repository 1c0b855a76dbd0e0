#pragma once

// Included by sources that are compiled for newer instruction sets than the rest: nothing inline from the
// standard library may come in here, or the linker could keep its AVX-512 copy for everyone.
#include <stddef.h>
#include <stdint.h>

namespace mpopt::cpu {

/// Multiplies packed panels: c[mr][nr] = a[steps][mr] * b[steps][nr], added to c where `accumulate`.
/// In the bf16 kernel one step holds two neighbouring k.
using MicroKernel = void (*)(ptrdiff_t steps, const void* a, const void* b, float* c, ptrdiff_t ldc, bool accumulate);

struct GemmKernel {
  const char* name;
  int mr;
  int nr;
  /// Consecutive k that stand side by side in a packed panel.
  int group;
  MicroKernel run;
};

struct StreamKernels {
  const char* name;
  /// z = x + y.
  void (*add)(const float* x, const float* y, float* z, size_t count);
  /// Sum of x in an order that the instruction set likes.
  float (*sum)(const float* x, size_t count);
};

extern const GemmKernel gemmPortable;
extern const StreamKernels streamPortable;
#ifdef MPOPT_X86
extern const GemmKernel gemmAvx2;
extern const GemmKernel gemmAvx512;
extern const GemmKernel gemmAvx512Bf16;
extern const StreamKernels streamAvx2;
extern const StreamKernels streamAvx512;
#endif

}  // namespace mpopt::cpu
