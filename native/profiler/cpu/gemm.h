#pragma once

#include <cstddef>
#include <cstdint>

#include "aligned.h"
#include "kernels.h"

namespace mpopt::cpu {

/// Block sizes of the three outer loops, from the sizes of the caches: a panel of B stays in level 1, the
/// packed block of A in level 2, the packed block of B in the last level (Goto and van de Geijn 2008,
/// section 4; Low et al., ACM TOMS 43(2), 2016, for the formulas).
struct Blocking {
  std::size_t m = 0;
  std::size_t n = 0;
  std::size_t k = 0;
};

Blocking chooseBlocking(const GemmKernel& kernel, double l1Bytes, double l2Bytes, double lastLevelBytes);

/// c (m x n) = a (m x k) * b (k x n), all row-major and dense, on the calling thread. Element is float or a
/// bfloat16 in a std::uint16_t; the result is float. Not shared between threads: it owns the packing buffers.
template <class Element>
class Gemm {
 public:
  Gemm(const GemmKernel& kernel, const Blocking& blocking);
  void run(std::size_t m, std::size_t n, std::size_t k, const Element* a, const Element* b, float* c);

 private:
  const GemmKernel& kernel_;
  Blocking blocking_;
  Aligned<Element> packedA_;
  Aligned<Element> packedB_;
};

extern template class Gemm<float>;
extern template class Gemm<std::uint16_t>;

}  // namespace mpopt::cpu
