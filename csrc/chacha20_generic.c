/* ChaCha20 in portable C11, in constant time [RFC 8439, sec. 2.3]: the reference for every other backend.
 *
 * It works on BATCH blocks side by side: each of the sixteen state words is a row of BATCH independent lanes,
 * a shape that compilers turn into whatever vectors the target has. */
#include "generic.h"

#define BATCH 4

typedef uint32_t row[BATCH];

static void add_row(row a, const row b)
{
    for (int i = 0; i < BATCH; i++)
        a[i] += b[i];
}

static void xor_rotate_row(row a, const row b, int bits)
{
    for (int i = 0; i < BATCH; i++) {
        uint32_t x = a[i] ^ b[i];
        a[i] = x << bits | x >> (32 - bits);
    }
}

static inline void quarter_round(row a, row b, row c, row d)
{
    add_row(a, b);
    xor_rotate_row(d, a, 16);
    add_row(c, d);
    xor_rotate_row(b, c, 12);
    add_row(a, b);
    xor_rotate_row(d, a, 8);
    add_row(c, d);
    xor_rotate_row(b, c, 7);
}

static void chacha20_batch(uint8_t *out, size_t n_blocks, const uint32_t state[16], row x[16])
{
    for (int w = 0; w < 16; w++)
        for (int i = 0; i < BATCH; i++)
            x[w][i] = state[w] + (w == 12 ? (uint32_t)i : 0);
    for (int round = 0; round < 10; round++) {
        quarter_round(x[0], x[4], x[8], x[12]);
        quarter_round(x[1], x[5], x[9], x[13]);
        quarter_round(x[2], x[6], x[10], x[14]);
        quarter_round(x[3], x[7], x[11], x[15]);
        quarter_round(x[0], x[5], x[10], x[15]);
        quarter_round(x[1], x[6], x[11], x[12]);
        quarter_round(x[2], x[7], x[8], x[13]);
        quarter_round(x[3], x[4], x[9], x[14]);
    }
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
