#include "time_steps.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace mpopt {

TimeSteps maximal_time_steps(const mpopt_problem& problem) {
  const int n = problem.node_count;
  TimeSteps steps;
  steps.lo.assign(n, 0);
  steps.hi.assign(n, 0);
  if (!(problem.usage_limit < kInfinity)) return steps;
  std::vector<char> uses(n, 0);
  std::vector<int32_t> starts, ends;
  const double* usage = problem.usages;
  for (int v = 0; v < n; ++v) {
    const int k = problem.strategy_counts[v];
    const int32_t start = problem.intervals[2 * v], end = problem.intervals[2 * v + 1];
    uses[v] = start < end && std::any_of(usage, usage + k, [](double u) { return u != 0; });
    if (uses[v]) {
      starts.push_back(start);
      ends.push_back(end);
    }
    usage += k;
  }
  std::ranges::sort(starts);
  std::ranges::sort(ends);
  // The live set grows at each start. It is maximal just before the first end that follows.
  std::vector<int32_t> kept;
  size_t next = 0;
  for (size_t i = 0; i < ends.size();) {
    bool grew = false;
    int32_t last = 0;
    for (; next < starts.size() && starts[next] < ends[i]; ++next) {
      last = starts[next];
      grew = true;
    }
    if (grew) kept.push_back(last);
    const int32_t end = ends[i];
    while (i < ends.size() && ends[i] == end) ++i;
  }
  steps.count = static_cast<int>(kept.size());
  for (int v = 0; v < n; ++v) {
    if (!uses[v]) continue;
    auto position = [&](int32_t time) {
      return static_cast<int>(std::ranges::lower_bound(kept, time) - kept.begin());
    };
    steps.lo[v] = position(problem.intervals[2 * v]);
    steps.hi[v] = position(problem.intervals[2 * v + 1]);
  }
  return steps;
}

void keep_binding_steps(Core& core, const std::vector<double>& slack) {
  const size_t count = slack.size();
  std::vector<double> most(count + 1, 0.0);
  for (const CoreVariable& variable : core.variables) {
    for (const Use& use : variable.uses) {
      const double largest = *std::ranges::max_element(use.usage);
      most[use.lo] += largest;
      most[use.hi] -= largest;
    }
  }
  std::vector<int> number(count + 1, 0);
  double sum = 0;
  for (size_t t = 0; t < count; ++t) {
    sum += most[t];
    number[t] = static_cast<int>(core.limits.size());
    // A hair of margin: the running sum is rounded, and to keep a step is always right.
    if (sum * (1 + 1e-12) > slack[t]) core.limits.push_back(slack[t]);
  }
  number[count] = static_cast<int>(core.limits.size());
  for (CoreVariable& variable : core.variables) {
    std::vector<Use> uses;
    for (Use& use : variable.uses) {
      use.lo = number[use.lo];
      use.hi = number[use.hi];
      if (use.lo >= use.hi) continue;
      if (!uses.empty() && uses.back().hi == use.lo && uses.back().usage == use.usage) {
        uses.back().hi = use.hi;
      } else {
        uses.push_back(std::move(use));
      }
    }
    variable.uses = std::move(uses);
  }
}

RangeMinimum::RangeMinimum(const std::vector<double>& values) : levels_{values} {
  for (size_t width = 2; width <= values.size(); width *= 2) {
    const std::vector<double>& below = levels_.back();
    std::vector<double> level(values.size() - width + 1);
    for (size_t i = 0; i < level.size(); ++i) level[i] = std::min(below[i], below[i + width / 2]);
    levels_.push_back(std::move(level));
  }
}

double RangeMinimum::operator()(int lo, int hi) const {
  const int level = std::bit_width(static_cast<unsigned>(hi - lo)) - 1;
  return std::min(levels_[level][lo], levels_[level][hi - (1 << level)]);
}

}  // namespace mpopt
