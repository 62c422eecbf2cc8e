/* Normal variates, in AVX-512. The next group's words are made between the operations on this one's. */
#include "aes_words512.h"

#ifdef FS_X86_64

#include "floats.h"

#define NAME(x) fs_avx512_##x
#define TARGET FS_WORDS_TARGET

#define WORDS32 __m512i
#define LOAD_WORDS32(p) _mm512_load_si512(p)
#define LOAD_WORDS64 LOAD_WORDS32
#define ADD_WORDS(x, number) _mm512_add_epi32(x, _mm512_set1_epi32((int32_t)(number)))
#define MULTIPLY_WORDS(x, number) _mm512_mullo_epi32(x, _mm512_set1_epi32((int32_t)(number)))
#define SHIFT_LEFT _mm512_slli_epi32
#define SHIFT_RIGHT _mm512_srli_epi32

#define FLOATS __m512
#define SET32 _mm512_set1_ps
#define STORE32 _mm512_storeu_ps
#define LOAD32 _mm512_loadu_ps
#define TO_FLOATS _mm512_cvtepi32_ps
#define ADD32 _mm512_add_ps
#define SUB32 _mm512_sub_ps
#define MUL32 _mm512_mul_ps
#define FMA32 _mm512_fmadd_ps
#define SQRT32 _mm512_sqrt_ps
#define LEADING32(x) _mm512_srli_epi32(_mm512_castps_si512(x), 19)
#define SIDE32 __mmask16
#define NEGATIVE32(x) _mm512_movepi32_mask(_mm512_castps_si512(x))
#define CHOOSE32(side, x, y) _mm512_mask_blend_ps(side, y, x)
#define TABLE32 __m512i
#define TABLE_OF32(entries) _mm512_load_si512(entries)
#define LOOK_UP32(table, index) _mm512_castsi512_ps(_mm512_permutexvar_epi32(index, table))

#define WORDS64 __m512i
#define DOUBLES __m512d
#define SET64 _mm512_set1_pd
#define STORE64 _mm512_storeu_pd
#define LOAD64 _mm512_loadu_pd
#define TO_DOUBLES _mm512_cvtepi64_pd
#define ADD64 _mm512_add_pd
#define SUB64 _mm512_sub_pd
#define MUL64 _mm512_mul_pd
#define FMA64 _mm512_fmadd_pd
#define SQRT64 _mm512_sqrt_pd
#define LEADING64(x) _mm512_srli_epi64(_mm512_castpd_si512(x), 48)
#define SIDE64 __mmask8
#define NEGATIVE64(x) _mm512_movepi64_mask(_mm512_castpd_si512(x))
#define CHOOSE64(side, x, y) _mm512_mask_blend_pd(side, y, x)
#define TABLE64 table64
#define TABLE_OF64(entries) (table64){_mm512_load_si512(entries), _mm512_load_si512((entries) + 8)}
#define LOOK_UP64(table, index) _mm512_castsi512_pd(_mm512_permutex2var_epi64((table).low, index, (table).high))

#ifdef FS_MEMORY_SANITIZER
#define BITS32 _mm512_castps_si512
#define BITS64 _mm512_castpd_si512
#define MIN32(x, y) _mm512_castsi512_ps(_mm512_min_epi32(BITS32(x), BITS32(y)))
#define MIN64(x, y) _mm512_castsi512_pd(_mm512_min_epi64(BITS64(x), BITS64(y)))
#define EXPONENT32(x) TO_FLOATS(_mm512_sub_epi32(_mm512_srli_epi32(BITS32(x), 23), _mm512_set1_epi32(127)))
#define EXPONENT64(x) TO_DOUBLES(_mm512_sub_epi64(_mm512_srli_epi64(BITS64(x), 52), _mm512_set1_epi64(1023)))
#define HALF_OF(bits, mantissa, half) _mm512_or_si512(_mm512_and_si512(bits, mantissa), half)
#define HALF_MANTISSA32(x) \
    _mm512_castsi512_ps(HALF_OF(BITS32(x), _mm512_set1_epi32(0x007fffff), _mm512_set1_epi32(0x3f000000)))
#define HALF_MANTISSA64(x)                                                        \
    _mm512_castsi512_pd(HALF_OF(BITS64(x), _mm512_set1_epi64(0x000fffffffffffff), \
                                _mm512_set1_epi64(0x3fe0000000000000)))
#else
#define MIN32 _mm512_min_ps
#define MIN64 _mm512_min_pd
#define EXPONENT32 _mm512_getexp_ps
#define EXPONENT64 _mm512_getexp_pd
#define HALF_MANTISSA32(x) _mm512_getmant_ps(x, _MM_MANT_NORM_p5_1, _MM_MANT_SIGN_zero)
#define HALF_MANTISSA64(x) _mm512_getmant_pd(x, _MM_MANT_NORM_p5_1, _MM_MANT_SIGN_zero)
#endif

#define WILL_WRITE FS_WILL_WRITE

typedef struct {
    __m512i low, high;
} table64;

/* Round keys, and the counters of both halves' next blocks. */
typedef struct {
    fs_round_keys keys;
    __m512i first, second;
} cipher;

#define SOURCE cipher
#define REFILL refill

/* A vector of words for each half. */
FS_INLINE TARGET void refill(cipher *c, void *first, void *second)
{
    __m512i a = c->first, b = c->second;
    fs_make_words(&c->keys, &a, &b);
    _mm512_store_si512(first, a);
    _mm512_store_si512(second, b);
    c->first = _mm512_add_epi32(c->first, fs_counter(4));
    c->second = _mm512_add_epi32(c->second, fs_counter(4));
}

/* Both counters have come to their half's end. */
FS_INLINE TARGET void next_group(cipher *c, void *first, void *second)
{
    (void)first, (void)second;
    c->first = _mm512_add_epi32(c->first, fs_counter(FS_NORMAL_GROUP_BYTES / 32));
    c->second = _mm512_add_epi32(c->second, fs_counter(FS_NORMAL_GROUP_BYTES / 32));
}

FS_INLINE TARGET void start(cipher *c, const fs_generator *generator, uint64_t block, void *first, void *second)
{
    fs_load_keys(&c->keys, generator, (uint32_t)(block >> 32));
    c->first = fs_counters((uint32_t)block);
    c->second = fs_counters((uint32_t)block + FS_NORMAL_GROUP_BYTES / 32);
    for (size_t at = 0; at < FS_NORMAL_GROUP_BYTES / 2; at += sizeof(__m512i))
        refill(c, (uint8_t *)first + at, (uint8_t *)second + at);
    next_group(c, first, second);
}

#include "normal.h"

#endif
