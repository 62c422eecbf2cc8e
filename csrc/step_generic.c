/* The passes of a training step, in portable C. */
#include "generic.h"

#define NAME(x) fs_generic_##x
#define TARGET

#include "step.h"
