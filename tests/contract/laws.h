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

/* A law's table, but with any columns, slopes, curvatures and heights: cells are integers where block_bits is 0. Half of all
 * candidates, or more, are open to the second comparison where `open`. */
static inline fs_bell draw_bell(unsigned block_bits, int formula, int open)
{
    unsigned shown = block_bits < FS_BELL_SHOWN_BITS ? block_bits : FS_BELL_SHOWN_BITS;
    if (shown < block_bits && formula == FS_BELL_POISSON)
        formula = FS_BELL_GAUSSIAN; /* no Poisson law is so wide */
    int mirrored = block_bits > 0 || formula == FS_BELL_POISSON, curved = mirrored && shown == block_bits && draw() % 4;
    double variance = ldexp(16.0 + 48.0 * draw_unit(), 2 * (int)block_bits);
    fs_bell bell = {
        .block_bits = block_bits,
        .shown_bits = shown,
        .first = formula == FS_BELL_POISSON ? (int64_t)variance : block_bits ? 0 : -31,
        .curved = curved,
        .skewed = curved && draw() % 4,
        .formula = block_bits <= 4 ? FS_BELL_TABLE : formula,
        .mirrored = mirrored ? UINT16_MAX : 0,
        .offset_mask = (uint16_t)(0x10000 - (shown < 16 ? 0x10000 >> shown : 1)),
        .step = (uint16_t)(shown == 0 ? UINT16_MAX : shown > 16 ? 0 : 0x10000 >> shown),
        .variance = variance,
        .margin = 0x1p-36,
    };
    for (int i = 0; i < FS_BELL_CELLS; i++) {
        uint64_t count = draw() & 0xff00; /* one draw a statement: compilers choose in which order */
        bell.cells[i] = (uint16_t)(count | draw() % FS_BELL_CELLS);
        bell.log_heights[i] = draw_unit() - 0.5;
        for (int left = 0; left < 2; left++) {
            bell.slopes[left][i] = (uint16_t)(block_bits ? draw() % (UINT16_MAX - 4096) : 0);
            bell.curvatures[left][i] = (uint16_t)(block_bits ? draw() % 4096 : 0);
            bell.heights[left][i] = (uint16_t)(open && draw() % 2 ? draw() % 2 : draw());
        }
    }
    for (int i = 0; i < FS_BELL_LOG_WEIGHTS; i++)
        bell.log_weights[i] = -8.0 * draw_unit();
    return bell;
}
