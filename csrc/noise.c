/* Continuous Gaussian noise (normal.h) from a key's stream.
 *
 * For simulation: sums with floating-point variates leak the other summand (docs/noise.md). */
#include "core.h"

/* A group's words are its part of stream (0, 0, 0), past 2^32 blocks of (1, 0, 0), and so on. */
#define DEFINE_GAUSSIAN(BITS, TYPE)                                                                            \
    void fs_gaussian##BITS(const fs_backend *backend, TYPE *out, size_t length, double stddev,                 \
                           const uint8_t *key)                                                                 \
    {                                                                                                          \
        enum { GROUP = FS_NORMAL##BITS##_GROUP, BLOCKS = GROUP * BITS / 128 };                                 \
        fs_generator generator;                                                                                \
        _Alignas(64) uint##BITS##_t words[GROUP];                                                                         \
        TYPE last[GROUP];                                                                                      \
        fs_generator_start(&generator, backend, key);                                                          \
        for (uint64_t block = 0; length > 0; block += BLOCKS) {                                                \
            const uint32_t stream[3] = {(uint32_t)(block >> 32), 0, 0};                                        \
            size_t n = length < GROUP ? length : GROUP;                                                        \
            fs_generator_fill(&generator, words, sizeof words, stream, (uint32_t)block);                       \
            for (size_t j = 0; j < GROUP; j++)                                                                 \
                words[j] = fs_load##BITS##_le((const uint8_t *)&words[j]);                                     \
            backend->normal##BITS(n < GROUP ? last : out, words, (TYPE)stddev);                                \
            if (n < GROUP)                                                                                     \
                memcpy(out, last, n * sizeof *out);                                                            \
            out += n;                                                                                          \
            length -= n;                                                                                       \
        }                                                                                                      \
        fs_wipe(&generator, sizeof generator);                                                                 \
        fs_wipe(words, sizeof words);                                                                          \
        fs_wipe(last, sizeof last);                                                                            \
    }

DEFINE_GAUSSIAN(32, float)
DEFINE_GAUSSIAN(64, double)
