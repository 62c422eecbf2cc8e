/* AES-CTR masked sums on 128-bit vectors, AES-NI and SSE4.1; and the key schedules for all widths. */
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_aesni_##x
#define TARGET FS_TARGET("sse4.1,aes")
#define VECTOR __m128i
#define REPEAT(x) (x)
#define ROUND_KEY(p) REPEAT(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define REPEAT64(x) _mm_set1_epi64x((int64_t)(x))
#define REPEAT_COUNTER(block) REPEAT(_mm_set_epi32((int)(block), 0, 0, 0))
#define LOAD(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#define STORE(p, x) _mm_storeu_si128((__m128i *)(void *)(p), x)
#define AND _mm_and_si128
#define XOR _mm_xor_si128
#define ADD16 _mm_add_epi16
#define ADD32 _mm_add_epi32
#define ADD64 _mm_add_epi64
#define REVERSE_COUNTERS(x) _mm_shuffle_epi8(x, REPEAT(_mm_set_epi32(0x0c0d0e0f, -1, -1, -1)))
#define AES_FIRST_KEY _mm_xor_si128
#define AES_ROUND _mm_aesenc_si128
#define AES_LAST_ROUND _mm_aesenclast_si128
#define SPLIT_ROUNDS 2
#define FIRST_COUNTERS _mm_setzero_si128()

#define EXPAND_KEYS fs_aesni_expand

#include "aes_vector.h"

/* The step of [FIPS 197, sec. 5.2] from four words to those one key length on: `substituted`, in all columns,
 * is added to the first word, the sum to the second, and so on. */
FS_INLINE TARGET __m128i next_words(__m128i words, __m128i substituted)
{
    words = _mm_xor_si128(words, _mm_slli_si128(words, 4));
    words = _mm_xor_si128(words, _mm_slli_si128(words, 8));
    return _mm_xor_si128(words, substituted);
}

/* SubWord of the last word, after RotWord where `rotated`, plus the round constant. The last round of AES
 * does it: with the word in all four columns, ShiftRows changes nothing. */
FS_INLINE TARGET __m128i substitute(__m128i words, int rotated, int round_constant)
{
    const __m128i last = _mm_set1_epi32(rotated ? 0x0c0f0e0d : 0x0f0e0d0c);
    return _mm_aesenclast_si128(_mm_shuffle_epi8(words, last), _mm_set1_epi32(round_constant));
}

FS_INLINE TARGET void expand128(uint8_t *key, const uint8_t *seed)
{
    __m128i words = LOAD(seed);
    /* The nonce is in the next 12 bytes; its last column is for the counter. */
    __m128i nonce = _mm_and_si128(LOAD(seed + 16), _mm_set_epi32(0, -1, -1, -1));
    STORE(key, _mm_xor_si128(words, nonce));
    for (int r = 1, constant = 1; r <= FS_AES128_ROUNDS; r++) {
        words = next_words(words, substitute(words, 1, constant));
        STORE(key + 16 * r, words);
        constant = constant << 1 ^ (constant >> 7) * 0x11b;
    }
}

FS_INLINE TARGET void expand256(uint8_t *key, const uint8_t *seed)
{
    __m128i even = LOAD(seed), odd = LOAD(seed + 16);
    STORE(key, even);
    STORE(key + 16, odd);
    for (int r = 2, constant = 1; r <= FS_AES256_ROUNDS; r += 2) {
        even = next_words(even, substitute(odd, 1, constant));
        STORE(key + 16 * r, even);
        constant <<= 1;
        if (r < FS_AES256_ROUNDS) {
            odd = next_words(odd, substitute(even, 0, 0));
            STORE(key + 16 * (r + 1), odd);
        }
    }
}

TARGET void fs_aesni_expand(uint8_t *keys, const uint8_t *seeds, const int8_t *signs, size_t n, int rounds)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t *key = keys + i * FS_SCHEDULE(rounds), *last = key + 16 * rounds;
        if (rounds == FS_AES128_ROUNDS)
            expand128(key, seeds + 32 * i);
        else
            expand256(key, seeds + 32 * i);
        STORE(last, _mm_xor_si128(LOAD(last), _mm_set1_epi8((char)(0 - (signs[i] < 0)))));
    }
}

#endif
