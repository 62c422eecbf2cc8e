/* The exact discrete Gaussian on the integers: Pr[y] proportional to exp(-y^2 / (2 stddev^2)).
 *
 * By rejection: a candidate y is drawn from a law whose probabilities are integers over a power of two, and stands
 * with probability exp(-y^2 / (2 stddev^2)) / (M times that of the candidate), which is at most 1. So the law of what
 * stands is exact as soon as each comparison of a uniform real with that number is right: nothing is rounded, cut off
 * or normalised. fedsec/_lattice.py makes the tables and says what is in them.
 *
 * A candidate takes 48 bits of the stream: 6 name a column of Walker's alias method [Wal77] and 8 are compared
 * with its threshold, which gives one of 64 cells; one bit is a sign and 17 an offset in the cell; 16 are the uniform
 * real's first. Cells are blocks of 2^block_bits integers, of which the leading 17 bits are these and the others come
 * from 32 bits more where a law is wide. The last cell is all that is beyond the others, where the caller draws.
 *
 * Three comparisons, each exact where it decides: 16-bit integers (bell.h) leave some 3 candidates in 10^4; double
 * precision (fs_bell_settle), with 64 bits more of the uniform real, decides but for one in 10^11 of these; the rest
 * goes to the caller's integers, which draw as many bits as it takes. Candidates are numbered, and each has a
 * stream of its own for what it takes beyond its first bits: who decides never changes a word of another.
 *
 * [Wal77] Walker. An Efficient Method for Generating Discrete Random Variables with General Distributions. ACM TOMS
 * 3(3), 1977. */
#include <math.h>
#include <stdbool.h>

#include "bell_filter.h"

/* In double precision y^2 / (2 stddev^2) is below 2^10 and off by 2^-42, the logarithm of the height by 2^-46, and
 * the uniform number by 2^-53. */
static const double MARGIN = 0x1p-36;

/* Streams of a chunk: the candidates' words, and what one candidate takes further. */
enum { CANDIDATES, FURTHER = 2 };

/* A value with the bits of a wide law's block that are not in the candidate's own words. */
static int64_t whole_value(const fs_bell *bell, int64_t shown, uint32_t rest)
{
    unsigned hidden = bell->block_bits - bell->shown_bits;
    return hidden == 0 ? shown : (int64_t)((uint64_t)shown << hidden | (uint64_t)rest >> (32 - hidden));
}

/* Whether the candidate is on the caller's list of those that do not stand. */
static bool refused(const fs_bell_work *work, uint32_t candidate)
{
    size_t low = 0, high = work->n_refused;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (work->refused[middle] < candidate)
            low = middle + 1;
        else
            high = middle;
    }
    return low < work->n_refused && work->refused[low] == candidate;
}

/* A candidate that is left to the caller. Until it answers it counts as one that stands. */
static bool leave(fs_bell_work *work, const fs_bell_undecided *open)
{
    if (refused(work, open->candidate))
        return false;
    if (work->n_undecided < work->room)
        work->undecided[work->n_undecided] = *open;
    work->n_undecided++;
    return true;
}

/* The candidate at a place of the group in canonical order: whether it stands, as the variate at `position`. Its words
 * are told here: branches and addresses depend on them. */
static bool stands(fs_bell_work *work, size_t place, size_t position)
{
    const fs_bell *bell = work->bell;
    size_t at = place / FS_BELL_BLOCK * FS_BELL_BLOCK + fs_bell_candidate(place % FS_BELL_BLOCK);
    uint32_t choice = fs_from_le16((uint16_t)FS_TELL(work->choices[at]));
    uint32_t offset = fs_from_le16((uint16_t)FS_TELL(work->offsets[at]));
    uint32_t found = bell->cells[choice % FS_BELL_CELLS];
    uint32_t cell = (choice < (found & 0xff00) ? choice : found) % FS_BELL_CELLS;
    int64_t magnitude = (cell << 17 | offset << 1 | (choice >> 7 & 1)) >> (FS_BELL_SHOWN_BITS - bell->shown_bits);
    int64_t shown = (choice >> 6 & 1 & bell->mirrored) ? ~magnitude : magnitude + bell->first;

    uint64_t further[2];
    uint32_t candidate = (uint32_t)(work->group * FS_BELL_GROUP + place);
    const uint32_t stream[3] = {work->chunk, candidate, FURTHER};
    fs_generator_fill(&work->generator, further, sizeof further, stream, 0);
    fs_bell_undecided open = {
        .candidate = candidate,
        .position = position,
        .cell = cell,
        .value = whole_value(bell, shown, (uint32_t)FS_TELL(work->rest[place])),
        .uniform_high = fs_from_le16((uint16_t)FS_TELL(work->uniforms[at])),
        .uniform_low = fs_from_le64(FS_TELL(further[0])),
    };
    double z = (double)open.value / bell->stddev;
    double uniform = (double)open.uniform_high * 0x1p-16 + (double)open.uniform_low * 0x1p-80;
    open.gap = exp(-0.5 * z * z - bell->log_heights[cell]) - uniform;
    bool clear = cell != FS_BELL_CELLS - 1 && !work->exact_only && fabs(open.gap) > MARGIN;
    bool standing = clear ? open.gap > 0 : leave(work, &open);
    fs_wipe(further, sizeof further);
    fs_wipe(&open, sizeof open);
    return standing;
}

uint32_t fs_bell_settle(fs_bell_work *work, size_t block, size_t n_out, uint32_t accepted, uint32_t open)
{
    size_t position = work->n_done + n_out;
    for (unsigned i = 0; i < FS_BELL_BLOCK; i++) {
        if ((open >> i & 1) && stands(work, FS_BELL_BLOCK * block + i, position))
            accepted |= UINT32_C(1) << i;
        position += accepted >> i & 1;
    }
    return accepted;
}

static void next_group(fs_bell_work *work)
{
    const uint32_t stream[3] = {work->chunk, 0, CANDIDATES};
    size_t n_bytes = offsetof(fs_bell_work, rest) - offsetof(fs_bell_work, choices);
    if (work->bell->block_bits > FS_BELL_SHOWN_BITS)
        n_bytes += sizeof work->rest;
    fs_generator_fill(&work->generator, work->choices, n_bytes, stream, (uint32_t)(work->group * (n_bytes / 16)));
}

#define DEFINE_DISCRETE_GAUSSIAN(BITS)                                                                        \
    size_t fs_discrete_gaussian##BITS(const fs_backend *backend, const fs_bell *bell, int##BITS##_t *out,     \
                                      size_t length, const uint8_t *key, uint32_t chunk,                      \
                                      const uint32_t *refused, size_t n_refused, int exact_only,              \
                                      fs_bell_undecided *undecided, size_t room)                              \
    {                                                                                                         \
        fs_bell_work work = {.bell = bell, .chunk = chunk, .exact_only = exact_only, .refused = refused,      \
                             .n_refused = n_refused, .undecided = undecided, .room = room};                   \
        fs_generator_start(&work.generator, backend, key);                                                    \
        for (; work.n_done < length; work.group++) {                                                          \
            next_group(&work);                                                                                \
            size_t n = backend->bell(&work);                                                                  \
            n = n < length - work.n_done ? n : length - work.n_done;                                          \
            int##BITS##_t *to = out + work.n_done;                                                            \
            if (bell->block_bits > FS_BELL_SHOWN_BITS)                                                        \
                for (size_t j = 0; j < n; j++)                                                                \
                    to[j] = (int##BITS##_t)whole_value(bell, work.values[j], work.further[j]);                \
            else                                                                                              \
                for (size_t j = 0; j < n; j++)                                                                \
                    to[j] = work.values[j];                                                                   \
            work.n_done += n;                                                                                 \
        }                                                                                                     \
        size_t n_undecided = work.n_undecided;                                                                \
        while (n_undecided > 0 && n_undecided <= room && undecided[n_undecided - 1].position >= length)       \
            n_undecided--;                                                                                    \
        fs_wipe(&work, sizeof work);                                                                          \
        return n_undecided;                                                                                   \
    }

DEFINE_DISCRETE_GAUSSIAN(32)
DEFINE_DISCRETE_GAUSSIAN(64)
