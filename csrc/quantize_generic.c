/* Stochastic rounding, in portable C. */
#include "generic.h"

#define NAME(x) fs_generic_##x
#define TARGET

#include "quantize.h"
