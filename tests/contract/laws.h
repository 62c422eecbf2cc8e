/* Laws for the drivers: numbers at random in all that the entry points leave open. */
#include <math.h>

#include "core.h"

static uint64_t state = 88172645463325252;

/* [Marsaglia, Xorshift RNGs, 2003] */
static inline uint64_t draw(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static inline double draw_unit(void)
{
    return (double)(draw() >> 11) / 9007199254740992.0;
}

/* A discrete Gaussian's or a Skellam law's table, but with any columns, slopes and heights: cells are integers where block_bits is 0.
 * Half of all candidates, or more, are open to the second comparison where `open`. */
static inline fs_bell draw_bell(unsigned block_bits, int open)
{
    unsigned shown = block_bits < FS_BELL_SHOWN_BITS ? block_bits : FS_BELL_SHOWN_BITS;
    fs_bell bell = {
        .block_bits = block_bits,
        .shown_bits = shown,
        .first = block_bits ? 0 : -31,
        .mirrored = block_bits ? UINT16_MAX : 0,
        .offset_mask = (uint16_t)(0x10000 - (shown < 16 ? 0x10000 >> shown : 1)),
        .step = (uint16_t)(shown == 0 ? UINT16_MAX : shown > 16 ? 0 : 0x10000 >> shown),
        .curvature = (uint16_t)(block_bits ? draw() % 4096 : 0),
        .skellam = block_bits > 0 && draw() % 2,
        .variance = ldexp(16.0 + 48.0 * draw_unit(), 2 * (int)block_bits),
        .margin = 0x1p-36,
    };
    for (int i = 0; i < FS_BELL_CELLS; i++) {
        bell.cells[i] = (uint16_t)((draw() & 0xff00) | draw() % FS_BELL_CELLS);
        bell.slopes[i] = (uint16_t)(block_bits ? draw() % (UINT16_MAX - 4096) : 0);
        bell.heights[i] = (uint16_t)(open && draw() % 2 ? draw() % 2 : draw());
        bell.log_heights[i] = draw_unit() - 0.5;
    }
    return bell;
}

enum { LAW_CELLS = 1 << 10 };

/* A law with any columns and any bounds on acceptance: of single integers, or of blocks around a Poisson law's mean,
 * 16 deviations in all. Its arrays are the caller's, of LAW_CELLS. */
static inline fs_law draw_law(int blocks, uint32_t *cells, uint32_t *least, double *log_heights)
{
    unsigned k = 1 + (unsigned)(draw() % 10), b = blocks ? 14 - k + (unsigned)(draw() % 8) : 0;
    double span = (double)(UINT64_C(1) << (k + b)), mean = span * span / 256.0;
    for (size_t i = 0; i < LAW_CELLS; i++) {
        cells[i] = (uint32_t)draw();
        least[i] = (uint32_t)(draw() % 65536);
        log_heights[i] = 0.1 * draw_unit();
    }
    return (fs_law){
        .index_bits = k,
        .block_bits = b,
        .first = blocks ? (int64_t)(mean - span / 2.0) : (int64_t)(draw() % 2001) - 1000,
        .mean = mean,
        .cells = cells,
        .least = least,
        .log_heights = log_heights,
    };
}
