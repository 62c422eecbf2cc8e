/* Walsh-Hadamard transforms in portable C, and the reference for those in vectors: each level replaces all pairs of
 * elements a and b at a distance `half` by a + b and a - b. */
#include "generic.h"

static void one_level(float *x, size_t n, size_t half)
{
    for (size_t start = 0; start < n; start += 2 * half)
        for (size_t j = start; j < start + half; j++) {
            float sum = x[j] + x[j + half], difference = x[j] - x[j + half];
            x[j] = sum;
            x[j + half] = difference;
        }
}

/* Two levels at once, with half the traffic. */
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

void fs_generic_hadamard_levels(float *x, size_t length, size_t half)
{
    for (; 2 * half < length; half *= 4)
        two_levels(x, length, half);
    if (half < length)
        one_level(x, length, half);
}

void fs_generic_hadamard_parts(float *x, size_t length, size_t part, const uint8_t *signs, float scale)
{
    for (size_t j = 0; j < length; j++)
        x[j] *= (float)(1 - 2 * (signs[j / 8] >> j % 8 & 1)) * scale;
    for (size_t start = 0; part > 1 && start < length; start += part)
        fs_generic_hadamard_levels(x + start, part, 1);
}
