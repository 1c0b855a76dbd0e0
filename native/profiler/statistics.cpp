#include "mpopt/statistics.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace mpopt {

Ranks medianInterval95(std::size_t n) {
  if (n == 0) return {};
  const double size = static_cast<double>(n);
  const double logHalf = std::log(0.5);
  double tail = 0;
  std::size_t below = 0;
  // `below` ends as the largest count whose lower tail still fits into 2.5 %.
  for (; below < n / 2; ++below) {
    const double count = static_cast<double>(below);
    const double logProbability = std::lgamma(size + 1) - std::lgamma(count + 1) -
                                  std::lgamma(size - count + 1) + size * logHalf;
    tail += std::exp(logProbability);
    if (tail > 0.025) break;
  }
  if (below == 0) return {0, n - 1};
  return {below - 1, n - below};
}

double quantile(const std::vector<double>& ascending, double q) {
  if (ascending.empty() || !(q >= 0 && q <= 1)) {
    throw std::invalid_argument("Expected values and a quantile between 0 and 1.");
  }
  const double position = q * static_cast<double>(ascending.size() - 1);
  const auto lower = static_cast<std::size_t>(position);
  const auto upper = std::min(lower + 1, ascending.size() - 1);
  const double share = position - static_cast<double>(lower);
  return ascending[lower] + share * (ascending[upper] - ascending[lower]);
}

Summary summarize(std::vector<double> samples) {
  if (samples.empty()) throw std::invalid_argument("Expected at least one sample but found none.");
  for (const double sample : samples) {
    if (!(sample > 0) || !std::isfinite(sample)) {
      throw std::invalid_argument("Expected every sample to be a positive time.");
    }
  }
  std::sort(samples.begin(), samples.end());
  const Ranks interval = medianInterval95(samples.size());
  Summary summary;
  summary.samples = samples.size();
  summary.median = quantile(samples, 0.5);
  summary.p05 = quantile(samples, 0.05);
  summary.p95 = quantile(samples, 0.95);
  summary.minimum = samples.front();
  summary.confidence95 = samples.size() == 1 ? 1 : (samples[interval.upper] - samples[interval.lower]) / (2 * summary.median);
  return summary;
}

}  // namespace mpopt
