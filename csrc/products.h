/* Sums of outer products in single precision, a few terms at a time, added up in double precision (products.c): one
 * body over a few vector operations.
 *
 * A tile of ROWS x COLUMNS of the product stays in registers while a block of terms passes by. Both sides are
 * copied into panels as wide as a tile, term after term, with zeros beyond the last row and column.
 *
 * Included by one file an instruction set, which defines NAME(x), TARGET, the tile's ROWS, VECTORS and LANES, and
 * VECTOR, ZERO, LOAD(at), STORE(at, vector), SPREAD(number), MULTIPLY(a, b), MULTIPLY_ADD(a, b, sum) and ADD_WIDENED(at, vector), to doubles. */
#include <float.h>

#include "core.h"
#include "floats.h"

enum { COLUMNS = VECTORS * LANES };

/* The sum of n outer products of a panel's rows, in single precision, added to a tile in double precision. */
FS_INLINE TARGET void add_block(double *tile, const float *left, const float *right, size_t n)
{
    VECTOR sum[ROWS][VECTORS];
    FS_UNROLL for (int i = 0; i < ROWS; i++)
        FS_UNROLL for (int j = 0; j < VECTORS; j++)
            sum[i][j] = ZERO;
    for (; n > 0; n--, left += ROWS, right += COLUMNS) {
        VECTOR row[VECTORS];
        FS_UNROLL for (int j = 0; j < VECTORS; j++)
            row[j] = LOAD(right + j * LANES);
        FS_UNROLL for (int i = 0; i < ROWS; i++) {
            VECTOR number = SPREAD(left[i]);
            FS_UNROLL for (int j = 0; j < VECTORS; j++)
                sum[i][j] = MULTIPLY_ADD(number, row[j], sum[i][j]);
        }
    }
    FS_UNROLL for (int i = 0; i < ROWS; i++)
        FS_UNROLL for (int j = 0; j < VECTORS; j++)
            ADD_WIDENED(tile + i * COLUMNS + j * LANES, sum[i][j]);
}

/* A record's weight, which is not negative, in single precision; 0 for what is below its normal numbers. By its bits, as
 * compilers make branches of comparisons. */
FS_INLINE TARGET float narrowed(double weight)
{
    const uint64_t least = fs_double_bits((double)FLT_MIN), below = (fs_double_bits(weight) - least) >> 63;
    return fs_as_single(fs_single_bits((float)weight) & ((uint32_t)below - 1));
}

/* Columns of the left side, copied into a panel: all terms of ROWS or fewer. */
FS_INLINE TARGET void pack_left(float *restrict panel, const float *restrict side, size_t stride, size_t width, size_t terms)
{
    if (width < ROWS)
        memset(panel, 0, terms * ROWS * sizeof *panel);
    for (size_t k = 0; k < terms; k++, panel += ROWS, side += stride)
        if (width < ROWS)
            memcpy(panel, side, width * sizeof *panel);
        else
            memcpy(panel, side, ROWS * sizeof *panel);
}

/* Columns of the right side: all terms of COLUMNS or fewer, each times its record's weight. */
FS_INLINE TARGET void pack_right(float *restrict panel, const float *restrict side, size_t stride, size_t width,
                                 const fs_product *product)
{
    float weight = 0.0F;
    for (size_t k = 0, position = 0, record = 0; k < product->terms; k++, panel += COLUMNS, side += stride) {
        if (position == 0)
            weight = record < product->records ? narrowed(product->weights[record]) : 0.0F;
        if (++position == product->positions) {
            position = 0;
            record++;
        }
        if (width == COLUMNS)
            FS_UNROLL for (int j = 0; j < VECTORS; j++)
                STORE(panel + j * LANES, MULTIPLY(LOAD(side + j * LANES), SPREAD(weight)));
        else
            for (size_t j = 0; j < COLUMNS; j++)
                panel[j] = j < width ? side[j] * weight : 0.0F;
    }
}

/* Tiles of several panels of rows beside one panel of columns. A block of terms meets all of them before the next one, so
 * that it stays in the fastest cache. */
FS_INLINE TARGET void make_tiles(double *tiles, const float *lefts, const float *right, size_t panels, size_t terms,
                                 size_t group)
{
    for (size_t start = 0; start < terms; start += group)
        for (size_t at = start; at < start + group; at += FS_BLOCK) {
            size_t n = start + group - at < FS_BLOCK ? start + group - at : FS_BLOCK;
            for (size_t i = 0; i < panels; i++)
                add_block(tiles + i * ROWS * COLUMNS, lefts + (i * terms + at) * ROWS, right + at * COLUMNS, n);
        }
}

/* What becomes of rows of tiles: they are added to a total, or written to one that is new. */
#define DEFINE_PUT(TOTAL)                                                                                        \
    FS_INLINE TARGET void put_##TOTAL(TOTAL *restrict total, size_t stride, const double *restrict rows,         \
                                      size_t count, size_t width, int fresh)                                     \
    {                                                                                                            \
        for (; count > 0; count--, total += stride, rows += COLUMNS)                                             \
            if (fresh)                                                                                           \
                for (size_t j = 0; j < width; j++)                                                               \
                    total[j] = (TOTAL)rows[j];                                                                   \
            else                                                                                                 \
                for (size_t j = 0; j < width; j++)                                                               \
                    total[j] = (TOTAL)((double)total[j] + rows[j]);                                              \
    }

DEFINE_PUT(float)
DEFINE_PUT(double)

FS_INLINE TARGET void all_tiles(float *singles, double *doubles, const fs_product *product, int fresh, double *scratch)
{
    const size_t terms = product->terms, m = product->m, n = product->n;
    const size_t group = product->positions == 1 ? terms : product->positions;
    const size_t most = FS_PANELS / terms / ROWS * ROWS, least = most < ROWS ? ROWS : most;
    const size_t tall = least < FS_TALL / ROWS * ROWS ? least : FS_TALL / ROWS * ROWS;
    double *tiles = scratch;
    float *right = (float *)(scratch + FS_TALL * FS_TILE), *lefts = right + terms * COLUMNS;
    for (size_t begin = 0; begin < m; begin += tall) {
        size_t high = m - begin < tall ? m - begin : tall, panels = (high + ROWS - 1) / ROWS;
        for (size_t top = 0; top < high; top += ROWS)
            pack_left(lefts + top * terms, product->left + begin + top, product->stride, high - top < ROWS ? high - top : ROWS,
                      terms);
        for (size_t from = 0; from < n; from += COLUMNS) {
            size_t wide = n - from < COLUMNS ? n - from : COLUMNS;
            pack_right(right, product->right + from, n, wide, product);
            memset(tiles, 0, panels * ROWS * COLUMNS * sizeof *tiles);
            make_tiles(tiles, lefts, right, panels, terms, group);
            if (singles)
                put_float(singles + begin * n + from, n, tiles, high, wide, fresh);
            else
                put_double(doubles + begin * n + from, n, tiles, high, wide, fresh);
        }
    }
}

TARGET void NAME(products32)(float *total, const fs_product *product, int fresh, double *scratch)
{
    all_tiles(total, NULL, product, fresh, scratch);
}

TARGET void NAME(products64)(double *total, const fs_product *product, int fresh, double *scratch)
{
    all_tiles(NULL, total, product, fresh, scratch);
}
