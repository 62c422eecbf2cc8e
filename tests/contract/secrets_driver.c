/* Constant time, as far as clang's memory sanitizer or Valgrind sees it: secrets are marked as uninitialised,
 * and then no branch and no address may depend on one. What is computed from them stays marked and is never
 * looked at.
 *
 * Prints the backends that it covered. With an argument, `branch` or `index`, it runs a leaky function
 * instead, which must be caught. */
#ifdef WITH_VALGRIND
#include <valgrind/memcheck.h>
#else
#include <sanitizer/msan_interface.h>
#endif
#include <stdio.h>

#include "core.h"

enum { LENGTH = 1500, SEEDS = 20, SHARES = 40, THRESHOLD = 25 };

static uint64_t out[LENGTH];
static uint8_t bytes[sizeof out], seeds[32 * SEEDS];
static int8_t signs[SEEDS];

static void make_secret(void *memory, size_t size)
{
#ifdef WITH_VALGRIND
    (void)VALGRIND_MAKE_MEM_UNDEFINED(memory, size);
#else
    __msan_poison(memory, size);
#endif
}

static void sums(const fs_backend *backend)
{
    for (int prg = 0; prg < FS_PRGS; prg++)
        for (int lane = 16; lane <= 64; lane *= 2)
            for (size_t length = 0; length <= LENGTH; length += 250) {
                make_secret(seeds, sizeof seeds);
                make_secret(out, sizeof out);
                fs_masked_sum(backend, prg, lane, out, length, seeds, signs, SEEDS, 3 * length, 0xfff);
            }
}

static void keystreams(const fs_backend *backend)
{
    const uint8_t nonce[12] = {1};
    make_secret(seeds, sizeof seeds);
    for (size_t n_blocks = 0; n_blocks < 40; n_blocks++)
        fs_chacha20(backend, bytes, n_blocks, seeds, nonce, 7);
}

/* Whether a residue is too large is told, and so are the bits behind the last, of which there are none here.
 * */
static void packing(void)
{
    for (unsigned bits = 1; bits <= 64; bits++) {
        make_secret(out, sizeof out);
        if (bits <= 16)
            fs_pack16(bytes, (const uint16_t *)out, 1000, bits);
        if (bits <= 32)
            fs_pack32(bytes, (const uint32_t *)out, 1000, bits);
        fs_pack64(bytes, out, 1000, bits);
        make_secret(bytes, sizeof bytes);
        fs_unpack64(out, bytes, 1000, bits);
        fs_add_packed64(out, bytes, 1000, bits);
    }
}

static void sharing(void)
{
    uint8_t secret[32], coefficients[32 * (THRESHOLD - 1)], shares[32 * SHARES], xs[THRESHOLD];
    for (int i = 0; i < THRESHOLD; i++)
        xs[i] = (uint8_t)(2 * i + 1);
    make_secret(secret, sizeof secret);
    make_secret(coefficients, sizeof coefficients);
    fs_shamir_split(shares, secret, coefficients, THRESHOLD, SHARES);
    make_secret(shares, sizeof shares);
    fs_shamir_combine(secret, xs, shares, THRESHOLD);
}

/* What a tool must not let pass: a branch, and an address. */
static int leak(const char *how)
{
    make_secret(seeds, sizeof seeds);
    if (how[0] == 'b') {
        for (uint8_t i = 0; i < seeds[3]; i++)
            puts("one more");
        return 0;
    }
    return bytes[seeds[3]];
}

int main(int count, char **arguments)
{
    if (count > 1)
        return leak(arguments[1]);
    for (int i = 0; i < SEEDS; i++)
        signs[i] = i % 3 ? 1 : -1;
    packing();
    sharing();
    const fs_backend *backend;
    for (size_t i = 0; (backend = fs_backend_at(i)); i++)
        if (fs_backend_runs(backend)) {
            sums(backend);
            keystreams(backend);
            printf("covered %s\n", fs_backend_name(backend));
        }
    return 0;
}
