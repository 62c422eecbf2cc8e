/* Sums of outer products, in portable C: a vector is what compilers make one of. */
#include "floats.h"
#include "generic.h"

#define NAME(x) fs_generic_##x
#define TARGET

enum { ROWS = 4, VECTORS = 2, LANES = 4 };
typedef struct {
    float lane[LANES];
} VECTOR;
#define ZERO spread(0.0F)
#define LOAD(at) load(at)
#define STORE(at, vector) store(at, vector)
#define SPREAD(number) spread(number)
#define MULTIPLY(a, b) multiply_add(a, b, ZERO)
#define MULTIPLY_ADD(a, b, sum) multiply_add(a, b, sum)
#define ADD_WIDENED(at, vector) add_widened(at, vector)

FS_INLINE VECTOR spread(float number)
{
    VECTOR out;
    for (int i = 0; i < LANES; i++)
        out.lane[i] = number;
    return out;
}

FS_INLINE VECTOR load(const float *at)
{
    VECTOR out;
    for (int i = 0; i < LANES; i++)
        out.lane[i] = at[i];
    return out;
}

FS_INLINE void store(float *at, VECTOR vector)
{
    for (int i = 0; i < LANES; i++)
        at[i] = vector.lane[i];
}

FS_INLINE VECTOR multiply_add(VECTOR a, VECTOR b, VECTOR sum)
{
    for (int i = 0; i < LANES; i++)
        sum.lane[i] += a.lane[i] * b.lane[i];
    return sum;
}

FS_INLINE void add_widened(double *at, VECTOR vector)
{
    for (int i = 0; i < LANES; i++)
        at[i] += (double)vector.lane[i];
}

#include "products.h"
