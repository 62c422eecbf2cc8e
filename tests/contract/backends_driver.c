/* Every backend of this build against the portable one, without Python: for other architectures and for tools
 * that watch memory. Prints a line a backend, `same` or `skipped`, and a digest of what the portable one
 * gives, which must not depend on the machine. The argument is the step between lengths. */
#include <stdio.h>
#include <stdlib.h>

#include "core.h"

enum { LONGEST = 1100, SEEDS_MOST = 5, BLOCKS_MOST = 40 };

static uint64_t state = 88172645463325252;

/* [Marsaglia, Xorshift RNGs, 2003] */
static uint64_t draw(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

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

static void compare_sums(const fs_backend *backend, const fs_backend *portable, int prg, int lane, size_t length)
{
    static uint64_t before[LONGEST], ours[LONGEST], theirs[LONGEST];
    uint8_t seeds[32 * SEEDS_MOST];
    int8_t signs[SEEDS_MOST];
    size_t n_seeds = draw() % (SEEDS_MOST + 1);
    uint64_t offset = draw() % (UINT64_C(1) << 33), mask = UINT64_MAX >> (64 - (1 + length % (size_t)lane));
    for (size_t i = 0; i < sizeof seeds; i++)
        seeds[i] = (uint8_t)draw();
    for (size_t i = 0; i < SEEDS_MOST; i++)
        signs[i] = draw() % 2 ? 1 : -1;
    for (size_t i = 0; i < LONGEST; i++)
        before[i] = draw();
    memcpy(ours, before, sizeof before);
    memcpy(theirs, before, sizeof before);
    fs_masked_sum(portable, prg, lane, theirs, length, seeds, signs, n_seeds, offset, mask);
    fs_masked_sum(backend, prg, lane, ours, length, seeds, signs, n_seeds, offset, mask);
    if (memcmp(ours, theirs, sizeof ours))
        fail(fs_backend_name(backend), "sum of length", length);
    if (backend == portable)
        take((const uint8_t *)theirs, length * (size_t)lane / 8);
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
            for (int lane = 16; lane <= 64; lane *= 2)
                for (size_t length = 0; length <= LONGEST; length += step)
                    compare_sums(backend, portable, prg, lane, length);
        printf("same %s\n", fs_backend_name(backend));
    }
    printf("digest %016llx\n", (unsigned long long)digest);
    return 0;
}
