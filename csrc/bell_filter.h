/* What the kernels of bell.c share: a group's work, and the filter's numbers. */
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

/* How many bits of a value are in the candidate's `rest`. */
static inline unsigned fs_bell_hidden(const fs_bell *bell)
{
    return bell->block_bits - bell->shown_bits;
}

/* A value of which `rest` holds the last bits of a wide law's block. */
static inline int64_t fs_bell_whole(unsigned hidden, int64_t shown, uint32_t rest)
{
    return (int64_t)((uint64_t)shown << hidden | (uint64_t)rest << hidden >> 32);
}

/* What the filter says of the next block: whether all of it is decided, and then which candidates stand. This is what
 * shows of candidates in times and addresses, and no secret: it says next to nothing about the values that stand
 * (docs/noise.md). */
static inline int fs_bell_decided(fs_bell_work *work, uint32_t *standing, uint32_t possible)
{
    uint32_t surely = (uint32_t)FS_TELL(*standing), maybe = (uint32_t)FS_TELL(possible);
    if (surely != maybe) {
        if (!work->settled) {
            work->standing = surely;
            work->possible = maybe;
            return 0;
        }
        work->settled = 0;
        surely = work->standing;
    }
    *standing = surely;
    return 1;
}

/* For backends without an instruction for it: the values of the next block that stand. */
#define FS_BELL_KEEP(BITS)                                                                                             \
    static inline int##BITS##_t *fs_bell_keep##BITS(const fs_bell_work *work, int##BITS##_t *out, const int32_t *shown, \
                                                    uint32_t standing)                                                 \
    {                                                                                                                  \
        unsigned hidden = fs_bell_hidden(work->bell);                                                                  \
        int64_t first = work->bell->first;                                                                             \
        for (unsigned i = 0; i < FS_BELL_BLOCK; i++) {                                                                 \
            uint32_t rest = hidden ? work->rest[FS_BELL_BLOCK * work->block + i] : 0;                                  \
            *out = (int##BITS##_t)(first + fs_bell_whole(hidden, shown[i], rest));                                     \
            out += standing >> i & 1;                                                                                  \
        }                                                                                                              \
        return out;                                                                                                    \
    }

FS_BELL_KEEP(32)
FS_BELL_KEEP(64)

#endif
