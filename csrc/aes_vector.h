/* The masked sum with AES in counter mode [SP 800-38A, sec. 6.5], one body for all instruction sets.
 *
 * Included by one file an instruction set, which defines NAME(x), TARGET, VECTOR and the operations below; all
 * blocks of a VECTOR go through a round together. REGISTERS vectors make a chunk: as many as hide the latency
 * of a round. For each chunk, counters are built once and the sum stays in registers while the loop over seeds
 * runs inside.
 *
 * Of each seed that leaves, beside the rounds, one exclusive-or and one addition a vector: see vector.h for
 * what its first and last round keys hold. */

enum { REGISTERS = 8, CHUNK_BYTES = REGISTERS * sizeof(VECTOR) };

/* Counter blocks without a nonce, from the given block on. */
FS_INLINE TARGET VECTOR counters(uint32_t block)
{
    return REVERSE_COUNTERS(ADD32(REPEAT_COUNTER(block), FIRST_COUNTERS));
}

FS_INLINE TARGET VECTOR add_lanes(VECTOR a, VECTOR b, int lane)
{
    return lane == FS_LANE16 ? ADD16(a, b) : lane == FS_LANE32 ? ADD32(a, b) : ADD64(a, b);
}

/* start: what the sum begins with in each lane. */
FS_INLINE TARGET void add_seeds(uint8_t *at, uint32_t block, const uint8_t *keys, size_t n, int rounds,
                                int lane, uint64_t start, uint64_t mask)
{
    VECTOR counter[REGISTERS], total[REGISTERS], state[REGISTERS];
    for (int i = 0; i < REGISTERS; i++) {
        counter[i] = counters(block + (uint32_t)(i * (int)sizeof(VECTOR) / 16));
        total[i] = REPEAT64(start);
    }
    for (const uint8_t *key = keys; key < keys + n * FS_SCHEDULE(rounds); key += FS_SCHEDULE(rounds)) {
        VECTOR round_key = ROUND_KEY(key);
        for (int i = 0; i < REGISTERS; i++)
            state[i] = AES_FIRST_KEY(counter[i], round_key);
        for (int r = 1; r < rounds; r++) {
            round_key = ROUND_KEY(key + 16 * r);
            for (int i = 0; i < REGISTERS; i++)
                state[i] = AES_ROUND(state[i], round_key);
        }
        round_key = ROUND_KEY(key + 16 * rounds);
        for (int i = 0; i < REGISTERS; i++)
            total[i] = add_lanes(total[i], AES_LAST_ROUND(state[i], round_key), lane);
    }
    VECTOR reduce = REPEAT64(mask);
    for (int i = 0; i < REGISTERS; i++) {
        uint8_t *to = at + (size_t)i * sizeof(VECTOR);
        STORE(to, AND(add_lanes(LOAD(to), total[i], lane), reduce));
    }
}

FS_INLINE TARGET void sum_group(const fs_sum *sum, const uint8_t *keys, size_t n, uint64_t negatives,
                                int rounds, int lane)
{
    uint8_t buffer[CHUNK_BYTES];
    uint64_t start = fs_repeat(negatives, lane), mask = fs_repeat(sum->mask, lane);
    uint64_t n_chunks = fs_chunk_count(sum, CHUNK_BYTES);
    for (uint64_t c = 0; c < n_chunks; c++) {
        fs_chunk chunk = fs_open_chunk(sum, c, CHUNK_BYTES, buffer);
        add_seeds(chunk.at, (uint32_t)(chunk.index * (CHUNK_BYTES / 16)), keys, n, rounds, lane, start, mask);
        fs_close_chunk(&chunk);
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
        enum { ROUNDS = FS_AES##BITS##_ROUNDS, MOST = FS_SCHEDULE_BYTES / FS_SCHEDULE(ROUNDS) };            \
        uint8_t keys[MOST * FS_SCHEDULE(ROUNDS)];                                                           \
        size_t most = fs_seeds_at_a_time(sum->n_seeds, MOST), first = 0;                                    \
        do { /* once without seeds too: out is reduced all the same */                                      \
            size_t n = sum->n_seeds - first < most ? sum->n_seeds - first : most;                           \
            EXPAND_KEYS(keys, sum->seeds + 32 * first, sum->signs + first, n, ROUNDS);                      \
            sum_group(sum, keys, n, count_negatives(sum->signs + first, n), ROUNDS, FS_LANE##LANE);         \
            first += n;                                                                                     \
        } while (first < sum->n_seeds);                                                                     \
        fs_wipe(keys, most * FS_SCHEDULE(ROUNDS));                                                          \
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
    EXPAND_KEYS(key->rounds, seed, &plus, 1, FS_AES128_ROUNDS);
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
