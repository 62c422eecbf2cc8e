/* The fast part of exact bells in portable C: which candidates stand, by integers of 16 bits.
 *
 * No address and no branch depends on a word: a table is sixteen words of 64 bits, among which bits choose. How many
 * candidates stand does, and is no secret: it has nothing to do with their values. The files of instruction sets
 * do the same in vectors, and give the same. */
#include "generic.h"

#include "bell_filter.h"

enum { WORDS = FS_BELL_CELLS / 4 };

typedef struct {
    uint64_t words[WORDS];
} table;

static table load_table(const uint16_t *entries)
{
    table t;
    for (int i = 0; i < WORDS; i++) {
        const uint16_t *four = entries + 4 * i;
        t.words[i] = four[0] | (uint64_t)four[1] << 16 | (uint64_t)four[2] << 32 | (uint64_t)four[3] << 48;
    }
    return t;
}

FS_INLINE uint64_t pick(uint64_t zero, uint64_t one, uint64_t mask)
{
    return zero ^ ((zero ^ one) & mask);
}

/* entries[index], index below 64 */
FS_INLINE uint16_t look_up(const table *t, uint32_t index)
{
    uint64_t half[8], mask = 0 - (uint64_t)(index >> 5 & 1);
    for (int i = 0; i < 8; i++)
        half[i] = pick(t->words[i], t->words[i + 8], mask);
    for (unsigned width = 4, bit = 4; width > 0; width /= 2, bit--) {
        mask = 0 - (uint64_t)(index >> bit & 1);
        for (unsigned i = 0; i < width; i++)
            half[i] = pick(half[i], half[i + width], mask);
    }
    return (uint16_t)(half[0] >> 16 * (index & 3));
}

/* a b / 2^16, rounded down */
FS_INLINE uint32_t product(uint32_t a, uint32_t b)
{
    return a * b >> 16;
}

/* 1 where a < b, of numbers below 2^31 */
FS_INLINE uint32_t below(uint32_t a, uint32_t b)
{
    return (a - b) >> 31;
}

typedef struct {
    table cells, slopes[2], curvatures[2], heights[2];
} tables;

/* A cell's number, of its side where a law is skewed. */
FS_INLINE uint32_t of_cell(const fs_bell *bell, const table sides[2], uint32_t index, uint32_t left)
{
    uint32_t found = look_up(&sides[0], index);
    return bell->skewed ? found ^ ((found ^ look_up(&sides[1], index)) & left) : found;
}

static tables load_tables(const fs_bell *bell)
{
    tables t = {.cells = load_table(bell->cells)};
    for (int left = 0; left < 2; left++) {
        t.slopes[left] = load_table(bell->slopes[left]);
        t.curvatures[left] = load_table(bell->curvatures[left]);
        t.heights[left] = load_table(bell->heights[left]);
    }
    return t;
}

/* The next block: its values, and which of its candidates stand, and which may. */
FS_INLINE uint32_t filter(const fs_bell_work *work, const tables *t, int32_t *values, uint32_t *possible)
{
    const fs_bell *bell = work->bell;
    uint32_t standing = 0;
    *possible = 0;
    for (unsigned i = 0; i < FS_BELL_BLOCK; i++) {
        size_t at = FS_BELL_BLOCK * work->block + fs_bell_candidate(i);
        uint32_t choice = fs_from_le16(work->choices[at]), offset = fs_from_le16(work->offsets[at]);
        uint32_t uniform = fs_from_le16(work->uniforms[at]);

        uint32_t found = look_up(&t->cells, choice % FS_BELL_CELLS);
        uint32_t own = 0 - below(choice, found & 0xff00);
        uint32_t index = (found ^ ((found ^ choice) & own)) % FS_BELL_CELLS;
        uint32_t sign = 0 - (choice >> 6 & 1 & bell->mirrored);

        uint32_t place = (offset & bell->offset_mask) + (sign & bell->step);
        place = (place | (0 - (place >> 16))) & UINT16_MAX; /* at most 2^16 - 1 */
        uint32_t curvature = bell->curved ? of_cell(bell, t->curvatures, index, sign) : bell->curvatures[0][0];
        uint32_t v = product(place, of_cell(bell, t->slopes, index, sign) + product(place, curvature));
        uint32_t e = FS_BELL_C3 - product(v, FS_BELL_C4);
        e = FS_BELL_C0 - product(v, FS_BELL_C1 - product(v, FS_BELL_C2 - product(v, e)));
        uint32_t acceptance = product(of_cell(bell, t->heights, index, sign), product(e, e));
        standing |= below(uniform + FS_BELL_MARGIN, acceptance) << i;
        *possible |= below(uniform, acceptance + FS_BELL_MARGIN + 1) << i;

        uint32_t magnitude = index << FS_BELL_SHOWN_BITS | offset << 1 | (choice >> 7 & 1);
        uint32_t value = (magnitude >> (FS_BELL_SHOWN_BITS - bell->shown_bits)) ^ sign;
        values[i] = (int32_t)value;
    }
    return standing;
}

#define DEFINE_BELL(BITS)                                                               \
    size_t fs_generic_bell##BITS(fs_bell_work *work, int##BITS##_t *out)                \
    {                                                                                   \
        const fs_bell *bell = work->bell;                                               \
        const tables t = load_tables(bell);                                             \
        int##BITS##_t *next = out;                                                      \
        for (; work->block < FS_BELL_BLOCKS; work->block++) {                           \
            int32_t values[FS_BELL_BLOCK];                                              \
            uint32_t possible, standing = filter(work, &t, values, &possible);          \
            if (!fs_bell_decided(work, &standing, possible))                            \
                break;                                                                  \
            next = fs_bell_keep##BITS(work, next, values, standing);                    \
        }                                                                               \
        return (size_t)(next - out);                                                    \
    }

DEFINE_BELL(32)
DEFINE_BELL(64)
