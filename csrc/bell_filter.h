/* What the kernels of the discrete Gaussian share: a group's work, and the filter's numbers. */
#ifndef FEDSEC_BELL_FILTER_H
#define FEDSEC_BELL_FILTER_H

#include "core.h"

/* exp(-v) = C0 - v (C1 - v (C2 - v (C3 - v C4))) for v in [0, 1), in units of 2^-16, up to three of them. */
enum { FS_BELL_C0 = 65535, FS_BELL_C1 = 65502, FS_BELL_C2 = 32479, FS_BELL_C3 = 10073, FS_BELL_C4 = 1671 };

/* The filter's acceptance is off by less than this, in units of 2^-16 (test_the_filters_error). */
enum { FS_BELL_MARGIN = 8 };

/* The i-th candidate of a block in canonical order: even ones first. */
static inline unsigned fs_bell_candidate(unsigned i)
{
    return i < FS_BELL_BLOCK / 2 ? 2 * i : 2 * (i - FS_BELL_BLOCK / 2) + 1;
}

/* A block's candidates that stand, or that may: what shows of a candidate in times and addresses, and is no secret, as it
 * says next to nothing about the value that stands (docs/noise.md). */
static inline uint32_t fs_bell_told(uint32_t candidates)
{
    return (uint32_t)FS_TELL(candidates);
}

/* Decides the candidates of a block that the filter leaves open; bits are in canonical order. Gives all that stand. */
uint32_t fs_bell_settle(fs_bell_work *work, size_t block, size_t n_out, uint32_t accepted, uint32_t open);

/* Keeps the values, in canonical order, of a block's candidates that stand: how many there are then. */
static inline size_t fs_bell_keep(fs_bell_work *work, size_t block, size_t n_out, const int32_t *values,
                                  uint32_t accepted)
{
    for (unsigned i = 0; i < FS_BELL_BLOCK; i++) {
        work->values[n_out] = values[i];
        work->further[n_out] = work->rest[FS_BELL_BLOCK * block + i];
        n_out += accepted >> i & 1;
    }
    return n_out;
}

#endif
