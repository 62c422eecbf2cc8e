/* AES-CTR masked sums on 128-bit vectors, AES-NI and SSE4.1. */
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_aesni_##x
#define TARGET FS_TARGET("sse4.1,aes")
#define VECTOR __m128i
#define REPEAT(x) (x)
#define ROUND_KEY(p) REPEAT(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define REPEAT32(x) _mm_set1_epi32((int)(x))
#define REPEAT64(x) _mm_set1_epi64x((int64_t)(x))
#define REPEAT_COUNTER(block) REPEAT(_mm_set_epi32((int)(block), 0, 0, 0))
#define LOAD(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#define LOAD_EVERY_OTHER LOAD
#define STORE(p, x) _mm_storeu_si128((__m128i *)(void *)(p), x)
#define AND _mm_and_si128
#define XOR _mm_xor_si128
#define ADD16 _mm_add_epi16
#define ADD32 _mm_add_epi32
#define ADD64 _mm_add_epi64
#define SHIFT_COLUMNS(x, by) _mm_slli_si128(x, 4 * (by))
#define SHUFFLE _mm_shuffle_epi8
#define REVERSE_COUNTERS(x) _mm_shuffle_epi8(x, REPEAT(_mm_set_epi32(0x0c0d0e0f, -1, -1, -1)))
#define AES_FIRST_KEY _mm_xor_si128
#define AES_ROUND _mm_aesenc_si128
#define AES_LAST_ROUND _mm_aesenclast_si128
#define SPLIT_ROUNDS 2
#define SUBSTITUTE AES_LAST_ROUND
#define FIRST_COUNTERS _mm_setzero_si128()

#include "aes_vector.h"

#endif
