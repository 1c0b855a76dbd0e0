#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "core.hpp"
#include "time_steps.hpp"

namespace mpopt {
namespace {

struct Variable {
  bool live = true;
  std::vector<double> cost;
  std::vector<Use> uses;
  std::vector<Member> members;
  std::vector<int> edges;  // may hold dead ones
};

struct Edge {
  int a, b;
  bool live = true, queued = false;
  std::vector<double> table;
};

class Reducer {
 public:
  Reducer(const mpopt_problem& problem, const Deadline& deadline) : deadline_(deadline) { build(problem); }

  Core run() {
    for (int v = 0; v < count() && !infeasible_; ++v) drop_forbidden(v);
    propagate();
    for (int round = 0; round < 10 && !infeasible_; ++round) {
      changed_ = false;
      remove_by_memory();
      propagate();
      for (int v = 0; v < count() && !infeasible_ && !deadline_.expired(); ++v) remove_dominated(v);
      propagate();
      if (!changed_ || deadline_.expired()) break;
    }
    if (!infeasible_) remove_by_memory();
    propagate();
    return finish();
  }

 private:
  int count() const { return static_cast<int>(variables_.size()); }
  int size(int v) const { return static_cast<int>(variables_[v].cost.size()); }
  static uint64_t key(int a, int b) {
    return (static_cast<uint64_t>(std::min(a, b)) << 32) | static_cast<uint32_t>(std::max(a, b));
  }

  void build(const mpopt_problem& problem) {
    const int n = problem.node_count;
    variables_.resize(n);
    TimeSteps steps = maximal_time_steps(problem);
    base_.assign(steps.count + 1, 0.0);
    limit_ = problem.usage_limit;
    const double* cost = problem.costs;
    const double* usage = problem.usages;
    for (int v = 0; v < n; ++v) {
      const int k = problem.strategy_counts[v];
      Variable& variable = variables_[v];
      variable.cost.assign(cost, cost + k);
      if (steps.lo[v] < steps.hi[v]) variable.uses.push_back({steps.lo[v], steps.hi[v], {usage, usage + k}});
      Member member{v, std::vector<int32_t>(k)};
      for (int p = 0; p < k; ++p) member.strategy[p] = p;
      variable.members.push_back(std::move(member));
      cost += k;
      usage += k;
    }
    const double* table = problem.edge_costs;
    for (int e = 0; e < problem.edge_count; ++e) {
      const int a = problem.edge_ends[2 * e], b = problem.edge_ends[2 * e + 1];
      const int ka = size(a), kb = size(b);
      if (a == b) {  // a node is consistent with itself: only the diagonal can be chosen
        for (int p = 0; p < ka; ++p) variables_[a].cost[p] += table[p * ka + p];
      } else {
        add_table(a, b, [&](int p, int q) { return table[static_cast<size_t>(p) * kb + q]; });
      }
      table += static_cast<size_t>(ka) * kb;
    }
  }

  /// Adds a table of a by b to their edge, which is created where there is none.
  template <class Entry>
  void add_table(int a, int b, Entry entry) {
    const int ka = size(a), kb = size(b);
    auto [found, fresh] = index_.try_emplace(key(a, b), static_cast<int>(edges_.size()));
    const int e = found->second;
    if (fresh) {
      edges_.push_back({a, b, true, false, std::vector<double>(static_cast<size_t>(ka) * kb, 0.0)});
      variables_[a].edges.push_back(e);
      variables_[b].edges.push_back(e);
    }
    Edge& edge = edges_[e];
    const bool forward = edge.a == a;
    for (int p = 0; p < ka; ++p) {
      for (int q = 0; q < kb; ++q) {
        edge.table[forward ? static_cast<size_t>(p) * kb + q : static_cast<size_t>(q) * ka + p] += entry(p, q);
      }
    }
    enqueue(e);
  }

  void enqueue(int e) {
    if (edges_[e].queued || !edges_[e].live) return;
    edges_[e].queued = true;
    queue_.push_back(e);
  }

  void kill(int e) {
    edges_[e].live = false;
    index_.erase(key(edges_[e].a, edges_[e].b));
    std::vector<double>().swap(edges_[e].table);
  }

  /// Drops the dead edges of a variable's list.
  void tidy(int v) {
    auto& list = variables_[v].edges;
    std::erase_if(list, [&](int e) { return !edges_[e].live; });
  }

  void keep_only(int v, const std::vector<char>& keep) {
    Variable& variable = variables_[v];
    const int k = size(v);
    std::vector<int> kept;
    for (int p = 0; p < k; ++p) {
      if (keep[p]) kept.push_back(p);
    }
    if (static_cast<int>(kept.size()) == k) return;
    changed_ = true;
    if (kept.empty()) {
      infeasible_ = true;
      return;
    }
    const int rest = static_cast<int>(kept.size());
    auto compact = [&](auto& list) {
      for (int i = 0; i < rest; ++i) list[i] = list[kept[i]];
      list.resize(rest);
    };
    compact(variable.cost);
    for (Use& use : variable.uses) compact(use.usage);
    for (Member& member : variable.members) compact(member.strategy);
    tidy(v);
    for (int e : variable.edges) {
      Edge& edge = edges_[e];
      const int kb = size(edge.b);
      if (edge.a == v) {
        for (int i = 0; i < rest; ++i) {
          std::copy_n(&edge.table[static_cast<size_t>(kept[i]) * kb], kb, &edge.table[static_cast<size_t>(i) * kb]);
        }
        edge.table.resize(static_cast<size_t>(rest) * kb);
      } else {
        const int ka = size(edge.a);
        for (int p = 0; p < ka; ++p) {
          for (int i = 0; i < rest; ++i) {
            edge.table[static_cast<size_t>(p) * rest + i] = edge.table[static_cast<size_t>(p) * k + kept[i]];
          }
        }
        edge.table.resize(static_cast<size_t>(ka) * rest);
      }
      enqueue(e);
    }
  }

  void drop_forbidden(int v) {
    std::vector<char> keep(size(v), 1);
    for (int p = 0; p < size(v); ++p) keep[p] = variables_[v].cost[p] < kInfinity;
    keep_only(v, keep);
  }

  void propagate() {
    while (!queue_.empty() && !infeasible_) {
      // The list may grow while it is worked on; entries are taken in the order of arrival.
      std::vector<int> batch;
      batch.swap(queue_);
      for (int e : batch) {
        edges_[e].queued = false;
        if (edges_[e].live && !infeasible_) simplify(e);
      }
    }
  }

  void simplify(int e) {
    const int a = edges_[e].a, b = edges_[e].b, ka = size(a), kb = size(b);
    const std::vector<double>& table = edges_[e].table;
    std::vector<int> row_finite(ka, 0), column_finite(kb, 0), row_partner(ka, 0), column_partner(kb, 0);
    size_t finite = 0;
    for (int p = 0; p < ka; ++p) {
      for (int q = 0; q < kb; ++q) {
        if (!(table[static_cast<size_t>(p) * kb + q] < kInfinity)) continue;
        ++finite;
        ++row_finite[p];
        ++column_finite[q];
        row_partner[p] = q;
        column_partner[q] = p;
      }
    }
    if (finite == table.size() ? separable(e) : ka == 1 || kb == 1) {
      separate(e);
      return;
    }
    const bool rows_left = std::ranges::find(row_finite, 0) == row_finite.end();
    const bool columns_left = std::ranges::find(column_finite, 0) == column_finite.end();
    if (!rows_left || !columns_left) {  // arc consistency: a strategy without a partner goes
      auto nonzero = [](const std::vector<int>& list) {
        std::vector<char> keep;
        for (int f : list) keep.push_back(f > 0);
        return keep;
      };
      keep_only(a, nonzero(row_finite));
      if (!infeasible_) keep_only(b, nonzero(column_finite));
      return;
    }
    auto single = [](const std::vector<int>& list) { return std::ranges::all_of(list, [](int f) { return f == 1; }); };
    if (single(row_finite)) {
      absorb(e, a, b, row_partner);
    } else if (single(column_finite)) {
      absorb(e, b, a, column_partner);
    }
  }

  /// Whether the table is f(p) + g(q), to the last bit.
  bool separable(int e) const {
    const Edge& edge = edges_[e];
    const int ka = size(edge.a), kb = size(edge.b);
    const double* first = edge.table.data();
    for (int p = 1; p < ka; ++p) {
      const double* row = first + static_cast<size_t>(p) * kb;
      for (int q = 1; q < kb; ++q) {
        if (row[q] - row[0] != first[q] - first[0]) return false;
      }
    }
    return true;
  }

  void separate(int e) {
    const int a = edges_[e].a, b = edges_[e].b, ka = size(a), kb = size(b);
    const std::vector<double>& table = edges_[e].table;
    if (ka == 1) {
      for (int q = 0; q < kb; ++q) variables_[b].cost[q] += table[q];
    } else if (kb == 1) {
      for (int p = 0; p < ka; ++p) variables_[a].cost[p] += table[p];
    } else {
      for (int p = 0; p < ka; ++p) variables_[a].cost[p] += table[static_cast<size_t>(p) * kb];
      for (int q = 1; q < kb; ++q) variables_[b].cost[q] += table[q] - table[0];
    }
    kill(e);
    changed_ = true;
    drop_forbidden(a);
    if (!infeasible_) drop_forbidden(b);
  }

  /// Functional merging: the choice of `from` decides that of `to`, which is replaced.
  void absorb(int e, int from, int to, const std::vector<int>& partner) {
    const int k = size(from), kt = size(to);
    const bool forward = edges_[e].a == from;
    for (int p = 0; p < k; ++p) {
      const int q = partner[p];
      const size_t entry = forward ? static_cast<size_t>(p) * kt + q : static_cast<size_t>(q) * k + p;
      variables_[from].cost[p] += variables_[to].cost[q] + edges_[e].table[entry];
    }
    kill(e);
    changed_ = true;
    for (Member& member : variables_[to].members) {
      std::vector<int32_t> strategy(k);
      for (int p = 0; p < k; ++p) strategy[p] = member.strategy[partner[p]];
      variables_[from].members.push_back({member.node, std::move(strategy)});
    }
    for (Use& use : variables_[to].uses) {
      std::vector<double> usage(k);
      for (int p = 0; p < k; ++p) usage[p] = use.usage[partner[p]];
      variables_[from].uses.push_back({use.lo, use.hi, std::move(usage)});
    }
    for (int other : std::exchange(variables_[to].edges, {})) {
      if (!edges_[other].live) continue;
      const bool first = edges_[other].a == to;
      const int w = first ? edges_[other].b : edges_[other].a, kw = size(w);
      const std::vector<double> table = std::exchange(edges_[other].table, {});
      kill(other);
      add_table(from, w, [&](int p, int q) {
        return table[first ? static_cast<size_t>(partner[p]) * kw + q : static_cast<size_t>(q) * kt + partner[p]];
      });
      tidy(w);
    }
    tidy(from);
    Variable& gone = variables_[to];
    gone.live = false;
    gone.cost = {};
    gone.uses = {};
    gone.members = {};
  }

  /// Makes the uses of a variable disjoint and takes what every strategy uses off the limit.
  void normalise(Variable& variable) {
    if (variable.uses.empty()) return;
    const size_t k = variable.cost.size();
    struct Event {
      int step;
      size_t use;
      bool start;
    };
    std::vector<Event> events;
    for (size_t i = 0; i < variable.uses.size(); ++i) {
      events.push_back({variable.uses[i].lo, i, true});
      events.push_back({variable.uses[i].hi, i, false});
    }
    std::ranges::sort(events, [](const Event& x, const Event& y) {
      return std::pair(x.step, x.use) < std::pair(y.step, y.use);
    });
    std::vector<Use> pieces;
    std::vector<double> sum(k, 0.0);
    int open = 0;
    for (size_t i = 0; i < events.size();) {
      const int step = events[i].step;
      for (; i < events.size() && events[i].step == step; ++i) {
        const std::vector<double>& usage = variable.uses[events[i].use].usage;
        open += events[i].start ? 1 : -1;
        for (size_t p = 0; p < k; ++p) sum[p] += events[i].start ? usage[p] : -usage[p];
      }
      if (open == 0) {
        std::ranges::fill(sum, 0.0);
        continue;
      }
      const double least = *std::ranges::min_element(sum);
      const int next = events[i].step;
      base_[step] += least;
      base_[next] -= least;
      std::vector<double> excess(k);
      bool any = false;
      for (size_t p = 0; p < k; ++p) {
        excess[p] = sum[p] - least;
        any |= excess[p] != 0;
      }
      if (!any) continue;
      if (!pieces.empty() && pieces.back().hi == step && pieces.back().usage == excess) {
        pieces.back().hi = next;
      } else {
        pieces.push_back({step, next, std::move(excess)});
      }
    }
    variable.uses = std::move(pieces);
  }

  /// What is left of the limit at each step once every variable has its least usage.
  std::vector<double> slack() const {
    std::vector<double> left(base_.size() - 1);
    double sum = 0;
    for (size_t t = 0; t < left.size(); ++t) {
      sum += base_[t];
      left[t] = limit_ - sum;
    }
    return left;
  }

  /// Removes strategies that overflow a step even where all others use their least.
  void remove_by_memory() {
    for (bool again = true; again && !infeasible_;) {
      again = false;
      for (Variable& variable : variables_) {
        if (variable.live) normalise(variable);
      }
      const std::vector<double> left = slack();
      if (std::ranges::any_of(left, [](double s) { return s < 0; })) {
        infeasible_ = true;
        return;
      }
      const RangeMinimum least(left);
      for (int v = 0; v < count() && !infeasible_; ++v) {
        Variable& variable = variables_[v];
        if (!variable.live || variable.uses.empty()) continue;
        std::vector<char> keep(size(v), 1);
        for (const Use& use : variable.uses) {
          const double room = least(use.lo, use.hi);
          for (int p = 0; p < size(v); ++p) keep[p] &= use.usage[p] <= room;
        }
        const int before = size(v);
        keep_only(v, keep);
        again |= !infeasible_ && size(v) != before;
      }
    }
  }

  /// p goes where some q never costs more in any context (Goldstein's criterion for dead-end elimination:
  /// c_q - c_p + sum over edges of max_w(e[q,w] - e[p,w]) <= 0) and never uses more at any step.
  void remove_dominated(int v) {
    Variable& variable = variables_[v];
    const int k = size(v);
    if (!variable.live || k < 2) return;
    normalise(variable);
    tidy(v);
    // rows_[e][p * k_w + w]: v's strategies in rows, whichever end it is.
    rows_.resize(variable.edges.size());
    std::vector<double> mean(k);
    for (int p = 0; p < k; ++p) mean[p] = variable.cost[p];
    for (size_t i = 0; i < variable.edges.size(); ++i) {
      const Edge& edge = edges_[variable.edges[i]];
      const int kw = size(edge.a == v ? edge.b : edge.a);
      rows_[i].resize(edge.table.size());
      for (int p = 0; p < k; ++p) {
        double sum = 0;
        for (int w = 0; w < kw; ++w) {
          const double entry =
              edge.a == v ? edge.table[static_cast<size_t>(p) * kw + w] : edge.table[static_cast<size_t>(w) * k + p];
          rows_[i][static_cast<size_t>(p) * kw + w] = entry;
          sum += entry;
        }
        mean[p] += sum / kw;
      }
    }
    std::vector<char> keep(k, 1);
    for (int p = 0; p < k; ++p) {
      for (int q = 0; q < k && keep[p]; ++q) {
        if (q == p || !keep[q]) continue;
        // The mean difference is at most the sum of the largest ones: a cheap necessary condition. The
        // margin covers the rounding of the means.
        if (mean[p] < kInfinity && mean[q] - mean[p] > 1e-9 * (std::fabs(mean[p]) + std::fabs(mean[q]))) continue;
        if (dominates(variable, q, p)) keep[p] = 0;
      }
    }
    keep_only(v, keep);
  }

  bool dominates(const Variable& variable, int q, int p) const {
    for (const Use& use : variable.uses) {
      if (use.usage[q] > use.usage[p]) return false;
    }
    double worst = variable.cost[q] - variable.cost[p];
    const size_t k = variable.cost.size();
    for (size_t i = 0; i < variable.edges.size(); ++i) {
      const size_t kw = rows_[i].size() / k;
      const double* row_q = &rows_[i][q * kw];
      const double* row_p = &rows_[i][p * kw];
      double largest = -kInfinity;
      for (size_t w = 0; w < kw; ++w) {
        if (!(row_p[w] < kInfinity)) continue;
        if (!(row_q[w] < kInfinity)) return false;
        largest = std::max(largest, row_q[w] - row_p[w]);
      }
      worst += largest;
    }
    return worst <= 0;
  }

  Core finish() {
    Core core;
    core.infeasible = infeasible_;
    core.node_variable.assign(variables_.size(), -1);
    core.node_strategies.resize(variables_.size());
    if (infeasible_) return core;
    std::vector<int> number(variables_.size(), -1);
    for (int v = 0; v < count(); ++v) {
      Variable& variable = variables_[v];
      if (!variable.live) continue;
      if (size(v) > 1) {
        number[v] = static_cast<int>(core.variables.size());
        core.variables.push_back({variable.cost, variable.uses, {}});
      } else {
        core.constant += variable.cost[0];
      }
      for (Member& member : variable.members) {
        core.node_variable[member.node] = number[v];
        core.node_strategies[member.node] = std::move(member.strategy);
      }
    }
    for (Edge& edge : edges_) {
      if (!edge.live) continue;
      const int e = static_cast<int>(core.edges.size());
      core.edges.push_back({number[edge.a], number[edge.b], std::move(edge.table)});
      core.variables[core.edges[e].a].edges.push_back(e);
      core.variables[core.edges[e].b].edges.push_back(e);
    }
    keep_binding_steps(core, slack());
    return core;
  }

  const Deadline& deadline_;
  std::vector<Variable> variables_;
  std::vector<Edge> edges_;
  std::unordered_map<uint64_t, int> index_;
  std::vector<int> queue_;
  std::vector<double> base_;  // differences over the steps
  std::vector<std::vector<double>> rows_;
  double limit_ = kInfinity;
  bool infeasible_ = false, changed_ = false;
};

}  // namespace

Core reduce(const mpopt_problem& problem, const Deadline& deadline) { return Reducer(problem, deadline).run(); }

double evaluate_cost(const Core& core, const int32_t* assignment) {
  double cost = core.constant;
  for (size_t v = 0; v < core.variables.size(); ++v) cost += core.variables[v].cost[assignment[v]];
  for (const CoreEdge& edge : core.edges) {
    cost += edge.table[static_cast<size_t>(assignment[edge.a]) * core.count(edge.b) + assignment[edge.b]];
  }
  return cost;
}

}  // namespace mpopt
