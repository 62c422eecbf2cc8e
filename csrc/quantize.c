/* From reals to a grid by stochastic rounding, and back: each in one pass.
 *
 * A value x becomes floor(x / g + u), u uniform in [0, 1), computed as floor(q) + (u < q - floor(q)) of the
 * quotient q. The fraction is exact but where q is negative and smaller than 2^-53, and a multiple of the
 * step never moves. u is a multiple of 2^-53, from word j of the keystream under the key. Values are secret:
 * no branch depends on one, but on whether any is refused. */
#include "core.h"

enum { CHUNK_BLOCKS = 64, CHUNK_WORDS = 8 * CHUNK_BLOCKS };

static const uint8_t ZERO_NONCE[12];

static inline double from_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint64_t to_bits(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* An integer below 2^52 as a double, without the conversion that vectors of 64-bit integers lack: put where
 * the mantissa of 2^52 has its integer bits. */
static inline double small_to_double(uint64_t integer)
{
    return from_bits(integer | to_bits(0x1p52)) - 0x1p52;
}

/* (word >> 11) / 2^53, from its upper 27 and lower 26 bits; every step is exact. */
static inline double uniform(uint64_t word)
{
    return small_to_double(word >> 37) * 0x1p-27 + small_to_double(word >> 11 & 0x3ffffff) * 0x1p-53;
}

/* 1 for what is below zero, 0 for the rest, which must not be -0: the sign, as comparisons could become
 * branches. */
static inline uint64_t is_negative(double x)
{
    return to_bits(x) >> 63;
}

/* Whether |x| is above the limit; NaN is. Bits of non-negative doubles are ordered like the doubles. */
static inline uint64_t is_outside(double x, double limit)
{
    return (to_bits(limit) - (to_bits(x) & ~to_bits(-0.0))) >> 63;
}

/* |q| <= 2^51: adding 2^52 + 2^51 rounds q to an integer, which the lowest bits of the sum hold. */
static inline int64_t small_level(double q, double u)
{
    double shifted = q + 0x1.8p52, beyond = q - (shifted - 0x1.8p52);
    uint64_t rounded_up = is_negative(beyond);
    double fraction = beyond + from_bits((0 - rounded_up) & to_bits(1.0));
    return (int64_t)(to_bits(shifted) - to_bits(0x1.8p52) - rounded_up + is_negative(u - fraction));
}

/* |q| <= 2^62. */
static inline int64_t large_level(double q, double u)
{
    int64_t level = (int64_t)q;
    level -= (int64_t)is_negative(q - (double)level);
    return level + (int64_t)is_negative(u - (q - (double)level));
}

#define DEFINE_QUANTIZE(BITS, TYPE)                                                                          \
    int fs_quantize##BITS(const fs_backend *backend, int64_t *out, const TYPE *values, size_t length,        \
                          double granularity, double max_abs, const uint8_t *key)                            \
    {                                                                                                        \
        uint64_t words[CHUNK_WORDS];                                                                         \
        int small = max_abs / granularity <= 0x1p50;                                                         \
        uint64_t outside = 0;                                                                                \
        for (size_t start = 0; start < length && !outside; start += CHUNK_WORDS) {                           \
            size_t now = length - start < CHUNK_WORDS ? length - start : CHUNK_WORDS;                        \
            const TYPE *x = values + start;                                                                  \
            int64_t *level = out + start;                                                                    \
            for (size_t j = 0; j < now; j++)                                                                 \
                outside |= is_outside((double)x[j], max_abs);                                                \
            if (outside)                                                                                     \
                break;                                                                                       \
            backend->chacha20_blocks((uint8_t *)words, (now + 7) / 8, key, ZERO_NONCE,                       \
                                     (uint32_t)(start / 8));                                                 \
            if (small)                                                                                       \
                for (size_t j = 0; j < now; j++)                                                             \
                    level[j] = small_level((double)x[j] / granularity, uniform(fs_from_le64(words[j])));     \
            else                                                                                             \
                for (size_t j = 0; j < now; j++)                                                             \
                    level[j] = large_level((double)x[j] / granularity, uniform(fs_from_le64(words[j])));     \
        }                                                                                                    \
        fs_wipe(words, sizeof words);                                                                        \
        if (outside)                                                                                         \
            fs_wipe(out, length * sizeof *out);                                                              \
        return !outside;                                                                                     \
    }

DEFINE_QUANTIZE(32, float)
DEFINE_QUANTIZE(64, double)

/* Residues mod 2^bits as signed levels times the step. Returns 0, with out zeroed, when a level is beyond
 * bound. */
#define DEFINE_DEQUANTIZE(BITS)                                                                              \
    int fs_dequantize##BITS(double *out, const uint##BITS##_t *residues, size_t length, unsigned bits,       \
                            double granularity, int64_t bound)                                               \
    {                                                                                                        \
        uint##BITS##_t top = (uint##BITS##_t)(UINT64_C(1) << (bits - 1)), mask = (uint##BITS##_t)(top - 1 + top);        \
        int outside = 0;                                                                                     \
        for (size_t j = 0; j < length; j++) {                                                                \
            /* The highest bit counts negative. */                                                           \
            int##BITS##_t level = (int##BITS##_t)(((residues[j] & mask) ^ top) - top);                       \
            outside |= (level > bound) | (level < -bound);                                                   \
            out[j] = granularity * (double)level;                                                            \
        }                                                                                                    \
        if (outside)                                                                                         \
            fs_wipe(out, length * sizeof *out);                                                              \
        return !outside;                                                                                     \
    }

DEFINE_DEQUANTIZE(16)
DEFINE_DEQUANTIZE(32)
DEFINE_DEQUANTIZE(64)
