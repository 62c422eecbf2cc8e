/* The masked sum with AES in counter mode [SP 800-38A, sec. 6.5], one body for all instruction sets.
 *
 * Included by one file an instruction set, which defines NAME(x), TARGET, VECTOR and the operations below; all
 * blocks of a VECTOR go through a round together. REGISTERS vectors make a chunk: as many as hide the latency
 * of a round. For each chunk, counters are built once and the sum stays in registers while the loop over seeds
 * runs inside.
 *
 * Of each seed that leaves, beside the rounds, one exclusive-or and one addition a vector. Its first round key holds the
 * nonce too, so that it turns a counter into a cipher's first state. The last is complemented for a sign of -1, so that
 * the cipher's output comes out complemented, which is its negative less one. Schedules are made for as many seeds at
 * once as a vector has blocks, and stay side by side, round key by round key.
 *
 * Long sums save two rounds of each block, and so pass the ceiling of the rounds. Counters of one page of 256 blocks
 * differ in their last byte, which one round spreads over a column, and the next over all columns, one byte of each; no
 * other byte of the counter touches these before MixColumns of the second round, which is linear. So the state after it
 * is the exclusive-or of a part that a place has in all pages and a part that a page has in all places [BS08, sec. 3;
 * PL18, sec. 4]. Both are addressed by the counter, which is no secret.
 *
 * [BS08] Bernstein, Schwabe. New AES Software Speed Records. INDOCRYPT 2008.
 * [PL18] Park, Lee. FACE: Fast AES CTR Mode Encryption Techniques Based on the Reuse of Repetitive Data. TCHES 2018. */

enum {
    REGISTERS = 8,
    WIDTH = sizeof(VECTOR) / 16, /* blocks */
    CHUNK_BYTES = REGISTERS * sizeof(VECTOR),
    PAGE_BLOCKS = 256,
    PAGE_BYTES = 16 * PAGE_BLOCKS,
    PLACES = PAGE_BYTES / CHUNK_BYTES, /* of chunks within a page */
    PAGES = WIDTH,                     /* that are prepared together */
    PAGES_LEAST = 4                    /* in a sum that is long */
};

/* Bytes of n seeds' schedules, with those that fill the last vectors. */
#define SCHEDULES(n, rounds) (((n) + WIDTH - 1) / WIDTH * ((size_t)(rounds) + 1) * sizeof(VECTOR))

/* Where seed k's schedule is. Its round key r is r vectors on. */
FS_INLINE size_t schedule_at(size_t k, int rounds)
{
    return SCHEDULES(k - k % WIDTH, rounds) + 16 * (k % WIDTH);
}

FS_INLINE TARGET VECTOR load_key(const uint8_t *key, int round)
{
    return ROUND_KEY(key + (size_t)round * sizeof(VECTOR));
}

/* The step of [FIPS 197, sec. 5.2] from four words to those one key length on: `substituted`, in all columns,
 * is added to the first word, the sum to the second, and so on. */
FS_INLINE TARGET VECTOR next_words(VECTOR words, VECTOR substituted)
{
    words = XOR(words, SHIFT_COLUMNS(words, 1));
    words = XOR(words, SHIFT_COLUMNS(words, 2));
    return XOR(words, substituted);
}

/* SubWord of the last word, after RotWord where `rotated`, plus the round constant: with the word in all four columns,
 * ShiftRows changes nothing. */
FS_INLINE TARGET VECTOR substitute(VECTOR words, int rotated, uint32_t round_constant)
{
    VECTOR last = SHUFFLE(words, REPEAT32(rotated ? 0x0c0f0e0d : 0x0f0e0d0c));
    return SUBSTITUTE(last, REPEAT32(round_constant));
}

FS_INLINE TARGET void expand128(uint8_t *keys, VECTOR words, VECTOR nonces)
{
    STORE(keys, XOR(words, nonces));
    for (uint32_t r = 1, constant = 1; r <= FS_AES128_ROUNDS; r++) {
        words = next_words(words, substitute(words, 1, constant));
        STORE(keys + r * sizeof(VECTOR), words);
        constant = constant << 1 ^ (constant >> 7) * 0x11b;
    }
}

FS_INLINE TARGET void expand256(uint8_t *keys, VECTOR even, VECTOR odd)
{
    STORE(keys, even);
    STORE(keys + sizeof(VECTOR), odd);
    for (uint32_t r = 2, constant = 1; r <= FS_AES256_ROUNDS; r += 2) {
        even = next_words(even, substitute(odd, 1, constant));
        STORE(keys + r * sizeof(VECTOR), even);
        constant <<= 1;
        if (r < FS_AES256_ROUNDS) {
            odd = next_words(odd, substitute(even, 0, 0));
            STORE(keys + (r + 1) * sizeof(VECTOR), odd);
        }
    }
}

FS_INLINE void complement(uint8_t block[16], uint64_t all_or_nothing)
{
    for (int b = 0; b < 16; b += 8)
        fs_store64_le(block + b, fs_load64_le(block + b) ^ all_or_nothing);
}

/* Schedules of n seeds, of zeros behind the last where they do not fill a vector. */
FS_INLINE TARGET void expand_keys(uint8_t *keys, const uint8_t *seeds, const int8_t *signs, size_t n, int rounds)
{
    /* The last column of a nonce is for the counter. */
    const VECTOR nonce_columns = XOR(REPEAT64(UINT64_MAX), REPEAT_COUNTER(UINT32_MAX));
    uint8_t rest[32 * WIDTH] = {0};
    for (size_t k = 0; k < n; k += WIDTH) {
        const uint8_t *some = seeds + 32 * k;
        uint8_t *to = keys + SCHEDULES(k, rounds);
        if (n - k < WIDTH)
            some = memcpy(rest, some, 32 * (n - k));
        VECTOR low = LOAD_EVERY_OTHER(some), high = LOAD_EVERY_OTHER(some + 16);
        if (rounds == FS_AES128_ROUNDS)
            expand128(to, low, AND(high, nonce_columns));
        else
            expand256(to, low, high);
    }
    for (size_t k = 0; k < n; k++)
        complement(keys + schedule_at(k, rounds) + (size_t)rounds * sizeof(VECTOR), 0 - (uint64_t)(signs[k] < 0));
    fs_wipe(rest, sizeof rest);
}

/* Counter blocks without a nonce, from the given block on. */
FS_INLINE TARGET VECTOR counters(uint32_t block)
{
    return REVERSE_COUNTERS(ADD32(REPEAT_COUNTER(block), FIRST_COUNTERS));
}

FS_INLINE TARGET VECTOR add_lanes(VECTOR a, VECTOR b, int lane)
{
    return lane == FS_LANE16 ? ADD16(a, b) : lane == FS_LANE32 ? ADD32(a, b) : ADD64(a, b);
}

/* Up to where a state is in two parts: the first key and so many rounds. */
FS_INLINE TARGET VECTOR first_rounds(VECTOR counter, const uint8_t *key)
{
    VECTOR state = AES_FIRST_KEY(counter, load_key(key, 0));
    for (int r = 1; r <= SPLIT_ROUNDS; r++)
        state = AES_ROUND(state, load_key(key, r));
    return state;
}

/* Rounds `from` on, and the sum. */
FS_INLINE TARGET void add_rounds(VECTOR *total, VECTOR *state, const uint8_t *key, int from, int rounds, int lane)
{
    for (int r = from; r < rounds; r++) {
        VECTOR of_round = load_key(key, r);
        for (int i = 0; i < REGISTERS; i++)
            state[i] = AES_ROUND(state[i], of_round);
    }
    VECTOR last_key = load_key(key, rounds);
    for (int i = 0; i < REGISTERS; i++)
        total[i] = add_lanes(total[i], AES_LAST_ROUND(state[i], last_key), lane);
}

/* A chunk's sum, from what is there and what it is to begin with in each lane; and back. */
FS_INLINE TARGET void open_total(VECTOR *total, const uint8_t *at, uint64_t start, int lane)
{
    for (int i = 0; i < REGISTERS; i++)
        total[i] = add_lanes(LOAD(at + (size_t)i * sizeof(VECTOR)), REPEAT64(start), lane);
}

FS_INLINE TARGET void close_total(uint8_t *at, const VECTOR *total, uint64_t mask)
{
    for (int i = 0; i < REGISTERS; i++)
        STORE(at + (size_t)i * sizeof(VECTOR), AND(total[i], REPEAT64(mask)));
}

#ifdef FIRST_PLACES
#include "aes_page.h"
#else

enum { PAGE_STATE_BYTES = 0 };

FS_INLINE TARGET void add_seeds(uint8_t *at, uint32_t block, const uint8_t *keys, size_t n, int rounds,
                                int lane, uint64_t start, uint64_t mask)
{
    VECTOR counter[REGISTERS], total[REGISTERS], state[REGISTERS];
    for (int i = 0; i < REGISTERS; i++)
        counter[i] = counters(block + (uint32_t)(i * (int)sizeof(VECTOR) / 16));
    open_total(total, at, start, lane);
    for (size_t k = 0; k < n; k++) {
        const uint8_t *key = keys + schedule_at(k, rounds);
        VECTOR first_key = load_key(key, 0);
        for (int i = 0; i < REGISTERS; i++)
            state[i] = AES_FIRST_KEY(counter[i], first_key);
        add_rounds(total, state, key, 1, rounds, lane);
    }
    close_total(at, total, mask);
}

FS_INLINE TARGET void sum_short(const fs_sum *sum, const uint8_t *keys, uint8_t *states, size_t n, int rounds, int lane,
                                uint64_t start, uint64_t mask)
{
    (void)states;
    uint8_t buffer[CHUNK_BYTES];
    uint64_t n_chunks = fs_chunk_count(sum, CHUNK_BYTES);
    for (uint64_t c = 0; c < n_chunks; c++) {
        fs_chunk chunk = fs_open_chunk(sum, c, CHUNK_BYTES, buffer);
        add_seeds(chunk.at, (uint32_t)(chunk.index * (CHUNK_BYTES / 16)), keys, n, rounds, lane, start, mask);
        fs_close_chunk(&chunk);
    }
    fs_wipe(buffer, sizeof buffer);
}

#endif

/* The parts of seeds' states: of one place, in all pages; and of some pages. */
typedef struct {
    uint8_t place[CHUNK_BYTES], pages[sizeof(VECTOR)];
} split_state;

/* The part of a place: what its counters differ in from the first of their page, in page 0. */
FS_INLINE TARGET void split_place(split_state *states, uint32_t place, const uint8_t *keys, size_t n, int rounds)
{
    for (size_t k = 0; k < n; k++) {
        const uint8_t *key = keys + schedule_at(k, rounds);
        VECTOR first = first_rounds(REPEAT_COUNTER(0), key);
        for (int i = 0; i < REGISTERS; i++) {
            uint32_t block = place * (CHUNK_BYTES / 16) + (uint32_t)(i * PAGES);
            STORE(states[k].place + (size_t)i * sizeof(VECTOR), XOR(first_rounds(counters(block), key), first));
        }
    }
}

/* The parts of some pages: their first states. */
FS_INLINE TARGET void split_pages(split_state *states, uint32_t page, const uint8_t *keys, size_t n, int rounds)
{
    uint8_t first[sizeof(VECTOR)] = {0};
    for (uint32_t p = 0; p < PAGES; p++)
        for (uint32_t b = 0; b < 4; b++)
            first[16 * p + 12 + b] = (uint8_t)((page + p) * PAGE_BLOCKS >> (24 - 8 * b));
    for (size_t k = 0; k < n; k++)
        STORE(states[k].pages, first_rounds(LOAD(first), keys + schedule_at(k, rounds)));
}

FS_INLINE TARGET void add_split_seeds(uint8_t *at, const split_state *states, size_t page, const uint8_t *keys,
                                      size_t n, int rounds, int lane, uint64_t start, uint64_t mask)
{
    VECTOR total[REGISTERS], state[REGISTERS];
    open_total(total, at, start, lane);
    for (size_t k = 0; k < n; k++) {
        VECTOR of_page = ROUND_KEY(states[k].pages + 16 * page);
        for (int i = 0; i < REGISTERS; i++)
            state[i] = XOR(LOAD(states[k].place + (size_t)i * sizeof(VECTOR)), of_page);
        add_rounds(total, state, keys + schedule_at(k, rounds), SPLIT_ROUNDS + 1, rounds, lane);
    }
    close_total(at, total, mask);
}

FS_INLINE TARGET void sum_long(const fs_sum *sum, const uint8_t *keys, split_state *states, size_t n, int rounds,
                               int lane, uint64_t start, uint64_t mask)
{
    uint8_t buffer[CHUNK_BYTES];
    uint64_t n_chunks = fs_chunk_count(sum, CHUNK_BYTES), first = sum->begin / CHUNK_BYTES;
    for (uint64_t c = 0; c < PLACES; c++) {
        split_place(states, (uint32_t)((first + c) % PLACES), keys, n, rounds);
        for (uint64_t i = c; i < n_chunks; i += PLACES) {
            size_t page = (size_t)((i - c) / PLACES % PAGES);
            fs_chunk chunk = fs_open_chunk(sum, i, CHUNK_BYTES, buffer);
            if (page == 0)
                split_pages(states, (uint32_t)(chunk.index / PLACES), keys, n, rounds);
            add_split_seeds(chunk.at, states, page, keys, n, rounds, lane, start, mask);
            fs_close_chunk(&chunk);
        }
    }
    fs_wipe(buffer, sizeof buffer);
}

static uint64_t count_negatives(const int8_t *signs, size_t n)
{
    uint64_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += signs[i] < 0;
    return count;
}

#define DEFINE_SUM(BITS, LANE)                                                                              \
    TARGET void NAME(aes##BITS##_lane##LANE)(const fs_sum *sum)                                             \
    {                                                                                                       \
        enum { ROUNDS = FS_AES##BITS##_ROUNDS, GROUP = SCHEDULES(WIDTH, ROUNDS) };                          \
        enum { MOST = FS_SCHEDULE_BYTES / (GROUP + WIDTH * PAGE_STATE_BYTES) * WIDTH };                     \
        enum { MOST_SPLIT = FS_SCHEDULE_BYTES / (GROUP + WIDTH * sizeof(split_state)) * WIDTH };            \
        uint8_t keys[FS_SCHEDULE_BYTES]; /* and states behind them */                                       \
        int is_long = fs_chunk_count(sum, CHUNK_BYTES) >= PAGES_LEAST * PLACES;                             \
        size_t most = fs_seeds_at_a_time(sum->n_seeds, is_long ? MOST_SPLIT : MOST), first = 0;             \
        most = (most + WIDTH - 1) / WIDTH * WIDTH;                                                          \
        uint8_t *states = keys + SCHEDULES(most, ROUNDS);                                                   \
        uint64_t mask = fs_repeat(sum->mask, FS_LANE##LANE);                                                \
        do { /* once without seeds too: out is reduced all the same */                                      \
            size_t n = sum->n_seeds - first < most ? sum->n_seeds - first : most;                           \
            uint64_t start = fs_repeat(count_negatives(sum->signs + first, n), FS_LANE##LANE);              \
            expand_keys(keys, sum->seeds + 32 * first, sum->signs + first, n, ROUNDS);                      \
            if (is_long)                                                                                    \
                sum_long(sum, keys, (split_state *)(void *)states, n, ROUNDS, FS_LANE##LANE, start, mask);  \
            else                                                                                            \
                sum_short(sum, keys, states, n, ROUNDS, FS_LANE##LANE, start, mask);                        \
            first += n;                                                                                     \
        } while (first < sum->n_seeds);                                                                     \
        fs_wipe(keys, SCHEDULES(most, ROUNDS) + most * (is_long ? sizeof(split_state) : PAGE_STATE_BYTES)); \
    }

DEFINE_SUM(128, 16)
DEFINE_SUM(128, 32)
DEFINE_SUM(128, 64)
DEFINE_SUM(256, 16)
DEFINE_SUM(256, 32)
DEFINE_SUM(256, 64)

FS_INLINE TARGET void make_blocks(uint8_t *out, uint32_t block, const uint8_t first[16], const uint8_t *schedule)
{
    VECTOR state[REGISTERS], round_key = ROUND_KEY(first);
    for (int i = 0; i < REGISTERS; i++)
        state[i] = AES_FIRST_KEY(counters(block + (uint32_t)(i * (int)sizeof(VECTOR) / 16)), round_key);
    for (int r = 1; r < FS_AES128_ROUNDS; r++) {
        round_key = ROUND_KEY(schedule + 16 * r);
        for (int i = 0; i < REGISTERS; i++)
            state[i] = AES_ROUND(state[i], round_key);
    }
    round_key = ROUND_KEY(schedule + 16 * FS_AES128_ROUNDS);
    for (int i = 0; i < REGISTERS; i++)
        STORE(out + (size_t)i * sizeof(VECTOR), AES_LAST_ROUND(state[i], round_key));
}

/* The keystream alone, for noise. */
TARGET void NAME(aes128_blocks)(uint8_t *out, size_t n_blocks, const fs_aes_key *key, const uint8_t nonce[12],
                                uint32_t counter)
{
    enum { BLOCKS = CHUNK_BYTES / 16 };
    const uint8_t *schedule = key->rounds;
    uint8_t first[16], buffer[CHUNK_BYTES];
    memcpy(first, schedule, 16);
    for (int b = 0; b < 12; b++)
        first[b] ^= nonce[b];
    for (; n_blocks >= BLOCKS; n_blocks -= BLOCKS, out += CHUNK_BYTES, counter += BLOCKS)
        make_blocks(out, counter, first, schedule);
    if (n_blocks > 0) {
        make_blocks(buffer, counter, first, schedule);
        memcpy(out, buffer, 16 * n_blocks);
        fs_wipe(buffer, sizeof buffer);
    }
    fs_wipe(first, sizeof first);
}

TARGET void NAME(aes128_expand)(fs_aes_key *key, const uint8_t *seed)
{
    static const int8_t plus = 1;
    uint8_t keys[SCHEDULES(1, FS_AES128_ROUNDS)];
    expand_keys(keys, seed, &plus, 1, FS_AES128_ROUNDS);
    for (size_t r = 0; r <= FS_AES128_ROUNDS; r++)
        memcpy(key->rounds + 16 * r, keys + r * sizeof(VECTOR), 16);
    fs_wipe(keys, sizeof keys);
}

/* The ceiling that measurements hold the sums against. */
TARGET void NAME(rounds)(uint8_t *out, size_t n_bytes, int rounds)
{
    VECTOR state[REGISTERS];
    for (int i = 0; i < REGISTERS; i++)
        state[i] = LOAD(out + (size_t)i * sizeof(VECTOR));
    VECTOR round_key = state[0];
    for (size_t done = 0; done < n_bytes; done += CHUNK_BYTES)
        for (int r = 0; r < rounds; r++)
            for (int i = 0; i < REGISTERS; i++)
                state[i] = AES_ROUND(state[i], round_key);
    for (int i = 0; i < REGISTERS; i++)
        STORE(out + (size_t)i * sizeof(VECTOR), state[i]);
}
