// Vectors of 16 bytes: SSE on x86-64, NEON on AArch64, whatever the compiler makes of them elsewhere.
#define MPOPT_LANES 4
#if defined(__aarch64__)
#define MPOPT_MR 8
#define MPOPT_NV 3
#else
#define MPOPT_MR 4
#define MPOPT_NV 2
#endif
#define MPOPT_SUFFIX Portable
#include "kernel_template.inc"
