#pragma once

#include <cstdint>
#include <vector>

#include "core.hpp"

namespace mpopt {

/// Bucket elimination over the core's costs, with the unary costs given at each evaluation (they carry the
/// multipliers of the memory rows). Where a message would exceed the table cap, the bucket is split into
/// mini-buckets (Dechter and Rish 2003): the result is then a lower bound and not the minimum.
class Elimination {
 public:
  /// `table_cap` bounds one message, `total_cap` all of them together (entries of 8 bytes).
  Elimination(const Core& core, int64_t table_cap, int64_t total_cap);

  bool exact() const { return exact_; }
  int64_t entries() const { return static_cast<int64_t>(arena_.size()); }
  /// Additions of one evaluation, to budget how many are made.
  int64_t work() const { return work_; }
  /// Variables in the order in which they are eliminated.
  const std::vector<int>& order() const { return order_; }

  /// Lower bound on the sum of unary and edge costs (their minimum where exact). Infinity: infeasible.
  double evaluate(const std::vector<std::vector<double>>& unary);

  /// A minimiser by backward assignment after evaluate(); a good guess where the elimination is not exact.
  void decode(int32_t* assignment);

  /// Completing a backward assignment by one variable. Writes, for each strategy of v, the cost to go from
  /// v on; returns the cost to go that the messages of v promised. All variables after v in the order are
  /// assigned.
  double extend(int v, const int32_t* assignment, double* costs) const;

 private:
  struct Factor {
    enum Kind : uint8_t { kUnary, kEdge, kMessage } kind;
    int level;       // deepest axis of the group's scope that it depends on, counted from 1; 0: none
    int64_t base;    // offset in edges_ or arena_
    int first, dims; // range in dims_
  };
  struct Dim {
    int axis;
    int64_t stride;
  };
  struct Group {
    int variable;
    int scope_first, scope_length;      // range in scope_, latest-eliminated first
    int factor_first, factor_length;    // range in factors_, by level
    int64_t table, size;                // message in arena_
  };

  void choose_order(const Core& core);
  int64_t build(const Core& core, int64_t table_cap);
  const double* data(const Factor& factor) const;
  void compute(const Group& group);

  std::vector<int> counts_, order_, position_;
  std::vector<Group> groups_;
  std::vector<int> group_first_;  // one a position in the order, and the end
  std::vector<int> scope_;
  std::vector<Factor> factors_;
  std::vector<Dim> dims_;
  std::vector<double> edges_;  // tables with the end that is eliminated first as the fastest axis
  std::vector<double> arena_;
  const std::vector<std::vector<double>>* unary_ = nullptr;
  std::vector<double> sums_;           // one row a level
  std::vector<const double*> level_;
  std::vector<int> digits_;
  int width_ = 0, depth_ = 0;
  int64_t work_ = 0;
  bool exact_ = true;
};

/// Orders: smallest product of the neighbours' strategy counts first, or fewest fill edges first.
std::vector<int> elimination_order(const Core& core, bool by_fill);
/// Total message entries of an exact elimination in this order (as a double: it may be astronomic).
double elimination_size(const Core& core, const std::vector<int>& order);

}  // namespace mpopt
