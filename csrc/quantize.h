/* Stochastic rounding to a grid and back (quantize.c), one body for all instruction sets.
 *
 * Included by one file an instruction set, which defines NAME(x), TARGET and MULTIPLY_SUBTRACT(x, y, z), x y - z
 * rounded once in single precision. The loops are plain C without branches that compilers turn into vectors. */
#include "floats.h"

/* Added to a number below 2^22 and 2^51, these round it to an integer, which the lowest bits of the sum hold. */
#define ROUND_SINGLE 0x1.8p23f
#define ROUND_DOUBLE 0x1.8p52

FS_INLINE TARGET uint32_t swap_halves(uint32_t word)
{
    return word << 16 | word >> 16;
}

/* For 2^21 steps at most: q = x / g as a sum of two numbers, off by 2^-25 at most. The word's leading 22 bits k make
 * v = (k + 1/2) 2^-22 - 1/2. */
FS_INLINE TARGET int32_t single_level(float x, uint32_t word, float reciprocal, float rest)
{
    float v = fs_as_single(word >> 9 | UINT32_C(0x3f800001)) - 1.5f;
    float q = x * reciprocal, missing = MULTIPLY_SUBTRACT(x, reciprocal, q) + x * rest;
    float shifted = q + ROUND_SINGLE, beyond = (q - (shifted - ROUND_SINGLE)) + missing;
    return (int32_t)(fs_single_bits(shifted) + fs_single_bits((beyond + v) + ROUND_SINGLE) -
                     2 * UINT32_C(0x4b400000));
}

/* For 2^62 steps at most: first the multiple of 2^12 that is nearest to q, then the rest, below 2^12, rounded.
 * v = (word + 1/2) 2^-32 - 1/2. */
FS_INLINE TARGET uint64_t double_level(double x, uint32_t word, double reciprocal, double top)
{
    double v = (double)(int32_t)(word ^ UINT32_C(0x80000000)) * 0x1p-32 + 0x1p-33;
    double q = x * reciprocal;
    q = q < top ? q : top;
    q = q > -top ? q : -top;
    double shifted = q + ROUND_DOUBLE * 0x1p12, beyond = q - (shifted - ROUND_DOUBLE * 0x1p12);
    return (fs_double_bits(shifted) - UINT64_C(0x43f8000000000000)) * 4096 +
           (fs_double_bits((beyond + v) + ROUND_DOUBLE) - UINT64_C(0x4338000000000000));
}

/* The sign bit is set when |x| is above the limit or x is no number: bits are ordered like the numbers. */
FS_INLINE TARGET uint32_t beyond_single(float x, uint32_t limit)
{
    return limit - (fs_single_bits(x) & (UINT32_MAX >> 1));
}

FS_INLINE TARGET uint64_t beyond_double(double x, uint64_t limit)
{
    return limit - (fs_double_bits(x) & (UINT64_MAX >> 1));
}

/* FS_QUANTIZE_GROUP values with half as many words. */
#define DEFINE_QUANTIZE(LANE)                                                                                    \
    FS_INLINE TARGET uint64_t fine##LANE(uint##LANE##_t *restrict out, const float *restrict x,                  \
                                         const uint32_t *restrict words, const fs_grid *grid)                    \
    {                                                                                                            \
        enum { HALF = FS_QUANTIZE_GROUP / 2 };                                                                   \
        float reciprocal = grid->single_reciprocal, rest = grid->single_rest;                                    \
        uint32_t outside = 0, limit = grid->single_limit;                                                        \
        uint##LANE##_t mask = (uint##LANE##_t)grid->mask;                                                        \
        for (size_t j = 0; j < HALF; j++) {                                                                      \
            outside |= beyond_single(x[j], limit) | beyond_single(x[HALF + j], limit);                           \
            int32_t first = single_level(x[j], words[j], reciprocal, rest);                                      \
            int32_t second = single_level(x[HALF + j], swap_halves(words[j]), reciprocal, rest);                 \
            out[j] = (uint##LANE##_t)first & mask;                                                               \
            out[HALF + j] = (uint##LANE##_t)second & mask;                                                       \
        }                                                                                                        \
        return outside >> 31;                                                                                    \
    }                                                                                                            \
    DEFINE_QUANTIZE_DOUBLE(LANE, float, 32)                                                                      \
    DEFINE_QUANTIZE_DOUBLE(LANE, double, 64)

#define DEFINE_QUANTIZE_DOUBLE(LANE, TYPE, BITS)                                                                 \
    FS_INLINE TARGET uint64_t wide##BITS##_##LANE(uint##LANE##_t *restrict out, const TYPE *restrict x,          \
                                                  const uint32_t *restrict words, const fs_grid *grid)           \
    {                                                                                                            \
        enum { HALF = FS_QUANTIZE_GROUP / 2 };                                                                   \
        double reciprocal = grid->reciprocal, top = grid->top;                                                   \
        uint64_t outside = 0, limit = grid->limit;                                                               \
        uint##LANE##_t mask = (uint##LANE##_t)grid->mask;                                                        \
        for (size_t j = 0; j < HALF; j++) {                                                                      \
            double a = (double)x[j], b = (double)x[HALF + j];                                                    \
            outside |= beyond_double(a, limit) | beyond_double(b, limit);                                        \
            out[j] = (uint##LANE##_t)double_level(a, words[j], reciprocal, top) & mask;                          \
            out[HALF + j] = (uint##LANE##_t)double_level(b, swap_halves(words[j]), reciprocal, top) & mask;      \
        }                                                                                                        \
        return outside >> 63;                                                                                    \
    }

DEFINE_QUANTIZE(16)
DEFINE_QUANTIZE(32)
DEFINE_QUANTIZE(64)

TARGET uint64_t NAME(quantize32)(void *out, const float *x, const uint32_t *words, const fs_grid *grid)
{
    if (grid->fine)
        return grid->lane == 16 ? fine16(out, x, words, grid) :
               grid->lane == 32 ? fine32(out, x, words, grid) : fine64(out, x, words, grid);
    return grid->lane == 16 ? wide32_16(out, x, words, grid) :
           grid->lane == 32 ? wide32_32(out, x, words, grid) : wide32_64(out, x, words, grid);
}

TARGET uint64_t NAME(quantize64)(void *out, const double *x, const uint32_t *words, const fs_grid *grid)
{
    return grid->lane == 16 ? wide64_16(out, x, words, grid) :
           grid->lane == 32 ? wide64_32(out, x, words, grid) : wide64_64(out, x, words, grid);
}

/* A signed integer as a number, rounded once: its halves in the mantissas of 2^84 and 2^52. */
FS_INLINE TARGET double to_double(int64_t level)
{
    uint64_t word = (uint64_t)level + (UINT64_C(1) << 63);
    double high = fs_as_double((word >> 32) | UINT64_C(0x4530000000000000));
    double low = fs_as_double((word & UINT32_MAX) | UINT64_C(0x4330000000000000));
    return (high - (0x1p84 + 0x1p63 + 0x1p52)) + low;
}

#define FROM_INTEGER(LANE, level) (LANE == 64 ? to_double(level) : (double)(int32_t)(level))

/* Residues mod 2^bits as signed levels times the step; not 0 when a level is beyond bound. */
#define DEFINE_DEQUANTIZE_LANE(BITS, TYPE, LANE)                                                                 \
    FS_INLINE TARGET uint64_t lift##BITS##_##LANE(TYPE *restrict out, const uint##LANE##_t *restrict residues,   \
                                                  size_t length, unsigned bits, double step, int64_t bound)      \
    {                                                                                                            \
        uint##LANE##_t top = (uint##LANE##_t)(UINT64_C(1) << (bits - 1));                                        \
        uint##LANE##_t mask = (uint##LANE##_t)(top - 1 + top);                                                   \
        int##LANE##_t most = (int##LANE##_t)(bound < INT##LANE##_MAX ? bound : INT##LANE##_MAX);                 \
        int##LANE##_t least = (int##LANE##_t)(-bound > INT##LANE##_MIN ? -bound : INT##LANE##_MIN);              \
        uint##LANE##_t outside = 0;                                                                              \
        for (size_t j = 0; j < length; j++) {                                                                    \
            /* The highest bit counts negative. */                                                               \
            int##LANE##_t level = (int##LANE##_t)(((residues[j] & mask) ^ top) - top);                           \
            outside |= (uint##LANE##_t)((level > most) | (level < least));                                       \
            out[j] = (TYPE)(step * FROM_INTEGER(LANE, level));                                                   \
        }                                                                                                        \
        return outside;                                                                                    \
    }

#define DEFINE_DEQUANTIZE(BITS, TYPE)                                                                            \
    DEFINE_DEQUANTIZE_LANE(BITS, TYPE, 16)                                                                       \
    DEFINE_DEQUANTIZE_LANE(BITS, TYPE, 32)                                                                       \
    DEFINE_DEQUANTIZE_LANE(BITS, TYPE, 64)                                                                       \
    TARGET uint64_t NAME(dequantize##BITS)(TYPE *out, const void *residues, size_t length, int lane, unsigned bits,  \
                                      double step, int64_t bound)                                                \
    {                                                                                                            \
        return lane == 16 ? lift##BITS##_16(out, residues, length, bits, step, bound) :                          \
               lane == 32 ? lift##BITS##_32(out, residues, length, bits, step, bound) :                          \
                            lift##BITS##_64(out, residues, length, bits, step, bound);                           \
    }

DEFINE_DEQUANTIZE(32, float)
DEFINE_DEQUANTIZE(64, double)

/* In double precision, where squares are exact, as 16 sums of every 16th one. */
TARGET double NAME(sum_of_squares)(const float *values, size_t length)
{
    enum { SUMS = 16 };
    double sums[SUMS] = {0.0}, total = 0.0;
    size_t whole = length - length % SUMS;
    for (size_t i = 0; i < whole; i += SUMS)
        for (size_t k = 0; k < SUMS; k++)
            sums[k] += (double)values[i + k] * (double)values[i + k];
    for (size_t i = whole; i < length; i++)
        sums[i - whole] += (double)values[i] * (double)values[i];
    for (size_t k = 0; k < SUMS; k++)
        total += sums[k];
    return total;
}

/* The sum of squares is high 2^32 + low: exact for fewer than 2^32 levels. */
TARGET void NAME(squared_norm)(uint64_t *low, uint64_t *high, const int32_t *levels, size_t length)
{
    uint64_t lows = 0, highs = 0;
    for (size_t j = 0; j < length; j++) {
        uint64_t square = (uint64_t)((int64_t)levels[j] * (int64_t)levels[j]);
        lows += square & UINT32_MAX;
        highs += square >> 32;
    }
    *low = lows;
    *high = highs;
}
