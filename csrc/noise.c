/* Continuous Gaussian noise (normal.h) from a key's stream.
 *
 * For simulation: sums with floating-point variates leak the other summand (docs/noise.md). */
#include "core.h"

#define DEFINE_GAUSSIAN(BITS, TYPE)                                                                       \
    void fs_gaussian##BITS(const fs_backend *backend, TYPE *out, size_t length, double stddev,            \
                           const uint8_t *key)                                                            \
    {                                                                                                     \
        fs_stream stream;                                                                                 \
        uint64_t words[FS_NORMAL_GROUP];                                                                  \
        double normal[FS_NORMAL_GROUP];                                                                   \
        fs_stream_start(&stream, backend, key);                                                           \
        for (size_t i = 0; i < length; i += FS_NORMAL_GROUP) {                                            \
            size_t n = length - i < FS_NORMAL_GROUP ? length - i : FS_NORMAL_GROUP;                       \
            fs_stream_refill(&stream);                                                                    \
            for (size_t j = 0; j < FS_NORMAL_GROUP; j++)                                                  \
                words[j] = fs_load64_le(stream.buffer + 8 * j);                                           \
            backend->normal(normal, words);                                                               \
            for (size_t j = 0; j < n; j++)                                                                \
                out[i + j] = (TYPE)(stddev * normal[j]);                                                  \
        }                                                                                                 \
        fs_wipe(&stream, sizeof stream);                                                                  \
        fs_wipe(words, sizeof words);                                                                     \
        fs_wipe(normal, sizeof normal);                                                                   \
    }

DEFINE_GAUSSIAN(32, float)
DEFINE_GAUSSIAN(64, double)
