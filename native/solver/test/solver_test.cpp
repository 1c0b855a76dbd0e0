// The kernel against enumeration on random small problems, and on structured ones that need the reductions.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "mpopt/solver.h"

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
int failures = 0;

#define EXPECT(condition, ...)                              \
  do {                                                      \
    if (!(condition)) {                                     \
      ++failures;                                           \
      std::fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);  \
      std::fprintf(stderr, __VA_ARGS__);                    \
      std::fprintf(stderr, "\n");                           \
    }                                                       \
  } while (false)

struct Random {
  uint64_t state;
  uint32_t next() {  // splitmix64
    uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
  }
  int below(int n) { return static_cast<int>(next() % static_cast<uint32_t>(n)); }
};

struct Instance {
  std::vector<int32_t> counts, intervals, ends;
  std::vector<double> costs, usages, tables;
  double limit = kInfinity;

  mpopt_problem view() const {
    return {static_cast<int32_t>(counts.size()), static_cast<int32_t>(ends.size() / 2), counts.data(), costs.data(),
            usages.data(), intervals.data(), ends.data(), tables.data(), limit};
  }
  void add_node(const std::vector<double>& cost, const std::vector<double>& usage, int start, int end) {
    counts.push_back(static_cast<int32_t>(cost.size()));
    costs.insert(costs.end(), cost.begin(), cost.end());
    usages.insert(usages.end(), usage.begin(), usage.end());
    intervals.insert(intervals.end(), {start, end});
  }
};

double evaluate(const Instance& instance, const std::vector<int32_t>& chosen, bool& feasible) {
  double cost = 0;
  size_t at = 0;
  int last = 0;
  std::vector<double> usage;
  for (size_t v = 0; v < chosen.size(); ++v) {
    cost += instance.costs[at + chosen[v]];
    usage.push_back(instance.usages[at + chosen[v]]);
    at += instance.counts[v];
    last = std::max(last, instance.intervals[2 * v + 1]);
  }
  at = 0;
  for (size_t e = 0; e < instance.ends.size() / 2; ++e) {
    const int a = instance.ends[2 * e], b = instance.ends[2 * e + 1];
    cost += instance.tables[at + chosen[a] * instance.counts[b] + chosen[b]];
    at += static_cast<size_t>(instance.counts[a]) * instance.counts[b];
  }
  feasible = cost < kInfinity;
  for (int t = 0; t < last && feasible; ++t) {
    double sum = 0;
    for (size_t v = 0; v < chosen.size(); ++v) {
      if (instance.intervals[2 * v] <= t && t < instance.intervals[2 * v + 1]) sum += usage[v];
    }
    feasible = sum <= instance.limit;
  }
  return cost;
}

double brute_force(const Instance& instance) {
  std::vector<int32_t> chosen(instance.counts.size(), 0);
  double best = kInfinity;
  for (;;) {
    bool feasible;
    const double cost = evaluate(instance, chosen, feasible);
    if (feasible) best = std::min(best, cost);
    size_t v = 0;
    while (v < chosen.size() && ++chosen[v] == instance.counts[v]) chosen[v++] = 0;
    if (v == chosen.size()) return best;
  }
}

Instance random_instance(Random& random) {
  Instance instance;
  const int n = 1 + random.below(7), horizon = 1 + random.below(6), shape = random.below(4);
  for (int v = 0; v < n; ++v) {
    const int k = 1 + random.below(4);
    std::vector<double> cost, usage;
    for (int p = 0; p < k; ++p) {
      cost.push_back(random.below(20) == 0 ? kInfinity : random.below(30));
      usage.push_back(random.below(12));
    }
    const int start = random.below(horizon), end = start + random.below(horizon - start + 1);
    instance.add_node(cost, usage, start, end);
  }
  const int edges = random.below(2 * n + 1);
  for (int e = 0; e < edges; ++e) {
    // Parallel, reversed and self edges all occur.
    const int a = random.below(n), b = random.below(n), ka = instance.counts[a], kb = instance.counts[b];
    instance.ends.insert(instance.ends.end(), {a, b});
    const int kind = shape == 0 ? random.below(3) : 0;
    for (int p = 0; p < ka; ++p) {
      for (int q = 0; q < kb; ++q) {
        double cost = random.below(shape == 1 ? 4 : 15) == 0 ? kInfinity : random.below(20);
        if (kind == 1) cost = p % kb == q ? random.below(20) : kInfinity;  // functional
        if (kind == 2) cost = 3 * p + 5 * q;                              // separable
        instance.tables.push_back(cost);
      }
    }
  }
  if (random.below(4) != 0) instance.limit = random.below(6 * n + 6);
  return instance;
}

mpopt_result solve(const Instance& instance, std::vector<int32_t>& chosen, int64_t nodes, int64_t entries) {
  const mpopt_problem problem = instance.view();
  mpopt_solver* solver = mpopt_solver_create(&problem);
  const mpopt_limits limits{kInfinity, 1e-9, nodes, entries, nullptr, nullptr, nullptr};
  mpopt_result result;
  chosen.assign(instance.counts.size(), 0);
  mpopt_solver_run(solver, &limits, chosen.data(), &result);
  mpopt_solver_destroy(solver);
  return result;
}

/// `nodes` and `entries` force the search to stop early and the elimination to split into mini-buckets.
void check(const Instance& instance, int64_t nodes, int64_t entries, int number) {
  const double best = brute_force(instance);
  std::vector<int32_t> chosen;
  const mpopt_result result = solve(instance, chosen, nodes, entries);
  const double tolerance = 1e-8 * (1 + std::fabs(best));
  EXPECT(result.bound <= best + tolerance || (best == kInfinity), "case %d: bound %g above %g", number, result.bound, best);
  if (result.status == MPOPT_OPTIMAL || result.status == MPOPT_FEASIBLE) {
    bool feasible;
    const double cost = evaluate(instance, chosen, feasible);
    EXPECT(feasible, "case %d: infeasible answer", number);
    EXPECT(std::fabs(cost - result.objective) <= tolerance, "case %d: %g is %g", number, result.objective, cost);
  }
  if (nodes == 0 || result.status == MPOPT_OPTIMAL || result.status == MPOPT_INFEASIBLE) {
    EXPECT(result.status == (best < kInfinity ? MPOPT_OPTIMAL : MPOPT_INFEASIBLE), "case %d: status %d", number,
           result.status);
    if (best < kInfinity) {
      EXPECT(std::fabs(result.objective - best) <= tolerance, "case %d: %g, best %g", number, result.objective, best);
    }
  }
}

/// A chain of n nodes by k strategies against dynamic programming.
void check_chain(Random& random, int n, int k) {
  Instance instance;
  std::vector<double> best(k), cost(k);
  for (int v = 0; v < n; ++v) {
    for (double& c : cost) c = random.below(1000);
    instance.add_node(cost, std::vector<double>(k, 0.0), 0, 0);
    std::vector<double> now(k, v == 0 ? 0.0 : kInfinity);
    if (v > 0) {
      instance.ends.insert(instance.ends.end(), {v - 1, v});
      for (int p = 0; p < k; ++p) {
        for (int q = 0; q < k; ++q) {
          instance.tables.push_back(random.below(1000));
          now[q] = std::min(now[q], best[p] + instance.tables.back());
        }
      }
    }
    for (int q = 0; q < k; ++q) best[q] = now[q] + cost[q];
  }
  std::vector<int32_t> chosen;
  const mpopt_result result = solve(instance, chosen, 0, 0);
  const double expected = *std::min_element(best.begin(), best.end());
  EXPECT(result.status == MPOPT_OPTIMAL && result.objective == expected, "chain: %g, best %g", result.objective, expected);
}

double fake_time = 0;
double tick(void*) { return fake_time += 0.01; }

/// With a clock that runs out at once the answer is still right: no false proof, a valid bound.
void check_deadline(Random& random) {
  for (int i = 0; i < 200; ++i) {
    const Instance instance = random_instance(random);
    const mpopt_problem problem = instance.view();
    mpopt_solver* solver = mpopt_solver_create(&problem);
    const mpopt_limits limits{0.05, 1e-9, 0, 0, tick, nullptr, nullptr};
    mpopt_result result;
    std::vector<int32_t> chosen(instance.counts.size(), 0);
    mpopt_solver_run(solver, &limits, chosen.data(), &result);
    mpopt_solver_destroy(solver);
    const double best = brute_force(instance);
    EXPECT(result.status != MPOPT_INFEASIBLE || best == kInfinity, "deadline %d: false infeasibility", i);
    EXPECT(best == kInfinity || result.bound <= best + 1e-8 * (1 + best), "deadline %d: bound", i);
    EXPECT(result.status != MPOPT_OPTIMAL || std::fabs(result.objective - best) <= 1e-8 * (1 + best), "deadline %d", i);
  }
}

}  // namespace

int main() {
  Random random{20261123};
  for (int i = 0; i < 4000; ++i) check(random_instance(random), 0, 0, i);
  for (int i = 4000; i < 6000; ++i) check(random_instance(random), 0, 1, i);
  for (int i = 6000; i < 8000; ++i) check(random_instance(random), 3, i % 2, i);
  for (int i = 0; i < 20; ++i) check_chain(random, 200, 6);
  check_deadline(random);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
