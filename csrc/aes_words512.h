/* Words of the generator of noise in registers, for kernels in AVX-512 that make them between their own operations: AES has
 * one port, which arithmetic leaves half free. */
#ifndef FEDSEC_AES_WORDS512_H
#define FEDSEC_AES_WORDS512_H

#include "x86.h"

#ifdef FS_X86_64

#define FS_WORDS_TARGET FS_TARGET("avx512f,avx512bw,avx512dq,vaes,prfchw")

/* Round keys, the nonce in the first. */
typedef struct {
    __m512i keys[FS_AES128_ROUNDS + 1];
} fs_round_keys;

FS_INLINE FS_WORDS_TARGET __m512i fs_four_times(const uint8_t block[16])
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)block));
}

FS_INLINE FS_WORDS_TARGET __m512i fs_counter(uint32_t blocks)
{
    return _mm512_broadcast_i32x4(_mm_set_epi32((int32_t)blocks, 0, 0, 0));
}

/* The counters of four blocks from one on. */
FS_INLINE FS_WORDS_TARGET __m512i fs_counters(uint32_t block)
{
    return _mm512_add_epi32(_mm512_set_epi32(3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0), fs_counter(block));
}

FS_INLINE FS_WORDS_TARGET void fs_load_keys(fs_round_keys *k, const fs_generator *generator, uint32_t stream)
{
    uint8_t nonce[16] = {0};
    fs_generator_nonce(nonce, (const uint32_t[3]){stream, 0, 0});
    for (int r = 0; r <= FS_AES128_ROUNDS; r++)
        k->keys[r] = fs_four_times(generator->aes.rounds + 16 * r);
    k->keys[0] = _mm512_xor_si512(k->keys[0], fs_four_times(nonce));
}

/* The first round's input; counter blocks end with a big-endian counter [SP 800-38A, sec. 6.5]. */
FS_INLINE FS_WORDS_TARGET __m512i fs_first_state(const fs_round_keys *k, __m512i counters)
{
    const __m512i reverse = _mm512_broadcast_i32x4(_mm_set_epi32(0x0c0d0e0f, -1, -1, -1));
    return _mm512_xor_si512(_mm512_shuffle_epi8(counters, reverse), k->keys[0]);
}

/* The words of two times four blocks, in place of their counters. */
FS_INLINE FS_WORDS_TARGET void fs_make_words(const fs_round_keys *k, __m512i *a, __m512i *b)
{
    __m512i x = fs_first_state(k, *a), y = fs_first_state(k, *b);
    for (int r = 1; r < FS_AES128_ROUNDS; r++) {
        x = _mm512_aesenc_epi128(x, k->keys[r]);
        y = _mm512_aesenc_epi128(y, k->keys[r]);
    }
    *a = _mm512_aesenclast_epi128(x, k->keys[FS_AES128_ROUNDS]);
    *b = _mm512_aesenclast_epi128(y, k->keys[FS_AES128_ROUNDS]);
}

/* Asks for the line of an output: a new array is in no cache. */
#ifdef _MM_HINT_ET0
#define FS_WILL_WRITE(p) _mm_prefetch((const char *)(p), _MM_HINT_ET0)
#else
#define FS_WILL_WRITE(p) (void)(p)
#endif

#endif

#endif
