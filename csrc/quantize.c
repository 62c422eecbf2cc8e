/* Between real vectors and the integers of a grid.
 *
 * Stochastic rounding: a value x becomes the integer nearest to x / g + v, v uniform in (-1/2, 1/2): in the mean it
 * is x / g. v is symmetric about 0 and never reaches 1/2, so a multiple of the step stays what it is. It has 32
 * random bits, or 22 where single precision will do, from the generator of noise (stream.c) under the key. Two values
 * share a word of 32 bits, one as it is and one with its halves exchanged: v is uniform for both, and beyond their
 * leading 16 bits, which are independent, they matter once in 2^16 values.
 *
 * Values are secret: no branch depends on one, but on whether any is refused. */
#include "core.h"

enum { GROUPS = 8, CHUNK = GROUPS * FS_QUANTIZE_GROUP };

static uint64_t bits_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Whether something is out of range is all that a caller learns. */
static int told(uint64_t outside, void *out, size_t n_bytes)
{
    if (FS_TELL(outside) == 0)
        return 1;
    fs_wipe(out, n_bytes);
    return 0;
}

/* The largest float that is no larger, for x >= 0. */
static float rounded_down(double x)
{
    float near = x < 3e38 ? (float)x : 3e38f;
    uint32_t bits;
    memcpy(&bits, &near, sizeof bits);
    bits -= (double)near > x;
    memcpy(&near, &bits, sizeof near);
    return near;
}

static fs_grid make_grid(double granularity, double max_abs, int lane, uint64_t mask)
{
    fs_grid grid = {1.0 / granularity, max_abs / granularity, bits_of(max_abs), mask, 0, lane, 0.0f, 0.0f, 0};
    grid.fine = grid.top <= 0x1p21 && granularity >= 0x1p-100 && granularity <= 0x1p100;
    if (grid.fine) {
        float limit = rounded_down(max_abs);
        grid.single_reciprocal = (float)grid.reciprocal;
        grid.single_rest = (float)(grid.reciprocal - (double)grid.single_reciprocal);
        memcpy(&grid.single_limit, &limit, sizeof limit);
    }
    return grid;
}

/* The words of a chunk, in the machine's order. */
static void fill(const fs_generator *generator, uint32_t *words, size_t n, size_t chunk)
{
    static const uint32_t stream[3] = {0, 0, 0};
    fs_generator_fill(generator, words, n * sizeof *words, stream, (uint32_t)(chunk * (CHUNK / 2 / 4)));
    for (size_t j = 0; j < n; j++)
        words[j] = fs_load32_le((const uint8_t *)&words[j]);
}

#define DEFINE_QUANTIZE(BITS, TYPE)                                                                              \
    int fs_quantize##BITS(const fs_backend *backend, int lane, void *out, const TYPE *values, size_t length,     \
                          double granularity, double max_abs, uint64_t mask, const uint8_t *key)                 \
    {                                                                                                            \
        uint32_t words[CHUNK / 2];                                                                               \
        TYPE last[FS_QUANTIZE_GROUP];                                                                            \
        uint64_t last_levels[FS_QUANTIZE_GROUP], outside = 0;                                                    \
        fs_generator generator;                                                                                  \
        fs_grid grid = make_grid(granularity, max_abs, lane, mask);                                              \
        size_t width = (size_t)lane / 8;                                                                         \
        fs_generator_start(&generator, backend, key);                                                            \
        for (size_t i = 0; i < length; i += FS_QUANTIZE_GROUP) {                                     \
            const uint32_t *of_group = words + i % CHUNK / 2;                                                    \
            uint8_t *to = (uint8_t *)out + i * width;                                                            \
            size_t left = length - i;                                                                            \
            if (i % CHUNK == 0)                                                                                  \
                fill(&generator, words, (left < CHUNK ? (left + 511) / 512 * 512 : CHUNK) / 2, i / CHUNK);       \
            if (left >= FS_QUANTIZE_GROUP) {                                                                     \
                outside |= backend->quantize##BITS(to, values + i, of_group, &grid);                              \
                continue;                                                                                        \
            }                                                                                                    \
            memset(last, 0, sizeof last);                                                                        \
            memcpy(last, values + i, left * sizeof *last);                                                       \
            outside |= backend->quantize##BITS(last_levels, last, of_group, &grid);                               \
            memcpy(to, last_levels, left * width);                                                               \
        }                                                                                                        \
        fs_wipe(&generator, sizeof generator);                                                                   \
        fs_wipe(words, sizeof words);                                                                            \
        fs_wipe(last, sizeof last);                                                                              \
        fs_wipe(last_levels, sizeof last_levels);                                                                \
        return told(outside, out, length * width);                                                               \
    }

DEFINE_QUANTIZE(32, float)
DEFINE_QUANTIZE(64, double)

/* Toward zero, for levels below 2^31. */
int fs_truncate32(int32_t *out, const float *values, size_t length, double granularity, double max_abs)
{
    double reciprocal = 1.0 / granularity, top = max_abs / granularity;
    uint64_t outside = 0, limit = bits_of(max_abs);
    for (size_t j = 0; j < length; j++) {
        double x = (double)values[j], q = x * reciprocal;
        outside |= limit - (bits_of(x) & (UINT64_MAX >> 1));
        q = q < top ? q : top;
        q = q > -top ? q : -top;
        out[j] = (int32_t)q;
    }
    return told(outside >> 63, out, length * sizeof *out);
}

#define DEFINE_DEQUANTIZE(BITS, TYPE)                                                                            \
    int fs_dequantize##BITS(const fs_backend *backend, int lane, TYPE *out, const void *residues, size_t length, \
                            unsigned bits, double granularity, int64_t bound)                                    \
    {                                                                                                            \
        uint64_t outside = backend->dequantize##BITS(out, residues, length, lane, bits, granularity, bound);     \
        return told(outside, out, length * sizeof *out);                                                         \
    }

DEFINE_DEQUANTIZE(32, float)
DEFINE_DEQUANTIZE(64, double)

#define DEFINE_ADD_NOISE(LANE, BITS)                                                                             \
    void fs_add_noise##LANE##_##BITS(uint##LANE##_t *out, const int32_t *levels, const int##BITS##_t *noise,     \
                                     size_t length, uint##LANE##_t mask)                                         \
    {                                                                                                            \
        for (size_t j = 0; j < length; j++)                                                                      \
            out[j] = (uint##LANE##_t)((uint##LANE##_t)levels[j] + (uint##LANE##_t)noise[j]) & mask;              \
    }

DEFINE_ADD_NOISE(16, 32)
DEFINE_ADD_NOISE(32, 32)
DEFINE_ADD_NOISE(64, 32)
DEFINE_ADD_NOISE(16, 64)
DEFINE_ADD_NOISE(32, 64)
DEFINE_ADD_NOISE(64, 64)

double fs_sum_of_squares(const fs_backend *backend, const float *values, size_t length)
{
    return backend->sum_of_squares(values, length);
}

void fs_squared_norm(const fs_backend *backend, uint64_t *halves, const int32_t *levels, size_t length)
{
    uint64_t low, high;
    backend->squared_norm(&low, &high, levels, length);
    halves[0] = low + (high << 32);
    halves[1] = (high >> 32) + (halves[0] < low);
}
