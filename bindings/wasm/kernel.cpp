// The WASM entry points of the solver kernel: plain functions over linear memory. The host writes its arrays
// into what mpopt_allocate gives it, and reads the answers back.
#include <stdlib.h>

#include "mpopt/solver.h"

#define MPOPT_EXPORT(name) __attribute__((export_name(#name)))
#define MPOPT_IMPORT(name) __attribute__((import_module("env"), import_name(#name)))

extern "C" {

MPOPT_IMPORT(now) double host_now(void);
MPOPT_IMPORT(report) void host_report(double objective, double bound);

static double clock_now(void*) { return host_now(); }
static void forward_report(void*, double objective, double bound) { host_report(objective, bound); }

MPOPT_EXPORT(mpopt_allocate) void* mpopt_allocate(uint32_t bytes) { return malloc(bytes); }
MPOPT_EXPORT(mpopt_free) void mpopt_free(void* block) { free(block); }

MPOPT_EXPORT(mpopt_create)
mpopt_solver* mpopt_create(int32_t nodes, int32_t edges, const int32_t* counts, const double* costs,
                           const double* usages, const int32_t* intervals, const int32_t* ends,
                           const double* tables, double usage_limit) {
  const mpopt_problem problem = {nodes, edges, counts, costs, usages, intervals, ends, tables, usage_limit};
  return mpopt_solver_create(&problem);
}

MPOPT_EXPORT(mpopt_run)
void mpopt_run(mpopt_solver* solver, double seconds, double gap, double search_nodes, double table_entries,
               int32_t* assignment, mpopt_result* result) {
  const mpopt_limits limits = {seconds,   gap,            static_cast<int64_t>(search_nodes),
                               static_cast<int64_t>(table_entries), clock_now, forward_report, nullptr};
  mpopt_solver_run(solver, &limits, assignment, result);
}

MPOPT_EXPORT(mpopt_core_of) const mpopt_core* mpopt_core_of(const mpopt_solver* solver) { return mpopt_solver_core(solver); }
MPOPT_EXPORT(mpopt_destroy) void mpopt_destroy(mpopt_solver* solver) { mpopt_solver_destroy(solver); }

}  // extern "C"
