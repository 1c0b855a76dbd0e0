#define MPOPT_LANES 16
#define MPOPT_MR 14
#define MPOPT_NV 2
#define MPOPT_SUFFIX Avx512
#include "kernel_template.inc"
