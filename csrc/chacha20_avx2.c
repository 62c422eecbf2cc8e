/* ChaCha20 on 256-bit vectors: AVX2. */
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_avx2_##x
#define TARGET FS_TARGET("avx2")
#define VECTOR __m256i
#define SETS 2
#define REPEAT32(x) _mm256_set1_epi32((int)(x))
#define REPEAT64(x) _mm256_set1_epi64x((int64_t)(x))
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define STORE(p, x) _mm256_storeu_si256((__m256i *)(void *)(p), x)
#define AND _mm256_and_si256
#define XOR _mm256_xor_si256
#define ADD16 _mm256_add_epi16
#define ADD32 _mm256_add_epi32
#define ADD64 _mm256_add_epi64
#define ROTATE16(x) _mm256_shuffle_epi8(x, REPEAT_ORDER(0x0d0c0f0e, 0x09080b0a, 0x05040706, 0x01000302))
#define ROTATE12(x) rotate_by_shifts(x, 12)
#define ROTATE8(x) _mm256_shuffle_epi8(x, REPEAT_ORDER(0x0e0d0c0f, 0x0a09080b, 0x06050407, 0x02010003))
#define ROTATE7(x) rotate_by_shifts(x, 7)
#define UNPACK_LOW32 _mm256_unpacklo_epi32
#define UNPACK_HIGH32 _mm256_unpackhi_epi32
#define UNPACK_LOW64 _mm256_unpacklo_epi64
#define UNPACK_HIGH64 _mm256_unpackhi_epi64
#define FIRST_COUNTERS _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0)

#define REPEAT_ORDER(d, c, b, a) _mm256_set_epi32(d, c, b, a, d, c, b, a)

FS_INLINE TARGET VECTOR rotate_by_shifts(VECTOR x, int by)
{
    return _mm256_or_si256(_mm256_slli_epi32(x, by), _mm256_srli_epi32(x, 32 - by));
}

/* The two 16-byte parts of x, to places four blocks apart. */
FS_INLINE TARGET void store_every_fourth(uint8_t *out, VECTOR x)
{
    _mm_storeu_si128((__m128i *)(void *)out, _mm256_castsi256_si128(x));
    _mm_storeu_si128((__m128i *)(void *)(out + 256), _mm256_extracti128_si256(x, 1));
}

#include "chacha20_vector.h"

#endif
