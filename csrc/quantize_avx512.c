/* Stochastic rounding, in AVX-512: the words of eight blocks for 64 values at a time. */
#include "aes_words512.h"

#ifdef FS_X86_64

#define NAME(x) fs_avx512_##x
#define TARGET FS_WORDS_TARGET
#define OWN_ROUNDING

#include "quantize.h"

/* Values ahead of which lines are asked for: a vector is in no cache, or in a far one. */
enum { AHEAD = 512 };

typedef struct {
    __m512d reciprocal;
    __m512i top, bottom, mask;
} registers;

/* floor(q + u) in the upper half of each lane, the bits of FIXED_POINT above it. */
FS_INLINE TARGET __m512i fixed(__m512d q, __m512i words)
{
    const __m512i low = _mm512_set1_epi64(UINT32_MAX), point = _mm512_set1_epi64((int64_t)FIXED_POINT);
    __m512i u = _mm512_or_si512(_mm512_and_si512(words, low), point);
    return _mm512_castpd_si512(_mm512_add_pd(q, _mm512_castsi512_pd(u)));
}

/* floor(q + u) in lanes of 64 bits. */
FS_INLINE TARGET __m512i level(__m512d q, __m512i words)
{
    __m512i upper = _mm512_srli_epi64(fixed(q, words), 32);
    return _mm512_sub_epi64(upper, _mm512_set1_epi64((int64_t)(FIXED_POINT >> 32)));
}

/* Bits of numbers are ordered like them as signed integers, unless both are negative; then their magnitudes are as unsigned
 * ones, and negative ones above all others. */
FS_INLINE TARGET __m512i level_wide(__m512d q, __m512i words, const registers *r)
{
    const __m512d multiple = _mm512_set1_pd(MULTIPLE);
    q = _mm512_castsi512_pd(_mm512_min_epu64(_mm512_min_epi64(_mm512_castpd_si512(q), r->top), r->bottom));
    __m512d shifted = _mm512_add_pd(q, multiple), rest = _mm512_sub_pd(q, _mm512_sub_pd(shifted, multiple));
    __m512i high = _mm512_sub_epi64(_mm512_castpd_si512(shifted), _mm512_set1_epi64((int64_t)MULTIPLE_BITS));
    return _mm512_add_epi64(_mm512_slli_epi64(high, 12), level(rest, words));
}

/* The lower halves of 16 lanes of 64 bits, or their upper ones. */
FS_INLINE TARGET __m512i halves(__m512i a, __m512i b, int upper)
{
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_epi32(a, upper ? _mm512_add_epi32(even, _mm512_set1_epi32(1)) : even, b);
}

/* 16 levels. */
FS_INLINE TARGET void store(uint8_t *to, __m512d q[2], const __m512i words[2], const registers *r, int lane, int small)
{
    if (lane == 64) {
        for (int i = 0; i < 2; i++) {
            __m512i levels = small ? level(q[i], words[i]) : level_wide(q[i], words[i], r);
            _mm512_storeu_si512(to + 64 * i, _mm512_and_si512(levels, r->mask));
        }
        return;
    }
    __m512i levels;
    if (small)
        levels = _mm512_sub_epi32(halves(fixed(q[0], words[0]), fixed(q[1], words[1]), 1),
                                  _mm512_set1_epi32((int32_t)(FIXED_POINT >> 32)));
    else
        levels = halves(level_wide(q[0], words[0], r), level_wide(q[1], words[1], r), 0);
    levels = _mm512_and_si512(levels, r->mask);
    if (lane == 32)
        _mm512_storeu_si512(to, levels);
    else
        _mm256_storeu_si256((__m256i *)(void *)to, _mm512_cvtepi32_epi16(levels));
}

FS_INLINE TARGET __m512d load32(const float *x)
{
    return _mm512_cvtps_pd(_mm256_loadu_ps(x));
}

FS_INLINE TARGET __m512d load64(const double *x)
{
    return _mm512_loadu_pd(x);
}

/* The largest |x| so far, as bits: of NaN, they are above all others. */
FS_INLINE TARGET __m512i largest32(__m512i most, const float *x)
{
    return _mm512_max_epu32(most, _mm512_and_si512(_mm512_loadu_si512(x), _mm512_set1_epi32(INT32_MAX)));
}

FS_INLINE TARGET __m512i largest64(__m512i most, const double *x)
{
    const __m512i magnitude = _mm512_set1_epi64(INT64_MAX);
    most = _mm512_max_epu64(most, _mm512_and_si512(_mm512_loadu_si512(x), magnitude));
    return _mm512_max_epu64(most, _mm512_and_si512(_mm512_loadu_si512(x + 8), magnitude));
}

FS_INLINE TARGET uint64_t beyond32(__m512i most, const fs_grid *grid)
{
    return _mm512_cmpgt_epu32_mask(most, _mm512_set1_epi32((int32_t)grid->single_limit));
}

FS_INLINE TARGET uint64_t beyond64(__m512i most, const fs_grid *grid)
{
    return _mm512_cmpgt_epu64_mask(most, _mm512_set1_epi64((int64_t)grid->limit));
}

FS_INLINE TARGET void ask_for(const uint8_t *x, const uint8_t *to, size_t from_bytes, size_t to_bytes)
{
    for (size_t at = 0; at < 16 * from_bytes; at += 64)
        _mm_prefetch((const char *)x + AHEAD * from_bytes + at, _MM_HINT_T0);
    for (size_t at = 0; at < 16 * to_bytes; at += 64)
        FS_WILL_WRITE(to + AHEAD * to_bytes + at);
}

#define DEFINE_ROUNDING(BITS, TYPE)                                                                              \
    FS_INLINE TARGET uint64_t groups##BITS(uint8_t *to, const TYPE *x, size_t n_groups,                          \
                                           const fs_generator *generator, size_t first_group,                    \
                                           const fs_grid *grid, int lane, int small)                             \
    {                                                                                                            \
        registers r = {_mm512_set1_pd(grid->reciprocal), _mm512_castpd_si512(_mm512_set1_pd(grid->top)),         \
                       _mm512_castpd_si512(_mm512_set1_pd(-grid->top)),                                          \
                       lane == 64 ? _mm512_set1_epi64((int64_t)grid->mask)                                       \
                                  : _mm512_set1_epi32((int32_t)(uint32_t)grid->mask)};                           \
        size_t width = (size_t)lane / 8;                                                                         \
        fs_round_keys keys;                                                                                      \
        fs_load_keys(&keys, generator, 0);                                                                       \
        __m512i counters = fs_counters((uint32_t)(first_group * FS_QUANTIZE_BLOCKS));                            \
        __m512i most = _mm512_setzero_si512();                                                                   \
        for (; n_groups > 0; n_groups--, x += FS_QUANTIZE_GROUP, to += FS_QUANTIZE_GROUP * width)                \
            for (size_t j = 0; j < FS_QUANTIZE_WORDS; j += 16) {                                                 \
                __m512i words[2] = {counters, _mm512_add_epi32(counters, fs_counter(4))};                        \
                counters = _mm512_add_epi32(counters, fs_counter(8));                                            \
                fs_make_words(&keys, &words[0], &words[1]);                                                      \
                for (size_t k = 0; k < 4; k++) {                                                                 \
                    size_t at = k * FS_QUANTIZE_WORDS + j;                                                       \
                    __m512d q[2] = {_mm512_mul_pd(load##BITS(x + at), r.reciprocal),                             \
                                    _mm512_mul_pd(load##BITS(x + at + 8), r.reciprocal)};                        \
                    ask_for((const uint8_t *)(x + at), to + at * width, sizeof *x, width);                       \
                    most = largest##BITS(most, x + at);                                                          \
                    store(to + at * width, q, words, &r, lane, small);                                           \
                    words[0] = _mm512_ror_epi64(words[0], 16);                                                   \
                    words[1] = _mm512_ror_epi64(words[1], 16);                                                   \
                }                                                                                                \
            }                                                                                                    \
        fs_wipe(&keys, sizeof keys);                                                                             \
        return beyond##BITS(most, grid);                                                                         \
    }                                                                                                            \
    TARGET uint64_t NAME(quantize##BITS)(void *out, const TYPE *x, size_t n_groups, const fs_generator *generator, \
                                         size_t first_group, const fs_grid *grid)                                \
    {                                                                                                            \
        if (grid->small)                                                                                         \
            return grid->lane == 16 ? groups##BITS(out, x, n_groups, generator, first_group, grid, 16, 1) :      \
                   grid->lane == 32 ? groups##BITS(out, x, n_groups, generator, first_group, grid, 32, 1) :      \
                                      groups##BITS(out, x, n_groups, generator, first_group, grid, 64, 1);       \
        return grid->lane == 16 ? groups##BITS(out, x, n_groups, generator, first_group, grid, 16, 0) :          \
               grid->lane == 32 ? groups##BITS(out, x, n_groups, generator, first_group, grid, 32, 0) :          \
                                  groups##BITS(out, x, n_groups, generator, first_group, grid, 64, 0);           \
    }

DEFINE_ROUNDING(32, float)
DEFINE_ROUNDING(64, double)

#endif
