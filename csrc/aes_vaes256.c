/* AES-CTR masked sums on 256-bit vectors: AVX2 and VAES. */
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_vaes256_##x
#define TARGET FS_TARGET("avx2,vaes")
#define VECTOR __m256i
#define REPEAT _mm256_broadcastsi128_si256
#define ROUND_KEY(p) REPEAT(LOAD_ONE(p))
#define REPEAT32(x) _mm256_set1_epi32((int)(x))
#define REPEAT64(x) _mm256_set1_epi64x((int64_t)(x))
#define REPEAT_COUNTER(block) REPEAT(_mm_set_epi32((int)(block), 0, 0, 0))
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define LOAD_EVERY_OTHER(p) _mm256_inserti128_si256(_mm256_castsi128_si256(LOAD_ONE(p)), LOAD_ONE((p) + 32), 1)
#define LOAD_ONE(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#define STORE(p, x) _mm256_storeu_si256((__m256i *)(void *)(p), x)
#define AND _mm256_and_si256
#define XOR _mm256_xor_si256
#define ADD16 _mm256_add_epi16
#define ADD32 _mm256_add_epi32
#define ADD64 _mm256_add_epi64
#define SHIFT_COLUMNS(x, by) _mm256_slli_si256(x, 4 * (by))
#define SHUFFLE _mm256_shuffle_epi8
#define REVERSE_COUNTERS(x) _mm256_shuffle_epi8(x, REPEAT(_mm_set_epi32(0x0c0d0e0f, -1, -1, -1)))
#define AES_FIRST_KEY _mm256_xor_si256
#define AES_ROUND _mm256_aesenc_epi128
#define AES_LAST_ROUND _mm256_aesenclast_epi128
#define SPLIT_ROUNDS 2
#define SUBSTITUTE AES_LAST_ROUND
#define FIRST_COUNTERS _mm256_set_epi32(1, 0, 0, 0, 0, 0, 0, 0)

#include "aes_vector.h"

#endif
