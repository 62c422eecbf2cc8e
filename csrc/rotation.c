/* A public random rotation of float32 vectors, block by block: y = H D x / sqrt(n), where D holds random
 * signs and H is the Walsh-Hadamard matrix of n = 2^k rows. It spreads a vector's weight evenly over its
 * coordinates before they are rounded [SYKM17, sec. 4]. H / sqrt(n) is its own inverse, so the way back is x
 * = D H y / sqrt(n).
 *
 * Butterflies go from the closest elements to the farthest, on all backends: so all round alike.
 *
 * [SYKM17] Suresh, Yu, Kumar, McMahan. Distributed Mean Estimation with Limited Communication. ICML 2017. */
#include <math.h>

#include "core.h"

/* Parts fit the first-level cache, and get all levels that need no other part while they are there. Signs are made for
 * two, a chunk of the widest kernels of ChaCha20. */
enum { PART = 4096, SIGNED = 2 * PART };

static const uint8_t ZERO_NONCE[12];

/* The signs of a part. Bit j of the keystream, counted from the lowest of its first byte, changes that of element j. */
static const uint8_t *part_signs(const fs_backend *backend, uint8_t signs[SIGNED / 8], size_t start, const uint8_t *key)
{
    if (start % SIGNED == 0)
        backend->chacha20_blocks(signs, SIGNED / 512, key, ZERO_NONCE, (uint32_t)(start / 512));
    return signs + start % SIGNED / 8;
}

void fs_rotate(const fs_backend *backend, float *x, size_t length, size_t block, double scale, const uint8_t *key,
               int back)
{
    static const uint8_t none[PART / 8];
    uint8_t made[SIGNED / 8];
    float factor = (float)(scale / sqrt((double)block));
    for (size_t i = 0; i < length; i += PART) {
        const uint8_t *signs = back ? none : part_signs(backend, made, i, key);
        size_t now = length - i < PART ? length - i : PART;
        backend->hadamard_parts(x + i, now, block < PART ? block : PART, signs, factor);
    }
    if (block > PART)
        for (size_t i = 0; i < length; i += block)
            backend->hadamard_levels(x + i, block, PART);
    for (size_t i = 0; back && i < length; i += PART) {
        size_t now = length - i < PART ? length - i : PART;
        backend->hadamard_parts(x + i, now, 1, part_signs(backend, made, i, key), 1.0f);
    }
}
