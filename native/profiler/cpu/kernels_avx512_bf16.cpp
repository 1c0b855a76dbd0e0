#include <immintrin.h>

#include "kernels.h"

namespace mpopt::cpu {
namespace {

/// The tile of the f32 kernel; VDPBF16PS multiplies two neighbouring k at once and adds them in f32.
void multiply(ptrdiff_t steps, const void* left, const void* right, float* c, ptrdiff_t ldc, bool accumulate) {
  constexpr int mr = 14;
  const int32_t* a = static_cast<const int32_t*>(left);
  const char* b = static_cast<const char*>(right);
  __m512 sum[mr][2];
#pragma GCC unroll 16
  for (int i = 0; i < mr; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  for (ptrdiff_t p = 0; p < steps; ++p) {
    const __m512bh row0 = (__m512bh)_mm512_load_si512(b);
    const __m512bh row1 = (__m512bh)_mm512_load_si512(b + 64);
#pragma GCC unroll 16
    for (int i = 0; i < mr; ++i) {
      __m512i pair = _mm512_set1_epi32(a[i]);
#if defined(__clang__) && __clang_major__ < 17
      // Clang 16 makes a broadcast of bf16 of this and then fails to select an instruction for it.
      asm("" : "+v"(pair));
#endif
      const __m512bh value = (__m512bh)pair;
      sum[i][0] = _mm512_dpbf16_ps(sum[i][0], value, row0);
      sum[i][1] = _mm512_dpbf16_ps(sum[i][1], value, row1);
    }
    a += mr;
    b += 128;
  }
#pragma GCC unroll 16
  for (int i = 0; i < mr; ++i) {
    float* target = c + i * ldc;
    if (accumulate) {
      sum[i][0] = _mm512_add_ps(sum[i][0], _mm512_loadu_ps(target));
      sum[i][1] = _mm512_add_ps(sum[i][1], _mm512_loadu_ps(target + 16));
    }
    _mm512_storeu_ps(target, sum[i][0]);
    _mm512_storeu_ps(target + 16, sum[i][1]);
  }
}

}  // namespace

extern const GemmKernel gemmAvx512Bf16 = {"own blocked kernel, Avx512Bf16", 14, 32, 2, multiply};

}  // namespace mpopt::cpu
