#include "primal.hpp"

#include <algorithm>

namespace mpopt {

Primal::Primal(const Core& core) : core_(core) {
  size_t widest = 0;
  for (const CoreVariable& variable : core.variables) widest = std::max(widest, variable.cost.size());
  first_.resize(widest);
  second_.resize(widest);
  assignment_.assign(core.variables.size(), 0);
  usage_.assign(core.limits.size(), 0.0);
}

void Primal::set(const int32_t* assignment) {
  std::copy_n(assignment, assignment_.size(), assignment_.begin());
  std::ranges::fill(usage_, 0.0);
  for (size_t v = 0; v < assignment_.size(); ++v) {
    for (const Use& use : core_.variables[v].uses) {
      const double amount = use.usage[assignment_[v]];
      if (amount == 0) continue;
      for (int t = use.lo; t < use.hi; ++t) usage_[t] += amount;
    }
  }
}

bool Primal::feasible() const {
  for (size_t t = 0; t < usage_.size(); ++t) {
    if (usage_[t] > core_.limits[t]) return false;
  }
  return true;
}

/// Cost of each strategy of v given its neighbours; `skip` is a neighbour left out, or -1.
void Primal::totals(int v, int skip, double* out) const {
  const CoreVariable& variable = core_.variables[v];
  const int k = core_.count(v);
  std::ranges::copy(variable.cost, out);
  for (int e : variable.edges) {
    const CoreEdge& edge = core_.edges[e];
    const bool row = edge.a == v;
    const int w = row ? edge.b : edge.a;
    if (w == skip) continue;
    if (row) {
      const int kw = core_.count(w);
      const double* entry = edge.table.data() + assignment_[w];
      for (int p = 0; p < k; ++p, entry += kw) out[p] += *entry;
    } else {
      const double* entry = edge.table.data() + static_cast<size_t>(assignment_[w]) * k;
      for (int p = 0; p < k; ++p) out[p] += entry[p];
    }
  }
}

bool Primal::fits(int v, int32_t p) const {
  for (const Use& use : core_.variables[v].uses) {
    const double more = use.usage[p] - use.usage[assignment_[v]];
    if (more <= 0) continue;
    for (int t = use.lo; t < use.hi; ++t) {
      if (usage_[t] + more > core_.limits[t]) return false;
    }
  }
  return true;
}

/// Whether no step that v can use overflows.
bool Primal::holds(int v) const {
  for (const Use& use : core_.variables[v].uses) {
    for (int t = use.lo; t < use.hi; ++t) {
      if (usage_[t] > core_.limits[t]) return false;
    }
  }
  return true;
}

void Primal::move(int v, int32_t p) {
  for (const Use& use : core_.variables[v].uses) {
    const double more = use.usage[p] - use.usage[assignment_[v]];
    if (more == 0) continue;
    for (int t = use.lo; t < use.hi; ++t) usage_[t] += more;
  }
  assignment_[v] = p;
}

bool Primal::repair(const Deadline& deadline) {
  const int n = static_cast<int>(assignment_.size());
  for (int round = 0; round < 4 * n + 16; ++round) {
    int worst = -1;
    double over = 0;
    for (size_t t = 0; t < usage_.size(); ++t) {
      if (usage_[t] - core_.limits[t] > over) {
        over = usage_[t] - core_.limits[t];
        worst = static_cast<int>(t);
      }
    }
    if (worst < 0) return true;
    if (deadline.expired()) return false;
    int best = -1;
    int32_t strategy = 0;
    double best_price = kInfinity;
    for (int v = 0; v < n; ++v) {
      for (const Use& use : core_.variables[v].uses) {
        if (worst < use.lo || worst >= use.hi) continue;
        const double now = use.usage[assignment_[v]];
        if (now == 0) continue;
        totals(v, -1, first_.data());
        const double here = first_[assignment_[v]];
        for (int32_t p = 0; p < core_.count(v); ++p) {
          const double relief = std::min(now - use.usage[p], over);
          if (relief <= 0 || !(first_[p] < kInfinity)) continue;
          const double price = here < kInfinity ? (first_[p] - here) / relief : -relief;
          if (price < best_price) {
            best_price = price;
            best = v;
            strategy = p;
          }
        }
      }
    }
    if (best < 0) return false;
    move(best, strategy);
  }
  return false;
}

bool Primal::improve_pair(const CoreEdge& edge) {
  const int a = edge.a, b = edge.b, ka = core_.count(a), kb = core_.count(b);
  totals(a, b, first_.data());
  totals(b, a, second_.data());
  const int32_t old_a = assignment_[a], old_b = assignment_[b];
  double best = first_[old_a] + second_[old_b] + edge.table[static_cast<size_t>(old_a) * kb + old_b];
  int32_t best_a = old_a, best_b = old_b;
  for (int32_t p = 0; p < ka; ++p) {
    if (!(first_[p] < kInfinity)) continue;
    bool moved = false;
    for (int32_t q = 0; q < kb; ++q) {
      const double total = first_[p] + second_[q] + edge.table[static_cast<size_t>(p) * kb + q];
      if (!(total < best)) continue;
      // Both ends move before the check: one may need the other's relief.
      if (!moved) move(a, p);
      moved = true;
      move(b, q);
      if (holds(a) && holds(b)) {
        best = total;
        best_a = p;
        best_b = q;
      }
      move(b, old_b);
    }
    if (moved) move(a, old_a);
  }
  if (best_a == old_a && best_b == old_b) return false;
  move(a, best_a);
  move(b, best_b);
  return true;
}

void Primal::improve(const Deadline& deadline) {
  const int n = static_cast<int>(assignment_.size());
  for (int round = 0; round < 50; ++round) {
    bool moved = false;
    for (int v = 0; v < n; ++v) {
      if ((v & 15) == 0 && deadline.expired()) return;
      totals(v, -1, first_.data());
      double best = first_[assignment_[v]];
      int32_t strategy = assignment_[v];
      for (int32_t p = 0; p < core_.count(v); ++p) {
        if (first_[p] < best && fits(v, p)) {
          best = first_[p];
          strategy = p;
        }
      }
      if (strategy == assignment_[v]) continue;
      move(v, strategy);
      moved = true;
    }
    if (moved) continue;
    for (const CoreEdge& edge : core_.edges) {
      if (deadline.expired()) return;
      moved |= improve_pair(edge);
    }
    if (!moved) return;
  }
}

}  // namespace mpopt
