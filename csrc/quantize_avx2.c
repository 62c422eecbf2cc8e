/* Stochastic rounding, in AVX2. */
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_avx2_##x
#define TARGET FS_TARGET("avx2,fma")

#include "quantize.h"

#endif
