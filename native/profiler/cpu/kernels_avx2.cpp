#define MPOPT_LANES 8
#define MPOPT_MR 6
#define MPOPT_NV 2
#define MPOPT_SUFFIX Avx2
#include "kernel_template.inc"
