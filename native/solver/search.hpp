#pragma once

#include <cstdint>
#include <vector>

#include "core.hpp"
#include "elimination.hpp"
#include "primal.hpp"

namespace mpopt {

/// Bound and search on a reduced problem: Lagrangian multipliers on the memory rows, whose inner problem is
/// solved by elimination (Held and Karp's subgradient with Polyak's step), then depth-first branch and bound
/// in the reverse elimination order, guided by the messages at the best multipliers.
class Search {
 public:
  Search(const Core& core, const mpopt_limits& limits, const Deadline& deadline);
  void run(mpopt_result& result);
  const std::vector<int32_t>& incumbent() const { return incumbent_; }

 private:
  void price(const std::vector<double>& multipliers);
  double bound_at(const std::vector<double>& multipliers);
  double threshold() const;
  bool closed() const { return bound_ >= threshold(); }
  void offer();
  void subgradient();
  bool branch(mpopt_result& result);
  void report() const;

  const Core& core_;
  const mpopt_limits& limits_;
  const Deadline& deadline_;
  Elimination elimination_;
  Primal primal_;
  std::vector<std::vector<double>> unary_;
  std::vector<double> multipliers_, prefix_;
  std::vector<int32_t> incumbent_, decoded_;
  double ceiling_;  // no finite assignment costs more
  double upper_ = kInfinity;
  double bound_ = -kInfinity;
  double rounding_ = 0;  // margin for the rounding of the penalties in bound_at()
};

}  // namespace mpopt
