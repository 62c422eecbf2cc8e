/* Walsh-Hadamard transforms on vectors of floats, one body for all instruction sets.
 *
 * Included by one file an instruction set, which defines NAME(x), TARGET, VECTOR, ROWS and the operations below. Each
 * element has the sums and differences that rotation_generic.c gives it, in the same order: ROWS vectors at a time
 * get as many levels as there are between them, without touching memory. */

enum { LANES = sizeof(VECTOR) / sizeof(float), CLOSE = LANES * ROWS };

/* All levels between the first n vectors. */
FS_INLINE TARGET void butterflies(VECTOR *v, int n)
{
    for (int half = 1; half < n; half *= 2)
        for (int i = 0; i < n; i++)
            if (!(i & half)) {
                VECTOR a = v[i], b = v[i + half];
                v[i] = ADD(a, b);
                v[i + half] = SUBTRACT(a, b);
            }
}

/* Levels from distance half on, between n rows of `half` elements each. */
FS_INLINE TARGET void rows(float *x, size_t half, int n)
{
    for (size_t j = 0; j < half; j += LANES) {
        VECTOR v[ROWS];
        for (int i = 0; i < n; i++)
            v[i] = LOAD(x + (size_t)i * half + j);
        butterflies(v, n);
        for (int i = 0; i < n; i++)
            STORE(x + (size_t)i * half + j, v[i]);
    }
}

FS_INLINE TARGET void all_rows(float *x, size_t length, size_t half, int n)
{
    for (size_t start = 0; start < length; start += (size_t)n * half)
        rows(x + start, half, n);
}

TARGET void NAME(hadamard_levels)(float *x, size_t length, size_t half)
{
    for (; ROWS * half <= length && half < 1024; half *= ROWS)
        all_rows(x, length, half, ROWS);
    for (; 8 * half <= length; half *= 8)
        all_rows(x, length, half, 8);
    if (4 * half == length)
        all_rows(x, length, half, 4);
    if (2 * half == length)
        all_rows(x, length, half, 2);
}

/* Signs, scale, and the levels within CLOSE elements. */
FS_INLINE TARGET void close_levels(float *x, const uint8_t *signs, VECTOR scale)
{
    VECTOR v[ROWS];
    for (int i = 0; i < ROWS; i++)
        v[i] = within(MULTIPLY(LOAD(x + i * LANES), flipped(scale, signs + i * (LANES / 8))));
    butterflies(v, ROWS);
    for (int i = 0; i < ROWS; i++)
        STORE(x + i * LANES, v[i]);
}

TARGET void NAME(hadamard_parts)(float *x, size_t length, size_t part, const uint8_t *signs, float scale)
{
    if (part < CLOSE) {
        size_t whole = length - length % LANES;
        for (size_t j = 0; j < whole; j += LANES)
            STORE(x + j, MULTIPLY(LOAD(x + j), flipped(REPEAT(scale), signs + j / 8)));
        fs_generic_hadamard_parts(x + whole, length - whole, 1, signs + whole / 8, scale);
        for (size_t start = 0; part > 1 && start < length; start += part)
            fs_generic_hadamard_levels(x + start, part, 1);
        return;
    }
    for (size_t j = 0; j < length; j += CLOSE)
        close_levels(x + j, signs + j / 8, REPEAT(scale));
    for (size_t start = 0; start < length; start += part)
        NAME(hadamard_levels)(x + start, part, CLOSE);
}
