/* Masked sums in portable C: a chunk of keystream a seed, then additions. */
#include "aes_generic.h"
#include "generic.h"

enum { CHUNK_BYTES = 1024 };

static const uint8_t ZERO_NONCE[12];

/* total[j] += sign * keystream[j]: in two's complement, -x is the complement of x plus one. */
#define DEFINE_ADDITION(BITS)                                                                              \
    static void add_keystream_lane##BITS(uint8_t *total, const uint8_t *keystream, int8_t sign)            \
    {                                                                                                      \
        uint##BITS##_t negative = (uint##BITS##_t)(0 - (uint64_t)(sign < 0));                              \
        for (size_t j = 0; j < CHUNK_BYTES; j += BITS / 8) {                                               \
            uint##BITS##_t word;                                                                           \
            memcpy(&word, total + j, sizeof word);                                                         \
            word = (uint##BITS##_t)(word + (fs_load##BITS##_le(keystream + j) ^ negative) - negative);     \
            memcpy(total + j, &word, sizeof word);                                                         \
        }                                                                                                  \
    }

DEFINE_ADDITION(16)
DEFINE_ADDITION(32)
DEFINE_ADDITION(64)

typedef void addition(uint8_t *total, const uint8_t *keystream, int8_t sign);

static void reduce(uint8_t *total, uint64_t mask)
{
    for (size_t j = 0; j < CHUNK_BYTES; j += 8) {
        uint64_t word;
        memcpy(&word, total + j, sizeof word);
        word &= mask;
        memcpy(total + j, &word, sizeof word);
    }
}

static void sum_chacha20(const fs_sum *sum, addition *add, uint64_t mask)
{
    uint8_t buffer[CHUNK_BYTES], keystream[CHUNK_BYTES];
    for (uint64_t c = 0; c < fs_chunk_count(sum, CHUNK_BYTES); c++) {
        fs_chunk chunk = fs_open_chunk(sum, c, CHUNK_BYTES, buffer);
        for (size_t i = 0; i < sum->n_seeds; i++) {
            fs_generic_chacha20_blocks(keystream, CHUNK_BYTES / 64, sum->seeds + 32 * i, ZERO_NONCE,
                                       (uint32_t)(chunk.index * (CHUNK_BYTES / 64)));
            add(chunk.at, keystream, sum->signs[i]);
        }
        reduce(chunk.at, mask);
        fs_close_chunk(&chunk);
    }
    fs_wipe(buffer, sizeof buffer);
    fs_wipe(keystream, sizeof keystream);
}

static void aes_chunk(uint8_t keystream[CHUNK_BYTES], const fs_aes_sliced *key, int rounds, uint64_t index)
{
    for (size_t j = 0; j < CHUNK_BYTES; j += 16 * FS_SLICED_BLOCKS)
        fs_aes_generic_keystream(keystream + j, key, key->nonce, rounds,
                                 (uint32_t)(index * (CHUNK_BYTES / 16) + j / 16));
}

static void sum_aes(const fs_sum *sum, int key_words, addition *add, uint64_t mask)
{
    fs_aes_sliced keys[FS_SLICED_BLOCKS];
    uint8_t buffer[CHUNK_BYTES], keystream[CHUNK_BYTES];
    size_t first = 0;
    do { /* once without seeds too: out is reduced all the same */
        size_t n = sum->n_seeds - first < FS_SLICED_BLOCKS ? sum->n_seeds - first : FS_SLICED_BLOCKS;
        fs_aes_generic_expand(keys, sum->seeds + 32 * first, n, key_words);
        for (uint64_t c = 0; c < fs_chunk_count(sum, CHUNK_BYTES); c++) {
            fs_chunk chunk = fs_open_chunk(sum, c, CHUNK_BYTES, buffer);
            for (size_t i = 0; i < n; i++) {
                aes_chunk(keystream, &keys[i], key_words + 6, chunk.index);
                add(chunk.at, keystream, sum->signs[first + i]);
            }
            reduce(chunk.at, mask);
            fs_close_chunk(&chunk);
        }
        first += n;
    } while (first < sum->n_seeds);
    fs_wipe(keys, sizeof keys);
    fs_wipe(buffer, sizeof buffer);
    fs_wipe(keystream, sizeof keystream);
}

void fs_generic_aes128_expand(fs_aes_key *key, const uint8_t *seed)
{
    fs_aes_generic_expand(&key->sliced, seed, 1, 4);
}

/* The keystream alone, for noise. */
void fs_generic_aes128_blocks(uint8_t *out, size_t n_blocks, const fs_aes_key *key, const uint8_t nonce[12],
                              uint32_t counter)
{
    uint8_t buffer[16 * FS_SLICED_BLOCKS];
    uint32_t words[3];
    for (int w = 0; w < 3; w++)
        words[w] = key->sliced.nonce[w] ^ fs_load32_le(nonce + 4 * w);
    for (; n_blocks >= FS_SLICED_BLOCKS; n_blocks -= FS_SLICED_BLOCKS, out += sizeof buffer, counter += FS_SLICED_BLOCKS)
        fs_aes_generic_keystream(out, &key->sliced, words, 10, counter);
    if (n_blocks > 0) {
        fs_aes_generic_keystream(buffer, &key->sliced, words, 10, counter);
        memcpy(out, buffer, 16 * n_blocks);
        fs_wipe(buffer, sizeof buffer);
    }
    fs_wipe(words, sizeof words);
}

#define DEFINE_LANE(BITS)                                                                                  \
    void fs_generic_chacha20_lane##BITS(const fs_sum *sum)                                                 \
    {                                                                                                      \
        sum_chacha20(sum, add_keystream_lane##BITS, fs_repeat(sum->mask, FS_LANE##BITS));                  \
    }                                                                                                      \
    void fs_generic_aes128_lane##BITS(const fs_sum *sum)                                                   \
    {                                                                                                      \
        sum_aes(sum, 4, add_keystream_lane##BITS, fs_repeat(sum->mask, FS_LANE##BITS));                    \
    }                                                                                                      \
    void fs_generic_aes256_lane##BITS(const fs_sum *sum)                                                   \
    {                                                                                                      \
        sum_aes(sum, 8, add_keystream_lane##BITS, fs_repeat(sum->mask, FS_LANE##BITS));                    \
    }

DEFINE_LANE(16)
DEFINE_LANE(32)
DEFINE_LANE(64)
