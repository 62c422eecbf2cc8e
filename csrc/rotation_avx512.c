/* Walsh-Hadamard transforms, in AVX-512. */
#include "generic.h"
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_avx512_##x
#define TARGET FS_TARGET("avx512f,avx512bw")
#define VECTOR __m512
#define ROWS 16
#define REPEAT _mm512_set1_ps
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, x) _mm512_storeu_ps(p, x)
#define ADD _mm512_add_ps
#define SUBTRACT _mm512_sub_ps
#define MULTIPLY _mm512_mul_ps

/* Changes the sign of lanes whose bit is set. */
FS_INLINE TARGET VECTOR negated(VECTOR x, __mmask16 lanes)
{
    __m512i bits = _mm512_castps_si512(x), sign = _mm512_set1_epi32(INT32_MIN);
    return _mm512_castsi512_ps(_mm512_mask_xor_epi32(bits, lanes, bits, sign));
}

FS_INLINE TARGET VECTOR flipped(VECTOR x, const uint8_t *signs)
{
    return negated(x, (__mmask16)fs_load16_le(signs));
}

/* Levels between lanes: each adds to its partner, the second of a pair with its own sign changed. */
FS_INLINE TARGET VECTOR within(VECTOR x)
{
    x = ADD(_mm512_permute_ps(x, 0xb1), negated(x, 0xaaaa));
    x = ADD(_mm512_permute_ps(x, 0x4e), negated(x, 0xcccc));
    x = ADD(_mm512_shuffle_f32x4(x, x, 0xb1), negated(x, 0xf0f0));
    return ADD(_mm512_shuffle_f32x4(x, x, 0x4e), negated(x, 0xff00));
}

#include "rotation.h"

#endif
