#pragma once

#include <cstdint>
#include <vector>

#include "core.hpp"

namespace mpopt {

/// An assignment of the core's variables with its usage profile kept up to date.
class Primal {
 public:
  explicit Primal(const Core& core);

  void set(const int32_t* assignment);
  const std::vector<int32_t>& assignment() const { return assignment_; }
  const std::vector<double>& usage() const { return usage_; }
  double cost() const { return evaluate_cost(core_, assignment_.data()); }
  bool feasible() const;

  /// Moves variables, the cheapest relief first, until no step overflows; false where it gives up.
  bool repair(const Deadline& deadline);
  /// One-variable and edge-pair moves under the limits until none helps.
  void improve(const Deadline& deadline);

 private:
  void totals(int v, int skip, double* out) const;
  bool fits(int v, int32_t p) const;
  bool holds(int v) const;
  void move(int v, int32_t p);
  bool improve_pair(const CoreEdge& edge);

  const Core& core_;
  std::vector<int32_t> assignment_;
  std::vector<double> usage_;
  mutable std::vector<double> first_, second_;
};

}  // namespace mpopt
