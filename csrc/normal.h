/* Normal variates by Box and Muller's method [BM58: A Note on the Generation of Random Normal Deviates], one body
 * for all instruction sets.
 *
 * Included by one file an instruction set, which defines NAME(x) and TARGET. The loops are plain C without branches
 * or tables that compilers turn into vectors. All give the same bytes, because every operation is one that IEEE 754
 * rounds, once: sums, products, square roots, and fused multiply-adds where they are written, nowhere else.
 *
 * A pair of variates is a radius, sqrt(-2 ln u), times the cosine and the sine of a direction. The uniform number u
 * is y or 1 - y, by one bit, with y at most 1/2 in floating point: so that both ends, u near 0 (the tail) and u
 * near 1 (the middle), are as fine as their type. With g = 1 - m for the mantissa m in [1/2, 1) of y = m 2^-e, or
 * g = y and e = 0 for u = 1 - y,
 *     -2 ln u = 2 e ln 2 - 2 ln(1 - g),
 * a sum of two numbers that are not negative. The direction is t of a quarter turn, |t| < 1/2, turned by a number of
 * quarters. Polynomials are minimax ones (tests/unit/test_normal_constants.py). */
#include "floats.h"

/* -2 ln u: the side and 31 bits of y by `high`, 31 more by `low`. */
FS_INLINE TARGET float minus_twice_log32(uint32_t high, uint32_t low)
{
    uint32_t side = 0 - (high >> 31);
    float y = fmaf((float)(int32_t)(high ^ side), 0x1p31f, (float)(int32_t)(low >> 1) + 0.5f); /* times 2^63 */
    float e = (float)(int32_t)((126 + 63 - (fs_single_bits(y) >> 23)) & ~side);
    float from_mantissa = 1.0f - fs_as_single((fs_single_bits(y) & 0x007fffff) | 0x3f000000);
    float g = fs_as_single((fs_single_bits(y * 0x1p-63f) & side) | (fs_single_bits(from_mantissa) & ~side));
    float h = g * g;
    float even = 0x1.6a0f7cp+1f;
    even = fmaf(even, h, 0x1.355026p+1f);
    even = fmaf(even, h, 0x1.0df6cep-1f);
    even = fmaf(even, h, 0x1.55a384p-1f);
    even = fmaf(even, h, 2.0f);
    float odd = -0x1.a39984p+1f;
    odd = fmaf(odd, h, -0x1.7228bap-2f);
    odd = fmaf(odd, h, 0x1.f313e6p-2f);
    odd = fmaf(odd, h, 0x1.fffecp-1f);
    float q = fmaf(odd, g, even);
    return fmaf(q, g, e * 0x1.62e43p+0f);
}

/* radius times the cosine and the sine of a direction: quarters by the leading 2 bits, t by the rest. */
FS_INLINE TARGET void turn32(float radius, uint32_t word, float *cosine, float *sine)
{
    float t = fmaf((float)(int32_t)(word << 2), 0x1p-32f, 0x1p-31f), z = t * t;
    float s = -0x1.33198ep-8f;
    s = fmaf(s, z, 0x1.4680a4p-4f);
    s = fmaf(s, z, -0x1.4abc24p-1f);
    s = t * fmaf(s, z, 0x1.921fb6p+0f);
    float c = 0x1.d4f7fp-11f;
    c = fmaf(c, z, -0x1.55b2b6p-6f);
    c = fmaf(c, z, 0x1.03c1bp-2f);
    c = fmaf(c, z, -0x1.3bd3ccp+0f);
    c = fmaf(c, z, 1.0f);
    /* Turned by q quarters: exchanged where q is odd; the signs of (cos, sin) are ++, -+, --, +-. */
    uint32_t exchange = 0 - (word >> 30 & 1), difference = (fs_single_bits(s) ^ fs_single_bits(c)) & exchange;
    *cosine = radius * fs_as_single(fs_single_bits(c) ^ difference ^ ((word ^ word << 1) & 0x80000000));
    *sine = radius * fs_as_single(fs_single_bits(s) ^ difference ^ (word & 0x80000000));
}

/* FS_NORMAL32_GROUP variates. Two words make a pair: the second is the end of the radius and, times a constant, the
 * direction. The 2^32 pairs with the same first word are a lattice of rank 1 in the square of their radii's u and their
 * directions [Nie92: Random Number Generation and Quasi-Monte Carlo Methods, ch. 5]; as the continued fraction of
 * the constant over 2^32 has no quotient above 3, it fills rectangles as evenly as such a lattice can. */
TARGET void NAME(normal32)(float *restrict out, const uint32_t *restrict words, float stddev)
{
    enum { PAIRS = FS_NORMAL32_GROUP / 2 };
    for (size_t j = 0; j < PAIRS; j++) {
        float radius = sqrtf(minus_twice_log32(words[j], words[PAIRS + j])) * stddev, cosine, sine;
        turn32(radius, words[PAIRS + j] * UINT32_C(0x9e3778c1), &cosine, &sine);
        out[j] = cosine;
        out[PAIRS + j] = sine;
    }
}

/* A word as a double, rounded once; bias is 2^84 + 2^52, and what is to be subtracted. */
FS_INLINE TARGET double to_double(uint64_t word, double bias)
{
    double high = fs_as_double(word >> 32 | UINT64_C(0x4530000000000000));       /* 2^84 + 2^32 of the high half */
    double low = fs_as_double((word & UINT32_MAX) | UINT64_C(0x4330000000000000)); /* 2^52 + the low half */
    return (high - bias) + low;
}

/* -2 ln u: the side and 63 bits of y. */
FS_INLINE TARGET double minus_twice_log64(uint64_t word)
{
    uint64_t side = 0 - (word >> 63);
    double y = to_double(word ^ side, 0x1p84 + 0x1p52) + 0.5; /* times 2^64 */
    uint64_t exponent = (1022 + 64 - (fs_double_bits(y) >> 52)) & ~side;
    double e = fs_as_double(exponent | UINT64_C(0x4330000000000000)) - 0x1p52;
    double from_mantissa =
        1.0 - fs_as_double((fs_double_bits(y) & UINT64_C(0x000fffffffffffff)) | UINT64_C(0x3fe0000000000000));
    double g = fs_as_double((fs_double_bits(y * 0x1p-64) & side) | (fs_double_bits(from_mantissa) & ~side));
    double h = g * g;
    double even = -0x1.4bb40e516ec75p+7;
    even = fma(even, h, -0x1.6ef0692f028ep+8);
    even = fma(even, h, -0x1.5d32c8bff390bp+7);
    even = fma(even, h, -0x1.a038d1991bacfp+4);
    even = fma(even, h, -0x1.3150d42780e21p+0);
    even = fma(even, h, 0x1.93d0ec0d77ac5p-3);
    even = fma(even, h, 0x1.246d3424dc36bp-2);
    even = fma(even, h, 0x1.99998ccf1f781p-2);
    even = fma(even, h, 0x1.555555550bab3p-1);
    even = fma(even, h, 0x1p+1);
    double odd = 0x1.4d22f80779077p+5;
    odd = fma(odd, h, 0x1.3981e86728ba4p+8);
    odd = fma(odd, h, 0x1.28c9defe456c8p+8);
    odd = fma(odd, h, 0x1.35ea98b6215cep+6);
    odd = fma(odd, h, 0x1.bf7e5d1470509p+2);
    odd = fma(odd, h, 0x1.a6a48c70adddfp-2);
    odd = fma(odd, h, 0x1.0241ff4f7c109p-2);
    odd = fma(odd, h, 0x1.555700e22405ep-2);
    odd = fma(odd, h, 0x1.0000001dded14p-1);
    odd = fma(odd, h, 0x1.000000000024p+0);
    double q = fma(odd, g, even);
    return fma(q, g, e * 0x1.62e42fefa39efp+0);
}

FS_INLINE TARGET void turn64(double radius, uint64_t word, double *cosine, double *sine)
{
    double t = fma(to_double(word << 2, 0x1p84 + 0x1p63 + 0x1p52), 0x1p-64, 0x1p-63), z = t * t;
    double s = 0x1.e3eed76418e26p-25;
    s = fma(s, z, -0x1.e30063a54523bp-19);
    s = fma(s, z, 0x1.50782fca3e815p-13);
    s = fma(s, z, -0x1.32d2cce2d53bap-8);
    s = fma(s, z, 0x1.466bc677587p-4);
    s = fma(s, z, -0x1.4abbce625be41p-1);
    s = t * fma(s, z, 0x1.921fb54442d18p+0);
    double c = -0x1.b263c363ab4fcp-28;
    c = fma(c, z, 0x1.f9cc40acc1931p-22);
    c = fma(c, z, -0x1.a6d1ec7e0b945p-16);
    c = fma(c, z, 0x1.e1f5068367b2dp-11);
    c = fma(c, z, -0x1.55d3c7e3c928p-6);
    c = fma(c, z, 0x1.03c1f081b5aaep-2);
    c = fma(c, z, -0x1.3bd3cc9be45dep+0);
    c = fma(c, z, 1.0);
    uint64_t exchange = 0 - (word >> 62 & 1), difference = (fs_double_bits(s) ^ fs_double_bits(c)) & exchange;
    uint64_t sign = UINT64_C(1) << 63;
    *cosine = radius * fs_as_double(fs_double_bits(c) ^ difference ^ ((word ^ word << 1) & sign));
    *sine = radius * fs_as_double(fs_double_bits(s) ^ difference ^ (word & sign));
}

/* FS_NORMAL64_GROUP variates: a word for a radius, and another for a direction. */
TARGET void NAME(normal64)(double *restrict out, const uint64_t *restrict words, double stddev)
{
    enum { PAIRS = FS_NORMAL64_GROUP / 2 };
    for (size_t j = 0; j < PAIRS; j++) {
        double radius = sqrt(minus_twice_log64(words[j])) * stddev, cosine, sine;
        turn64(radius, words[PAIRS + j], &cosine, &sine);
        out[j] = cosine;
        out[PAIRS + j] = sine;
    }
}
