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

#include "laws.h"

enum { LENGTH = 1500, LONG_SUM = 3000, SEEDS = 20, FEW_SEEDS = 2, SHARES = 40, THRESHOLD = 25 };

static uint64_t out[LENGTH], long_sum[LONG_SUM];
static uint8_t bytes[sizeof out], seeds[32 * SEEDS];
static int8_t signs[SEEDS];
static float singles[LENGTH];
static double doubles[LENGTH];

static void make_secret(void *memory, size_t size)
{
#ifdef WITH_VALGRIND
    (void)VALGRIND_MAKE_MEM_UNDEFINED(memory, size);
#else
    __msan_poison(memory, size);
#endif
}

uint64_t told_number(uint64_t number)
{
#ifdef WITH_VALGRIND
    (void)VALGRIND_MAKE_MEM_DEFINED(&number, sizeof number);
#else
    __msan_unpoison(&number, sizeof number);
#endif
    return number;
}

static void sums(const fs_backend *backend)
{
    for (int prg = 0; prg < FS_PRGS; prg++)
        for (int lane = 16; lane <= 64; lane *= 2) {
            make_secret(seeds, sizeof seeds);
            for (size_t length = 0; length <= LENGTH; length += 250) {
                make_secret(out, sizeof out);
                fs_masked_sum(backend, prg, lane, out, length, seeds, signs, SEEDS, 3 * length, 0xfff);
            }
            make_secret(long_sum, sizeof long_sum);
            size_t length = sizeof long_sum / ((size_t)lane / 8);
            fs_masked_sum(backend, prg, lane, long_sum, length, seeds, signs, FEW_SEEDS, 77, 0xfff);
        }
}

static void keystreams(const fs_backend *backend)
{
    const uint8_t nonce[12] = {1};
    make_secret(seeds, sizeof seeds);
    for (size_t n_blocks = 0; n_blocks < 40; n_blocks++)
        fs_chacha20(backend, bytes, n_blocks, seeds, nonce, 7);
}

static void noise(const fs_backend *backend)
{
    const uint32_t stream[3] = {1, 2, 3};
    make_secret(seeds, sizeof seeds);
    for (size_t n_blocks = 0; n_blocks < 70; n_blocks += 3)
        fs_noise_keystream(backend, bytes, n_blocks, seeds, stream, 7);
    for (size_t length = 0; length <= LENGTH; length += 500) {
        fs_gaussian32(backend, singles, length, 1.5, seeds);
        fs_gaussian64(backend, doubles, length, 1.5, seeds);
    }
}

/* The first comparison of exact noise on the integers: which candidates stand or go on is told, and the words of those that
 * go on, whose second comparison takes times that depend on them. A law of every kind: integers, blocks of each width,
 * with one curvature, many, and others to the left. */
static void bells(const fs_backend *backend)
{
    static const unsigned widths[] = {0, 2, 4, 7, 17, 21};
    fs_bell_undecided undecided[8];
    for (size_t i = 0; i < 2 * sizeof widths / sizeof widths[0]; i++)
        for (int kind = 0; kind < 3; kind++) {
            fs_bell bell = draw_bell(widths[i / 2], i % 4 < 2 ? FS_BELL_POISSON : FS_BELL_SKELLAM, (int)i % 2);
            bell.curved = kind > 0 && widths[i / 2] <= FS_BELL_SHOWN_BITS;
            bell.skewed = kind > 1 && bell.curved;
            make_secret(seeds, sizeof seeds);
            fs_bells32(backend, &bell, (int32_t *)out, LENGTH, seeds, 1, NULL, 0, 0, undecided, 8);
            fs_bells64(backend, &bell, (int64_t *)out, LENGTH, seeds, 2, NULL, 0, 1, undecided, 8);
        }
}

/* Whether a residue is too large is told, and so are the bits behind the last, of which there are none here.
 * */
static void packing(const fs_backend *backend)
{
    for (unsigned bits = 1; bits <= 64; bits++) {
        make_secret(out, sizeof out);
        if (bits <= 16)
            fs_pack16(bytes, (const uint16_t *)out, 1000, bits);
        if (bits <= 32)
            fs_pack32(bytes, (const uint32_t *)out, 1000, bits);
        fs_pack64(bytes, out, 1000, bits);
        make_secret(bytes, sizeof bytes);
        fs_unpack64(backend, out, bytes, 1000, bits);
        fs_add_packed64(backend, out, bytes, 1000, bits);
        if (bits <= 32) {
            fs_unpack32(backend, (uint32_t *)out, bytes, 1000, bits);
            fs_add_packed32(backend, (uint32_t *)out, bytes, 1000, bits);
        }
    }
}

/* Values, levels, residues and norms are secret; lengths, grids and the key of a rotation are not. */
static void grids(const fs_backend *backend)
{
    static double reals[LENGTH];
    static const uint8_t public_key[32];
    uint64_t halves[2];
    for (size_t length = 0; length <= LENGTH; length += 500)
        for (int lane = 16; lane <= 64; lane *= 2)
            for (int exponent = 10; exponent <= 40; exponent += 30) {
                double step = 1.0 / (double)(UINT64_C(1) << exponent);
                make_secret(seeds, sizeof seeds);
                memset(reals, 0, sizeof reals);
                make_secret(reals, sizeof reals);
                fs_quantize32(backend, lane, out, (const float *)reals, length, step, 1.0, 0xffff, seeds);
                fs_quantize64(backend, lane, out, reals, length, step, 1.0, 0xffff, seeds);
                fs_dequantize32(backend, lane, (float *)reals, out, length, 12, step, 1000);
                fs_dequantize64(backend, lane, reals, out, length, 12, step, 1000);
            }
    make_secret(reals, sizeof reals);
    fs_truncate32((int32_t *)out, (const float *)reals, LENGTH, 0.5, 1000.0);
    fs_squared_norm(backend, halves, (const int32_t *)out, LENGTH);
    fs_sum_of_squares(backend, (const float *)reals, LENGTH);
    make_secret(reals, sizeof reals);
    fs_weighted_sum32(backend, (float *)out, (const float *)reals, reals, 7, 100, 0);
    fs_weighted_sum64(backend, (double *)out, (const float *)reals, reals, 7, 100, 1);
    fs_sums_of_squares(backend, (double *)out, (const float *)reals, 7, 100);
    static double panels[(FS_TALL + 70) * FS_TILE + FS_PANELS];
    const float *side = (const float *)reals;
    for (size_t positions = 1; positions <= 70; positions += 69) {
        fs_product product = {side, side, reals, 50 / positions, 35, 70, positions, 35, 40};
        fs_products32(backend, (float *)out, &product, 0, panels);
        fs_products64(backend, (double *)out, &product, 1, panels);
    }
    fs_release32_32(backend, (float *)out, (const float *)reals, (const int64_t *)reals, LENGTH / 2, 0.5, 0.3);
    fs_release64_32(backend, (float *)out, reals, (const int64_t *)reals, LENGTH / 2, 0.5, 0.3);
    fs_release64_64(backend, (double *)out, reals, (const int64_t *)reals, LENGTH / 2, 0.5, 0.3);
    fs_add_noise32_32((uint32_t *)out, (const int32_t *)out, (const int32_t *)reals, LENGTH, 0xffff);
    for (size_t block = 1; block <= 2048; block *= 2)
        for (int back = 0; back < 2; back++)
            fs_rotate(backend, (float *)reals, 2048, block, 1.5, public_key, back);
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
    sharing();
    const fs_backend *backend;
    for (size_t i = 0; (backend = fs_backend_at(i)); i++)
        if (fs_backend_runs(backend)) {
            packing(backend);
            sums(backend);
            keystreams(backend);
            grids(backend);
            noise(backend);
            bells(backend);
            printf("covered %s\n", fs_backend_name(backend));
        }
    return 0;
}
