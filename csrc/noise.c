/* Continuous Gaussian noise (normal.h) from a key's stream.
 *
 * For simulation: sums with floating-point variates leak the other summand (docs/noise.md). */
#include "core.h"

/* How many groups of the stream that `block` is in are left from it on. */
static size_t groups_left(uint64_t block)
{
    return (size_t)(((UINT64_C(1) << 32) - (uint32_t)block) / (FS_NORMAL_GROUP_BYTES / 16));
}

#define DEFINE_GAUSSIAN(BITS, TYPE)                                                                              \
    void fs_gaussian##BITS(const fs_backend *backend, TYPE *out, size_t length, double stddev,                   \
                           const uint8_t *key)                                                                   \
    {                                                                                                            \
        enum { GROUP = FS_NORMAL_GROUP_BYTES / sizeof(TYPE) };                                                   \
        fs_generator generator;                                                                                  \
        uint64_t block = 0;                                                                                      \
        fs_generator_start(&generator, backend, key);                                                            \
        while (length >= GROUP) {                                                                                \
            size_t n = length / GROUP < groups_left(block) ? length / GROUP : groups_left(block);                \
            backend->normal##BITS(out, n, &generator, block, (TYPE)stddev);                                      \
            out += GROUP * n;                                                                                    \
            length -= GROUP * n;                                                                                 \
            block += (uint64_t)n * (FS_NORMAL_GROUP_BYTES / 16);                                                 \
        }                                                                                                        \
        if (length > 0) {                                                                                        \
            TYPE last[GROUP];                                                                                    \
            backend->normal##BITS(last, 1, &generator, block, (TYPE)stddev);                                     \
            memcpy(out, last, length * sizeof *out);                                                             \
            fs_wipe(last, sizeof last);                                                                          \
        }                                                                                                        \
        fs_wipe(&generator, sizeof generator);                                                                   \
    }

DEFINE_GAUSSIAN(32, float)
DEFINE_GAUSSIAN(64, double)
