/* Sums of masks and of plain vectors in the ring of integers mod 2^b.
 *
 * A mask is the keystream under a 32-byte seed (zero nonce, block counter from 0) read as little-endian
 * words, so element j depends on the seed and on j alone: a vector can be masked in chunks. */
#include "core.h"

enum { CHUNK_BLOCKS = 64, CHUNK_BYTES = 64 * CHUNK_BLOCKS };

static const uint8_t ZERO_NONCE[12];

void fs_chacha20(const fs_backend *backend, uint8_t *out, size_t n_blocks, const uint8_t *key,
                 const uint8_t *nonce, uint32_t counter)
{
    backend->chacha20_blocks(out, n_blocks, key, nonce, counter);
}

/* Keystream for `now` elements of BITS from element `offset`; returns where they begin in the buffer.
 * An element never straddles two blocks, as 64 is a multiple of its size. */
static const uint8_t *chunk_keystream(const fs_backend *backend, uint8_t buffer[CHUNK_BYTES + 64],
                                      const uint8_t *seed, uint64_t offset_bytes, size_t now_bytes)
{
    size_t skip = (size_t)(offset_bytes % 64);
    backend->chacha20_blocks(buffer, (skip + now_bytes + 63) / 64, seed, ZERO_NONCE,
                             (uint32_t)(offset_bytes / 64));
    return buffer + skip;
}

#define DEFINE_SUMS(BITS)                                                                                  \
    static void add_words##BITS(uint##BITS##_t *out, size_t length, const uint8_t *keystream, int8_t sign) \
    {                                                                                                      \
        uint##BITS##_t negative = (uint##BITS##_t)(sign < 0 ? UINT##BITS##_MAX : 0);                       \
        for (size_t j = 0; j < length; j++) {                                                              \
            uint##BITS##_t word = fs_load##BITS##_le(keystream + j * (BITS / 8));                             \
            out[j] = (uint##BITS##_t)(out[j] + (word ^ negative) - negative);                              \
        }                                                                                                  \
    }                                                                                                      \
                                                                                                           \
    void fs_masked_sum##BITS(const fs_backend *backend, uint##BITS##_t *out, size_t length,                \
                             const uint8_t *seeds, const int8_t *signs, size_t n_seeds, uint64_t offset,   \
                             uint##BITS##_t mask)                                                          \
    {                                                                                                      \
        uint8_t buffer[CHUNK_BYTES + 64];                                                                  \
        size_t chunk = CHUNK_BYTES / (BITS / 8);                                                           \
        for (size_t start = 0; start < length; start += chunk) {                                           \
            size_t now = length - start < chunk ? length - start : chunk;                                  \
            for (size_t i = 0; i < n_seeds; i++) {                                                         \
                const uint8_t *keystream = chunk_keystream(backend, buffer, seeds + 32 * i,                \
                                                           (offset + start) * (BITS / 8), now * (BITS / 8)); \
                add_words##BITS(out + start, now, keystream, signs[i]);                                    \
            }                                                                                              \
            for (size_t j = start; j < start + now; j++)                                                   \
                out[j] &= mask;                                                                            \
        }                                                                                                  \
        fs_wipe(buffer, sizeof buffer);                                                                    \
    }                                                                                                      \
                                                                                                           \
    void fs_vector_sum##BITS(uint##BITS##_t *out, const uint##BITS##_t *vectors, size_t n_vectors,         \
                             size_t length, uint##BITS##_t mask)                                           \
    {                                                                                                      \
        size_t chunk = CHUNK_BYTES / (BITS / 8);                                                           \
        for (size_t start = 0; start < length; start += chunk) {                                           \
            size_t end = length - start < chunk ? length : start + chunk;                                  \
            for (size_t i = 0; i < n_vectors; i++)                                                         \
                for (size_t j = start; j < end; j++)                                                       \
                    out[j] = (uint##BITS##_t)(out[j] + vectors[i * length + j]);                           \
            for (size_t j = start; j < end; j++)                                                           \
                out[j] &= mask;                                                                            \
        }                                                                                                  \
    }

DEFINE_SUMS(16)
DEFINE_SUMS(32)
DEFINE_SUMS(64)
