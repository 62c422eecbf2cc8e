/* ChaCha20 on 512-bit vectors: AVX-512 (F, BW). */
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_avx512_##x
#define TARGET FS_TARGET("avx512f,avx512bw")
#define VECTOR __m512i
#define SETS 1
#define REPEAT32(x) _mm512_set1_epi32((int)(x))
#define REPEAT64(x) _mm512_set1_epi64((int64_t)(x))
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, x) _mm512_storeu_si512(p, x)
#define AND _mm512_and_si512
#define XOR _mm512_xor_si512
#define ADD16 _mm512_add_epi16
#define ADD32 _mm512_add_epi32
#define ADD64 _mm512_add_epi64
#define ROTATE16(x) _mm512_rol_epi32(x, 16)
#define ROTATE12(x) _mm512_rol_epi32(x, 12)
#define ROTATE8(x) _mm512_rol_epi32(x, 8)
#define ROTATE7(x) _mm512_rol_epi32(x, 7)
#define UNPACK_LOW32 _mm512_unpacklo_epi32
#define UNPACK_HIGH32 _mm512_unpackhi_epi32
#define UNPACK_LOW64 _mm512_unpacklo_epi64
#define UNPACK_HIGH64 _mm512_unpackhi_epi64
#define FIRST_COUNTERS _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)

/* The four 16-byte parts of x, to places four blocks apart. */
FS_INLINE TARGET void store_every_fourth(uint8_t *out, VECTOR x)
{
    _mm_storeu_si128((__m128i *)(void *)out, _mm512_castsi512_si128(x));
    _mm_storeu_si128((__m128i *)(void *)(out + 256), _mm512_extracti32x4_epi32(x, 1));
    _mm_storeu_si128((__m128i *)(void *)(out + 512), _mm512_extracti32x4_epi32(x, 2));
    _mm_storeu_si128((__m128i *)(void *)(out + 768), _mm512_extracti32x4_epi32(x, 3));
}

#include "chacha20_vector.h"

#endif
