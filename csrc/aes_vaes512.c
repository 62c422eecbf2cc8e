/* AES-CTR masked sums on 512-bit vectors: AVX-512 (F, BW) and VAES. */
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_vaes512_##x
#define TARGET FS_TARGET("avx512f,avx512bw,vaes")
#define VECTOR __m512i
#define REPEAT _mm512_broadcast_i32x4
#define ROUND_KEY(p) REPEAT(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define REPEAT64(x) _mm512_set1_epi64((int64_t)(x))
#define REPEAT_COUNTER(block) REPEAT(_mm_set_epi32((int)(block), 0, 0, 0))
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, x) _mm512_storeu_si512(p, x)
#define AND _mm512_and_si512
#define XOR _mm512_xor_si512
#define ADD16 _mm512_add_epi16
#define ADD32 _mm512_add_epi32
#define ADD64 _mm512_add_epi64
#define REVERSE_COUNTERS(x) _mm512_shuffle_epi8(x, REPEAT(_mm_set_epi32(0x0c0d0e0f, -1, -1, -1)))
#define AES_FIRST_KEY _mm512_xor_si512
#define AES_ROUND _mm512_aesenc_epi128
#define AES_LAST_ROUND _mm512_aesenclast_epi128
#define SPLIT_ROUNDS 2
#define FIRST_COUNTERS _mm512_set_epi32(3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0)

#define EXPAND_KEYS fs_aesni_expand

#include "aes_vector.h"

#endif
