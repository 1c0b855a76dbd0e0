#pragma once

#include <vector>

#include "core.hpp"

namespace mpopt {

/// Intervals over the time steps that can bind: [lo, hi) a node, empty where it uses nothing.
struct TimeSteps {
  int count = 0;
  std::vector<int> lo, hi;
};

/// The maximal cliques of the live intervals, in time order. Usages are not negative, so a step whose live
/// nodes are all live at another step is implied by it.
TimeSteps maximal_time_steps(const mpopt_problem& problem);

/// Drops the steps whose limit holds for every choice, and renumbers the rest.
void keep_binding_steps(Core& core, const std::vector<double>& slack);

/// Minimum over ranges in constant time (sparse table).
class RangeMinimum {
 public:
  explicit RangeMinimum(const std::vector<double>& values);
  double operator()(int lo, int hi) const;

 private:
  std::vector<std::vector<double>> levels_;
};

}  // namespace mpopt
