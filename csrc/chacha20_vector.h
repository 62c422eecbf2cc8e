/* ChaCha20 [RFC 8439, sec. 2.3] and masked sums with it, one body for all instruction sets.
 *
 * Included by one file an instruction set, which defines NAME(x), TARGET, VECTOR, SETS and the operations below. BLOCKS
 * blocks stand side by side and make a set: lane l of vector w is word w of block l. Sums are taken in that shape
 * too, so that only the total of all seeds has to be put into the order of bytes, once a chunk.
 *
 * Where a set's sixteen words fill the registers, two sets take turns: their words pass through memory at every half of
 * a double round, and while those of one are on their way, the other is worked on. One set alone would wait for what is
 * spilled, wherever that is. */

enum { BLOCKS = sizeof(VECTOR) / 4, SET_BYTES = 64 * BLOCKS, CHUNK_BYTES = SETS * SET_BYTES };

FS_INLINE TARGET void quarter_round(VECTOR *a_, VECTOR *b_, VECTOR *c_, VECTOR *d_)
{
    VECTOR a = *a_, b = *b_, c = *c_, d = *d_;
    a = ADD32(a, b);
    d = ROTATE16(XOR(d, a));
    c = ADD32(c, d);
    b = ROTATE12(XOR(b, c));
    a = ADD32(a, b);
    d = ROTATE8(XOR(d, a));
    c = ADD32(c, d);
    b = ROTATE7(XOR(b, c));
    *a_ = a, *b_ = b, *c_ = c, *d_ = d;
}

FS_INLINE TARGET void column_rounds(VECTOR x[16 * SETS])
{
    for (int s = 0; s < SETS; s++, x += 16) {
        quarter_round(&x[0], &x[4], &x[8], &x[12]);
        quarter_round(&x[1], &x[5], &x[9], &x[13]);
        quarter_round(&x[2], &x[6], &x[10], &x[14]);
        quarter_round(&x[3], &x[7], &x[11], &x[15]);
    }
}

FS_INLINE TARGET void diagonal_rounds(VECTOR x[16 * SETS])
{
    for (int s = 0; s < SETS; s++, x += 16) {
        quarter_round(&x[0], &x[5], &x[10], &x[15]);
        quarter_round(&x[1], &x[6], &x[11], &x[12]);
        quarter_round(&x[2], &x[7], &x[8], &x[13]);
        quarter_round(&x[3], &x[4], &x[9], &x[14]);
    }
}

FS_INLINE TARGET VECTOR counters(const uint32_t state[16], int s)
{
    return ADD32(REPEAT32(state[12] + (uint32_t)(s * BLOCKS)), FIRST_COUNTERS);
}

/* The words of SETS * BLOCKS blocks from that of `state` on. */
FS_INLINE TARGET void make_words(VECTOR x[16 * SETS], const uint32_t state[16])
{
    VECTOR first[16];
    for (int w = 0; w < 16; w++)
        first[w] = REPEAT32(state[w]);
    /* The columns without the counter are the same in all sets. */
    quarter_round(&first[1], &first[5], &first[9], &first[13]);
    quarter_round(&first[2], &first[6], &first[10], &first[14]);
    quarter_round(&first[3], &first[7], &first[11], &first[15]);
    for (int s = 0; s < SETS; s++) {
        VECTOR *set = x + 16 * s;
        for (int w = 0; w < 16; w++)
            set[w] = first[w];
        set[12] = counters(state, s);
        quarter_round(&set[0], &set[4], &set[8], &set[12]);
    }
    diagonal_rounds(x);
    for (int round = 1; round < 10; round++) {
        column_rounds(x);
        diagonal_rounds(x);
    }
    for (int s = 0; s < SETS; s++)
        for (int w = 0; w < 16; w++)
            x[16 * s + w] = ADD32(x[16 * s + w], w == 12 ? counters(state, s) : REPEAT32(state[w]));
}

/* Each two vectors, of words w and w + 1, become two of pairs of words: those of blocks 0 and 1, and of 2 and
 * 3, of every four. */
FS_INLINE TARGET void pair_words(VECTOR x[16])
{
    for (int w = 0; w < 16; w += 2) {
        VECTOR low = UNPACK_LOW32(x[w], x[w + 1]);
        x[w + 1] = UNPACK_HIGH32(x[w], x[w + 1]);
        x[w] = low;
    }
}

/* Writes paired words in the order of bytes. */
FS_INLINE TARGET void store_pairs(uint8_t *out, const VECTOR x[16])
{
    for (int w = 0; w < 16; w += 4) {
        store_every_fourth(out + 4 * w, UNPACK_LOW64(x[w], x[w + 2]));
        store_every_fourth(out + 4 * w + 64, UNPACK_HIGH64(x[w], x[w + 2]));
        store_every_fourth(out + 4 * w + 128, UNPACK_LOW64(x[w + 1], x[w + 3]));
        store_every_fourth(out + 4 * w + 192, UNPACK_HIGH64(x[w + 1], x[w + 3]));
    }
}

/* "expand 32-byte k", the key, counter and nonce. */
static void set_state(uint32_t state[16], const uint8_t key[32], uint32_t counter, const uint8_t nonce[12])
{
    static const uint32_t constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    memcpy(state, constants, sizeof constants);
    for (int w = 0; w < 8; w++)
        state[4 + w] = fs_load32_le(key + 4 * w);
    state[12] = counter;
    for (int w = 0; w < 3; w++)
        state[13 + w] = fs_load32_le(nonce + 4 * w);
}

FS_INLINE TARGET void make_bytes(uint8_t out[CHUNK_BYTES], const uint32_t state[16])
{
    VECTOR x[16 * SETS];
    make_words(x, state);
    for (int s = 0; s < SETS; s++) {
        pair_words(x + 16 * s);
        store_pairs(out + s * SET_BYTES, x + 16 * s);
    }
}

TARGET void NAME(chacha20_blocks)(uint8_t *out, size_t n_blocks, const uint8_t key[32],
                                  const uint8_t nonce[12], uint32_t counter)
{
    enum { MOST = SETS * BLOCKS };
    uint32_t state[16];
    uint8_t buffer[CHUNK_BYTES];
    set_state(state, key, counter, nonce);
    for (; n_blocks >= MOST; n_blocks -= MOST, out += CHUNK_BYTES, state[12] += MOST)
        make_bytes(out, state);
    if (n_blocks > 0) {
        make_bytes(buffer, state);
        memcpy(out, buffer, 64 * n_blocks);
        fs_wipe(buffer, sizeof buffer);
    }
    fs_wipe(state, sizeof state);
}

FS_INLINE TARGET VECTOR add_lanes(VECTOR a, VECTOR b, int lane)
{
    return lane == FS_LANE16 ? ADD16(a, b) : lane == FS_LANE32 ? ADD32(a, b) : ADD64(a, b);
}

/* total: the chunk's sum of signed masks, in the order of bytes. */
FS_INLINE TARGET void sum_chunk(uint8_t total[CHUNK_BYTES], uint32_t block, const fs_sum *sum, int lane)
{
    static const uint8_t zero_nonce[12];
    VECTOR x[16 * SETS], totals[16 * SETS];
    uint32_t state[16];
    uint64_t negatives = 0;
    for (size_t i = 0; i < sum->n_seeds; i++)
        negatives += sum->signs[i] < 0;
    /* -x is the complement of x plus one. */
    for (int w = 0; w < 16 * SETS; w++)
        totals[w] = REPEAT64(fs_repeat(negatives & (UINT64_MAX >> (64 - (16 << lane))), lane));
    for (size_t i = 0; i < sum->n_seeds; i++) {
        VECTOR sign = REPEAT32(0 - (uint32_t)(sum->signs[i] < 0));
        set_state(state, sum->seeds + 32 * i, block, zero_nonce);
        make_words(x, state);
        for (int s = 0; lane == FS_LANE64 && s < SETS; s++)
            pair_words(x + 16 * s);
        for (int w = 0; w < 16 * SETS; w++)
            totals[w] = add_lanes(totals[w], XOR(x[w], sign), lane);
    }
    for (int s = 0; s < SETS; s++) {
        if (lane != FS_LANE64)
            pair_words(totals + 16 * s);
        store_pairs(total + s * SET_BYTES, totals + 16 * s);
    }
    fs_wipe(state, sizeof state);
}

FS_INLINE TARGET void sum_all(const fs_sum *sum, int lane)
{
    uint8_t buffer[CHUNK_BYTES], total[CHUNK_BYTES];
    VECTOR reduce = REPEAT64(fs_repeat(sum->mask, lane));
    uint64_t n_chunks = fs_chunk_count(sum, CHUNK_BYTES);
    for (uint64_t c = 0; c < n_chunks; c++) {
        fs_chunk chunk = fs_open_chunk(sum, c, CHUNK_BYTES, buffer);
        sum_chunk(total, (uint32_t)(chunk.index * (SETS * BLOCKS)), sum, lane);
        for (size_t j = 0; j < CHUNK_BYTES; j += sizeof(VECTOR))
            STORE(chunk.at + j, AND(add_lanes(LOAD(chunk.at + j), LOAD(total + j), lane), reduce));
        fs_close_chunk(&chunk);
    }
    fs_wipe(buffer, sizeof buffer);
    fs_wipe(total, sizeof total);
}

#define DEFINE_SUM(LANE)                                             \
    TARGET void NAME(chacha20_lane##LANE)(const fs_sum *sum)         \
    {                                                                \
        sum_all(sum, FS_LANE##LANE);                                 \
    }

DEFINE_SUM(16)
DEFINE_SUM(32)
DEFINE_SUM(64)
