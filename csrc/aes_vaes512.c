/* AES-CTR masked sums on 512-bit vectors: AVX-512 (F, BW) and VAES. */
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_vaes512_##x
#define TARGET FS_TARGET("avx512f,avx512bw,vaes")
#define VECTOR __m512i
#define REPEAT _mm512_broadcast_i32x4
#define ROUND_KEY(p) REPEAT(LOAD_ONE(p))
#define REPEAT32(x) _mm512_set1_epi32((int)(x))
#define REPEAT64(x) _mm512_set1_epi64((int64_t)(x))
#define REPEAT_COUNTER(block) REPEAT(_mm_set_epi32((int)(block), 0, 0, 0))
#define LOAD(p) _mm512_loadu_si512(p)
#define LOAD_EVERY_OTHER(p) \
    _mm512_inserti64x4(_mm512_castsi256_si512(LOAD_TWO(p)), LOAD_TWO((p) + 64), 1)
#define LOAD_TWO(p) _mm256_inserti128_si256(_mm256_castsi128_si256(LOAD_ONE(p)), LOAD_ONE((p) + 32), 1)
#define LOAD_ONE(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#define STORE(p, x) _mm512_storeu_si512(p, x)
#define AND _mm512_and_si512
#define XOR _mm512_xor_si512
#define ADD8 _mm512_add_epi8
#define ADD16 _mm512_add_epi16
#define ADD32 _mm512_add_epi32
#define ADD64 _mm512_add_epi64
#define SHIFT_COLUMNS(x, by) _mm512_bslli_epi128(x, 4 * (by))
#define SHUFFLE _mm512_shuffle_epi8
#define REVERSE_COUNTERS(x) _mm512_shuffle_epi8(x, REPEAT(_mm_set_epi32(0x0c0d0e0f, -1, -1, -1)))
#define AES_FIRST_KEY _mm512_xor_si512
#define AES_ROUND _mm512_aesenc_epi128
#define AES_LAST_ROUND _mm512_aesenclast_epi128
#define SPLIT_ROUNDS 2
#define SUBSTITUTE AES_LAST_ROUND
#define FIRST_COUNTERS _mm512_set_epi32(3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0)

/* In row 3 of column (c + 3) mod 4, which the first round puts into column c: 4 c and a block's place among four. */
#define FIRST_PLACES                                                                                        \
    _mm512_set_epi32(3 << 24, 15 << 24, 11 << 24, 7 << 24, 2 << 24, 14 << 24, 10 << 24, 6 << 24, 1 << 24,   \
                     13 << 24, 9 << 24, 5 << 24, 0, 12 << 24, 8 << 24, 4 << 24)

#include "aes_vector.h"

#endif
