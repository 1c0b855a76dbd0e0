#include "search.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace mpopt {
namespace {

constexpr int64_t kDefaultEntries = int64_t{1} << 24;  // 128 MiB of messages
constexpr int64_t kTableEntries = int64_t{1} << 20;
constexpr int64_t kSubgradientWork = int64_t{2} << 30;
constexpr int kSubgradientRounds = 400;

double ceiling_of(const Core& core) {
  double ceiling = core.constant;
  auto add_largest = [&](const std::vector<double>& values) {
    double largest = -kInfinity;
    for (double value : values) {
      if (value < kInfinity) largest = std::max(largest, value);
    }
    ceiling += largest;
  };
  for (const CoreVariable& variable : core.variables) add_largest(variable.cost);
  for (const CoreEdge& edge : core.edges) add_largest(edge.table);
  return ceiling;
}

}  // namespace

Search::Search(const Core& core, const mpopt_limits& limits, const Deadline& deadline)
    : core_(core),
      limits_(limits),
      deadline_(deadline),
      elimination_(core, kTableEntries, limits.table_entries > 0 ? limits.table_entries : kDefaultEntries),
      primal_(core),
      ceiling_(ceiling_of(core)) {
  for (const CoreVariable& variable : core.variables) unary_.push_back(variable.cost);
  multipliers_.assign(core.limits.size(), 0.0);
  prefix_.assign(core.limits.size() + 1, 0.0);
  decoded_.assign(core.variables.size(), 0);
}

void Search::report() const {
  if (limits_.report) limits_.report(limits_.user, upper_, bound_);
}

/// A bound at least this high closes the search.
double Search::threshold() const {
  if (!(upper_ < kInfinity)) return ceiling_ + 1e-9 * std::fabs(ceiling_) + 1e-300;
  return upper_ - limits_.gap * std::fabs(upper_);
}

void Search::price(const std::vector<double>& multipliers) {
  for (size_t t = 0; t < multipliers.size(); ++t) prefix_[t + 1] = prefix_[t] + multipliers[t];
  for (size_t v = 0; v < unary_.size(); ++v) {
    const CoreVariable& variable = core_.variables[v];
    unary_[v] = variable.cost;
    for (const Use& use : variable.uses) {
      const double weight = prefix_[use.hi] - prefix_[use.lo];
      if (weight == 0) continue;
      for (size_t p = 0; p < unary_[v].size(); ++p) unary_[v][p] += weight * use.usage[p];
    }
  }
}

/// min over x of cost(x) + sum_t multiplier_t * (usage_t(x) - limit_t), less a margin for its rounding.
double Search::bound_at(const std::vector<double>& multipliers) {
  price(multipliers);
  double paid = 0;
  for (size_t t = 0; t < multipliers.size(); ++t) paid += multipliers[t] * core_.limits[t];
  const double inner = elimination_.evaluate(unary_);
  if (!(inner < kInfinity)) return kInfinity;
  // A thousand roundings of half an ulp of the largest term; without multipliers the terms are the costs.
  rounding_ = 1e-13 * (paid + std::fabs(inner)) * (paid > 0);
  return core_.constant + inner - paid - rounding_;
}

/// Takes the assignment that `primal_` holds where it is feasible and better.
void Search::offer() {
  if (!primal_.feasible()) return;
  const double cost = primal_.cost();
  if (!(cost < upper_)) return;
  upper_ = cost;
  incumbent_ = primal_.assignment();
  report();
}

void Search::subgradient() {
  bound_ = bound_at(multipliers_);
  if (!(bound_ < kInfinity)) return;
  auto try_decoded = [&](bool thorough) {
    primal_.set(decoded_.data());
    if (!primal_.feasible() && !(thorough && primal_.repair(deadline_))) return;
    offer();
    if (!thorough && primal_.cost() > upper_ + 0.05 * std::fabs(upper_)) return;
    primal_.improve(deadline_);
    offer();
  };
  elimination_.decode(decoded_.data());
  try_decoded(true);
  if (core_.limits.empty() || closed()) return;

  const int64_t rounds =
      std::clamp<int64_t>(kSubgradientWork / (elimination_.work() + 1), 20, kSubgradientRounds);
  std::vector<double> current = multipliers_, gradient(core_.limits.size());
  double step = 1, spread = 0.1 * (ceiling_ - bound_);
  int stale = 0;
  for (int64_t round = 0; round < rounds && step > 1e-4 && !closed() && !deadline_.expired(); ++round) {
    primal_.set(decoded_.data());
    double norm = 0;
    for (size_t t = 0; t < gradient.size(); ++t) {
      gradient[t] = primal_.usage()[t] - core_.limits[t];
      if (current[t] == 0 && gradient[t] < 0) gradient[t] = 0;
      norm += gradient[t] * gradient[t];
    }
    if (norm == 0) break;
    const double target = upper_ < kInfinity ? upper_ - bound_ : spread;
    const double length = step * target / norm;
    for (size_t t = 0; t < gradient.size(); ++t) current[t] = std::max(0.0, current[t] + length * gradient[t]);
    const double bound = bound_at(current);
    if (bound > bound_) {
      const bool clear = bound - bound_ > 1e-4 * target;
      bound_ = bound;
      multipliers_ = current;
      stale = clear ? 0 : stale + 1;
      if (!(bound_ < kInfinity)) return;
    } else {
      ++stale;
    }
    elimination_.decode(decoded_.data());
    if (stale >= 6) {
      step *= 0.6;
      spread *= 0.6;
      stale = 0;
      current = multipliers_;
      bound_at(current);
      elimination_.decode(decoded_.data());
    }
    try_decoded(round % 16 == 15 || !(upper_ < kInfinity));
    if (round % 16 == 15) report();
  }
}

/// Returns whether the whole tree was searched.
bool Search::branch(mpopt_result& result) {
  const std::vector<int>& order = elimination_.order();
  const int n = static_cast<int>(order.size());
  // The messages must be those of the best multipliers.
  const double root = bound_at(multipliers_);
  std::vector<int64_t> offset(n + 1, 0);
  for (int d = 0; d < n; ++d) offset[d + 1] = offset[d] + core_.count(order[n - 1 - d]);
  std::vector<double> value(offset[n]), costs(offset[n]);  // bound of each child, by depth
  std::vector<int32_t> child(offset[n]);                   // strategies by ascending bound
  std::vector<int> next(n, 0), open(n, 0);
  std::vector<double> at(n + 1);  // bound of the node at each depth
  std::vector<int32_t> assignment(n, 0);
  std::vector<double> usage(core_.limits.size(), 0.0);
  at[0] = root;

  auto apply = [&](int v, int32_t p, double sign) {
    for (const Use& use : core_.variables[v].uses) {
      const double amount = sign * use.usage[p];
      if (amount == 0) continue;
      for (int t = use.lo; t < use.hi; ++t) usage[t] += amount;
    }
  };
  auto fits = [&](int v, int32_t p) {
    for (const Use& use : core_.variables[v].uses) {
      const double amount = use.usage[p];
      if (amount == 0) continue;
      for (int t = use.lo; t < use.hi; ++t) {
        if (usage[t] + amount > core_.limits[t]) return false;
      }
    }
    return true;
  };
  auto expand = [&](int depth) {
    const int v = order[n - 1 - depth], k = core_.count(v);
    double* bounds = value.data() + offset[depth];
    int32_t* children = child.data() + offset[depth];
    const double promised = elimination_.extend(v, assignment.data(), costs.data());
    const double limit = threshold();
    int kept = 0;
    for (int32_t p = 0; p < k; ++p) {
      if (!(costs[p] < kInfinity)) continue;
      bounds[p] = std::max(at[depth], at[depth] - promised + costs[p]);
      if (bounds[p] >= limit || !fits(v, p)) continue;
      children[kept++] = p;
    }
    std::sort(children, children + kept, [&](int32_t x, int32_t y) {
      return bounds[x] != bounds[y] ? bounds[x] < bounds[y] : x < y;
    });
    next[depth] = 0;
    open[depth] = kept;
  };

  int depth = 0;
  if (n > 0) expand(0);
  while (depth >= 0) {
    if (depth == n) {
      const double cost = evaluate_cost(core_, assignment.data());
      if (cost < upper_) {
        upper_ = cost;
        incumbent_ = assignment;
        report();
      }
      if (--depth >= 0) apply(order[n - 1 - depth], assignment[order[n - 1 - depth]], -1);
      continue;
    }
    const int v = order[n - 1 - depth];
    const int32_t p = next[depth] < open[depth] ? child[offset[depth] + next[depth]] : -1;
    if (p < 0 || value[offset[depth] + p] >= threshold()) {
      if (--depth >= 0) apply(order[n - 1 - depth], assignment[order[n - 1 - depth]], -1);
      continue;
    }
    ++result.search_nodes;
    const bool spent = limits_.search_nodes > 0 && result.search_nodes > limits_.search_nodes;
    if (spent || ((result.search_nodes & 1023) == 0 && deadline_.expired())) {
      // What is not searched yet: the children left at every depth of the path.
      double least = threshold();
      for (int d = 0; d <= depth; ++d) {
        if (next[d] < open[d]) least = std::min(least, value[offset[d] + child[offset[d] + next[d]]]);
      }
      bound_ = std::max(bound_, least);
      return false;
    }
    ++next[depth];
    assignment[v] = p;
    apply(v, p, 1);
    at[depth + 1] = value[offset[depth] + p];
    if (++depth < n) expand(depth);
  }
  return true;
}

void Search::run(mpopt_result& result) {
  result.variables = static_cast<int32_t>(core_.variables.size());
  result.time_steps = static_cast<int32_t>(core_.limits.size());
  result.table_entries = elimination_.entries();
  result.exact_tables = elimination_.exact();
  subgradient();
  bool proven = closed();
  if (!proven && !deadline_.expired()) {
    report();
    proven = branch(result);
  }
  const bool found = upper_ < kInfinity;
  if (proven) {
    result.status = found ? MPOPT_OPTIMAL : MPOPT_INFEASIBLE;
    // The tree was cut at the threshold, so that is what it proves.
    bound_ = found ? std::max(bound_, threshold()) : kInfinity;
  } else {
    result.status = found ? MPOPT_FEASIBLE : MPOPT_UNKNOWN;
  }
  result.objective = upper_;
  result.bound = found ? std::min(bound_, upper_) : bound_;
}

}  // namespace mpopt
