/* Sums of outer products, in AVX2 with fused multiplication and addition. */
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_avx2_##x
#define TARGET FS_TARGET("avx2,fma")

enum { ROWS = 6, VECTORS = 2, LANES = 8 };
#define VECTOR __m256
#define ZERO _mm256_setzero_ps()
#define LOAD(at) _mm256_loadu_ps(at)
#define STORE(at, vector) _mm256_storeu_ps(at, vector)
#define SPREAD(number) _mm256_set1_ps(number)
#define MULTIPLY(a, b) _mm256_mul_ps(a, b)
#define MULTIPLY_ADD(a, b, sum) _mm256_fmadd_ps(a, b, sum)
#define ADD_WIDENED(at, vector) add_widened(at, vector)

FS_INLINE TARGET void add_widened(double *at, VECTOR vector)
{
    __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(vector));
    __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(vector, 1));
    _mm256_storeu_pd(at, _mm256_add_pd(_mm256_loadu_pd(at), low));
    _mm256_storeu_pd(at + 4, _mm256_add_pd(_mm256_loadu_pd(at + 4), high));
}

#include "products.h"

#endif
