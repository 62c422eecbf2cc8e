/* The exact discrete Gaussian on the integers: Pr[y] proportional to exp(-y^2 / (2 stddev^2)).
 *
 * [CKS20] Canonne, Kamath, Steinke. The Discrete Gaussian for Differential Privacy. NeurIPS 2020: Algorithms
 * 1 to 3, as they stand there. All randomness is spent in comparisons W < numerator / denominator between a
 * uniform real W = 0.w0 w1 w2... (64-bit words of the stream, drawn as far as they are needed) and an exact
 * rational, so that the law is exact: the deviation is the dyadic rational that its double is. A double-precision
 * filter decides the comparisons that are clear with room to spare; with exact_only all of them go the
 * long way, with the same result and the same words.
 *
 * Sizes. A stddev in [0.1, 2^40] is M 2^-e with M < 2^53 and 12 <= e <= 56, and t = floor(stddev) + 1. So
 * t 2^e is at most 2M < 2^54 (stddev >= 1) or 2^56 (t = 1). Algorithm 3 accepts y with probability
 * exp(-gamma), where
 *     gamma = (|y| - stddev^2 / t)^2 / (2 stddev^2) = (|y| t 2^2e - M^2)^2 / (2 (M t 2^e)^2).
 * The denominator is below 2^219, and below 2^251 after multiplication by k < 2^32 (which Algorithm 1
 * reaches with a probability below 1 / (2^32 - 1)!). As |y| < t (v + 1), and v < MAX_GEOMETRIC = 2^15 - 1,
 * |y| t 2^2e is below 2^127 and the numerator below 2^254: 256 bits hold everything. A larger v, of
 * probability exp(-32767), is reported and not cut off. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "core.h"

enum { LIMBS = 8, MAX_GEOMETRIC = (1 << 15) - 1 };

/* An unsigned integer below 2^256, little-endian limbs. */
typedef struct {
    uint32_t limb[LIMBS];
} wide;

typedef struct {
    wide numerator, denominator;
    double approximation; /* of their quotient, relative error below 17 * 2^-53 */
} ratio;

typedef struct {
    fs_stream stream;
    bool exact_only;
    uint64_t scale;       /* t */
    uint64_t scale_mask;  /* the least 2^n - 1 >= t - 1 */
    unsigned fraction_bits_twice; /* 2e */
    wide mantissa_squared;        /* M^2 */
    wide denominator;             /* 2 (M t 2^e)^2 */
    double denominator_approximation;
} sampler;

static wide wide_from(uint64_t value)
{
    return (wide){{(uint32_t)value, (uint32_t)(value >> 32)}};
}

static wide wide_multiply(const wide *a, const wide *b)
{
    wide product = {{0}};
    for (int i = 0; i < LIMBS; i++) {
        uint64_t carry = 0;
        for (int j = 0; i + j < LIMBS; j++) {
            carry += (uint64_t)a->limb[i] * b->limb[j] + product.limb[i + j];
            product.limb[i + j] = (uint32_t)carry;
            carry >>= 32;
        }
    }
    return product;
}

static wide wide_shift(const wide *a, unsigned bits)
{
    wide shifted = {{0}};
    unsigned limbs = bits / 32, rest = bits % 32;
    for (unsigned i = LIMBS; i-- > limbs;) {
        uint64_t pair = (uint64_t)a->limb[i - limbs] << 32 | (i > limbs ? a->limb[i - limbs - 1] : 0);
        shifted.limb[i] = (uint32_t)(pair << rest >> 32);
    }
    return shifted;
}

static bool wide_less(const wide *a, const wide *b)
{
    for (int i = LIMBS - 1; i >= 0; i--)
        if (a->limb[i] != b->limb[i])
            return a->limb[i] < b->limb[i];
    return false;
}

static wide wide_subtract(const wide *a, const wide *b)
{
    wide difference;
    uint64_t borrow = 0;
    for (int i = 0; i < LIMBS; i++) {
        uint64_t limb = (uint64_t)a->limb[i] - b->limb[i] - borrow;
        difference.limb[i] = (uint32_t)limb;
        borrow = limb >> 63;
    }
    return difference;
}

/* One rounding a limb, all of them relative: the relative error is below 8 * 2^-53. */
static double wide_to_double(const wide *a)
{
    double sum = 0;
    for (int i = LIMBS - 1; i >= 0; i--)
        sum = sum * 0x1p32 + a->limb[i];
    return sum;
}

/* W < numerator / denominator for W = 0.word w1 w2...: the first binary digit that differs decides. */
static bool exactly_below(fs_stream *stream, uint64_t word, wide numerator, const wide *denominator)
{
    for (;; word = fs_stream_next(stream))
        for (int bit = 63; bit >= 0; bit--) {
            numerator = wide_shift(&numerator, 1);
            bool digit = !wide_less(&numerator, denominator);
            if (digit)
                numerator = wide_subtract(&numerator, denominator);
            if (digit != (word >> bit & 1))
                return digit;
        }
}

/* Bernoulli(r / k), r / k < 1. The two sides of the filter's comparison are off by at most 18 * 2^-53 (the
 * quotient) and 2^-53 (bits of W beyond the 53rd): less than MARGIN together. */
static bool bernoulli(sampler *s, const ratio *r, uint32_t k)
{
    static const double MARGIN = 0x1p-48;
    uint64_t word = fs_stream_next(&s->stream);
    double gap = r->approximation / k - (double)(word >> 11) * 0x1p-53;
    if (!s->exact_only && fabs(gap) > MARGIN)
        return gap > 0;
    wide factor = wide_from(k), denominator = wide_multiply(&r->denominator, &factor);
    return exactly_below(&s->stream, word, r->numerator, &denominator);
}

/* Bernoulli(exp(-r)) for r in [0, 1] [CKS20, Alg. 1]: A_k ~ Bernoulli(r / k) for k = first, first + 1, ...
 * until one fails. `first` is 2 for r = 1, whose A_1 is certain. */
static bool bernoulli_exp_fraction(sampler *s, const ratio *r, uint32_t first)
{
    uint32_t k = first;
    while (bernoulli(s, r, k))
        k++;
    return k & 1;
}

static bool bernoulli_exp_one(sampler *s)
{
    static const ratio ONE = {{{1}}, {{1}}, 1.0};
    return bernoulli_exp_fraction(s, &ONE, 2);
}

/* Bernoulli(exp(-numerator / s->denominator)) [CKS20, Alg. 1]. */
static bool bernoulli_exp(sampler *s, wide numerator)
{
    for (; !wide_less(&numerator, &s->denominator); numerator = wide_subtract(&numerator, &s->denominator))
        if (!bernoulli_exp_one(s))
            return false;
    ratio r = {numerator, s->denominator, wide_to_double(&numerator) / s->denominator_approximation};
    return bernoulli_exp_fraction(s, &r, 1);
}

static uint64_t uniform_below_scale(sampler *s)
{
    for (;;) {
        uint64_t u = fs_stream_next(&s->stream) & s->scale_mask;
        if (u < s->scale)
            return u;
    }
}

/* u in [0, t) with probability proportional to exp(-u / t) [CKS20, Alg. 2]. */
static uint64_t exponential_remainder(sampler *s)
{
    for (;;) {
        uint64_t u = uniform_below_scale(s);
        ratio r = {wide_from(u), wide_from(s->scale), (double)u / (double)s->scale};
        if (bernoulli_exp_fraction(s, &r, 1))
            return u;
    }
}

/* Pr[y] proportional to exp(-|y| / t) [CKS20, Alg. 2]; false when |y| is beyond all measure. */
static bool discrete_laplace(sampler *s, uint64_t *magnitude, bool *negative)
{
    do {
        uint64_t u = exponential_remainder(s), v = 0;
        while (bernoulli_exp_one(s))
            if (++v == MAX_GEOMETRIC)
                return false;
        *magnitude = u + s->scale * v;
        *negative = fs_stream_next(&s->stream) >> 63;
    } while (*negative && *magnitude == 0);
    return true;
}

/* (|y| t 2^2e - M^2)^2 */
static wide gamma_numerator(const sampler *s, uint64_t magnitude)
{
    wide y = wide_from(magnitude), t = wide_from(s->scale), x = wide_multiply(&y, &t);
    x = wide_shift(&x, s->fraction_bits_twice);
    x = wide_less(&x, &s->mantissa_squared) ? wide_subtract(&s->mantissa_squared, &x)
                                            : wide_subtract(&x, &s->mantissa_squared);
    return wide_multiply(&x, &x);
}

/* [CKS20, Alg. 3] */
static bool discrete_gaussian(sampler *s, int64_t *out)
{
    uint64_t magnitude;
    bool negative;
    do {
        if (!discrete_laplace(s, &magnitude, &negative))
            return false;
    } while (!bernoulli_exp(s, gamma_numerator(s, magnitude)));
    *out = negative ? -(int64_t)magnitude : (int64_t)magnitude;
    return true;
}

static void sampler_start(sampler *s, const fs_backend *backend, const uint8_t *key, bool exact_only)
{
    memset(s, 0, sizeof *s);
    fs_stream_start(&s->stream, backend, key);
    s->exact_only = exact_only;
}

static void sampler_set_stddev(sampler *s, double stddev)
{
    int exponent;
    wide mantissa = wide_from((uint64_t)(frexp(stddev, &exponent) * 0x1p53));
    unsigned fraction_bits = (unsigned)(53 - exponent);
    s->scale = (uint64_t)stddev + 1;
    while (s->scale_mask < s->scale - 1)
        s->scale_mask = s->scale_mask << 1 | 1;
    s->fraction_bits_twice = 2 * fraction_bits;
    s->mantissa_squared = wide_multiply(&mantissa, &mantissa);
    wide t = wide_from(s->scale), root = wide_multiply(&mantissa, &t);
    s->denominator = wide_multiply(&root, &root);
    s->denominator = wide_shift(&s->denominator, 2 * fraction_bits + 1);
    s->denominator_approximation = wide_to_double(&s->denominator);
}

#define DEFINE_DISCRETE_GAUSSIAN(BITS)                                                                        \
    int fs_discrete_gaussian##BITS(const fs_backend *backend, int##BITS##_t *out, size_t length,              \
                                   double stddev, const uint8_t *key, int exact_only)                         \
    {                                                                                                         \
        sampler s;                                                                                            \
        sampler_start(&s, backend, key, exact_only);                                                          \
        sampler_set_stddev(&s, stddev);                                                                       \
        bool fits = true;                                                                                     \
        for (size_t j = 0; j < length && fits; j++) {                                                         \
            int64_t y = 0;                                                                                    \
            fits = discrete_gaussian(&s, &y) && y >= INT##BITS##_MIN && y <= INT##BITS##_MAX;                 \
            out[j] = (int##BITS##_t)y;                                                                        \
        }                                                                                                     \
        if (!fits)                                                                                            \
            fs_wipe(out, length * sizeof *out);                                                               \
        fs_wipe(&s, sizeof s);                                                                                \
        return !fits;                                                                                         \
    }

DEFINE_DISCRETE_GAUSSIAN(32)
DEFINE_DISCRETE_GAUSSIAN(64)

static wide wide_load(const uint8_t *bytes)
{
    wide value;
    for (int i = 0; i < LIMBS; i++)
        value.limb[i] = fs_load32_le(bytes + 4 * i);
    return value;
}

void fs_bernoulli(const fs_backend *backend, uint8_t *out, size_t length, const uint8_t *numerator,
                  const uint8_t *denominator, const uint8_t *key, int exact_only)
{
    ratio r = {wide_load(numerator), wide_load(denominator), 0};
    r.approximation = wide_to_double(&r.numerator) / wide_to_double(&r.denominator);
    sampler s;
    sampler_start(&s, backend, key, exact_only);
    for (size_t j = 0; j < length; j++)
        out[j] = bernoulli(&s, &r, 1);
    fs_wipe(&s, sizeof s);
}
