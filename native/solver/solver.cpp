#include "mpopt/solver.h"

#include <stddef.h>

#include <new>
#include <utility>

#include "core.hpp"
#include "search.hpp"

using mpopt::Core;
using mpopt::Deadline;

struct mpopt_solver {
  // The caller's arrays, copied.
  std::vector<int32_t> counts, intervals, ends;
  std::vector<double> costs, usages, tables;
  mpopt_problem problem;

  Core core;
  // The core as flat arrays, behind `view`.
  std::vector<int32_t> core_counts, core_ends, core_uses, node_variables, node_strategies;
  std::vector<double> core_costs, core_tables, core_usages;
  mpopt_core view{};
};

namespace {

void flatten(mpopt_solver& s) {
  const Core& core = s.core;
  int32_t index = 0;
  for (const mpopt::CoreVariable& variable : core.variables) {
    s.core_counts.push_back(static_cast<int32_t>(variable.cost.size()));
    s.core_costs.insert(s.core_costs.end(), variable.cost.begin(), variable.cost.end());
    for (const mpopt::Use& use : variable.uses) {
      s.core_uses.insert(s.core_uses.end(), {index, use.lo, use.hi});
      s.core_usages.insert(s.core_usages.end(), use.usage.begin(), use.usage.end());
    }
    ++index;
  }
  for (const mpopt::CoreEdge& edge : core.edges) {
    s.core_ends.insert(s.core_ends.end(), {edge.a, edge.b});
    s.core_tables.insert(s.core_tables.end(), edge.table.begin(), edge.table.end());
  }
  s.node_variables = core.node_variable;
  for (const auto& strategies : core.node_strategies) {
    s.node_strategies.insert(s.node_strategies.end(), strategies.begin(), strategies.end());
  }
  s.view = {static_cast<int32_t>(s.core_counts.size()),
            static_cast<int32_t>(core.edges.size()),
            static_cast<int32_t>(s.core_uses.size() / 3),
            static_cast<int32_t>(core.limits.size()),
            core.constant,
            s.core_counts.data(),
            s.core_costs.data(),
            s.core_ends.data(),
            s.core_tables.data(),
            s.core_uses.data(),
            s.core_usages.data(),
            core.limits.data(),
            s.node_variables.data(),
            s.node_strategies.data(),
            static_cast<int64_t>(s.core_costs.size()),
            static_cast<int64_t>(s.core_tables.size()),
            static_cast<int64_t>(s.core_usages.size()),
            static_cast<int64_t>(s.node_strategies.size())};
}

}  // namespace

mpopt_solver* mpopt_solver_create(const mpopt_problem* problem) {
  auto* s = new (std::nothrow) mpopt_solver;
  if (!s) return nullptr;
  const int32_t n = problem->node_count, m = problem->edge_count;
  size_t strategies = 0, entries = 0;
  for (int32_t v = 0; v < n; ++v) strategies += problem->strategy_counts[v];
  for (int32_t e = 0; e < m; ++e) {
    entries += static_cast<size_t>(problem->strategy_counts[problem->edge_ends[2 * e]]) *
               problem->strategy_counts[problem->edge_ends[2 * e + 1]];
  }
  s->counts.assign(problem->strategy_counts, problem->strategy_counts + n);
  s->costs.assign(problem->costs, problem->costs + strategies);
  s->usages.assign(problem->usages, problem->usages + strategies);
  s->intervals.assign(problem->intervals, problem->intervals + 2 * static_cast<size_t>(n));
  s->ends.assign(problem->edge_ends, problem->edge_ends + 2 * static_cast<size_t>(m));
  s->tables.assign(problem->edge_costs, problem->edge_costs + entries);
  s->problem = {n,
                m,
                s->counts.data(),
                s->costs.data(),
                s->usages.data(),
                s->intervals.data(),
                s->ends.data(),
                s->tables.data(),
                problem->usage_limit};
  return s;
}

void mpopt_solver_destroy(mpopt_solver* solver) { delete solver; }

void mpopt_solver_run(mpopt_solver* solver, const mpopt_limits* limits, int32_t* assignment,
                      mpopt_result* result) {
  const Deadline deadline(*limits);
  *result = {MPOPT_UNKNOWN, 0, mpopt::kInfinity, -mpopt::kInfinity, 0, 0, 1, 0};
  solver->core = mpopt::reduce(solver->problem, deadline);
  const Core& core = solver->core;
  if (core.infeasible) {
    result->status = MPOPT_INFEASIBLE;
    result->bound = mpopt::kInfinity;
    return;
  }
  flatten(*solver);
  mpopt::Search search(core, *limits, deadline);
  search.run(*result);
  if (result->status != MPOPT_OPTIMAL && result->status != MPOPT_FEASIBLE) return;
  for (size_t node = 0; node < core.node_variable.size(); ++node) {
    const int32_t variable = core.node_variable[node];
    assignment[node] = core.node_strategies[node][variable < 0 ? 0 : search.incumbent()[variable]];
  }
}

const mpopt_core* mpopt_solver_core(const mpopt_solver* solver) { return &solver->view; }
