/* The passes of a training step over all parameters (step.c), one body for all instruction sets.
 *
 * Included by one file an instruction set, which defines NAME(x) and TARGET. The loops are plain C without branches
 * that compilers turn into vectors. */
#include <float.h>

#include "floats.h"

/* Four rows at a time, so that the sums are read and written less often. */
#define DEFINE_WEIGHTED_SUM(BITS, TOTAL)                                                                         \
    TARGET void NAME(weighted_sum##BITS)(TOTAL *restrict total, const float *restrict values,                    \
                                         const double *restrict weights, size_t rows, size_t length, int fresh)  \
    {                                                                                                            \
        double sum[STRIDE];                                                                                      \
        for (size_t begin = 0; begin < length; begin += STRIDE) {                                                \
            size_t n = length - begin < STRIDE ? length - begin : STRIDE, i = 0;                                 \
            for (size_t j = 0; j < n; j++)                                                                       \
                sum[j] = 0.0;                                                                                    \
            for (; i + 4 <= rows; i += 4)                                                                        \
                add_rows(sum, values + i * length + begin, weights + i, length, n);                              \
            for (; i < rows; i++)                                                                                \
                for (size_t j = 0; j < n; j++)                                                                   \
                    sum[j] += weights[i] * (double)values[i * length + begin + j];                               \
            for (size_t j = 0; j < n; j++)                                                                       \
                total[begin + j] = (TOTAL)(fresh ? sum[j] : (double)total[begin + j] + sum[j]);                  \
        }                                                                                                        \
        fs_wipe(sum, sizeof sum);                                                                                \
    }

enum { STRIDE = 512 };

FS_INLINE TARGET void add_rows(double *restrict sum, const float *restrict values, const double *restrict weights,
                               size_t length, size_t n)
{
    const float *second = values + length, *third = second + length, *fourth = third + length;
    for (size_t j = 0; j < n; j++)
        sum[j] += (weights[0] * (double)values[j] + weights[1] * (double)second[j]) +
                  (weights[2] * (double)third[j] + weights[3] * (double)fourth[j]);
}

DEFINE_WEIGHTED_SUM(32, float)
DEFINE_WEIGHTED_SUM(64, double)

/* Added to a number below 2^51, it leaves the nearest integer in the lowest bits of the sum. */
#define ROUND 0x1.8p52

/* The integer nearest to q, |q| <= 2^62, or nothing of use: first the multiple of 2^12 nearest to q, then that to what is beyond. */
FS_INLINE TARGET uint64_t nearest(double q)
{
    double shifted = q + ROUND * 0x1p12, beyond = q - (shifted - ROUND * 0x1p12);
    return (fs_double_bits(shifted) - UINT64_C(0x43f8000000000000)) * 4096 +
           (fs_double_bits(beyond + ROUND) - UINT64_C(0x4338000000000000));
}

/* The double nearest to a signed integer. Its halves are read as 2^84 + 2^63 + 2^32 high and 2^52 + low, exactly. */
FS_INLINE TARGET double as_double(uint64_t integer)
{
    double high = fs_as_double(integer >> 32 ^ UINT64_C(0x4530000080000000));
    double low = fs_as_double((integer & UINT32_MAX) | UINT64_C(0x4330000000000000));
    return (high - (0x1p84 + 0x1p63 + 0x1p52)) + low;
}

/* The product with the reciprocal of the granularity is exact or far below half: a power of two. The sign bit of what
 * is returned is set when a value is NaN or beyond 2^62 steps, or a result beyond the largest: bits are ordered like
 * the numbers. */
#define DEFINE_RELEASE(IN, INPUT, OUT, OUTPUT, LARGEST)                                                          \
    TARGET uint64_t NAME(release##IN##_##OUT)(OUTPUT *restrict out, const INPUT *restrict values,                \
                                              const int64_t *restrict noise, size_t length, double granularity,  \
                                              double scale)                                                      \
    {                                                                                                            \
        const double reciprocal = 1.0 / granularity, unit = granularity * scale;                                 \
        const uint64_t top = UINT64_C(0x43d0000000000000), largest = fs_double_bits(LARGEST);                    \
        uint64_t outside = 0;                                                                                    \
        for (size_t j = 0; j < length; j++) {                                                                    \
            double q = (double)values[j] * reciprocal;                                                           \
            outside |= top - (fs_double_bits(q) & (UINT64_MAX >> 1));                                            \
            double released = as_double(nearest(q) + (uint64_t)noise[j]) * unit;                                 \
            outside |= largest - (fs_double_bits(released) & (UINT64_MAX >> 1));                                 \
            out[j] = (OUTPUT)released;                                                                           \
        }                                                                                                        \
        return outside;                                                                                          \
    }

DEFINE_RELEASE(32, float, 32, float, (double)FLT_MAX)
DEFINE_RELEASE(64, double, 32, float, (double)FLT_MAX)
DEFINE_RELEASE(64, double, 64, double, DBL_MAX)
