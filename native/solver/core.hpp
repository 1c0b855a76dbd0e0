#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "mpopt/solver.h"

namespace mpopt {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Wall-clock deadline over the caller's clock; without a clock it never expires.
class Deadline {
 public:
  explicit Deadline(const mpopt_limits& limits) : now_(limits.now), user_(limits.user) {
    end_ = now_ ? now_(user_) + limits.seconds : kInfinity;
  }
  bool expired() const { return now_ && now_(user_) >= end_; }

 private:
  double (*now_)(void*);
  void* user_;
  double end_;
};

/// A usage over the half-open range of time steps [lo, hi), one number a strategy. In a Core the smallest
/// is 0: what every strategy uses is taken off the step's limit.
struct Use {
  int lo, hi;
  std::vector<double> usage;
};

/// A node that a variable stands for, and its strategy for each strategy of the variable.
struct Member {
  int node;
  std::vector<int32_t> strategy;
};

struct CoreVariable {
  std::vector<double> cost;
  std::vector<Use> uses;  // disjoint, ascending
  std::vector<int> edges;
};

struct CoreEdge {
  int a, b;
  std::vector<double> table;  // row-major, a's strategies by b's
};

/// The reduced problem: every variable has at least two strategies.
struct Core {
  std::vector<CoreVariable> variables;
  std::vector<CoreEdge> edges;
  std::vector<double> limits;  // one a time step
  double constant = 0;
  bool infeasible = false;
  // Expansion: node -> variable (-1: fixed) and its strategies, one a strategy of the variable.
  std::vector<int32_t> node_variable;
  std::vector<std::vector<int32_t>> node_strategies;

  int count(int v) const { return static_cast<int>(variables[v].cost.size()); }
};

/// Exact reductions: parallel edges, infinities (arc consistency), memory slack, functional merging,
/// separable edges, dominance. They keep at least one optimal assignment.
Core reduce(const mpopt_problem& problem, const Deadline& deadline);

/// Cost of an assignment of the core's variables, the constant included.
double evaluate_cost(const Core& core, const int32_t* assignment);

}  // namespace mpopt
