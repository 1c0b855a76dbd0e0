#include <algorithm>
#include <cmath>
#include <queue>
#include <utility>

#include "elimination.hpp"

namespace mpopt {
namespace {

using Adjacency = std::vector<std::vector<int>>;

/// Beyond this many neighbours no elimination is exact anyway, and fill-in would only cost time.
constexpr size_t kFillLimit = 64;

Adjacency adjacency(const Core& core) {
  Adjacency lists(core.variables.size());
  for (const CoreEdge& edge : core.edges) {
    lists[edge.a].push_back(edge.b);
    lists[edge.b].push_back(edge.a);
  }
  for (auto& list : lists) std::ranges::sort(list);
  return lists;
}

void eliminate(Adjacency& lists, int v) {
  const std::vector<int> around = std::exchange(lists[v], {});
  const bool fill = around.size() <= kFillLimit;
  std::vector<int> merged;
  for (int w : around) {
    std::vector<int>& list = lists[w];
    if (fill) {
      merged.clear();
      std::ranges::set_union(list, around, std::back_inserter(merged));
      std::erase_if(merged, [&](int u) { return u == v || u == w; });
      list = merged;
    } else {
      std::erase(list, v);
    }
  }
}

double weight(const Core& core, const Adjacency& lists, int v, bool by_fill) {
  const std::vector<int>& around = lists[v];
  double log_size = 0;
  for (int w : around) log_size += std::log2(static_cast<double>(core.count(w)));
  if (!by_fill) return log_size;
  int64_t fill = 0;
  for (size_t i = 0; i < around.size(); ++i) {
    for (size_t j = i + 1; j < around.size(); ++j) {
      fill += !std::ranges::binary_search(lists[around[i]], around[j]);
    }
  }
  return static_cast<double>(fill) + log_size * 1e-6;
}

}  // namespace

std::vector<int> elimination_order(const Core& core, bool by_fill) {
  const int n = static_cast<int>(core.variables.size());
  Adjacency lists = adjacency(core);
  using Entry = std::pair<double, int>;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> heap;
  std::vector<double> current(n);
  for (int v = 0; v < n; ++v) heap.push({current[v] = weight(core, lists, v, by_fill), v});
  std::vector<int> order;
  std::vector<char> done(n, 0);
  while (!heap.empty()) {
    const auto [key, v] = heap.top();
    heap.pop();
    if (done[v] || key != current[v]) continue;
    done[v] = 1;
    order.push_back(v);
    const std::vector<int> around = lists[v];
    eliminate(lists, v);
    // Fill counts change two steps away as well; keeping those stale only changes the order's quality.
    for (int w : around) heap.push({current[w] = weight(core, lists, w, by_fill), w});
  }
  return order;
}

double elimination_size(const Core& core, const std::vector<int>& order) {
  Adjacency lists = adjacency(core);
  double total = 0;
  for (int v : order) {
    total += std::exp2(weight(core, lists, v, false)) * core.count(v);
    eliminate(lists, v);
  }
  return total;
}

}  // namespace mpopt
