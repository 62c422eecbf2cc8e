/* AES in portable C11 without tables, in constant time: bitsliced [Kaesper, Schwabe, CHES 2009].
 *
 * The state is eight planes; plane k holds bit k of every byte. A 64-bit word of a plane covers four blocks:
 * the byte in row r and column c of block b [FIPS 197, sec. 3.4] is at bit 16 r + 4 c + b. BATCH words stand
 * side by side, a shape that compilers turn into whatever vectors the target has. */
#include "aes_generic.h"

enum { BATCH = FS_SLICED_BLOCKS / 4 };

typedef uint64_t planes[8][BATCH];

/* Exchanges the high bits of a pair of words' groups of 2 * by with the low ones. */
static void exchange(uint64_t *a, uint64_t *b, uint64_t low, int by)
{
    uint64_t difference = (*a >> by ^ *b) & low;
    *b ^= difference;
    *a ^= difference << by;
}

/* Bit k of byte j of word w goes to bit w of byte j of word k, and back. */
static void transpose(planes q)
{
    for (int i = 0; i < BATCH; i++) {
        for (int w = 0; w < 8; w += 2)
            exchange(&q[w][i], &q[w + 1][i], 0x5555555555555555, 1);
        for (int w = 0; w < 8; w += w % 4 ? 3 : 1)
            exchange(&q[w][i], &q[w + 2][i], 0x3333333333333333, 2);
        for (int w = 0; w < 4; w++)
            exchange(&q[w][i], &q[w + 4][i], 0x0f0f0f0f0f0f0f0f, 4);
    }
}

/* The S-box as a circuit of 115 gates [Boyar, Peralta, A depth-16 circuit for the AES S-box, 2011: eprint
 * 2011/332, figs. 5 to 8, with the linear layers of their earlier circuit, eprint 2009/191]; names as there,
 * the most significant bit first. */
static void sub_bytes(planes q)
{
    for (int i = 0; i < BATCH; i++) {
        uint64_t x0 = q[7][i], x1 = q[6][i], x2 = q[5][i], x3 = q[4][i];
        uint64_t x4 = q[3][i], x5 = q[2][i], x6 = q[1][i], x7 = q[0][i];

        uint64_t y14 = x3 ^ x5, y13 = x0 ^ x6, y9 = x0 ^ x3, y8 = x0 ^ x5, t0 = x1 ^ x2;
        uint64_t y1 = t0 ^ x7, y4 = y1 ^ x3, y12 = y13 ^ y14, y2 = y1 ^ x0, y5 = y1 ^ x6;
        uint64_t y3 = y5 ^ y8, t1 = x4 ^ y12, y15 = t1 ^ x5, y20 = t1 ^ x1, y6 = y15 ^ x7;
        uint64_t y10 = y15 ^ t0, y11 = y20 ^ y9, y7 = x7 ^ y11, y17 = y10 ^ y11, y19 = y10 ^ y8;
        uint64_t y16 = t0 ^ y11, y21 = y13 ^ y16, y18 = x0 ^ y16;

        uint64_t t2 = y12 & y15, t3 = y3 & y6, t4 = t3 ^ t2, t5 = y4 & x7, t6 = t5 ^ t2;
        uint64_t t7 = y13 & y16, t8 = y5 & y1, t9 = t8 ^ t7, t10 = y2 & y7, t11 = t10 ^ t7;
        uint64_t t12 = y9 & y11, t13 = y14 & y17, t14 = t13 ^ t12, t15 = y8 & y10, t16 = t15 ^ t12;
        uint64_t t17 = t4 ^ t14, t18 = t6 ^ t16, t19 = t9 ^ t14, t20 = t11 ^ t16;
        uint64_t t21 = t17 ^ y20, t22 = t18 ^ y19, t23 = t19 ^ y21, t24 = t20 ^ y18;

        uint64_t t25 = t21 ^ t22, t26 = t21 & t23, t27 = t24 ^ t26, t28 = t25 & t27, t29 = t28 ^ t22;
        uint64_t t30 = t23 ^ t24, t31 = t22 ^ t26, t32 = t31 & t30, t33 = t32 ^ t24, t34 = t23 ^ t33;
        uint64_t t35 = t27 ^ t33, t36 = t24 & t35, t37 = t36 ^ t34, t38 = t27 ^ t36, t39 = t29 & t38;
        uint64_t t40 = t25 ^ t39, t41 = t40 ^ t37, t42 = t29 ^ t33, t43 = t29 ^ t40, t44 = t33 ^ t37;
        uint64_t t45 = t42 ^ t41;

        uint64_t z0 = t44 & y15, z1 = t37 & y6, z2 = t33 & x7, z3 = t43 & y16, z4 = t40 & y1;
        uint64_t z5 = t29 & y7, z6 = t42 & y11, z7 = t45 & y17, z8 = t41 & y10, z9 = t44 & y12;
        uint64_t z10 = t37 & y3, z11 = t33 & y4, z12 = t43 & y13, z13 = t40 & y5, z14 = t29 & y2;
        uint64_t z15 = t42 & y9, z16 = t45 & y14, z17 = t41 & y8;

        uint64_t t46 = z15 ^ z16, t47 = z10 ^ z11, t48 = z5 ^ z13, t49 = z9 ^ z10, t50 = z2 ^ z12;
        uint64_t t51 = z2 ^ z5, t52 = z7 ^ z8, t53 = z0 ^ z3, t54 = z6 ^ z7, t55 = z16 ^ z17;
        uint64_t t56 = z12 ^ t48, t57 = t50 ^ t53, t58 = z4 ^ t46, t59 = z3 ^ t54, t60 = t46 ^ t57;
        uint64_t t61 = z14 ^ t57, t62 = t52 ^ t58, t63 = t49 ^ t58, t64 = z4 ^ t59, t65 = t61 ^ t62;
        uint64_t t66 = z1 ^ t63, t67 = t64 ^ t65, s3 = t53 ^ t66;

        q[7][i] = t59 ^ t63;
        q[6][i] = ~(t64 ^ s3);
        q[5][i] = ~(t55 ^ t67);
        q[4][i] = s3;
        q[3][i] = t51 ^ t66;
        q[2][i] = t47 ^ t65;
        q[1][i] = ~(t56 ^ t62);
        q[0][i] = ~(t48 ^ t60);
    }
}

/* Row r moves r columns to the left: bits 16 r to 16 r + 15 rotate right by 4 r [FIPS 197, sec. 5.1.2]. */
static void shift_rows(planes q)
{
    for (int k = 0; k < 8; k++)
        for (int i = 0; i < BATCH; i++) {
            uint64_t x = q[k][i];
            q[k][i] = (x & 0x000000000000ffff) |                                     /* row 0 */
                      (x >> 4 & 0x000000000fff0000) | (x << 12 & 0x00000000f0000000) | /* row 1 */
                      (x >> 8 & 0x000000ff00000000) | (x << 8 & 0x0000ff0000000000) |  /* row 2 */
                      (x >> 12 & 0x000f000000000000) | (x << 4 & 0xfff0000000000000);  /* row 3 */
        }
}

static inline uint64_t rotate_right(uint64_t x, int by)
{
    return x >> by | x << (64 - by);
}

/* Each row becomes 2 a + 3 b + c + d of itself and the three below, b + c + d + a being a column
 * [FIPS 197, sec. 5.1.3]: 2 (a + b) + b + (c + d), where (c + d) is (a + b) two rows on. */
static void mix_columns(planes q)
{
    for (int i = 0; i < BATCH; i++) {
        uint64_t pair[8], below[8];
        for (int k = 0; k < 8; k++) {
            below[k] = rotate_right(q[k][i], 16);
            pair[k] = q[k][i] ^ below[k];
        }
        for (int k = 0; k < 8; k++) {
            uint64_t doubled = k ? pair[k - 1] : 0;
            /* z^8 = z^4 + z^3 + z + 1 */
            if (k == 0 || k == 1 || k == 3 || k == 4)
                doubled ^= pair[7];
            q[k][i] = doubled ^ below[k] ^ rotate_right(pair[k], 32);
        }
    }
}

static void add_round_key(planes q, const uint64_t key[8])
{
    for (int k = 0; k < 8; k++)
        for (int i = 0; i < BATCH; i++)
            q[k][i] ^= key[k];
}

/* The four bytes of x at every second place. */
static inline uint64_t spread(uint32_t x)
{
    uint64_t y = x;
    y = (y | y << 16) & 0x0000ffff0000ffff;
    return (y | y << 8) & 0x00ff00ff00ff00ff;
}

/* Takes every second byte together. */
static inline uint32_t gather(uint64_t y)
{
    y &= 0x00ff00ff00ff00ff;
    y = (y | y >> 8) & 0x0000ffff0000ffff;
    return (uint32_t)(y | y >> 16);
}

/* Block b of word i, given by its columns; `transpose` after all are in. */
static inline void put_block(planes q, int i, int b, const uint32_t column[4])
{
    q[b][i] = spread(column[0]) | spread(column[2]) << 8;
    q[4 + b][i] = spread(column[1]) | spread(column[3]) << 8;
}

static inline void get_block(const planes q, int i, int b, uint32_t column[4])
{
    column[0] = gather(q[b][i]);
    column[1] = gather(q[4 + b][i]);
    column[2] = gather(q[b][i] >> 8);
    column[3] = gather(q[4 + b][i] >> 8);
}

/* The S-box on up to FS_SLICED_BLOCKS words. */
static void sub_words(uint32_t *words, size_t n)
{
    planes q;
    uint32_t column[4] = {0};
    for (size_t j = 0; j < FS_SLICED_BLOCKS; j++) {
        column[0] = j < n ? words[j] : 0;
        put_block(q, (int)j / 4, (int)j % 4, column);
    }
    transpose(q);
    sub_bytes(q);
    transpose(q);
    for (size_t j = 0; j < n; j++) {
        get_block(q, (int)j / 4, (int)j % 4, column);
        words[j] = column[0];
    }
    fs_wipe(q, sizeof q);
    fs_wipe(column, sizeof column);
}

static inline uint32_t rotate_word(uint32_t x)
{
    return x >> 8 | x << 24;
}

/* [FIPS 197, sec. 5.2], for all keys in step. Words are columns, their first byte the lowest. */
void fs_aes_generic_expand(fs_aes_sliced *keys, const uint8_t *seeds, size_t n, int key_words)
{
    uint32_t word[FS_SLICED_BLOCKS][4 * (FS_AES_ROUNDS_MOST + 1)], substituted[FS_SLICED_BLOCKS];
    int rounds = key_words + 6;
    uint32_t round_constant = 1;
    for (size_t j = 0; j < n; j++)
        for (int w = 0; w < key_words; w++)
            word[j][w] = fs_load32_le(seeds + 32 * j + 4 * w);
    for (int w = key_words; w < 4 * (rounds + 1); w++) {
        int position = w % key_words;
        int substitutes = position == 0 || (key_words > 6 && position == 4);
        for (size_t j = 0; j < n; j++)
            substituted[j] = position == 0 ? rotate_word(word[j][w - 1]) : word[j][w - 1];
        if (substitutes)
            sub_words(substituted, n);
        for (size_t j = 0; j < n; j++)
            word[j][w] = word[j][w - key_words] ^ substituted[j] ^ (position == 0 ? round_constant : 0);
        if (position == 0)
            round_constant = (round_constant << 1) ^ (round_constant >> 7) * 0x11b;
    }

    planes q;
    for (size_t j = 0; j < n; j++) {
        for (int w = 0; w < 3; w++)
            keys[j].nonce[w] = key_words == 4 ? fs_load32_le(seeds + 32 * j + 16 + 4 * w) : 0;
        for (int r = 0; r <= rounds; r++) {
            for (int b = 0; b < FS_SLICED_BLOCKS; b++)
                put_block(q, b / 4, b % 4, word[j] + 4 * r);
            transpose(q);
            for (int k = 0; k < 8; k++)
                keys[j].round[r][k] = q[k][0];
        }
    }
    fs_wipe(q, sizeof q);
    fs_wipe(word, sizeof word);
    fs_wipe(substituted, sizeof substituted);
}

static inline uint32_t reverse_bytes(uint32_t x)
{
    return x >> 24 | (x >> 8 & 0xff00) | (x << 8 & 0xff0000) | x << 24;
}

/* Keystream of FS_SLICED_BLOCKS blocks from the given one on [SP 800-38A, sec. 6.5]. */
void fs_aes_generic_keystream(uint8_t *out, const fs_aes_sliced *key, const uint32_t nonce[3], int rounds,
                              uint32_t block)
{
    planes q;
    uint32_t column[4] = {nonce[0], nonce[1], nonce[2], 0};
    for (uint32_t b = 0; b < FS_SLICED_BLOCKS; b++) {
        column[3] = reverse_bytes(block + b);
        put_block(q, (int)b / 4, (int)b % 4, column);
    }
    transpose(q);
    add_round_key(q, key->round[0]);
    for (int r = 1; r < rounds; r++) {
        sub_bytes(q);
        shift_rows(q);
        mix_columns(q);
        add_round_key(q, key->round[r]);
    }
    sub_bytes(q);
    shift_rows(q);
    add_round_key(q, key->round[rounds]);
    transpose(q);
    for (int b = 0; b < FS_SLICED_BLOCKS; b++) {
        get_block(q, b / 4, b % 4, column);
        for (int w = 0; w < 4; w++)
            fs_store32_le(out + 16 * b + 4 * w, column[w]);
    }
    fs_wipe(q, sizeof q);
    fs_wipe(column, sizeof column);
}
