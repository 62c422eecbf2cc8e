/* Short sums where vectors are wide and have units to spare (aes_vector.h): two rounds of each block cost half a round.
 *
 * Counters of a page differ in their last byte, so that states after the first round differ in their first column, and
 * a vector makes that of four times as many blocks as it holds. Each byte of it is in another column after ShiftRows of
 * the second round. So SubBytes is made of these columns alone too; MixColumns is their bytes once and twice, put into
 * place by shuffles, and the rest of the state is the same for all blocks of the page. Shuffles have fixed orders, and
 * none depends on a secret.
 *
 * All of this is begun for the next seed before the rounds of one, as its steps wait for each other. */

enum { PAGE_STATE_BYTES = 32, COLUMNS = 4 };

/* What the blocks of a page have in common: the bytes that become the first column (of which the last differs), in
 * all columns, and the state after two rounds but for what comes of that column. They lie as schedules of two keys do. */
FS_INLINE TARGET void start_page(uint8_t *states, uint32_t page, const uint8_t *keys, size_t n, int rounds)
{
    const VECTOR counter = REVERSE_COUNTERS(REPEAT_COUNTER(page * PAGE_BLOCKS));
    const VECTOR others = REPEAT(_mm_set_epi32(0x0f0e0d0c, 0x0b0a0908, 0x07060504, -1));
    const VECTOR nothing = REPEAT(_mm_set_epi32(0, 0, 0, 0x52525252)); /* SubBytes makes zeros of it */
    for (size_t k = 0; k < n; k += WIDTH) {
        const uint8_t *key = keys + schedule_at(k, rounds);
        uint8_t *to = states + schedule_at(k, 1);
        VECTOR state = XOR(counter, LOAD(key));
        STORE(to, SHUFFLE(state, REPEAT32(0x0f0a0500)));
        state = AES_ROUND(state, LOAD(key + sizeof(VECTOR)));
        state = XOR(SHUFFLE(state, others), nothing);
        STORE(to + sizeof(VECTOR), AES_ROUND(state, LOAD(key + 2 * sizeof(VECTOR))));
    }
}

/* Where the bytes of block c of every four are after ShiftRows, and MixColumns wants them once, or twice. */
FS_INLINE TARGET VECTOR order(int c, int twice)
{
    const __m128i once = _mm_set_epi32(0x0d0d800d, 0x0a800a0a, (int)0x80070707, 0x00000080);
    const __m128i doubled = _mm_set_epi32((int)0x80800d0d, (int)0x800a0a80, 0x07078080, 0x00808000);
    return AND(ADD8(REPEAT(twice ? doubled : once), REPEAT32(0x04040404 * c)), REPEAT32(0x8f8f8f8f));
}

/* States after two rounds. places: the last bytes of counters, where they are to be. */
FS_INLINE TARGET void two_rounds(VECTOR state[REGISTERS], const VECTOR places[REGISTERS / COLUMNS],
                                 const uint8_t *of_page, const uint8_t *key)
{
    const VECTOR zero = REPEAT32(0), polynomial = REPEAT32(0x1b1b1b1b);
    VECTOR first_key = REPEAT32(fs_load32_le(key + sizeof(VECTOR)));
    VECTOR diagonal = ROUND_KEY(of_page), rest = ROUND_KEY(of_page + sizeof(VECTOR));
    for (int i = 0; i < REGISTERS / COLUMNS; i++) {
        VECTOR once = AES_LAST_ROUND(AES_ROUND(XOR(diagonal, places[i]), first_key), zero);
        /* Less the polynomial where the top bit is set, for which SHUFFLE gives zero. */
        VECTOR twice = XOR(XOR(ADD8(once, once), SHUFFLE(polynomial, once)), polynomial);
        for (int c = 0; c < COLUMNS; c++)
            state[COLUMNS * i + c] = XOR(XOR(SHUFFLE(once, order(c, 0)), SHUFFLE(twice, order(c, 1))), rest);
    }
}

FS_INLINE TARGET void add_page_seeds(uint8_t *at, uint32_t place, const uint8_t *states, const uint8_t *keys,
                                     size_t n, int rounds, int lane, uint64_t start, uint64_t mask)
{
    VECTOR total[REGISTERS], state[REGISTERS], next[REGISTERS], places[REGISTERS / COLUMNS];
    open_total(total, at, start, lane);
    for (uint32_t i = 0; i < REGISTERS / COLUMNS; i++)
        places[i] = ADD32(FIRST_PLACES, REPEAT32((place * (REGISTERS / COLUMNS) + i) * COLUMNS * WIDTH << 24));
    if (n > 0)
        two_rounds(next, places, states, keys);
    for (size_t k = 0; k < n; k++) {
        size_t then = k + 1 < n ? k + 1 : k;
        for (int i = 0; i < REGISTERS; i++)
            state[i] = next[i];
        two_rounds(next, places, states + schedule_at(then, 1), keys + schedule_at(then, rounds));
        add_rounds(total, state, keys + schedule_at(k, rounds), 3, rounds, lane);
    }
    close_total(at, total, mask);
}

FS_INLINE TARGET void sum_short(const fs_sum *sum, const uint8_t *keys, uint8_t *states, size_t n, int rounds, int lane,
                                uint64_t start, uint64_t mask)
{
    uint8_t buffer[CHUNK_BYTES];
    uint64_t n_chunks = fs_chunk_count(sum, CHUNK_BYTES);
    for (uint64_t c = 0; c < n_chunks; c++) {
        fs_chunk chunk = fs_open_chunk(sum, c, CHUNK_BYTES, buffer);
        uint32_t place = (uint32_t)(chunk.index % PLACES);
        if (c == 0 || place == 0)
            start_page(states, (uint32_t)(chunk.index / PLACES), keys, n, rounds);
        add_page_seeds(chunk.at, place, states, keys, n, rounds, lane, start, mask);
        fs_close_chunk(&chunk);
    }
    fs_wipe(buffer, sizeof buffer);
}
