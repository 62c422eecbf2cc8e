/* Laws on the integers from tables: Poisson and Skellam variates.
 *
 * A law comes as 2^k cells with probabilities that are integers over 2^32, arranged for the alias method
 * [Wal77: Walker, An Efficient Method for Generating Discrete Random Variables with General Distributions, ACM
 * TOMS 3(3), 1977]. A cell is one integer, and then drawing it is all; or a block of 2^b integers, of which one is
 * drawn uniformly and accepted with probability weight(y) / height(block), else all is drawn anew. What the last cell
 * stands for, the caller draws. fedsec/_lattice.py makes the tables, and says why the law is exact.
 *
 * No result depends on the rounding of floating-point numbers. A uniform real is compared by its leading bits,
 * and by more of them where these do not decide. Most blocks accept whatever is drawn by a bound in integers; the
 * rest compare in double precision, where what is closer than MARGIN is left to the caller, who decides with
 * as many bits as it takes. */
#include <math.h>
#include <stdbool.h>

#include "core.h"

/* Comparisons in double precision: the logarithms of a weight and of a height are below 2^7 and off by 2^-40
 * together, their exponential by 2^-40, the uniform number by 2^-52. */
static const double MARGIN = 0x1p-36;

/* Words of one purpose: the stream is (chunk, retry, purpose), so that no two of a key meet. */
enum { CELLS, OFFSETS, EXTENSION };

typedef struct {
    fs_generator generator;
    uint32_t stream[3];
    uint32_t next_block;
    size_t position;
    uint64_t words[8];
} extension;

typedef struct {
    uint32_t cells[FS_LATTICE_GROUP];
    uint64_t offsets[FS_LATTICE_GROUP];
    uint64_t values[FS_LATTICE_GROUP];
    uint8_t open[FS_LATTICE_GROUP];
    uint32_t drawn[FS_LATTICE_GROUP];
    extension more;
} workspace;

static void fill(const extension *more, void *words, size_t n_bytes, uint32_t purpose, size_t group)
{
    uint32_t stream[3] = {more->stream[0], more->stream[1], purpose};
    fs_generator_fill(&more->generator, words, n_bytes, stream, (uint32_t)(group * (n_bytes / 16)));
}

static uint64_t next_word(extension *more)
{
    if (more->position == 8) {
        fs_generator_fill(&more->generator, more->words, sizeof more->words, more->stream, more->next_block);
        more->next_block += sizeof more->words / 16;
        more->position = 0;
    }
    return fs_from_le64(more->words[more->position++]);
}

/* All that is beyond the others. */
static uint32_t last_cell(const fs_law *law)
{
    return (UINT32_C(1) << law->index_bits) - 1;
}

static uint32_t cell_of(const fs_law *law, uint32_t word)
{
    unsigned k = law->index_bits;
    uint32_t index = word >> (32 - k), entry = law->cells[index];
    return (word & (UINT32_MAX >> k)) < entry >> k ? index : entry & last_cell(law);
}

/* ln weight(y), up to 2^-41: for blocks only, which are of wide laws. */
static double log_weight(const fs_law *law, int64_t y)
{
    /* Stirling's: -1 / 1024 - L phi(e) - ln(1 + e) / 2 - 1 / (12 y) + 1 / (360 y^3) with e = y / L - 1, |e| < 1/8, and
     * phi(e) = (1 + e) ln(1 + e) - e = sum_{j >= 2} (-e)^j / (j (j - 1)), where cancellation would hurt. */
    static const double INVERSE[21] = {
#define TERM(j) 1.0 / ((j) * ((j) - 1))
        TERM(2),  TERM(3),  TERM(4),  TERM(5),  TERM(6),  TERM(7),  TERM(8),  TERM(9),  TERM(10), TERM(11), TERM(12),
        TERM(13), TERM(14), TERM(15), TERM(16), TERM(17), TERM(18), TERM(19), TERM(20), TERM(21), TERM(22),
#undef TERM
    };
    double e = ((double)y - law->mean) / law->mean, phi = 0.0, count = (double)y;
    for (int j = 20; j >= 0; j--)
        phi = INVERSE[j] - e * phi;
    return -0x1p-10 - law->mean * e * e * phi - 0.5 * log1p(e) - 1.0 / (12.0 * count) + 1.0 / (360.0 * count * count * count);
}

/* Draws for one place until something is accepted (false), or is too close to call (true). The first words are
 * given, the rest come from the extension. */
static bool settle(const fs_law *law, uint32_t word, uint64_t offset, extension *more, bool exact_only,
                   fs_undecided *found)
{
    unsigned b = law->block_bits;
    for (;; word = (uint32_t)next_word(more), offset = next_word(more)) {
        uint32_t cell = cell_of(law, word);
        int64_t y = law->first + (int64_t)(((uint64_t)cell << b) + (offset & ((UINT64_C(1) << b) - 1)));
        found->value = y;
        if ((uint32_t)(offset >> 48) < law->least[cell])
            return false;
        found->cell = cell;
        found->high = offset >> b;
        found->low = next_word(more);
        double uniform = ldexp((double)found->high, (int)b - 64) + ldexp((double)found->low, (int)b - 128);
        found->gap = exp(log_weight(law, y) - law->log_heights[cell]) - uniform;
        if (exact_only || cell == last_cell(law) || !(fabs(found->gap) > MARGIN))
            return true;
        if (found->gap > 0)
            return false;
    }
}

static void start(workspace *w, const fs_backend *backend, const uint8_t *key, uint32_t chunk, uint32_t retry)
{
    fs_generator_start(&w->more.generator, backend, key);
    w->more.stream[0] = chunk;
    w->more.stream[1] = retry;
    w->more.stream[2] = EXTENSION;
    w->more.next_block = 0;
    w->more.position = 8;
}

/* A group's words, in the machine's order. */
static void fill_cells(workspace *w, size_t group)
{
    fill(&w->more, w->cells, sizeof w->cells, CELLS, group);
    for (size_t j = 0; j < FS_LATTICE_GROUP; j++)
        w->cells[j] = fs_load32_le((const uint8_t *)&w->cells[j]);
}

static void fill_offsets(workspace *w, size_t group)
{
    fill(&w->more, w->offsets, sizeof w->offsets, OFFSETS, group);
    for (size_t j = 0; j < FS_LATTICE_GROUP; j++)
        w->offsets[j] = fs_from_le64(w->offsets[j]);
}

/* The first open place from j on, or n. */
static size_t next_open(const workspace *w, size_t j, size_t n)
{
    while (j < n && !w->open[j]) {
        uint64_t eight;
        if (j % 8 == 0 && j + 8 <= FS_LATTICE_GROUP) {
            memcpy(&eight, w->open + j, 8);
            if (eight == 0) {
                j += 8;
                continue;
            }
        }
        j++;
    }
    return j < n ? j : n;
}

#define DEFINE_LATTICE(BITS)                                                                                          \
    size_t fs_lattice_points##BITS(const fs_backend *backend, const fs_law *law, int##BITS##_t *out,                  \
                                   size_t length, const uint8_t *key, uint32_t chunk, uint32_t retry)                 \
    {                                                                                                                 \
        workspace w;                                                                                                  \
        size_t n_open = 0;                                                                                            \
        start(&w, backend, key, chunk, retry);                                                                        \
        int##BITS##_t first = (int##BITS##_t)law->first;                                                              \
        for (size_t i = 0; i < length; i += FS_LATTICE_GROUP) {                                                       \
            size_t n = length - i < FS_LATTICE_GROUP ? length - i : FS_LATTICE_GROUP;                                 \
            fill_cells(&w, i / FS_LATTICE_GROUP);                                                                     \
            backend->lattice_points(law, w.drawn, w.open, w.cells);                                                   \
            for (size_t j = 0; j < n; j++)                                                                            \
                out[i + j] = (int##BITS##_t)(first + (int##BITS##_t)w.drawn[j]);                                      \
            for (size_t j = next_open(&w, 0, n); j < n; j = next_open(&w, j + 1, n))                                  \
                n_open++;                                                                                             \
        }                                                                                                             \
        fs_wipe(&w, sizeof w);                                                                                        \
        return n_open;                                                                                                \
    }                                                                                                                 \
                                                                                                                      \
    size_t fs_lattice_blocks##BITS(const fs_backend *backend, const fs_law *law, int##BITS##_t *out,                  \
                                   size_t length, const uint8_t *key, uint32_t chunk, uint32_t retry,                 \
                                   int exact_only, fs_undecided *undecided)                                           \
    {                                                                                                                 \
        workspace w;                                                                                                  \
        fs_undecided found;                                                                                           \
        size_t n_undecided = 0;                                                                                       \
        start(&w, backend, key, chunk, retry);                                                                        \
        for (size_t i = 0; i < length; i += FS_LATTICE_GROUP) {                                                       \
            size_t n = length - i < FS_LATTICE_GROUP ? length - i : FS_LATTICE_GROUP;                                 \
            fill_cells(&w, i / FS_LATTICE_GROUP);                                                                     \
            fill_offsets(&w, i / FS_LATTICE_GROUP);                                                                   \
            backend->lattice_points(law, w.drawn, w.open, w.cells);                                                   \
            backend->lattice_blocks(law, w.values, w.open, w.drawn, w.offsets);                                       \
            for (size_t j = 0; j < n; j++)                                                                            \
                out[i + j] = (int##BITS##_t)(law->first + (int64_t)w.values[j]);                                      \
            for (size_t j = next_open(&w, 0, n); j < n; j = next_open(&w, j + 1, n)) {                                \
                if (settle(law, w.cells[j], w.offsets[j], &w.more, exact_only, &found)) {                             \
                    found.position = i + j;                                                                           \
                    undecided[n_undecided++] = found;                                                                 \
                }                                                                                                     \
                out[i + j] = (int##BITS##_t)found.value;                                                              \
            }                                                                                                         \
        }                                                                                                             \
        fs_wipe(&found, sizeof found);                                                                                \
        fs_wipe(&w, sizeof w);                                                                                        \
        return n_undecided;                                                                                           \
    }

DEFINE_LATTICE(32)
DEFINE_LATTICE(64)
