/* The passes of a training step over all parameters: rows of single precision, weighted and added up in double precision,
 * or squared; and a vector rounded to the grid of a release, with its noise (step.h).
 *
 * Values are secret: no branch depends on one, but on whether any is refused. */
#include "core.h"

void fs_weighted_sum32(const fs_backend *backend, float *total, const float *values, const double *weights, size_t rows,
                       size_t length, int fresh)
{
    backend->weighted_sum32(total, values, weights, rows, length, fresh);
}

void fs_weighted_sum64(const fs_backend *backend, double *total, const float *values, const double *weights, size_t rows,
                       size_t length, int fresh)
{
    backend->weighted_sum64(total, values, weights, rows, length, fresh);
}

void fs_sums_of_squares(const fs_backend *backend, double *out, const float *values, size_t rows, size_t length)
{
    for (size_t i = 0; i < rows; i++)
        out[i] = backend->sum_of_squares(values + i * length, length);
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
