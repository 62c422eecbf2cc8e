/* Normal variates, in AVX2. A table is a few registers of four or eight entries. */
#include "x86.h"

#ifdef FS_X86_64

#include "floats.h"

#define NAME(x) fs_avx2_##x
#define TARGET FS_TARGET("avx2,fma")

typedef struct {
    __m256i low, high;
} table32;

typedef struct {
    __m256i quarters[4];
} table64;

FS_INLINE TARGET __m256i load(const void *p)
{
    return _mm256_load_si256((const __m256i *)p);
}

FS_INLINE TARGET __m256 look_up32(table32 table, __m256i index)
{
    __m256 low = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(table.low, index));
    __m256 high = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(table.high, index));
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}

/* Entries are pairs of 32-bit lanes, picked by the index's last two bits; the next two pick the register. */
FS_INLINE TARGET __m256d look_up64(table64 table, __m256i index)
{
    __m256i twice = _mm256_slli_epi32(_mm256_shuffle_epi32(index, 0xa0), 1);
    __m256i lanes = _mm256_or_si256(twice, _mm256_set1_epi64x(INT64_C(1) << 32));
    __m256d entries[4];
    for (int i = 0; i < 4; i++)
        entries[i] = _mm256_castsi256_pd(_mm256_permutevar8x32_epi32(table.quarters[i], lanes));
    __m256d bit2 = _mm256_castsi256_pd(_mm256_slli_epi64(index, 61));
    __m256d bit3 = _mm256_castsi256_pd(_mm256_slli_epi64(index, 60));
    return _mm256_blendv_pd(_mm256_blendv_pd(entries[0], entries[1], bit2),
                            _mm256_blendv_pd(entries[2], entries[3], bit2), bit3);
}

/* Signed words as doubles, rounded once: 2^84 + 2^63 + 2^32 of the high half and 2^52 + the low half. */
FS_INLINE TARGET __m256d to_doubles(__m256i words)
{
    __m256i high = _mm256_xor_si256(_mm256_srli_epi64(words, 32), _mm256_set1_epi64x(INT64_C(0x4530000080000000)));
    __m256i low = _mm256_blend_epi32(words, _mm256_set1_epi64x(INT64_C(0x4330000000000000)), 0xaa);
    __m256d rest = _mm256_sub_pd(_mm256_castsi256_pd(high), _mm256_set1_pd(0x1p84 + 0x1p63 + 0x1p52));
    return _mm256_add_pd(rest, _mm256_castsi256_pd(low));
}

/* Biased exponents, small integers, as doubles less their bias. */
FS_INLINE TARGET __m256d exponents64(__m256d x)
{
    __m256i biased = _mm256_srli_epi64(_mm256_castpd_si256(x), 52);
    __m256i number = _mm256_or_si256(biased, _mm256_set1_epi64x(INT64_C(0x4330000000000000)));
    return _mm256_sub_pd(_mm256_castsi256_pd(number), _mm256_set1_pd(0x1p52 + 1023.0));
}

#define WORDS32 __m256i
#define LOAD_WORDS32(p) load(p)
#define ADD_WORDS(x, number) _mm256_add_epi32(x, _mm256_set1_epi32((int32_t)(number)))
#define MULTIPLY_WORDS(x, number) _mm256_mullo_epi32(x, _mm256_set1_epi32((int32_t)(number)))
#define SHIFT_LEFT _mm256_slli_epi32
#define SHIFT_RIGHT _mm256_srli_epi32

#define FLOATS __m256
#define SET32 _mm256_set1_ps
#define LOAD32 _mm256_load_ps
#define STORE32 _mm256_storeu_ps
#define TO_FLOATS _mm256_cvtepi32_ps
#define ADD32 _mm256_add_ps
#define SUB32 _mm256_sub_ps
#define MUL32 _mm256_mul_ps
#define FMA32 _mm256_fmadd_ps
#define SQRT32 _mm256_sqrt_ps
#define SIDE32 __m256
#define NEGATIVE32(x) (x)
#define CHOOSE32(side, x, y) _mm256_blendv_ps(y, x, side)
#define MIN32 _mm256_min_ps
#define EXPONENT32(x) \
    _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(x), 23), _mm256_set1_epi32(127)))
#define HALF_MANTISSA32(x) \
    _mm256_or_ps(_mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x007fffff))), SET32(0.5f))
#define LEADING32(x) _mm256_srli_epi32(_mm256_castps_si256(x), 19)
#define TABLE32 table32
#define TABLE_OF32(entries) (table32){load(entries), load((entries) + 8)}
#define LOOK_UP32 look_up32

#define WORDS64 __m256i
#define LOAD_WORDS64(p) load(p)

#define DOUBLES __m256d
#define SET64 _mm256_set1_pd
#define LOAD64 _mm256_load_pd
#define STORE64 _mm256_storeu_pd
#define TO_DOUBLES to_doubles
#define ADD64 _mm256_add_pd
#define SUB64 _mm256_sub_pd
#define MUL64 _mm256_mul_pd
#define FMA64 _mm256_fmadd_pd
#define SQRT64 _mm256_sqrt_pd
#define SIDE64 __m256d
#define NEGATIVE64(x) (x)
#define CHOOSE64(side, x, y) _mm256_blendv_pd(y, x, side)
#define MIN64 _mm256_min_pd
#define EXPONENT64 exponents64
#define HALF_MANTISSA64(x) \
    _mm256_or_pd(_mm256_and_pd(x, _mm256_castsi256_pd(_mm256_set1_epi64x(INT64_C(0x000fffffffffffff)))), SET64(0.5))
#define LEADING64(x) _mm256_srli_epi64(_mm256_castpd_si256(x), 48)
#define TABLE64 table64
#define TABLE_OF64(entries) (table64){{load(entries), load((entries) + 4), load((entries) + 8), load((entries) + 12)}}
#define LOOK_UP64 look_up64

#include "normal.h"

#endif
