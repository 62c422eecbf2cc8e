/* Shamir's secret sharing of 32-byte secrets over GF(2^8) = GF(2)[z] / (z^8 + z^4 + z^3 + z + 1).
 *
 * Byte b of the share at x is f_b(x), where f_b is a polynomial of degree t - 1 with f_b(0) = secret[b].
 * No tables, and no branch or index that depends on a secret: abscissas x are public, all else may not be.
 * The 32 bytes of a secret are four 64-bit words, each holding eight field elements. */
#include "core.h"

enum { SECRET_BYTES = 32, WORDS = SECRET_BYTES / 8 };

typedef struct {
    uint64_t word[WORDS];
} elements;

static elements load(const uint8_t *p)
{
    elements e;
    for (int w = 0; w < WORDS; w++)
        e.word[w] = fs_load64_le(p + 8 * w);
    return e;
}

static void store(uint8_t *p, const elements *e)
{
    for (int w = 0; w < WORDS; w++) {
        fs_store32_le(p + 8 * w, (uint32_t)e->word[w]);
        fs_store32_le(p + 8 * w + 4, (uint32_t)(e->word[w] >> 32));
    }
}

/* Each of the eight elements of a word times z. */
static inline uint64_t times_z(uint64_t a)
{
    uint64_t carries = a >> 7 & 0x0101010101010101;
    return (a & 0x7f7f7f7f7f7f7f7f) << 1 ^ carries * 0x1b;
}

/* accumulator = accumulator * x + addend, the step of Horner's rule. */
static inline void multiply_add(elements *accumulator, uint8_t x, const elements *addend)
{
    for (int w = 0; w < WORDS; w++) {
        uint64_t power = accumulator->word[w], sum = addend->word[w];
        for (int bit = 0; bit < 8; bit++) {
            sum ^= power & (0 - (uint64_t)(x >> bit & 1));
            power = times_z(power);
        }
        accumulator->word[w] = sum;
    }
}

static uint8_t multiply(uint8_t a, uint8_t b)
{
    uint64_t power = a, product = 0;
    for (int bit = 0; bit < 8; bit++) {
        product ^= power & (0 - (uint64_t)(b >> bit & 1));
        power = times_z(power);
    }
    return (uint8_t)product;
}

/* a^254, which is 1 / a: the group has 255 elements. */
static uint8_t inverse(uint8_t a)
{
    uint8_t result = 1;
    for (int i = 0; i < 7; i++) {
        a = multiply(a, a);
        result = multiply(result, a);
    }
    return result;
}

/* coefficients: (t - 1) * 32 random bytes, those of the highest power first. out: n * 32 bytes, the share at
 * x = 1 first. */
void fs_shamir_split(uint8_t *out, const uint8_t *secret, const uint8_t *coefficients, size_t t, size_t n)
{
    elements constant = load(secret), share, coefficient;
    for (size_t x = 1; x <= n; x++) {
        share = (elements){{0}};
        for (size_t k = 0; k + 1 < t; k++) {
            coefficient = load(coefficients + SECRET_BYTES * k);
            multiply_add(&share, (uint8_t)x, &coefficient);
        }
        multiply_add(&share, (uint8_t)x, &constant);
        store(out + SECRET_BYTES * (x - 1), &share);
    }
    fs_wipe(&constant, sizeof constant);
    fs_wipe(&share, sizeof share);
    fs_wipe(&coefficient, sizeof coefficient);
}

/* The weight of share i in f(0): the product over j != i of x_j / (x_j - x_i), of public values only. */
static uint8_t lagrange_weight(const uint8_t *xs, size_t t, size_t i)
{
    uint8_t numerator = 1, denominator = 1;
    for (size_t j = 0; j < t; j++) {
        if (j == i)
            continue;
        numerator = multiply(numerator, xs[j]);
        denominator = multiply(denominator, xs[j] ^ xs[i]);
    }
    return multiply(numerator, inverse(denominator));
}

/* f(0) from the t shares (32 bytes each) at the distinct, non-zero xs. */
void fs_shamir_combine(uint8_t *out, const uint8_t *xs, const uint8_t *shares, size_t t)
{
    elements secret = {{0}}, term;
    for (size_t i = 0; i < t; i++) {
        term = load(shares + SECRET_BYTES * i);
        /* term * weight + secret: the running sum is the addend. */
        multiply_add(&term, lagrange_weight(xs, t, i), &secret);
        secret = term;
    }
    store(out, &secret);
    fs_wipe(&secret, sizeof secret);
    fs_wipe(&term, sizeof term);
}
