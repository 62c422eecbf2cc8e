/* The passes of a training step over all parameters: sums of blocks of records, in single precision, added up in double
 * precision; and a vector rounded to the grid of a release, with its noise (step.h).
 *
 * Values are secret: no branch depends on one, but on whether any is refused. */
#include "core.h"

void fs_add_parts(const fs_backend *backend, double *total, const float *parts, size_t n_parts, size_t length)
{
    backend->add_parts(total, parts, n_parts, length);
}

#define DEFINE_RELEASE(IN, INPUT, OUT, OUTPUT)                                                                   \
    int fs_release##IN##_##OUT(const fs_backend *backend, OUTPUT *out, const INPUT *values, const int64_t *noise, \
                               size_t length, double granularity, double scale)                                  \
    {                                                                                                            \
        uint64_t outside = backend->release##IN##_##OUT(out, values, noise, length, granularity, scale);         \
        if (FS_TELL(outside >> 63) == 0)                                                                         \
            return 1;                                                                                            \
        fs_wipe(out, length * sizeof *out);                                                                      \
        return 0;                                                                                                \
    }

DEFINE_RELEASE(32, float, 32, float)
DEFINE_RELEASE(64, double, 32, float)
DEFINE_RELEASE(64, double, 64, double)
