/* Stochastic rounding to a grid and back (quantize.c), one body for all instruction sets.
 *
 * Included by one file an instruction set, which defines NAME(x) and TARGET, and OWN_ROUNDING where it has another body for
 * the rounding. The loops are plain C without branches that compilers turn into vectors. */
#include "floats.h"

/* A number whose last place is 2^-32: 2^20 + 2^19, with room for 2^19 on both sides. */
#define FIXED_POINT UINT64_C(0x4138000000000000)

/* Added to a number below 2^63, it rounds to a multiple of 2^12, which the lowest bits of the sum count. */
#define MULTIPLE 0x1.8p64
#define MULTIPLE_BITS UINT64_C(0x43f8000000000000)

#ifndef OWN_ROUNDING

/* floor(q + word 2^-32), for |q| < 2^19: q becomes a multiple of 2^-32 in the sum, and the floor is its upper half. */
FS_INLINE TARGET int32_t rounded(double q, uint32_t word)
{
    uint64_t sum = fs_double_bits(q + fs_as_double(FIXED_POINT | word));
    return (int32_t)((uint32_t)(sum >> 32) - (uint32_t)(FIXED_POINT >> 32));
}

/* For 2^62 steps at most: first the multiple of 2^12 that is nearest to q, then the rest, at most 2^11, rounded. */
FS_INLINE TARGET int64_t rounded_wide(double q, uint32_t word, double top)
{
    q = q < top ? q : top;
    q = q > -top ? q : -top;
    double shifted = q + MULTIPLE, rest = q - (shifted - MULTIPLE);
    return (int64_t)((fs_double_bits(shifted) - MULTIPLE_BITS) * 4096 + (uint64_t)(int64_t)rounded(rest, word));
}

/* The sign bit is set when |x| is above the limit or x is no number: bits are ordered like the numbers. */
FS_INLINE TARGET uint32_t beyond32(float x, const fs_grid *grid)
{
    return grid->single_limit - (fs_single_bits(x) & (UINT32_MAX >> 1));
}

FS_INLINE TARGET uint64_t beyond64(double x, const fs_grid *grid)
{
    return grid->limit - (fs_double_bits(x) & (UINT64_MAX >> 1));
}

/* The k-th of the four values that share a word sees it from its k-th quarter on. */
#define DEFINE_GROUP(BITS, TYPE, LANE)                                                                           \
    FS_INLINE TARGET uint64_t group##BITS##_##LANE(uint##LANE##_t *restrict out, const TYPE *restrict x,         \
                                                   const uint64_t *restrict words, const fs_grid *grid, int small) \
    {                                                                                                            \
        double reciprocal = grid->reciprocal, top = grid->top;                                                   \
        uint##LANE##_t mask = (uint##LANE##_t)grid->mask;                                                        \
        uint##BITS##_t outside = 0;                                                                              \
        for (int k = 0; k < 4; k++, x += FS_QUANTIZE_WORDS, out += FS_QUANTIZE_WORDS)                            \
            for (size_t j = 0; j < FS_QUANTIZE_WORDS; j++) {                                                     \
                uint32_t word = (uint32_t)(words[j] >> 16 * k | words[j] << 1 << (63 - 16 * k));                 \
                double q = (double)x[j] * reciprocal;                                                            \
                int64_t level = small ? rounded(q, word) : rounded_wide(q, word, top);                           \
                outside |= beyond##BITS(x[j], grid);                                                             \
                out[j] = (uint##LANE##_t)level & mask;                                                           \
            }                                                                                                    \
        return outside >> (BITS - 1);                                                                                    \
    }

#define GROUP(BITS, LANE, small) group##BITS##_##LANE((void *)to, x, of_group, grid, small)
#define DEFINE_ROUNDING(BITS, TYPE)                                                                              \
    DEFINE_GROUP(BITS, TYPE, 16)                                                                                 \
    DEFINE_GROUP(BITS, TYPE, 32)                                                                                 \
    DEFINE_GROUP(BITS, TYPE, 64)                                                                                 \
    TARGET uint64_t NAME(quantize##BITS)(void *out, const TYPE *x, size_t n_groups, const fs_generator *generator, \
                                         size_t first_group, const fs_grid *grid)                                \
    {                                                                                                            \
        _Alignas(64) uint64_t words[CHUNK * FS_QUANTIZE_WORDS];                                                  \
        uint64_t outside = 0;                                                                                    \
        uint8_t *to = out;                                                                                       \
        for (size_t i = 0; i < n_groups; i++, x += FS_QUANTIZE_GROUP, to += FS_QUANTIZE_GROUP * grid->lane / 8) { \
            const uint64_t *of_group = words + i % CHUNK * FS_QUANTIZE_WORDS;                                    \
            if (i % CHUNK == 0)                                                                                  \
                fill(generator, words, n_groups - i < CHUNK ? n_groups - i : CHUNK, first_group + i);            \
            if (grid->small)                                                                                     \
                outside |= grid->lane == 16 ? GROUP(BITS, 16, 1) :                                               \
                           grid->lane == 32 ? GROUP(BITS, 32, 1) : GROUP(BITS, 64, 1);                           \
            else                                                                                                 \
                outside |= grid->lane == 16 ? GROUP(BITS, 16, 0) :                                               \
                           grid->lane == 32 ? GROUP(BITS, 32, 0) : GROUP(BITS, 64, 0);                           \
        }                                                                                                        \
        fs_wipe(words, sizeof words);                                                                            \
        return outside;                                                                                          \
    }

enum { CHUNK = 8 };

/* The words of some groups, in the machine's order. */
static void fill(const fs_generator *generator, uint64_t *words, size_t n_groups, size_t first_group)
{
    static const uint32_t stream[3] = {0, 0, 0};
    size_t n = n_groups * FS_QUANTIZE_WORDS;
    fs_generator_fill(generator, words, n * sizeof *words, stream, (uint32_t)(first_group * FS_QUANTIZE_BLOCKS));
    for (size_t j = 0; j < n; j++)
        words[j] = fs_from_le64(words[j]);
}

DEFINE_ROUNDING(32, float)
DEFINE_ROUNDING(64, double)

#endif

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
        enum { PART = 64, AHEAD = 8 * PART };                                                                    \
        uint##LANE##_t top = (uint##LANE##_t)(UINT64_C(1) << (bits - 1));                                        \
        uint##LANE##_t mask = (uint##LANE##_t)(top - 1 + top);                                                   \
        int##LANE##_t most = (int##LANE##_t)(bound < INT##LANE##_MAX ? bound : INT##LANE##_MAX);                 \
        int##LANE##_t least = (int##LANE##_t)(-bound > INT##LANE##_MIN ? -bound : INT##LANE##_MIN);              \
        uint##LANE##_t outside = 0;                                                                              \
        for (size_t done = 0; done < length; done += PART, residues += PART, out += PART) {                      \
            size_t n = length - done < PART ? length - done : PART;                                              \
            fs_will_read(residues + AHEAD, PART * sizeof *residues);                                             \
            fs_will_write(out + AHEAD, PART * sizeof *out);                                                      \
            for (size_t j = 0; j < n; j++) {                                                                     \
                /* The highest bit counts negative. */                                                           \
                int##LANE##_t level = (int##LANE##_t)(((residues[j] & mask) ^ top) - top);                       \
                outside |= (uint##LANE##_t)((level > most) | (level < least));                                   \
                out[j] = (TYPE)(step * FROM_INTEGER(LANE, level));                                               \
            }                                                                                                    \
        }                                                                                                        \
        return outside;                                                                                          \
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
