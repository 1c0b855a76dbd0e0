#include "elimination.hpp"

#include <algorithm>
#include <utility>

namespace mpopt {
namespace {

constexpr int64_t kMiniBucketEntries = int64_t{1} << 16;
constexpr int64_t kMiniBucketTotal = int64_t{1} << 22;

}  // namespace

Elimination::Elimination(const Core& core, int64_t table_cap, int64_t total_cap) {
  const int n = static_cast<int>(core.variables.size());
  for (int v = 0; v < n; ++v) counts_.push_back(core.count(v));
  choose_order(core);
  position_.resize(n);
  for (int i = 0; i < n; ++i) position_[order_[i]] = i;
  int64_t entries = build(core, table_cap);
  if (!exact_ || entries > total_cap) {
    // Large mini-buckets buy little bound for much time: small ones, so that the multipliers get rounds.
    table_cap = std::min(table_cap, kMiniBucketEntries);
    total_cap = std::min(total_cap, kMiniBucketTotal);
    entries = build(core, table_cap);
    while (entries > total_cap && table_cap > 1) entries = build(core, table_cap /= 4);
  }
  arena_.assign(entries, 0.0);
  width_ = n == 0 ? 0 : *std::ranges::max_element(counts_);
  sums_.assign(static_cast<size_t>(depth_ + 1) * width_, 0.0);
  level_.resize(depth_ + 1);
  digits_.resize(depth_ + 1);
}

void Elimination::choose_order(const Core& core) {
  order_ = elimination_order(core, false);
  // Counting fill costs the square of the degree; the better order pays for it on small cores only.
  if (core.variables.size() > 600) return;
  std::vector<int> by_fill = elimination_order(core, true);
  if (elimination_size(core, by_fill) < elimination_size(core, order_)) order_ = std::move(by_fill);
}

/// Lays out groups, scopes and messages; returns the entries of all messages.
int64_t Elimination::build(const Core& core, int64_t table_cap) {
  groups_.clear();
  group_first_.clear();
  scope_.clear();
  factors_.clear();
  dims_.clear();
  edges_.clear();
  exact_ = true;
  work_ = 0;
  depth_ = 0;
  struct Pending {
    Factor factor;
    std::vector<int> scope;       // without the bucket's variable, latest-eliminated first
    std::vector<int64_t> strides;
  };
  const int n = static_cast<int>(order_.size());
  std::vector<std::vector<Pending>> buckets(n);
  for (const CoreEdge& edge : core.edges) {
    const bool a_first = position_[edge.a] < position_[edge.b];
    const int v = a_first ? edge.a : edge.b, w = a_first ? edge.b : edge.a;
    const int kv = counts_[v], kw = counts_[w];
    Pending pending{{Factor::kEdge, 0, static_cast<int64_t>(edges_.size()), 0, 0}, {w}, {kv}};
    for (int q = 0; q < kw; ++q) {
      for (int p = 0; p < kv; ++p) {
        edges_.push_back(edge.table[a_first ? static_cast<size_t>(p) * kw + q : static_cast<size_t>(q) * kv + p]);
      }
    }
    buckets[position_[v]].push_back(std::move(pending));
  }
  auto later_first = [&](int x, int y) { return position_[x] > position_[y]; };
  auto product = [&](const std::vector<int>& scope) {
    double size = 1;
    for (int w : scope) size *= counts_[w];
    return size;
  };
  int64_t entries = 0;
  for (int i = 0; i < n; ++i) {
    const int v = order_[i];
    std::vector<Pending>& bucket = buckets[i];
    std::ranges::stable_sort(bucket, [](const Pending& x, const Pending& y) { return x.scope.size() > y.scope.size(); });
    struct Draft {
      std::vector<int> scope;
      std::vector<Pending*> parts;
    };
    std::vector<Draft> drafts;
    for (Pending& pending : bucket) {
      Draft* home = nullptr;
      std::vector<int> merged;
      for (Draft& draft : drafts) {
        merged.clear();
        std::ranges::set_union(draft.scope, pending.scope, std::back_inserter(merged), later_first);
        if (merged == draft.scope || product(merged) <= static_cast<double>(table_cap)) {
          home = &draft;
          break;
        }
      }
      if (!home) {
        drafts.push_back({});
        home = &drafts.back();
        merged = pending.scope;
      }
      home->scope = merged;
      home->parts.push_back(&pending);
    }
    if (drafts.empty()) drafts.push_back({});
    exact_ = exact_ && drafts.size() == 1;
    group_first_.push_back(static_cast<int>(groups_.size()));
    for (size_t d = 0; d < drafts.size(); ++d) {
      const Draft& draft = drafts[d];
      Group group{v, static_cast<int>(scope_.size()), static_cast<int>(draft.scope.size()),
                  static_cast<int>(factors_.size()), 0, entries, static_cast<int64_t>(product(draft.scope))};
      scope_.insert(scope_.end(), draft.scope.begin(), draft.scope.end());
      depth_ = std::max(depth_, group.scope_length);
      std::vector<Factor> factors;
      if (d == 0) factors.push_back({Factor::kUnary, 0, 0, 0, 0});
      for (Pending* part : draft.parts) {
        Factor factor = part->factor;
        factor.first = static_cast<int>(dims_.size());
        factor.dims = static_cast<int>(part->scope.size());
        for (size_t s = 0; s < part->scope.size(); ++s) {
          const int axis = static_cast<int>(std::ranges::find(draft.scope, part->scope[s]) - draft.scope.begin());
          dims_.push_back({axis, part->strides[s]});
          factor.level = std::max(factor.level, axis + 1);
        }
        factors.push_back(factor);
      }
      std::ranges::stable_sort(factors, {}, &Factor::level);
      factors_.insert(factors_.end(), factors.begin(), factors.end());
      group.factor_length = static_cast<int>(factors.size());
      groups_.push_back(group);
      entries += group.size;
      work_ += group.size * counts_[v];
      if (draft.scope.empty()) continue;
      // The message goes to the first of its scope to be eliminated, which is its fastest axis.
      Pending message{{Factor::kMessage, 0, group.table, 0, 0}, draft.scope, {}};
      message.strides.resize(draft.scope.size());
      int64_t stride = 1;
      for (size_t s = draft.scope.size(); s-- > 0;) {
        message.strides[s] = stride;
        stride *= counts_[draft.scope[s]];
      }
      const int target = message.scope.back();
      message.scope.pop_back();
      message.strides.pop_back();
      buckets[position_[target]].push_back(std::move(message));
    }
    std::vector<Pending>().swap(bucket);
  }
  group_first_.push_back(static_cast<int>(groups_.size()));
  return entries;
}

inline const double* Elimination::data(const Factor& factor) const {
  return (factor.kind == Factor::kEdge ? edges_.data() : arena_.data()) + factor.base;
}

double Elimination::evaluate(const std::vector<std::vector<double>>& unary) {
  unary_ = &unary;
  double total = 0;
  for (const Group& group : groups_) {
    compute(group);
    if (group.scope_length == 0) total += arena_[group.table];
  }
  return total;
}

/// One message: for each assignment of the scope the minimum over the variable. The sums of the factors that
/// do not depend on the last axes are kept a level each, so the inner loop adds what changes and no more.
void Elimination::compute(const Group& group) {
  const int v = group.variable, k = counts_[v], depth = group.scope_length;
  const Factor* factors = factors_.data() + group.factor_first;
  const int* scope = scope_.data() + group.scope_first;
  double* out = arena_.data() + group.table;
  int* digits = digits_.data();
  std::fill(digits, digits + depth, 0);
  int first[64];  // first factor of each level
  int next = 0;
  for (int level = 0; level <= depth && level < 63; ++level) {
    first[level] = next;
    while (next < group.factor_length && factors[next].level == level) ++next;
    first[level + 1] = next;
  }
  for (int from = 0;;) {
    for (int level = from; level <= depth; ++level) {
      const double* below = level == 0 ? nullptr : level_[level - 1];
      double* sum = sums_.data() + static_cast<size_t>(level) * width_;
      const double* current = below;
      for (int f = first[level]; f < first[level + 1]; ++f) {
        const Factor& factor = factors[f];
        const double* values;
        if (factor.kind == Factor::kUnary) {
          values = (*unary_)[v].data();
        } else {
          int64_t offset = 0;
          for (int d = factor.first; d < factor.first + factor.dims; ++d) {
            offset += digits[dims_[d].axis] * dims_[d].stride;
          }
          values = data(factor) + offset;
        }
        if (!current) {
          current = values;
          continue;
        }
        for (int p = 0; p < k; ++p) sum[p] = current[p] + values[p];
        current = sum;
      }
      if (!current) {  // a mini-bucket without a factor at its first level
        std::fill(sum, sum + k, 0.0);
        current = sum;
      }
      level_[level] = current;
    }
    const double* sum = level_[depth];
    double least = sum[0];
    for (int p = 1; p < k; ++p) least = sum[p] < least ? sum[p] : least;
    *out++ = least;
    int axis = depth - 1;
    while (axis >= 0 && ++digits[axis] == counts_[scope[axis]]) digits[axis--] = 0;
    if (axis < 0) break;
    from = axis + 1;
  }
}

double Elimination::extend(int v, const int32_t* assignment, double* costs) const {
  const int k = counts_[v], i = position_[v];
  std::fill(costs, costs + k, 0.0);
  double promised = 0;
  for (int g = group_first_[i]; g < group_first_[i + 1]; ++g) {
    const Group& group = groups_[g];
    const int* scope = scope_.data() + group.scope_first;
    int64_t entry = 0;
    for (int s = 0; s < group.scope_length; ++s) entry = entry * counts_[scope[s]] + assignment[scope[s]];
    promised += arena_[group.table + entry];
    for (int f = group.factor_first; f < group.factor_first + group.factor_length; ++f) {
      const Factor& factor = factors_[f];
      const double* values;
      if (factor.kind == Factor::kUnary) {
        values = (*unary_)[v].data();
      } else {
        int64_t offset = 0;
        for (int d = factor.first; d < factor.first + factor.dims; ++d) {
          offset += assignment[scope[dims_[d].axis]] * dims_[d].stride;
        }
        values = data(factor) + offset;
      }
      for (int p = 0; p < k; ++p) costs[p] += values[p];
    }
  }
  return promised;
}

void Elimination::decode(int32_t* assignment) {
  std::vector<double> costs(width_);
  for (size_t i = order_.size(); i-- > 0;) {
    const int v = order_[i];
    extend(v, assignment, costs.data());
    assignment[v] = static_cast<int32_t>(std::min_element(costs.begin(), costs.begin() + counts_[v]) - costs.begin());
  }
}

}  // namespace mpopt
