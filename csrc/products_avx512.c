/* Sums of outer products, in AVX-512. */
#include "x86.h"

#ifdef FS_X86_64

#define NAME(x) fs_avx512_##x
#define TARGET FS_TARGET("avx512f,avx512bw,avx512dq")

enum { ROWS = 12, VECTORS = 2, LANES = 16 };
#define VECTOR __m512
#define ZERO _mm512_setzero_ps()
#define LOAD(at) _mm512_loadu_ps(at)
#define STORE(at, vector) _mm512_storeu_ps(at, vector)
#define SPREAD(number) _mm512_set1_ps(number)
#define MULTIPLY(a, b) _mm512_mul_ps(a, b)
#define MULTIPLY_ADD(a, b, sum) _mm512_fmadd_ps(a, b, sum)
#define ADD_WIDENED(at, vector) add_widened(at, vector)

FS_INLINE TARGET void add_widened(double *at, VECTOR vector)
{
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(vector));
    __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(vector, 1));
    _mm512_storeu_pd(at, _mm512_add_pd(_mm512_loadu_pd(at), low));
    _mm512_storeu_pd(at + 8, _mm512_add_pd(_mm512_loadu_pd(at + 8), high));
}

#include "products.h"

#endif
