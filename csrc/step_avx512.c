/* The passes of a training step, in AVX-512. */
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_avx512_##x
#define TARGET FS_TARGET("avx512f,avx512bw")

#include "step.h"

#endif
