#pragma once

#include <cstddef>
#include <vector>

namespace mpopt {

/// Ranks (counted from 0) of the two order statistics that enclose the median.
struct Ranks {
  std::size_t lower = 0;
  std::size_t upper = 0;
};

/// The narrowest pair of ranks that encloses the median of n independent samples with at least 95 %
/// probability, whatever their distribution: P(lower rank > median) is a tail of Binomial(n, 1/2)
/// (Conover, Practical Nonparametric Statistics, section 3.2). Below six samples no such pair exists; the
/// whole range is returned then, and covers less.
Ranks medianInterval95(std::size_t n);

/// Quantile q of ascending values, interpolated linearly between neighbours at (n - 1) q.
/// Throws std::invalid_argument for no values or q outside [0, 1].
double quantile(const std::vector<double>& ascending, double q);

struct Summary {
  std::size_t samples = 0;
  double median = 0;
  double p05 = 0;
  double p95 = 0;
  double minimum = 0;
  /// Half width of the 95 % interval of the median, relative to the median; 1 for a single sample,
  /// which tells nothing about the spread.
  double confidence95 = 0;
};

/// Throws std::invalid_argument for no samples, or for one that is not a positive number.
Summary summarize(std::vector<double> samples);

}  // namespace mpopt
