/* Between real vectors and the integers of a grid.
 *
 * Stochastic rounding: a value x becomes floor(x / g + u), u uniform in [0, 1), of 32 random bits: in the mean it is x / g,
 * and a multiple of the step stays what it is. The bits come from the generator of noise (stream.c) under the key. Four
 * values share a word of 64 bits: each sees another quarter of it first, and as its last 16 bits one that another value
 * sees first. So u is uniform for each, and beyond their leading 16 bits, which are independent, the others matter once in
 * 2^16 values.
 *
 * Values are secret: no branch depends on one, but on whether any is refused. */
#include <float.h>

#include "core.h"

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

/* The largest float that is no larger, for x >= 0, as bits. */
static uint32_t single_limit(double x)
{
    float near = x < (double)FLT_MAX ? (float)x : FLT_MAX;
    uint32_t bits;
    memcpy(&bits, &near, sizeof bits);
    return bits - ((double)near > x);
}

static fs_grid make_grid(double granularity, double max_abs, int lane, uint64_t mask)
{
    double top = max_abs / granularity;
    return (fs_grid){1.0 / granularity, top, bits_of(max_abs), mask, single_limit(max_abs), lane, top <= 0x1p19 - 1.0};
}

#define DEFINE_QUANTIZE(BITS, TYPE)                                                                              \
    int fs_quantize##BITS(const fs_backend *backend, int lane, void *out, const TYPE *values, size_t length,     \
                          double granularity, double max_abs, uint64_t mask, const uint8_t *key)                 \
    {                                                                                                            \
        size_t n_groups = length / FS_QUANTIZE_GROUP, whole = n_groups * FS_QUANTIZE_GROUP;                      \
        size_t width = (size_t)lane / 8;                                                                         \
        fs_grid grid = make_grid(granularity, max_abs, lane, mask);                                              \
        fs_generator generator;                                                                                  \
        fs_generator_start(&generator, backend, key);                                                            \
        uint64_t outside = backend->quantize##BITS(out, values, n_groups, &generator, 0, &grid);                 \
        if (length > whole) {                                                                                    \
            TYPE last[FS_QUANTIZE_GROUP] = {0};                                                                  \
            uint64_t levels[FS_QUANTIZE_GROUP];                                                                  \
            memcpy(last, values + whole, (length - whole) * sizeof *last);                                       \
            outside |= backend->quantize##BITS(levels, last, 1, &generator, n_groups, &grid);                    \
            memcpy((uint8_t *)out + whole * width, levels, (length - whole) * width);                            \
            fs_wipe(last, sizeof last);                                                                          \
            fs_wipe(levels, sizeof levels);                                                                      \
        }                                                                                                        \
        fs_wipe(&generator, sizeof generator);                                                                   \
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
