#ifndef MPOPT_SOLVER_H
#define MPOPT_SOLVER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The intra-operator search kernel. One strategy a node is chosen; the cost is the sum of the chosen node
 * costs and of the chosen entry of each edge's table; at every time step the usages of the nodes whose
 * half-open interval covers it must sum to at most the limit (Alpa, OSDI'22, section 4.2; google/iopddl).
 * Costs may be any finite number or +infinity (forbidden); usages are finite and at least 0.
 */
typedef struct mpopt_problem {
  int32_t node_count;
  int32_t edge_count;
  const int32_t* strategy_counts; /* [node_count], each at least 1 */
  const double* costs;            /* node after node */
  const double* usages;           /* node after node */
  const int32_t* intervals;       /* [2 * node_count], start and end; empty where end <= start */
  const int32_t* edge_ends;       /* [2 * edge_count] */
  const double* edge_costs;       /* edge after edge, row-major: first end's strategies by the second's */
  double usage_limit;             /* +infinity is none */
} mpopt_problem;

typedef struct mpopt_limits {
  double seconds;           /* wall-clock limit by `now`; +infinity is none */
  double gap;               /* stop at this relative gap */
  int64_t search_nodes;     /* limit on branch-and-bound nodes; 0 is none */
  int64_t table_entries;    /* limit on the entries of all elimination tables together; 0 is the default */
  double (*now)(void*);     /* seconds of a steady clock; null is no clock */
  void (*report)(void*, double objective, double bound); /* null is none */
  void* user;
} mpopt_limits;

enum { MPOPT_OPTIMAL = 0, MPOPT_FEASIBLE = 1, MPOPT_INFEASIBLE = 2, MPOPT_UNKNOWN = 3 };

typedef struct mpopt_result {
  int32_t status;
  int32_t variables;      /* left after the reductions */
  double objective;       /* +infinity without an assignment */
  double bound;           /* no assignment costs less; +infinity where infeasible */
  int64_t search_nodes;
  int64_t table_entries;  /* of the elimination */
  int32_t exact_tables;   /* 1 where the elimination was exact, 0 where it was split into mini-buckets */
  int32_t time_steps;     /* memory rows left after the reductions */
} mpopt_result;

typedef struct mpopt_solver mpopt_solver;

/* Copies the problem. The problem must be well-formed; nothing is checked here. */
mpopt_solver* mpopt_solver_create(const mpopt_problem* problem);
void mpopt_solver_destroy(mpopt_solver* solver);

/* Reduces, bounds and searches. `assignment` is [node_count] and is written where the status is optimal or
 * feasible. */
void mpopt_solver_run(mpopt_solver* solver, const mpopt_limits* limits, int32_t* assignment,
                      mpopt_result* result);

/* The reduced problem, valid after mpopt_solver_run where it did not prove infeasibility. A variable stands
 * for one or more nodes; its usage is a list of pieces over the time steps that can still bind. */
typedef struct mpopt_core {
  int32_t variable_count, edge_count, use_count, step_count;
  double constant;                /* cost of what is fixed */
  const int32_t* strategy_counts; /* [variable_count] */
  const double* costs;
  const int32_t* edge_ends;       /* [2 * edge_count] */
  const double* edge_costs;
  const int32_t* uses;            /* [3 * use_count]: variable, first step, step past the last */
  const double* usages;           /* use after use, one a strategy */
  const double* step_limits;      /* [step_count] */
  const int32_t* node_variables;  /* [node_count], -1 where the node is fixed */
  const int32_t* node_strategies; /* node after node: its strategy for each strategy of its variable */
  int64_t cost_entries, edge_entries, usage_entries, map_entries;
} mpopt_core;

const mpopt_core* mpopt_solver_core(const mpopt_solver* solver);

#ifdef __cplusplus
}
#endif

#endif
