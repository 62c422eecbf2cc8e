/* Exact laws on the integers that have a bell's shape: discrete Gaussian, Skellam and Poisson.
 *
 * By rejection: a candidate y is drawn from a law whose probabilities are integers over a power of two, and stands
 * with probability weight(y) / (M times that of the candidate), which is at most 1. So the law of what stands is exact
 * as soon as each comparison of a uniform real with that number is right: nothing is rounded, cut off or normalised.
 * fedsec/_bell.py makes the tables and says what is in them.
 *
 * A candidate takes 48 bits of the stream: 6 name a column of Walker's alias method [Wal77] and 8 are compared
 * with its threshold, which gives one of 64 cells; one bit is a sign and 17 an offset in the cell; 16 are the uniform
 * real's first. Cells are blocks of 2^block_bits integers, of which the leading 17 bits are these and the others come
 * from 32 bits more where a law is wide. The last cell is all that is beyond the others, where the caller draws.
 *
 * Three comparisons, each exact where it decides: 16-bit integers (bell_*.c) leave some 3 candidates in 10^4; double
 * precision (stands), with 64 bits more of the uniform real, decides but for one in 10^7 of these or fewer; the rest
 * goes to the caller's integers, which draw as many bits as it takes. Candidates are numbered, and each has a
 * stream of its own for what it takes beyond its first bits: who decides never changes a word of another.
 *
 * [Wal77] Walker. An Efficient Method for Generating Discrete Random Variables with General Distributions. ACM TOMS
 * 3(3), 1977. */
#include <math.h>
#include <stdbool.h>

#include "bell_filter.h"

/* Streams of a chunk: the candidates' words, and what one candidate takes further. */
enum { CANDIDATES, FURTHER = 2 };

/* Debye's expansion of sqrt(2 pi v) exp(-v) I_y(v), off by less than 2 / v^2, which is in the margin (docs/noise.md):
 * exp(-v (e^2 / 2 - e^4 / 24 + e^6 / 80 - ...)) (1 + e^2)^(-1/4) (1 + (3 - 5 p^2) / (24 s)), e = y / v, p = y / s, and s =
 * v sqrt(1 + e^2); the series is the integral of asinh. */
static double log_skellam(double v, double square)
{
    double e2 = square / v, p2 = e2 / (1.0 + e2);
    double series = 7.0 / 2304.0;
    series = 5.0 / 896.0 - e2 * series;
    series = 1.0 / 80.0 - e2 * series;
    series = 1.0 / 24.0 - e2 * series;
    series = 0.5 - e2 * series;
    double correction = (3.0 - 5.0 * p2) / (24.0 * v * sqrt(1.0 + e2));
    return -square * series - 0.25 * log1p(e2) + log1p(correction);
}

/* Stirling's expansion: -1 / 1024 - v phi(e) - ln(1 + e) / 2 - 1 / (12 y) + 1 / (360 y^3) with e = y / v - 1, |e| < 1/8, and
 * phi(e) = (1 + e) ln(1 + e) - e = sum_{j >= 2} (-e)^j / (j (j - 1)), where cancellation would hurt. */
static double log_poisson(double v, double y)
{
    static const double INVERSE[21] = {
#define TERM(j) 1.0 / ((j) * ((j) - 1))
        TERM(2),  TERM(3),  TERM(4),  TERM(5),  TERM(6),  TERM(7),  TERM(8),  TERM(9),  TERM(10), TERM(11), TERM(12),
        TERM(13), TERM(14), TERM(15), TERM(16), TERM(17), TERM(18), TERM(19), TERM(20), TERM(21), TERM(22),
#undef TERM
    };
    double e = (y - v) / v, phi = 0.0;
    for (int j = 20; j >= 0; j--)
        phi = INVERSE[j] - e * phi;
    return -0x1p-10 - v * e * e * phi - 0.5 * log1p(e) - 1.0 / (12.0 * y) + 1.0 / (360.0 * y * y * y);
}

/* The weight's logarithm, for a value in one of the cells before the last. It is below 2^9 where it matters and then off by
 * 2^-41, the logarithm of the height by 2^-46, and the uniform number by 2^-53: less than 2^-36, the margin. */
static double log_weight(const fs_bell *bell, int64_t y)
{
    double v = bell->variance, square = (double)y * (double)y / v;
    switch (bell->formula) {
    case FS_BELL_GAUSSIAN:
        return -0.5 * square;
    case FS_BELL_SKELLAM:
        return log_skellam(v, square);
    case FS_BELL_POISSON:
        return log_poisson(v, (double)y);
    default:
        return bell->log_weights[y - bell->first + (bell->mirrored ? INT64_C(63) << bell->block_bits : 0)];
    }
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
    int64_t shown = (choice >> 6 & 1 & bell->mirrored) ? ~magnitude : magnitude;
    uint32_t rest = fs_bell_hidden(bell) ? (uint32_t)FS_TELL(work->rest[place]) : 0;

    uint64_t further[2];
    uint32_t candidate = (uint32_t)(work->group * FS_BELL_GROUP + place);
    const uint32_t stream[3] = {work->chunk, candidate, FURTHER};
    fs_generator_fill(&work->generator, further, sizeof further, stream, 0);
    fs_bell_undecided open = {
        .candidate = candidate,
        .position = position,
        .cell = cell,
        .value = bell->first + fs_bell_whole(fs_bell_hidden(bell), shown, rest),
        .uniform_high = fs_from_le16((uint16_t)FS_TELL(work->uniforms[at])),
        .uniform_low = fs_from_le64(FS_TELL(further[0])),
    };
    double uniform = (double)open.uniform_high * 0x1p-16 + (double)open.uniform_low * 0x1p-80;
    bool last = cell == FS_BELL_CELLS - 1;
    open.gap = last ? 0.0 : exp(log_weight(bell, open.value) - bell->log_heights[cell]) - uniform;
    bool clear = fabs(open.gap) > bell->margin && !work->exact_only;
    bool standing = clear ? open.gap > 0 : leave(work, &open);
    fs_wipe(further, sizeof further);
    fs_wipe(&open, sizeof open);
    return standing;
}

/* Decides the candidates of the next block that the filter leaves open. */
static void settle(fs_bell_work *work)
{
    size_t position = work->n_done;
    uint32_t open = work->standing ^ work->possible;
    for (unsigned i = 0; i < FS_BELL_BLOCK; i++) {
        uint32_t bit = UINT32_C(1) << i;
        if ((open & bit) && stands(work, FS_BELL_BLOCK * work->block + i, position))
            work->standing |= bit;
        position += (work->standing & bit) != 0;
    }
    work->settled = 1;
}

static void start(fs_bell_work *work, const fs_backend *backend, const fs_bell *bell, const uint8_t *key, uint32_t chunk)
{
    work->bell = bell;
    work->chunk = chunk;
    work->group = work->n_done = work->n_undecided = 0;
    fs_generator_start(&work->generator, backend, key);
}

static void next_group(fs_bell_work *work)
{
    const uint32_t stream[3] = {work->chunk, 0, CANDIDATES};
    size_t n_bytes = offsetof(fs_bell_work, rest) - offsetof(fs_bell_work, choices);
    if (fs_bell_hidden(work->bell) > 0)
        n_bytes += sizeof work->rest;
    fs_generator_fill(&work->generator, work->choices, n_bytes, stream, (uint32_t)(work->group * (n_bytes / 16)));
    work->block = 0;
    work->settled = 0;
}

/* A group goes straight to its place, or, near the end, by way of one that has room for more than a group. */
#define DEFINE_BELLS(BITS)                                                                        \
    size_t fs_bells##BITS(const fs_backend *backend, const fs_bell *bell, int##BITS##_t *out,     \
                                      size_t length, const uint8_t *key, uint32_t chunk,                      \
                                      const uint32_t *refused, size_t n_refused, int exact_only,              \
                                      fs_bell_undecided *undecided, size_t room)                              \
    {                                                                                                         \
        fs_bell_work work;                                                                                    \
        int##BITS##_t last[FS_BELL_GROUP + FS_BELL_BLOCK];                                                    \
        start(&work, backend, bell, key, chunk);                                                              \
        work.exact_only = exact_only;                                                                         \
        work.refused = refused;                                                                               \
        work.n_refused = n_refused;                                                                           \
        work.undecided = undecided;                                                                           \
        work.room = room;                                                                                     \
        for (; work.n_done < length; work.group++) {                                                          \
            size_t begin = work.n_done, left = length - begin;                                                \
            bool fits = left >= FS_BELL_GROUP + FS_BELL_BLOCK;                                                \
            int##BITS##_t *to = fits ? out + begin : last;                                                    \
            for (next_group(&work);; settle(&work)) {                                                         \
                work.n_done += backend->bell##BITS(&work, to + (work.n_done - begin));                        \
                if (work.block == FS_BELL_BLOCKS)                                                             \
                    break;                                                                                    \
            }                                                                                                 \
            if (!fits)                                                                                        \
                memcpy(out + begin, last, (left < work.n_done - begin ? left : work.n_done - begin) * sizeof last[0]); \
        }                                                                                                     \
        size_t n_undecided = work.n_undecided;                                                                \
        while (n_undecided > 0 && n_undecided <= room && undecided[n_undecided - 1].position >= length)       \
            n_undecided--;                                                                                    \
        fs_wipe(last, sizeof last);                                                                           \
        fs_wipe(&work, sizeof work);                                                                          \
        return n_undecided;                                                                                   \
    }

DEFINE_BELLS(32)
DEFINE_BELLS(64)
