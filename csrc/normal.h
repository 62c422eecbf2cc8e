/* Normal variates by Box and Muller's method [BM58: A Note on the Generation of Random Normal Deviates], one body
 * for all instruction sets.
 *
 * Included by one file an instruction set, which defines NAME(x) and TARGET. The loop is plain C without branches
 * or tables that compilers turn into vectors: sums, products, quotients and square roots, each rounded once as
 * IEEE 754 says and never contracted, so that all give the same bytes. Logarithm, sine and cosine are polynomials
 * of Sun's fdlibm (e_log.c, k_sin.c, k_cos.c), below one unit in the last place. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

typedef union {
    uint64_t bits;
    double value;
} fs_double;

FS_INLINE TARGET double as_double(uint64_t bits)
{
    fs_double x = {.bits = bits};
    return x.value;
}

FS_INLINE TARGET uint64_t as_bits(double value)
{
    fs_double x = {.value = value};
    return x.bits;
}

/* -2 ln((word + 1/2) / 2^64). */
FS_INLINE TARGET double minus_twice_log(uint64_t word)
{
    /* 2^84 + high 2^32 and 2^52 + low make the word, rounded once; half more is the midpoint of its cell. */
    double high = as_double((word >> 32) | UINT64_C(0x4530000000000000));
    double low = as_double((word & UINT32_MAX) | UINT64_C(0x4330000000000000));
    double x = ((high - (0x1p84 + 0x1p52)) + low) + 0.5;
    /* x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), s = f / (2 + f). The bias keeps k above zero. */
    uint64_t shifted = as_bits(x) - UINT64_C(0x3fe6a09e667f3bcd) + (UINT64_C(1024) << 52);
    double k = as_double((shifted >> 52) | UINT64_C(0x4330000000000000)) - (0x1p52 + 1024.0 + 64.0);
    double f = as_double((shifted & (UINT64_MAX >> 12)) + UINT64_C(0x3fe6a09e667f3bcd)) - 1.0;
    double s = f / (2.0 + f), z = s * s, w = z * z, half = 0.5 * f * f;
    double odd = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
    double even = z * (6.666666666666735130e-01 +
                       w * (2.857142874366239149e-01 +
                            w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
    double low_part = s * (half + (odd + even)) + k * 1.90821492927058770002e-10;
    return 2.0 * ((half - low_part - f) - k * 6.93147180369123816490e-01);
}

/* The two coordinates of a direction: a quarter turn of four by the leading 2 bits, and an angle of at most
 * an eighth of a turn, either way, by the next 52. */
FS_INLINE TARGET void direction(uint64_t word, double *cosine, double *sine)
{
    double x = (as_double(((word >> 10) & (UINT64_MAX >> 12)) | UINT64_C(0x3ff0000000000000)) - 1.5) *
               1.57079632679489661923;
    double z = x * x;
    double s = x + x * z * (-1.66666666666666324348e-01 +
                            z * (8.33333333332248946124e-03 +
                                 z * (-1.98412698298579493134e-04 +
                                      z * (2.75573137070700676789e-06 +
                                           z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)))));
    double c = 1.0 - (0.5 * z - z * z * (4.16666666666666019037e-02 +
                                         z * (-1.38888888888741095749e-03 +
                                              z * (2.48015872894767294178e-05 +
                                                   z * (-2.75573143513906633035e-07 +
                                                        z * (2.08757232129817482790e-09 +
                                                             z * -1.13596475577881948265e-11))))));
    /* Turned by q quarters: exchanged where q is odd; the signs of (cos, sin) are ++, -+, --, +-. */
    uint64_t q = word >> 62, exchange = 0 - (q & 1);
    uint64_t difference = (as_bits(s) ^ as_bits(c)) & exchange;
    *cosine = as_double(as_bits(c) ^ difference ^ ((q ^ q >> 1) & 1) << 63);
    *sine = as_double(as_bits(s) ^ difference ^ (q >> 1) << 63);
}

/* FS_NORMAL_GROUP standard variates: the first half of the words are radii, the second half directions. */
TARGET void NAME(normal)(double *restrict out, const uint64_t *restrict words)
{
    enum { PAIRS = FS_NORMAL_GROUP / 2 };
    for (size_t j = 0; j < PAIRS; j++) {
        double radius = sqrt(minus_twice_log(words[j])), cosine, sine;
        direction(words[PAIRS + j], &cosine, &sine);
        out[j] = radius * cosine;
        out[PAIRS + j] = radius * sine;
    }
}
