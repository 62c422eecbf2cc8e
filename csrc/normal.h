/* Normal variates by Box and Muller's method [BM58: A Note on the Generation of Random Normal Deviates], one body
 * for all instruction sets.
 *
 * Included by one file an instruction set, which defines NAME(x), TARGET, its vectors (LANES are a vector's elements) and
 * operations on them, and may define the SOURCE of words. All give the same bytes, because every operation is one that
 * IEEE 754 rounds, once: sums, products, square roots, and fused multiply-adds where they are written, nowhere else. No
 * branches; tables have 16 entries, and an index's last 4 bits count.
 *
 * A pair of variates is a radius, sqrt(-2 ln u), times the cosine and the sine of a direction.
 *
 * The radius: u = m 2^e with m in [1, 2). The leading 4 bits of m's fraction give r, nearly 2 / m, and so
 *     -2 ln u = -2 e ln 2 + 2 ln(r / 2) - 2 ln(1 + x),    x = r (m / 2) - 1,    |x| < 1/32,
 * without cancellation: just below u = 1 it is r = 1, and e = -1 leaves -2 ln(1 + x). Each r is one whose logarithm is
 * nearer to a floating-point number than most [Gal86: Computing Elementary Functions]. u is s or 1 + s, for a number s
 * between -1/2 and 1/2 that is as fine as its type: so both ends are, u near 0 (the tail) and u near 1 (the middle).
 *
 * The direction: one of 16, an eighth of pi apart, turned by up to a sixteenth of pi. A component is small next to
 * multiples of pi/2 alone, and there the table's cosine or sine is exactly 0: so nothing cancels here either.
 *
 * Constants: tests/unit/test_normal_constants.py. */
#include "floats.h"

static const _Alignas(64) float FACTORS32[16] = {
    0x1.f092c6p+0f, 0x1.d3ff72p+0f, 0x1.bac5eap+0f, 0x1.a4149ep+0f, 0x1.8fb70ep+0f, 0x1.7cf1bcp+0f,
    0x1.6c23dcp+0f, 0x1.5ca964p+0f, 0x1.4e5682p+0f, 0x1.4137bap+0f, 0x1.352496p+0f, 0x1.29e4d8p+0f,
    0x1.1f7ac2p+0f, 0x1.15991ep+0f, 0x1.0c9956p+0f, 0x1p+0f,
};
static const _Alignas(64) float LOGARITHMS32[16] = {
    -0x1.f53e3ep-5f, -0x1.70120cp-3f, -0x1.2981d6p-2f, -0x1.954128p-2f, -0x1.fb0764p-2f, -0x1.2ec484p-1f,
    -0x1.5cf702p-1f, -0x1.8971a4p-1f, -0x1.b4668ap-1f, -0x1.dd65p-1f,   -0x1.025092p+0f, -0x1.154aeap+0f,
    -0x1.278338p+0f, -0x1.396bcp+0f,  -0x1.4a4b3ap+0f, -0x1.62e43p+0f,
};
static const _Alignas(64) float COSINES32[16] = {
    1.0f,  0x1.d906bcp-1f,  0x1.6a09e6p-1f,  0x1.87de2ap-2f,  0.0f, -0x1.87de2ap-2f, -0x1.6a09e6p-1f, -0x1.d906bcp-1f,
    -1.0f, -0x1.d906bcp-1f, -0x1.6a09e6p-1f, -0x1.87de2ap-2f, 0.0f, 0x1.87de2ap-2f,  0x1.6a09e6p-1f,  0x1.d906bcp-1f,
};
static const _Alignas(64) float SINES32[16] = {
    0.0f, 0x1.87de2ap-2f,  0x1.6a09e6p-1f,  0x1.d906bcp-1f,  1.0f,  0x1.d906bcp-1f,  0x1.6a09e6p-1f,  0x1.87de2ap-2f,
    0.0f, -0x1.87de2ap-2f, -0x1.6a09e6p-1f, -0x1.d906bcp-1f, -1.0f, -0x1.d906bcp-1f, -0x1.6a09e6p-1f, -0x1.87de2ap-2f,
};
static const _Alignas(64) double FACTORS64[16] = {
    0x1.f07c1f0bb2b17p+0, 0x1.d41d41d80e02cp+0, 0x1.bacf91482ba94p+0, 0x1.a41a41a41a80bp+0,
    0x1.8f9c18f5d18bep+0, 0x1.7d05f417d19a9p+0, 0x1.6c16c16c1a736p+0, 0x1.5c9882b54101bp+0,
    0x1.4e5e0a72f28b2p+0, 0x1.4141414141fe7p+0, 0x1.3521cfb2bdb4ap+0, 0x1.29e412a230ee9p+0,
    0x1.1f7047dffec6fp+0, 0x1.15b1e5f36561dp+0, 0x1.0c9714ffbc6c2p+0, 0x1p+0,
};
static const _Alignas(64) double LOGARITHMS64[16] = {
    -0x1.f829b0657a503p-5, -0x1.6f0d288bdc1c9p-3, -0x1.29552f9435636p-2, -0x1.9525a9cf4437ep-2,
    -0x1.fb9186ea11f5cp-2, -0x1.2e8e2bae0e83ap-1, -0x1.5d1bdbf576382p-1, -0x1.89a33877a530bp-1,
    -0x1.b44f77bcc22c1p-1, -0x1.dd46a04c19ef0p-1, -0x1.02552a5a52dccp+0, -0x1.154c3d2889449p+0,
    -0x1.2795e1219d3f5p+0, -0x1.393e0d3c9fb54p+0, -0x1.4a4f85d384bd9p+0, -0x1.62e42fefa39efp+0,
};
static const _Alignas(64) double COSINES64[16] = {
    1.0,  0x1.d906bcf328d46p-1,  0x1.6a09e667f3bcdp-1,  0x1.87de2a6aea963p-2,
    0.0,  -0x1.87de2a6aea963p-2, -0x1.6a09e667f3bcdp-1, -0x1.d906bcf328d46p-1,
    -1.0, -0x1.d906bcf328d46p-1, -0x1.6a09e667f3bcdp-1, -0x1.87de2a6aea963p-2,
    0.0,  0x1.87de2a6aea963p-2,  0x1.6a09e667f3bcdp-1,  0x1.d906bcf328d46p-1,
};
static const _Alignas(64) double SINES64[16] = {
    0.0,  0x1.87de2a6aea963p-2,  0x1.6a09e667f3bcdp-1,  0x1.d906bcf328d46p-1,
    1.0,  0x1.d906bcf328d46p-1,  0x1.6a09e667f3bcdp-1,  0x1.87de2a6aea963p-2,
    0.0,  -0x1.87de2a6aea963p-2, -0x1.6a09e667f3bcdp-1, -0x1.d906bcf328d46p-1,
    -1.0, -0x1.d906bcf328d46p-1, -0x1.6a09e667f3bcdp-1, -0x1.87de2a6aea963p-2,
};

typedef struct {
    TABLE32 factors, logarithms, cosines, sines;
} tables32;

typedef struct {
    TABLE64 factors, logarithms, cosines, sines;
} tables64;

FS_INLINE TARGET tables32 load_tables32(void)
{
    return (tables32){TABLE_OF32(FACTORS32), TABLE_OF32(LOGARITHMS32), TABLE_OF32(COSINES32), TABLE_OF32(SINES32)};
}

FS_INLINE TARGET tables64 load_tables64(void)
{
    return (tables64){TABLE_OF64(FACTORS64), TABLE_OF64(LOGARITHMS64), TABLE_OF64(COSINES64), TABLE_OF64(SINES64)};
}

/* -2 ln u. Just below 1, and where that rounds to 1, x comes from s and not from u: (1 + s) r - 1 = s r + (r - 1), for
 * which m / 2 is 1 + s. */
FS_INLINE TARGET FLOATS minus_twice_log32(const tables32 *t, FLOATS s)
{
    SIDE32 upper = NEGATIVE32(s);
    FLOATS u = CHOOSE32(upper, MIN32(ADD32(s, SET32(1.0f)), SET32(1.0f - 0x1p-24f)), s);
    FLOATS r = LOOK_UP32(t->factors, LEADING32(u));
    FLOATS less = CHOOSE32(upper, SUB32(r, SET32(1.0f)), SET32(-1.0f));
    FLOATS x = FMA32(CHOOSE32(upper, s, HALF_MANTISSA32(u)), r, less);
    FLOATS sum = FMA32(EXPONENT32(u), SET32(-0x1.62e43p+0f), LOOK_UP32(t->logarithms, LEADING32(u)));
    FLOATS q = SET32(0x1.00387ap-1f);
    q = FMA32(q, x, SET32(-0x1.557fc2p-1f));
    q = FMA32(q, x, SET32(0x1.fffffcp-1f));
    return FMA32(MUL32(x, x), q, FMA32(x, SET32(-2.0f), sum));
}

/* Two words of 32 bits make a pair: the second is the end of the radius and, times a constant, the direction. The 2^32
 * pairs with the same first word are a lattice of rank 1 in the square of their radii's u and their directions [Nie92: Random Number
 * Generation and Quasi-Monte Carlo Methods, ch. 5]; as the continued fraction of the constant over 2^32 has no
 * quotient above 3, it fills rectangles as evenly as such a lattice can. */
FS_INLINE TARGET FLOATS squares32(const tables32 *t, WORDS32 first, WORDS32 second)
{
    FLOATS end = FMA32(TO_FLOATS(second), SET32(0x1p-64f), SET32(0x1p-65f));
    return minus_twice_log32(t, FMA32(TO_FLOATS(first), SET32(0x1p-32f), end));
}

FS_INLINE TARGET void turn32(const tables32 *t, FLOATS radius, WORDS32 second, FLOATS *cosine, FLOATS *sine)
{
    WORDS32 word = MULTIPLY_WORDS(second, UINT32_C(0x9e3778c1));
    WORDS32 sector = SHIFT_RIGHT(ADD_WORDS(word, UINT32_C(1) << 27), 28);
    FLOATS x = FMA32(TO_FLOATS(SHIFT_LEFT(word, 4)), SET32(0x1p-31f), SET32(0x1p-28f));
    FLOATS z = MUL32(x, x);
    FLOATS s = SET32(0x1.485b4ap-19f);
    s = FMA32(s, z, SET32(-0x1.4abd36p-10f));
    s = FMA32(s, z, SET32(0x1.921fb6p-3f));
    s = MUL32(x, s);
    FLOATS c = SET32(0x1.034b4cp-14f);
    c = FMA32(c, z, SET32(-0x1.3bd3a8p-6f));
    c = FMA32(c, z, SET32(1.0f));
    FLOATS along = MUL32(radius, LOOK_UP32(t->cosines, sector)), across = MUL32(radius, LOOK_UP32(t->sines, sector));
    *cosine = SUB32(MUL32(along, c), MUL32(across, s));
    *sine = FMA32(along, s, MUL32(across, c));
}

FS_INLINE TARGET DOUBLES minus_twice_log64(const tables64 *t, DOUBLES s)
{
    SIDE64 upper = NEGATIVE64(s);
    DOUBLES u = CHOOSE64(upper, MIN64(ADD64(s, SET64(1.0)), SET64(1.0 - 0x1p-53)), s);
    DOUBLES r = LOOK_UP64(t->factors, LEADING64(u));
    DOUBLES less = CHOOSE64(upper, SUB64(r, SET64(1.0)), SET64(-1.0));
    DOUBLES x = FMA64(CHOOSE64(upper, s, HALF_MANTISSA64(u)), r, less);
    DOUBLES sum = FMA64(EXPONENT64(u), SET64(-0x1.62e42fefa39efp+0), LOOK_UP64(t->logarithms, LEADING64(u)));
    DOUBLES q = SET64(-0x1.c808f05058315p-3);
    q = FMA64(q, x, SET64(0x1.00735cb48db72p-2));
    q = FMA64(q, x, SET64(-0x1.24922e91b5bc7p-2));
    q = FMA64(q, x, SET64(0x1.55553fb32f7f6p-2));
    q = FMA64(q, x, SET64(-0x1.9999999c0acc8p-2));
    q = FMA64(q, x, SET64(0x1.00000000bff6fp-1));
    q = FMA64(q, x, SET64(-0x1.55555555554bfp-1));
    q = FMA64(q, x, SET64(0x1.fffffffffffc7p-1));
    return FMA64(MUL64(x, x), q, FMA64(x, SET64(-2.0), sum));
}

/* Two words of 64 bits make a pair, one for the radius and one for the direction: of this the last 4 bits name one of the
 * 16, and all are how far it is turned, so that 2^64 directions are evenly spaced. */
FS_INLINE TARGET DOUBLES squares64(const tables64 *t, WORDS64 first)
{
    return minus_twice_log64(t, FMA64(TO_DOUBLES(first), SET64(0x1p-64), SET64(0x1p-65)));
}

FS_INLINE TARGET void turn64(const tables64 *t, DOUBLES radius, WORDS64 second, DOUBLES *cosine, DOUBLES *sine)
{
    DOUBLES x = TO_DOUBLES(second), z = MUL64(x, x);
    DOUBLES s = SET64(0x1.501ec2d7bdfcfp-607);
    s = FMA64(s, z, SET64(-0x1.32d2c0b5e49cdp-470));
    s = FMA64(s, z, SET64(0x1.466bc675e10fdp-334));
    s = FMA64(s, z, SET64(-0x1.4abbce625bbf2p-199));
    s = FMA64(s, z, SET64(0x1.921fb54442d18p-66));
    s = MUL64(x, s);
    DOUBLES c = SET64(0x1.e174738da9243p-539);
    c = FMA64(c, z, SET64(-0x1.55d3ba683cd75p-402));
    c = FMA64(c, z, SET64(0x1.03c1f080983e6p-266));
    c = FMA64(c, z, SET64(-0x1.3bd3cc9be4408p-132));
    c = FMA64(c, z, SET64(1.0));
    DOUBLES along = MUL64(radius, LOOK_UP64(t->cosines, second)), across = MUL64(radius, LOOK_UP64(t->sines, second));
    *cosine = SUB64(MUL64(along, c), MUL64(across, s));
    *sine = FMA64(along, s, MUL64(across, c));
}

#ifndef SOURCE
/* Words from the generator, a group at a time. */
typedef struct {
    const fs_generator *generator;
    uint64_t block;
} group_source;

#define SOURCE group_source
#define REFILL(source, first, second) (void)0

static void next_group(group_source *source, void *first, void *second)
{
    enum { HALF = FS_NORMAL_GROUP_BYTES / 2, HALF_BLOCKS = HALF / 16 };
    const uint32_t stream[3] = {(uint32_t)(source->block >> 32), 0, 0};
    fs_generator_fill(source->generator, first, HALF, stream, (uint32_t)source->block);
    fs_generator_fill(source->generator, second, HALF, stream, (uint32_t)source->block + HALF_BLOCKS);
    source->block += 2 * HALF_BLOCKS;
}

static void start(group_source *source, const fs_generator *generator, uint64_t block, void *first, void *second)
{
    *source = (group_source){generator, block};
    next_group(source, first, second);
}
#endif

#ifndef WILL_WRITE
#define WILL_WRITE(p) (void)0
#endif

/* A group's words are its pairs' first and then their second ones, and so are its variates. Square roots take long: in a
 * pass of their own they wait for no logarithm. A SOURCE may put new words where they have been used (REFILL). */
#define DEFINE_NORMAL(BITS, TYPE, VECTORS)                                                                        \
    TARGET void NAME(normal##BITS)(TYPE *out, size_t n_groups, const fs_generator *generator, uint64_t block,     \
                                   TYPE stddev)                                                                   \
    {                                                                                                             \
        enum { PAIRS = FS_NORMAL_GROUP_BYTES / 2 / sizeof(TYPE), LANES = sizeof(VECTORS) / sizeof(TYPE) };        \
        _Alignas(64) uint##BITS##_t first[PAIRS], second[PAIRS];                                                  \
        _Alignas(64) TYPE squares[PAIRS];                                                                         \
        tables##BITS t = load_tables##BITS();                                                                     \
        SOURCE source;                                                                                            \
        start(&source, generator, block, first, second);                                                          \
        for (; n_groups > 0; n_groups--, out += 2 * PAIRS) {                                                      \
            for (size_t j = 0; j < PAIRS; j += LANES) {                                                           \
                VECTORS square = SQUARES##BITS(&t, LOAD_WORDS##BITS(first + j), LOAD_WORDS##BITS(second + j));    \
                STORE##BITS(squares + j, square);                                                                 \
                WILL_WRITE(out + j);                                                                              \
                WILL_WRITE(out + PAIRS + j);                                                                      \
            }                                                                                                     \
            for (size_t j = 0; j < PAIRS; j += LANES) {                                                           \
                VECTORS cosine, sine, radius = MUL##BITS(SQRT##BITS(LOAD##BITS(squares + j)), SET##BITS(stddev)); \
                turn##BITS(&t, radius, LOAD_WORDS##BITS(second + j), &cosine, &sine);                             \
                STORE##BITS(out + j, cosine);                                                                     \
                STORE##BITS(out + PAIRS + j, sine);                                                               \
                REFILL(&source, first + j, second + j);                                                           \
            }                                                                                                     \
            if (n_groups > 1)                                                                                     \
                next_group(&source, first, second);                                                               \
        }                                                                                                         \
        fs_wipe(&source, sizeof source);                                                                          \
        fs_wipe(first, sizeof first);                                                                             \
        fs_wipe(second, sizeof second);                                                                           \
        fs_wipe(squares, sizeof squares);                                                                         \
    }

#define SQUARES32 squares32
#define SQUARES64(t, first, second) squares64(t, first)
DEFINE_NORMAL(32, float, FLOATS)
DEFINE_NORMAL(64, double, DOUBLES)
