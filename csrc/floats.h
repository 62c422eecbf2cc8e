/* The bits of floating-point numbers, for code whose results must not depend on the instruction set: every sum and
 * product is rounded once, as IEEE 754 says, and never contracted. */
#ifndef FEDSEC_FLOATS_H
#define FEDSEC_FLOATS_H

#include <math.h>

#include "vector.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

typedef union {
    uint64_t bits;
    double value;
} fs_double;

typedef union {
    uint32_t bits;
    float value;
} fs_single;

FS_INLINE uint64_t fs_double_bits(double value)
{
    fs_double x = {.value = value};
    return x.bits;
}

FS_INLINE double fs_as_double(uint64_t bits)
{
    fs_double x = {.bits = bits};
    return x.value;
}

FS_INLINE uint32_t fs_single_bits(float value)
{
    fs_single x = {.value = value};
    return x.bits;
}

FS_INLINE float fs_as_single(uint32_t bits)
{
    fs_single x = {.bits = bits};
    return x.value;
}

#endif
