/* ChaCha20 in portable C11, in constant time [RFC 8439, sec. 2.3]: the reference for every other backend.
 *
 * It works on BATCH blocks side by side: each of the sixteen state words is a row of BATCH independent lanes,
 * a shape that compilers turn into whatever vectors the target has. */
#include "generic.h"

#define BATCH 8

typedef uint32_t row[BATCH];

#define ROTATE(x, bits) ((x) << (bits) | (x) >> (32 - (bits)))
#define QUARTER_ROUND(a, b, c, d)                                                \
    (a += b, d = ROTATE(d ^ a, 16), c += d, b = ROTATE(b ^ c, 12), a += b,       \
     d = ROTATE(d ^ a, 8), c += d, b = ROTATE(b ^ c, 7))

/* Words are local to a lane, so that one vector register holds one of them through the eight quarter rounds. */
static void double_round(row x[16])
{
    for (int i = 0; i < BATCH; i++) {
        uint32_t x0 = x[0][i], x1 = x[1][i], x2 = x[2][i], x3 = x[3][i];
        uint32_t x4 = x[4][i], x5 = x[5][i], x6 = x[6][i], x7 = x[7][i];
        uint32_t x8 = x[8][i], x9 = x[9][i], x10 = x[10][i], x11 = x[11][i];
        uint32_t x12 = x[12][i], x13 = x[13][i], x14 = x[14][i], x15 = x[15][i];
        QUARTER_ROUND(x0, x4, x8, x12);
        QUARTER_ROUND(x1, x5, x9, x13);
        QUARTER_ROUND(x2, x6, x10, x14);
        QUARTER_ROUND(x3, x7, x11, x15);
        QUARTER_ROUND(x0, x5, x10, x15);
        QUARTER_ROUND(x1, x6, x11, x12);
        QUARTER_ROUND(x2, x7, x8, x13);
        QUARTER_ROUND(x3, x4, x9, x14);
        x[0][i] = x0, x[1][i] = x1, x[2][i] = x2, x[3][i] = x3;
        x[4][i] = x4, x[5][i] = x5, x[6][i] = x6, x[7][i] = x7;
        x[8][i] = x8, x[9][i] = x9, x[10][i] = x10, x[11][i] = x11;
        x[12][i] = x12, x[13][i] = x13, x[14][i] = x14, x[15][i] = x15;
    }
}

static void chacha20_batch(uint8_t *out, size_t n_blocks, const uint32_t state[16], row x[16])
{
    for (int w = 0; w < 16; w++)
        for (int i = 0; i < BATCH; i++)
            x[w][i] = state[w] + (w == 12 ? (uint32_t)i : 0);
    for (int round = 0; round < 10; round++)
        double_round(x);
    for (size_t i = 0; i < n_blocks; i++)
        for (int w = 0; w < 16; w++)
            fs_store32_le(out + 64 * i + 4 * w, x[w][i] + state[w] + (w == 12 ? (uint32_t)i : 0));
}

void fs_generic_chacha20_blocks(uint8_t *out, size_t n_blocks, const uint8_t key[32], const uint8_t nonce[12],
                                uint32_t counter)
{
    /* "expand 32-byte k" [RFC 8439, sec. 2.3]. */
    uint32_t state[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    for (int w = 0; w < 8; w++)
        state[4 + w] = fs_load32_le(key + 4 * w);
    state[12] = counter;
    for (int w = 0; w < 3; w++)
        state[13 + w] = fs_load32_le(nonce + 4 * w);

    row x[16];
    while (n_blocks > 0) {
        size_t now = n_blocks < BATCH ? n_blocks : BATCH;
        chacha20_batch(out, now, state, x);
        out += 64 * now;
        n_blocks -= now;
        state[12] += (uint32_t)now;
    }
    fs_wipe(x, sizeof x);
    fs_wipe(state, sizeof state);
}
