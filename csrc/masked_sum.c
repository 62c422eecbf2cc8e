/* Sums of masks and of plain vectors in the ring of integers mod 2^b.
 *
 * A mask is the keystream under a 32-byte seed, block counter from 0, read as little-endian words: element j
 * depends on the seed and on j alone, and a vector can be masked in pieces. Backends hold the kernels. */
#include "core.h"

void fs_chacha20(const fs_backend *backend, uint8_t *out, size_t n_blocks, const uint8_t *key,
                 const uint8_t *nonce, uint32_t counter)
{
    backend->chacha20_blocks(out, n_blocks, key, nonce, counter);
    fs_wipe_stack();
}

/* So much of the vector stays in the second-level cache while all groups of seeds are added. */
enum { TILE_BYTES = 256 * 1024 };

void fs_masked_sum(const fs_backend *backend, int prg, int lane, void *out, size_t length,
                   const uint8_t *seeds, const int8_t *signs, size_t n_seeds, uint64_t offset, uint64_t mask)
{
    size_t width = (size_t)lane / 8;
    uint64_t begin = offset * width;
    if (length == 0)
        return;
    uint8_t *at = out, *end = at + length * width;
    while (at < end) {
        size_t tile = TILE_BYTES - (size_t)(begin % TILE_BYTES), left = (size_t)(end - at);
        fs_sum sum = {at, tile < left ? tile : left, begin, seeds, signs, n_seeds, mask};
        backend->masked_sum[prg][lane == 16 ? FS_LANE16 : lane == 32 ? FS_LANE32 : FS_LANE64](&sum);
        at += sum.length_bytes;
        begin += sum.length_bytes;
    }
    fs_wipe_stack();
}

int fs_aes_rounds(const fs_backend *backend, uint8_t *out, size_t n_bytes, int rounds)
{
    if (!backend->aes_rounds)
        return 0;
    backend->aes_rounds(out, n_bytes, rounds);
    return 1;
}

/* Blocks of the vectors that stay in the first-level cache while all are added. */
enum { PIECE_BYTES = 4096 };

#define DEFINE_VECTOR_SUM(BITS)                                                                            \
    void fs_vector_sum##BITS(uint##BITS##_t *out, const uint##BITS##_t *vectors, size_t n_vectors,         \
                             size_t length, uint##BITS##_t mask)                                           \
    {                                                                                                      \
        size_t piece = PIECE_BYTES / (BITS / 8);                                                           \
        for (size_t start = 0; start < length; start += piece) {                                           \
            size_t end = length - start < piece ? length : start + piece;                                  \
            for (size_t i = 0; i < n_vectors; i++)                                                         \
                for (size_t j = start; j < end; j++)                                                       \
                    out[j] = (uint##BITS##_t)(out[j] + vectors[i * length + j]);                           \
            for (size_t j = start; j < end; j++)                                                           \
                out[j] &= mask;                                                                            \
        }                                                                                                  \
    }

DEFINE_VECTOR_SUM(16)
DEFINE_VECTOR_SUM(32)
DEFINE_VECTOR_SUM(64)
