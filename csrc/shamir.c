/* Shamir's secret sharing of 32-byte secrets over GF(2^8) = GF(2)[z] / (z^8 + z^4 + z^3 + z + 1).
 *
 * Byte b of the share at x is f_b(x), where f_b is a polynomial of degree t - 1 with f_b(0) = secret[b].
 *
 * Every product here has a secret factor and a public one. Public are the abscissas and what is made of them
 * alone, powers and Lagrange weights: they are computed with logarithms and may choose branches and
 * addresses. Secret are secrets, coefficients and shares: they are only ever shifted, masked and added, all
 * 32 bytes of one side by side, so that neither time nor addresses depend on them. */
#include "core.h"

enum { SECRET_BYTES = 32, WORDS = SECRET_BYTES / 8, GROUP_ORDER = 255 };

/* 32 field elements, in memory's order: no step below mixes bytes. */
typedef struct {
    uint64_t word[WORDS];
} elements;

/* Logarithms to the base z + 1, which generates the multiplicative group. */
typedef struct {
    uint8_t exponential[GROUP_ORDER];
    uint8_t logarithm[GROUP_ORDER + 1]; /* that of 0 means nothing */
} logarithms;

static void compute_logarithms(logarithms *tables)
{
    unsigned power = 1;
    tables->logarithm[0] = 0;
    for (unsigned i = 0; i < GROUP_ORDER; i++) {
        tables->exponential[i] = (uint8_t)power;
        tables->logarithm[power] = (uint8_t)i;
        power ^= power << 1;                   /* times z + 1 */
        power ^= (power >> 8) * 0x11b;         /* less the polynomial, where z^8 has come up */
    }
}

static inline elements load(const uint8_t *p)
{
    elements e;
    memcpy(&e, p, sizeof e);
    return e;
}

static inline void store(uint8_t *p, const elements *e)
{
    memcpy(p, e, sizeof *e);
}

static inline elements sum(const elements *a, const elements *b)
{
    elements c;
    for (int w = 0; w < WORDS; w++)
        c.word[w] = a->word[w] ^ b->word[w];
    return c;
}

static inline elements times_z(const elements *a)
{
    elements c;
    for (int w = 0; w < WORDS; w++) {
        uint64_t carries = a->word[w] >> 7 & 0x0101010101010101;
        c.word[w] = (a->word[w] & 0x7f7f7f7f7f7f7f7f) << 1 ^ carries * 0x1b;
    }
    return c;
}

/* A secret's products with all public elements: those of degree below 4, and those times z^4. */
typedef struct {
    elements low[16];
    elements high[16];
} multiples;

static void compute_multiples(multiples *of, const elements *secret)
{
    elements power = *secret;
    for (int half = 0; half < 2; half++) {
        elements *row = half ? of->high : of->low;
        row[0] = (elements){{0}};
        for (int size = 1; size < 16; size *= 2) {
            for (int i = 0; i < size; i++)
                row[size + i] = sum(&row[i], &power);
            power = times_z(&power);
        }
    }
    fs_wipe(&power, sizeof power);
}

/* coefficients: (t - 1) * 32 random bytes, those of the highest power first. out: n * 32 bytes, the share at
 * x = 1 first. Each coefficient is multiplied by the powers of all x in turn. */
void fs_shamir_split(uint8_t *out, const uint8_t *secret, const uint8_t *coefficients, size_t t, size_t n)
{
    logarithms tables;
    multiples of;
    elements coefficient;
    compute_logarithms(&tables);
    for (size_t x = 1; x <= n; x++)
        memcpy(out + SECRET_BYTES * (x - 1), secret, SECRET_BYTES);
    for (size_t power = t - 1; power > 0; power--) {
        coefficient = load(coefficients + SECRET_BYTES * (t - 1 - power));
        compute_multiples(&of, &coefficient);
        for (size_t x = 1; x <= n; x++) {
            unsigned factor = tables.exponential[tables.logarithm[x] * (unsigned)power % GROUP_ORDER];
            const elements *low = &of.low[factor & 15], *high = &of.high[factor >> 4];
            elements share = load(out + SECRET_BYTES * (x - 1));
            for (int w = 0; w < WORDS; w++)
                share.word[w] ^= low->word[w] ^ high->word[w];
            store(out + SECRET_BYTES * (x - 1), &share);
        }
    }
    fs_wipe(&coefficient, sizeof coefficient);
    fs_wipe(&of, sizeof of);
}

/* The weight of share i in f(0): the product over j != i of x_j / (x_j - x_i). */
static uint8_t lagrange_weight(const logarithms *tables, const uint8_t *xs, size_t t, size_t i)
{
    unsigned numerator = 0, denominator = 0;
    for (size_t j = 0; j < t; j++)
        if (j != i) {
            numerator += tables->logarithm[xs[j]];
            denominator += tables->logarithm[xs[j] ^ xs[i]];
        }
    /* At most GROUP_ORDER shares: their logarithms add up to less than its square. */
    return tables->exponential[(numerator + GROUP_ORDER * GROUP_ORDER - denominator) % GROUP_ORDER];
}

/* f(0) from the t shares (32 bytes each) at the distinct, non-zero xs. Shares are first added up by the bits
 * of their weights, then the eight sums are put together by Horner's rule in z. */
void fs_shamir_combine(uint8_t *out, const uint8_t *xs, const uint8_t *shares, size_t t)
{
    logarithms tables;
    elements sums[8] = {{{0}}}, secret = {{0}};
    compute_logarithms(&tables);
    for (size_t i = 0; i < t; i++) {
        uint8_t weight = lagrange_weight(&tables, xs, t, i);
        elements share = load(shares + SECRET_BYTES * i);
        for (int bit = 0; bit < 8; bit++)
            for (int w = 0; w < WORDS; w++)
                sums[bit].word[w] ^= share.word[w] & (0 - (uint64_t)(weight >> bit & 1));
    }
    for (int bit = 7; bit >= 0; bit--) {
        secret = times_z(&secret);
        secret = sum(&secret, &sums[bit]);
    }
    store(out, &secret);
    fs_wipe(sums, sizeof sums);
    fs_wipe(&secret, sizeof secret);
}
