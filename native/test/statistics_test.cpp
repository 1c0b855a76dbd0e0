#include <cmath>
#include <stdexcept>

#include "check.h"
#include "mpopt/statistics.h"

using namespace mpopt;

namespace {

void ranksOfTables() {
  // Ranks counted from 1 of the published 95 % intervals of the median (Conover, table A3; for n = 100 the usual
  // 40th and 61st): n, lower, upper.
  const int table[][3] = {{6, 1, 6},   {8, 1, 8},   {9, 2, 8},   {10, 2, 9},   {12, 3, 10},
                          {15, 4, 12}, {20, 6, 15}, {25, 8, 18}, {30, 10, 21}, {100, 40, 61}};
  for (const auto& [n, lower, upper] : table) {
    const Ranks ranks = medianInterval95(static_cast<std::size_t>(n));
    CHECK(ranks.lower + 1 == static_cast<std::size_t>(lower));
    CHECK(ranks.upper + 1 == static_cast<std::size_t>(upper));
  }
}

void ranksOfFewAndMany() {
  CHECK(medianInterval95(1).lower == 0 && medianInterval95(1).upper == 0);
  CHECK(medianInterval95(5).lower == 0 && medianInterval95(5).upper == 4);
  // For large n the half width approaches 1.96 sqrt(n) / 2 ranks.
  const Ranks ranks = medianInterval95(100000);
  NEAR(static_cast<double>(ranks.upper - ranks.lower), 1.96 * std::sqrt(100000.0), 3);
}

void quantiles() {
  // numpy.quantile([1, 2, 4, 8], q).
  const std::vector<double> values{1, 2, 4, 8};
  NEAR(quantile(values, 0), 1, 0);
  NEAR(quantile(values, 0.05), 1.15, 1e-12);
  NEAR(quantile(values, 0.5), 3, 1e-12);
  NEAR(quantile(values, 0.95), 7.4, 1e-12);
  NEAR(quantile(values, 1), 8, 0);
  THROWN(std::invalid_argument, [] { quantile({}, 0.5); });
  THROWN(std::invalid_argument, [] { quantile({1}, 1.5); });
}

void summaries() {
  const Summary summary = summarize({10, 1, 9, 2, 8, 3, 7, 4, 6, 5});
  CHECK(summary.samples == 10);
  NEAR(summary.median, 5.5, 1e-12);
  NEAR(summary.minimum, 1, 0);
  // Second and ninth of ten: (9 - 2) / 2 / 5.5.
  NEAR(summary.confidence95, 3.5 / 5.5, 1e-12);
  NEAR(summarize({4}).confidence95, 1, 0);
  NEAR(summarize(std::vector<double>(50, 2.0)).confidence95, 0, 0);
}

void badSamples() {
  THROWN(std::invalid_argument, [] { summarize({}); });
  THROWN(std::invalid_argument, [] { summarize({1, 0}); });
  THROWN(std::invalid_argument, [] { summarize({1, NAN}); });
  THROWN(std::invalid_argument, [] { summarize({1, INFINITY}); });
}

}  // namespace

int main() {
  return test::run({{"ranks equal the published tables", ranksOfTables},
                    {"ranks of few and of many samples", ranksOfFewAndMany},
                    {"quantiles equal numpy's", quantiles},
                    {"a summary of known values", summaries},
                    {"samples that are no times are refused", badSamples}});
}
