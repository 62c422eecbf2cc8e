/* Stochastic rounding, in portable C. */
#include "generic.h"

#define NAME(x) fs_generic_##x
#define TARGET
/* The product is exact in double precision, and so is what its rounding left. */
#define MULTIPLY_SUBTRACT(x, y, z) ((float)((double)(x) * (double)(y) - (double)(z)))

#include "quantize.h"
