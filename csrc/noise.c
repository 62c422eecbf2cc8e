/* Continuous Gaussian noise by Box-Muller: two words give two variates.
 *
 * For simulation: sums with floating-point variates leak the other summand (docs/noise.md). */
#include <math.h>

#include "core.h"

/* The midpoint of one of 2^64 cells of (0, 1), so that the tail reaches sqrt(2 ln 2^65) = 9.49 deviations. */
static double radius_from(uint64_t word)
{
    return sqrt(-2.0 * log(((double)word + 0.5) * 0x1p-64));
}

/* One of 2^53 directions, in radians. */
static double angle_from(uint64_t word)
{
    return 6.283185307179586 * ((double)(word >> 11) * 0x1p-53);
}

#define DEFINE_GAUSSIAN(BITS, TYPE)                                                                       \
    void fs_gaussian##BITS(const fs_backend *backend, TYPE *out, size_t length, double stddev,            \
                           const uint8_t *key)                                                            \
    {                                                                                                     \
        fs_stream stream;                                                                                 \
        fs_stream_start(&stream, backend, key);                                                           \
        for (size_t j = 0; j < length; j += 2) {                                                          \
            double radius = stddev * radius_from(fs_stream_next(&stream));                                \
            double angle = angle_from(fs_stream_next(&stream));                                           \
            out[j] = (TYPE)(radius * cos(angle));                                                         \
            if (j + 1 < length)                                                                           \
                out[j + 1] = (TYPE)(radius * sin(angle));                                                 \
        }                                                                                                 \
        fs_wipe(&stream, sizeof stream);                                                                  \
    }

DEFINE_GAUSSIAN(32, float)
DEFINE_GAUSSIAN(64, double)
