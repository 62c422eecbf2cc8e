/* Every backend of this build against the portable one, without Python: for other architectures and for tools
 * that watch memory; and the entry points on sizes, places and bytes at random, in memory that ends where they must.
 * Prints a line a backend, `same` or `skipped`, and a digest of what the portable one
 * gives, which must not depend on the machine. The argument is the step between lengths. */
#include <stdio.h>
#include <stdlib.h>

#include "laws.h"

enum { LONGEST = 1100, LONG_SUM = 5000, SEEDS_MOST = 5, BLOCKS_MOST = 40, ROTATIONS = 24 };

static uint64_t digest = 0xcbf29ce484222325;

/* FNV-1a. */
static void take(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        digest = (digest ^ bytes[i]) * 0x100000001b3;
}

static void fail(const char *name, const char *what, size_t size)
{
    printf("different %s %s %zu\n", name, what, size);
    exit(1);
}

static void compare_sums(const fs_backend *backend, const fs_backend *portable, int prg, int lane, size_t length,
                         uint64_t offset)
{
    static uint64_t ours[LONG_SUM + 1], theirs[LONG_SUM + 1];
    uint8_t seeds[32 * SEEDS_MOST];
    int8_t signs[SEEDS_MOST];
    size_t n_seeds = draw() % (SEEDS_MOST + 1);
    size_t held = length * (size_t)lane / 64 + 1;
    uint64_t mask = UINT64_MAX >> (64 - (1 + length % (size_t)lane));
    for (size_t i = 0; i < sizeof seeds; i++)
        seeds[i] = (uint8_t)draw();
    for (size_t i = 0; i < SEEDS_MOST; i++)
        signs[i] = draw() % 2 ? 1 : -1;
    for (size_t i = 0; i < held; i++)
        ours[i] = theirs[i] = draw();
    fs_masked_sum(portable, prg, lane, theirs, length, seeds, signs, n_seeds, offset, mask);
    fs_masked_sum(backend, prg, lane, ours, length, seeds, signs, n_seeds, offset, mask);
    if (memcmp(ours, theirs, 8 * held))
        fail(fs_backend_name(backend), "sum of length", length);
    if (backend == portable)
        take((const uint8_t *)theirs, length * (size_t)lane / 8);
}

/* Sums of pages of counters, across a place where they are cut into tiles. */
static void compare_long_sums(const fs_backend *backend, const fs_backend *portable, int prg, int lane)
{
    size_t width = (size_t)lane / 8, length = 8 * LONG_SUM / width - draw() % 500;
    uint64_t tile = (1 + draw() % 4096) << 18;
    compare_sums(backend, portable, prg, lane, length, tile / width - draw() % length);
}

static void compare_blocks(const fs_backend *backend, const fs_backend *portable, size_t n_blocks)
{
    static uint8_t ours[64 * BLOCKS_MOST], theirs[64 * BLOCKS_MOST];
    uint8_t key[32], nonce[12];
    uint32_t counter = (uint32_t)(draw() >> 33);
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)draw();
    for (size_t i = 0; i < sizeof nonce; i++)
        nonce[i] = (uint8_t)draw();
    fs_chacha20(portable, theirs, n_blocks, key, nonce, counter);
    fs_chacha20(backend, ours, n_blocks, key, nonce, counter);
    if (memcmp(ours, theirs, sizeof ours))
        fail(fs_backend_name(backend), "blocks", n_blocks);
    if (backend == portable)
        take(theirs, 64 * n_blocks);
}

/* Values in [-1, 1], or in every fourth row any bits at all, which both must refuse alike. Of any grid. */
static void compare_grids(const fs_backend *backend, const fs_backend *portable, size_t length)
{
    static double values[LONGEST + 1], ours[LONGEST], theirs[LONGEST];
    static float singles[LONGEST + 1];
    uint8_t key[32];
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)draw();
    int wild = draw() % 4 == 0, lane = 16 << draw() % 3;
    for (size_t i = 0; i <= LONGEST; i++) {
        uint64_t bits = draw();
        values[i] = 2.0 * draw_unit() - 1.0;
        if (wild)
            memcpy(&values[i], &bits, sizeof bits);
        singles[i] = (float)values[i];
        if (wild)
            memcpy(&singles[i], (const uint8_t *)&bits + 2, sizeof singles[i]);
    }
    double step = (0.5 + draw_unit()) / (double)(UINT64_C(1) << draw() % 60);
    double most = wild && draw() % 2 ? 1e18 * step : 1.0;
    uint64_t mask = UINT64_MAX >> draw() % 64;
    size_t odd = length < LONGEST ? draw() % 2 : 0;
    for (int wide = 0; wide < 2; wide++) {
        memset(ours, 0, sizeof ours);
        memset(theirs, 0, sizeof theirs);
        int taken[2];
        for (int i = 0; i < 2; i++) {
            const fs_backend *one = i ? backend : portable;
            void *to = i ? ours : theirs;
            taken[i] = wide ? fs_quantize64(one, lane, to, values + odd, length, step, most, mask, key)
                            : fs_quantize32(one, lane, to, singles + odd, length, step, most, mask, key);
        }
        if (taken[0] != taken[1] || memcmp(ours, theirs, sizeof ours))
            fail(fs_backend_name(backend), "levels of length", length);
        if (backend == portable)
            take((const uint8_t *)theirs, length * (size_t)lane / 8);
        uint64_t halves[2][2];
        fs_squared_norm(portable, halves[0], (const int32_t *)theirs, length);
        fs_squared_norm(backend, halves[1], (const int32_t *)theirs, length);
        if (memcmp(halves[0], halves[1], sizeof halves[0]))
            fail(fs_backend_name(backend), "norm of length", length);
    }
    unsigned bits = 1 + (unsigned)(draw() % (uint64_t)lane);
    int64_t bound = (int64_t)(draw() >> 1);
    int taken[2];
    static double residues[LONGEST];
    memcpy(residues, theirs, sizeof residues);
    for (int i = 0; i < 2; i++)
        taken[i] = fs_dequantize64(i ? backend : portable, lane, i ? ours : theirs, residues, length, bits, step, bound);
    if (taken[0] != taken[1] || memcmp(ours, theirs, length * sizeof *ours))
        fail(fs_backend_name(backend), "reals of length", length);
    for (int i = 0; i < 2; i++)
        fs_dequantize32(i ? backend : portable, lane, (float *)(i ? ours : theirs), residues, length, bits, step, bound);
    if (memcmp(ours, theirs, length * sizeof(float)))
        fail(fs_backend_name(backend), "singles of length", length);
}

static void compare_rotations(const fs_backend *backend, const fs_backend *portable, size_t i_th)
{
    enum { MOST = 1 << 14 };
    static float ours[MOST + 1], theirs[MOST + 1];
    uint8_t key[32];
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)draw();
    size_t block = (size_t)1 << i_th % 15, odd = draw() % 2;
    size_t length = draw() % MOST, whole = (length / block + 1) * block;
    double scale = 0.5 + draw_unit();
    for (size_t i = 0; i <= MOST; i++)
        ours[i] = theirs[i] = (float)(draw_unit() - 0.5);
    for (int back = 0; back < 2; back++) {
        fs_rotate(portable, theirs + odd, whole, block, scale, key, back);
        fs_rotate(backend, ours + odd, whole, block, scale, key, back);
        double norms[2] = {fs_sum_of_squares(portable, theirs, length), fs_sum_of_squares(backend, ours, length)};
        if (memcmp(ours, theirs, sizeof ours) || memcmp(&norms[0], &norms[1], sizeof norms[0]))
            fail(fs_backend_name(backend), "rotation of block", block);
    }
    if (backend == portable)
        take((const uint8_t *)theirs, sizeof theirs);
}

static void fill(void *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)draw();
}

/* As much as is asked for and not a byte more, for tools that see the end of an allocation. */
static void *exactly(size_t length)
{
    void *memory = malloc(length ? length : 1);
    if (!memory)
        exit(2);
    fill(memory, length);
    return memory;
}

static void compare_noise(const fs_backend *backend, const fs_backend *portable, size_t length)
{
    uint8_t key[32];
    uint32_t stream[3] = {(uint32_t)draw(), (uint32_t)draw(), (uint32_t)draw()}, block = (uint32_t)(draw() >> 33);
    double stddev = 1.0 + (double)(draw() % 1000);
    size_t n_bytes = 16 * (length / 7);
    fill(key, sizeof key);
    uint8_t *bytes[2] = {exactly(n_bytes), exactly(n_bytes)};
    float *singles[2] = {exactly(4 * length), exactly(4 * length)};
    double *doubles[2] = {exactly(8 * length), exactly(8 * length)};
    for (int i = 0; i < 2; i++) {
        const fs_backend *which = i ? portable : backend;
        fs_noise_keystream(which, bytes[i], n_bytes / 16, key, stream, block);
        fs_gaussian32(which, singles[i], length, stddev, key);
        fs_gaussian64(which, doubles[i], length, stddev, key);
    }
    if (memcmp(bytes[0], bytes[1], n_bytes))
        fail(fs_backend_name(backend), "bytes of noise", n_bytes);
    if (memcmp(singles[0], singles[1], 4 * length) || memcmp(doubles[0], doubles[1], 8 * length))
        fail(fs_backend_name(backend), "normal variates", length);
    if (backend == portable) {
        take(bytes[0], n_bytes);
        take((const uint8_t *)singles[0], 4 * length);
        take((const uint8_t *)doubles[0], 8 * length);
    }
    for (int i = 0; i < 2; i++) {
        free(bytes[i]);
        free(singles[i]);
        free(doubles[i]);
    }
}

/* Variates of one call, and what it leaves undecided but for the distance, which a C library may round as it likes. */
typedef struct {
    int wide; /* int64, not int32 */
    size_t length, n_undecided;
    void *out;
    void *rows;
} variates;

static variates make_room(int wide, size_t length, size_t n_bytes_undecided)
{
    return (variates){wide, length, 0, exactly((wide ? 8 : 4) * length), exactly(n_bytes_undecided)};
}

static void compare_variates(const fs_backend *backend, const fs_backend *portable, const variates both[2],
                             const char *what)
{
    size_t n_bytes = (both[0].wide ? 8 : 4) * both[0].length;
    if (both[0].n_undecided != both[1].n_undecided || memcmp(both[0].out, both[1].out, n_bytes))
        fail(fs_backend_name(backend), what, both[0].length);
    if (backend == portable) {
        take(both[0].out, n_bytes);
        take(&(uint8_t){(uint8_t)both[0].n_undecided}, 1);
    }
    for (int i = 0; i < 2; i++) {
        free(both[i].out);
        free(both[i].rows);
    }
}

/* Room for fewer candidates than there are open, refused ones, nothing to fill. */
static void compare_bells(const fs_backend *backend, const fs_backend *portable, size_t length)
{
    static const unsigned widths[] = {0, 1, 2, 3, 4, 7, 15, 16, 17, 18, 21, 38};
    int wide = (int)(draw() % 2), exact_only = draw() % 4 == 0;
    unsigned block_bits = widths[draw() % (wide ? 12 : 11)];
    int kind = (int)(draw() % FS_BELL_TABLE), uneven = draw() % 2 == 0;
    fs_bell bell = draw_bell(block_bits, kind, uneven);
    uint32_t chunk = (uint32_t)draw(), refused[40], last = 0;
    size_t n_refused = draw() % 41, room = draw() % 3 ? length : draw() % (length + 1);
    uint8_t key[32];
    fill(key, sizeof key);
    for (size_t i = 0; i < n_refused; i++)
        refused[i] = last += 1 + (uint32_t)(draw() % 60);
    variates both[2];
    for (int i = 0; i < 2; i++) {
        const fs_backend *which = i ? portable : backend;
        variates *v = &both[i];
        *v = make_room(wide, length, room * sizeof(fs_bell_undecided));
        fs_bell_undecided *rows = room ? v->rows : NULL;
        const uint32_t *list = n_refused ? refused : NULL;
        void *out = length ? v->out : NULL;
        v->n_undecided =
            wide ? fs_bells64(which, &bell, out, length, key, chunk, list, n_refused, exact_only, rows, room)
                 : fs_bells32(which, &bell, out, length, key, chunk, list, n_refused, exact_only, rows, room);
        for (size_t j = 0; j < v->n_undecided && v->n_undecided <= room; j++)
            if (rows[j].position >= length || rows[j].cell >= FS_BELL_CELLS || rows[j].uniform_high > UINT16_MAX)
                fail(fs_backend_name(which), "undecided of length", length);
    }
    compare_variates(backend, portable, both, "variates of a bell");
}

/* Sums into the middle of a vector, with nothing there and without seeds too; packing there and back. */
static void fuzz(const fs_backend *backend)
{
    for (int round = 0; round < 200; round++) {
        size_t length = draw() % 4 ? draw() % 700 : 0, n_seeds = draw() % 4, before = draw() % 9;
        int prg = (int)(draw() % FS_PRGS), lane = 16 << draw() % 3;
        size_t width = (size_t)lane / 8;
        unsigned bits = 1 + (unsigned)(draw() % 64);
        uint8_t *out = exactly(width * (before + length)), *seeds = exactly(32 * n_seeds);
        int8_t *signs = exactly(n_seeds);
        for (size_t i = 0; i < n_seeds; i++)
            signs[i] = signs[i] < 0 ? -1 : 1;
        fs_masked_sum(backend, prg, lane, out + width * before, length, seeds, signs, n_seeds,
                      draw() % (UINT64_C(1) << 32), UINT64_MAX >> draw() % (unsigned)lane);
        uint64_t *residues = exactly(8 * length), *back = exactly(8 * length);
        uint8_t *packed = exactly((length * bits + 7) / 8);
        for (size_t i = 0; i < length; i++)
            residues[i] >>= 64 - bits;
        if (!fs_pack64(packed, residues, length, bits) || !fs_unpack64(backend, back, packed, length, bits) ||
            memcmp(back, residues, 8 * length))
            fail(fs_backend_name(backend), "packed and unpacked", length);
        fill(packed, (length * bits + 7) / 8);
        (void)fs_unpack64(backend, back, packed, length, bits);
        (void)fs_add_packed64(backend, back, packed, length, bits);
        if (bits <= 32) {
            (void)fs_unpack32(backend, (uint32_t *)(void *)back, packed, length, bits);
            (void)fs_add_packed32(backend, (uint32_t *)(void *)back, packed, length, bits);
        }
        size_t shares = 1 + draw() % 40, threshold = 1 + draw() % shares;
        uint8_t *coefficients = exactly(32 * (threshold - 1)), *split = exactly(32 * shares);
        uint8_t *xs = exactly(threshold), secret[32], combined[32];
        fill(secret, sizeof secret);
        for (size_t i = 0; i < threshold; i++)
            xs[i] = (uint8_t)(i + 1);
        fs_shamir_split(split, secret, coefficients, threshold, shares);
        fs_shamir_combine(combined, xs, split, threshold);
        if (memcmp(combined, secret, sizeof secret))
            fail(fs_backend_name(backend), "split and combined", shares);
        void *all[] = {out, seeds, signs, residues, back, packed, coefficients, split, xs};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
            free(all[i]);
    }
    fs_masked_sum(backend, FS_AES128CTR, 32, NULL, 0, NULL, NULL, 0, 5, 7);
    fs_chacha20(backend, NULL, 0, (const uint8_t[32]){1}, (const uint8_t[12]){1}, 0);
    fs_noise_keystream(backend, NULL, 0, (const uint8_t[32]){1}, (const uint32_t[3]){1}, 0);
    fs_gaussian32(backend, NULL, 0, 1.0, (const uint8_t[32]){1});
    fs_gaussian64(backend, NULL, 0, 1.0, (const uint8_t[32]){1});
}

int main(int count, char **arguments)
{
    size_t step = count > 1 ? strtoul(arguments[1], NULL, 10) : 1;
    const fs_backend *backend, *portable = NULL;
    for (size_t i = 0; (backend = fs_backend_at(i)); i++)
        portable = backend;
    for (size_t i = 0; (backend = fs_backend_at(i)); i++) {
        if (!fs_backend_runs(backend)) {
            printf("skipped %s\n", fs_backend_name(backend));
            continue;
        }
        state = 88172645463325252;
        for (size_t n_blocks = 0; n_blocks <= BLOCKS_MOST; n_blocks++)
            compare_blocks(backend, portable, n_blocks);
        for (int prg = 0; prg < FS_PRGS; prg++)
            for (int lane = 16; lane <= 64; lane *= 2) {
                for (size_t length = 0; length <= LONGEST; length += step)
                    compare_sums(backend, portable, prg, lane, length, draw() % (UINT64_C(1) << 33));
                compare_long_sums(backend, portable, prg, lane);
            }
        for (size_t length = 0; length <= LONGEST; length += step)
            compare_grids(backend, portable, length);
        for (size_t rotation = 0; rotation < ROTATIONS; rotation++)
            compare_rotations(backend, portable, rotation);
        for (size_t length = 0; length <= FS_NORMAL_GROUP_BYTES / 2 + 50; length += 7 * step)
            compare_noise(backend, portable, length);
        for (size_t length = 0; length <= LONGEST; length += step)
            compare_bells(backend, portable, length);
        fuzz(backend);
        printf("same %s\n", fs_backend_name(backend));
    }
    printf("digest %016llx\n", (unsigned long long)digest);
    return 0;
}
