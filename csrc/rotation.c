/* A public random rotation of float32 vectors, block by block: y = H D x / sqrt(n), where D holds random
 * signs and H is the Walsh-Hadamard matrix of n = 2^k rows. It spreads a vector's weight evenly over its
 * coordinates before they are rounded [SYKM17, sec. 4]. H / sqrt(n) is its own inverse, so the way back is x
 * = D H y / sqrt(n).
 *
 * [SYKM17] Suresh, Yu, Kumar, McMahan. Distributed Mean Estimation with Limited Communication. ICML 2017. */
#include <math.h>

#include "core.h"

enum { CHUNK_BLOCKS = 16, CHUNK_BITS = 512 * CHUNK_BLOCKS, CACHED = 4096 };

static const uint8_t ZERO_NONCE[12];

/* Bit j of the keystream, counted from the lowest of its first byte, changes the sign of element j. */
static void flip_signs(const fs_backend *backend, float *x, size_t length, const uint8_t *key)
{
    uint8_t bits[64 * CHUNK_BLOCKS];
    for (size_t start = 0; start < length; start += CHUNK_BITS) {
        size_t now = length - start < CHUNK_BITS ? length - start : CHUNK_BITS;
        backend->chacha20_blocks(bits, CHUNK_BLOCKS, key, ZERO_NONCE, (uint32_t)(start / 512));
        for (size_t j = 0; j < now; j++)
            x[start + j] *= (float)(1 - 2 * (bits[j / 8] >> j % 8 & 1));
    }
}

/* Two levels of butterflies at once: elements at distances `half` and 2 * half. */
static void two_levels(float *x, size_t n, size_t half)
{
    for (size_t start = 0; start < n; start += 4 * half) {
        float *a = x + start, *b = a + half, *c = b + half, *d = c + half;
        for (size_t j = 0; j < half; j++) {
            float ab = a[j] + b[j], a_b = a[j] - b[j], cd = c[j] + d[j], c_d = c[j] - d[j];
            a[j] = ab + cd;
            b[j] = a_b + c_d;
            c[j] = ab - cd;
            d[j] = a_b - c_d;
        }
    }
}

static void one_level(float *x, size_t n, size_t half)
{
    for (size_t start = 0; start < n; start += 2 * half)
        for (size_t j = start; j < start + half; j++) {
            float sum = x[j] + x[j + half], difference = x[j] - x[j + half];
            x[j] = sum;
            x[j + half] = difference;
        }
}

/* The levels from distance `half` on, below n. */
static void levels(float *x, size_t n, size_t half)
{
    for (; 2 * half < n; half *= 4)
        two_levels(x, n, half);
    if (half < n)
        one_level(x, n, half);
}

/* Parts that fit the first-level cache get their levels one part after the other. */
static void transform(float *x, size_t n)
{
    size_t part = n < CACHED ? n : CACHED;
    for (size_t start = 0; start < n; start += part)
        levels(x + start, part, 1);
    levels(x, n, part);
    float scale = (float)(1.0 / sqrt((double)n));
    for (size_t j = 0; j < n; j++)
        x[j] *= scale;
}

void fs_rotate(const fs_backend *backend, float *x, size_t length, size_t block, const uint8_t *key, int back)
{
    if (!back)
        flip_signs(backend, x, length, key);
    for (size_t start = 0; start < length; start += block)
        transform(x + start, block);
    if (back)
        flip_signs(backend, x, length, key);
}
