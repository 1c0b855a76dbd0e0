#include "gemm.h"

#include <algorithm>
#include <cstring>

namespace mpopt::cpu {
namespace {

std::size_t roundUp(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }
std::size_t roundDown(std::size_t value, std::size_t unit) { return std::max(value / unit, std::size_t{1}) * unit; }

/// Panels of `mr` rows, k by k, `group` (1 or 2) neighbouring k side by side; what lies beyond the block is 0.
template <class Element>
void packRows(const Element* a, std::size_t lda, std::size_t rows, std::size_t depth, std::size_t mr, std::size_t group,
              Element* out) {
  const std::size_t steps = (depth + group - 1) / group;
  for (std::size_t panel = 0; panel < rows; panel += mr) {
    const std::size_t height = std::min(mr, rows - panel);
    if (height < mr || depth % group != 0) std::memset(out, 0, steps * mr * group * sizeof(Element));
    for (std::size_t i = 0; i < height; ++i) {
      const Element* row = a + (panel + i) * lda;
      Element* target = out + i * group;
      if (group == 1) {
        for (std::size_t p = 0; p < depth; ++p) target[p * mr] = row[p];
      } else {
        std::size_t p = 0;
        for (; p + 2 <= depth; p += 2) std::memcpy(target + p * mr, row + p, 2 * sizeof(Element));
        if (p < depth) target[p * mr] = row[p];
      }
    }
    out += steps * mr * group;
  }
}

/// Panels of `nr` columns in the same order.
template <class Element>
void packColumns(const Element* b, std::size_t ldb, std::size_t depth, std::size_t columns, std::size_t nr,
                 std::size_t group, Element* out) {
  const std::size_t steps = (depth + group - 1) / group;
  for (std::size_t panel = 0; panel < columns; panel += nr) {
    const std::size_t width = std::min(nr, columns - panel);
    if (width < nr || depth % group != 0) std::memset(out, 0, steps * nr * group * sizeof(Element));
    for (std::size_t p = 0; p < depth; p += group) {
      const Element* row = b + p * ldb + panel;
      Element* target = out + p * nr;
      if (group == 1) {
        std::memcpy(target, row, width * sizeof(Element));
      } else if (p + 1 < depth) {
        const Element* next = row + ldb;
        for (std::size_t j = 0; j < width; ++j) {
          target[2 * j] = row[j];
          target[2 * j + 1] = next[j];
        }
      } else {
        for (std::size_t j = 0; j < width; ++j) target[2 * j] = row[j];
      }
    }
    out += steps * nr * group;
  }
}

}  // namespace

Blocking chooseBlocking(const GemmKernel& kernel, double l1Bytes, double l2Bytes, double lastLevelBytes) {
  const auto mr = static_cast<std::size_t>(kernel.mr);
  const auto nr = static_cast<std::size_t>(kernel.nr);
  // One step of a panel holds 4 bytes a row in either type: one float or two bfloat16.
  const double stepBytes = 4.0 / kernel.group;
  Blocking blocking;
  blocking.k = std::clamp<std::size_t>(
      roundDown(static_cast<std::size_t>(0.6 * l1Bytes / (static_cast<double>(nr) * stepBytes)), 16), 128, 1024);
  const double depthBytes = static_cast<double>(blocking.k) * stepBytes;
  blocking.m = std::clamp<std::size_t>(roundDown(static_cast<std::size_t>(0.4 * l2Bytes / depthBytes), mr), 4 * mr,
                                       roundUp(2048, mr));
  // Cores share the last level: take at most 4 MB of it.
  const double sharedBytes = std::min(lastLevelBytes / 2, 4.0 * 1024 * 1024);
  blocking.n = std::clamp<std::size_t>(roundDown(static_cast<std::size_t>(sharedBytes / depthBytes), nr), 8 * nr,
                                       roundUp(8192, nr));
  return blocking;
}

template <class Element>
Gemm<Element>::Gemm(const GemmKernel& kernel, const Blocking& blocking)
    : kernel_(kernel),
      blocking_(blocking),
      packedA_(roundUp(blocking.m, static_cast<std::size_t>(kernel.mr)) * blocking.k),
      packedB_(roundUp(blocking.n, static_cast<std::size_t>(kernel.nr)) * blocking.k) {}

template <class Element>
void Gemm<Element>::run(std::size_t m, std::size_t n, std::size_t k, const Element* a, const Element* b, float* c) {
  const auto mr = static_cast<std::size_t>(kernel_.mr);
  const auto nr = static_cast<std::size_t>(kernel_.nr);
  const auto group = static_cast<std::size_t>(kernel_.group);
  // The largest tile of all kernels; edges are computed here and copied.
  alignas(64) float edge[16 * 32];

  for (std::size_t column = 0; column < n; column += blocking_.n) {
    const std::size_t columns = std::min(blocking_.n, n - column);
    for (std::size_t depthStart = 0; depthStart < k; depthStart += blocking_.k) {
      const std::size_t depth = std::min(blocking_.k, k - depthStart);
      const std::size_t steps = (depth + group - 1) / group;
      const bool accumulate = depthStart > 0;
      packColumns(b + depthStart * n + column, n, depth, columns, nr, group, packedB_.data());
      for (std::size_t row = 0; row < m; row += blocking_.m) {
        const std::size_t rows = std::min(blocking_.m, m - row);
        packRows(a + row * k + depthStart, k, rows, depth, mr, group, packedA_.data());
        for (std::size_t j = 0; j < columns; j += nr) {
          const Element* panelB = packedB_.data() + j / nr * steps * nr * group;
          for (std::size_t i = 0; i < rows; i += mr) {
            const Element* panelA = packedA_.data() + i / mr * steps * mr * group;
            float* target = c + (row + i) * n + column + j;
            const std::size_t height = std::min(mr, rows - i);
            const std::size_t width = std::min(nr, columns - j);
            if (height == mr && width == nr) {
              kernel_.run(static_cast<std::ptrdiff_t>(steps), panelA, panelB, target, static_cast<std::ptrdiff_t>(n),
                          accumulate);
              continue;
            }
            kernel_.run(static_cast<std::ptrdiff_t>(steps), panelA, panelB, edge, static_cast<std::ptrdiff_t>(nr),
                        false);
            for (std::size_t y = 0; y < height; ++y) {
              for (std::size_t x = 0; x < width; ++x) {
                float& element = target[y * n + x];
                element = edge[y * nr + x] + (accumulate ? element : 0.0f);
              }
            }
          }
        }
      }
    }
  }
}

template class Gemm<float>;
template class Gemm<std::uint16_t>;

}  // namespace mpopt::cpu
