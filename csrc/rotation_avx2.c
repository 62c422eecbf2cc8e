/* Walsh-Hadamard transforms, in AVX2. */
#include "generic.h"
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_avx2_##x
#define TARGET FS_TARGET("avx2")
#define VECTOR __m256
#define ROWS 8
#define REPEAT _mm256_set1_ps
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, x) _mm256_storeu_ps(p, x)
#define ADD _mm256_add_ps
#define SUBTRACT _mm256_sub_ps
#define MULTIPLY _mm256_mul_ps

FS_INLINE TARGET VECTOR flipped(VECTOR x, const uint8_t *signs)
{
    __m256i place = _mm256_set_epi32(24, 25, 26, 27, 28, 29, 30, 31), sign = _mm256_set1_epi32(INT32_MIN);
    __m256i bits = _mm256_and_si256(_mm256_sllv_epi32(_mm256_set1_epi32(*signs), place), sign);
    return _mm256_xor_ps(x, _mm256_castsi256_ps(bits));
}

/* Levels between lanes: each adds to its partner, the second of a pair with its own sign changed. */
FS_INLINE TARGET VECTOR within(VECTOR x)
{
    VECTOR first = _mm256_set_ps(-0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f);
    VECTOR second = _mm256_set_ps(-0.0f, -0.0f, 0.0f, 0.0f, -0.0f, -0.0f, 0.0f, 0.0f);
    VECTOR third = _mm256_set_ps(-0.0f, -0.0f, -0.0f, -0.0f, 0.0f, 0.0f, 0.0f, 0.0f);
    x = ADD(_mm256_permute_ps(x, 0xb1), _mm256_xor_ps(x, first));
    x = ADD(_mm256_permute_ps(x, 0x4e), _mm256_xor_ps(x, second));
    return ADD(_mm256_permute2f128_ps(x, x, 1), _mm256_xor_ps(x, third));
}

#include "rotation.h"

#endif
