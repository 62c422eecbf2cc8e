/* The list of backends, and the services that no instruction set changes. */
#include "arm.h"
#include "generic.h"
#include "x86.h"

static int always(void)
{
    return 1;
}

static const fs_backend generic = {
    .name = "generic",
    .runs = always,
    .chacha20_blocks = fs_generic_chacha20_blocks,
    FS_NOISE(fs_generic),
    FS_GRID(fs_generic),
    FS_STEP(fs_generic),
    FS_NORMAL(fs_generic),
    FS_BELL(fs_generic),
    .masked_sum = {FS_SUMS(fs_generic_chacha20), FS_SUMS(fs_generic_aes128), FS_SUMS(fs_generic_aes256)},
};

#ifdef FS_X86_64

static const fs_backend aesni = {
    .name = "aesni",
    .runs = fs_runs_aesni,
    .chacha20_blocks = fs_generic_chacha20_blocks,
    FS_NOISE(fs_aesni),
    FS_GRID(fs_generic),
    FS_STEP(fs_generic),
    FS_NORMAL(fs_generic),
    FS_BELL(fs_generic),
    .masked_sum = {FS_SUMS(fs_generic_chacha20), FS_SUMS(fs_aesni_aes128), FS_SUMS(fs_aesni_aes256)},
    .aes_rounds = fs_aesni_rounds,
};

static const fs_backend avx2 = {
    .name = "avx2",
    .runs = fs_runs_avx2,
    .chacha20_blocks = fs_avx2_chacha20_blocks,
    FS_NOISE(fs_aesni),
    FS_GRID(fs_avx2),
    FS_STEP(fs_avx2),
    FS_NORMAL(fs_avx2),
    FS_BELL(fs_avx2),
    .read_packed = fs_avx2_read_packed,
    .masked_sum = {FS_SUMS(fs_avx2_chacha20), FS_SUMS(fs_aesni_aes128), FS_SUMS(fs_aesni_aes256)},
    .aes_rounds = fs_aesni_rounds,
};

static const fs_backend avx2_vaes = {
    .name = "avx2-vaes",
    .runs = fs_runs_avx2_vaes,
    .chacha20_blocks = fs_avx2_chacha20_blocks,
    FS_NOISE(fs_vaes256),
    FS_GRID(fs_avx2),
    FS_STEP(fs_avx2),
    FS_NORMAL(fs_avx2),
    FS_BELL(fs_avx2),
    .read_packed = fs_avx2_read_packed,
    .masked_sum = {FS_SUMS(fs_avx2_chacha20), FS_SUMS(fs_vaes256_aes128), FS_SUMS(fs_vaes256_aes256)},
    .aes_rounds = fs_vaes256_rounds,
};

static const fs_backend avx512 = {
    .name = "avx512-vaes",
    .runs = fs_runs_avx512,
    .chacha20_blocks = fs_avx512_chacha20_blocks,
    FS_NOISE(fs_vaes512),
    FS_GRID(fs_avx512),
    FS_STEP(fs_avx512),
    FS_NORMAL(fs_avx512),
    FS_BELL(fs_avx512),
    .read_packed = fs_avx2_read_packed,
    .masked_sum = {FS_SUMS(fs_avx512_chacha20), FS_SUMS(fs_vaes512_aes128), FS_SUMS(fs_vaes512_aes256)},
    .aes_rounds = fs_vaes512_rounds,
};

#endif

#ifdef FS_ARM64

static const fs_backend neon = {
    .name = "neon",
    .runs = always,
    .chacha20_blocks = fs_neon_chacha20_blocks,
    FS_NOISE(fs_generic),
    FS_GRID(fs_generic),
    FS_STEP(fs_generic),
    FS_NORMAL(fs_generic),
    FS_BELL(fs_generic),
    .masked_sum = {FS_SUMS(fs_neon_chacha20), FS_SUMS(fs_generic_aes128), FS_SUMS(fs_generic_aes256)},
};

#endif
#ifdef FS_ARM64_AES

static const fs_backend neon_aes = {
    .name = "neon-aes",
    .runs = fs_runs_neon_aes,
    .chacha20_blocks = fs_neon_chacha20_blocks,
    FS_NOISE(fs_neon),
    FS_GRID(fs_generic),
    FS_STEP(fs_generic),
    FS_NORMAL(fs_generic),
    FS_BELL(fs_generic),
    .masked_sum = {FS_SUMS(fs_neon_chacha20), FS_SUMS(fs_neon_aes128), FS_SUMS(fs_neon_aes256)},
    .aes_rounds = fs_neon_rounds,
};

#endif

/* Best first. */
static const fs_backend *const backends[] = {
#ifdef FS_ARM64_AES
    &neon_aes,
#endif
#ifdef FS_ARM64
    &neon,
#endif
#ifdef FS_X86_64
    &avx512, &avx2_vaes, &avx2, &aesni,
#endif
    &generic,
};

const fs_backend *fs_backend_at(size_t index)
{
    return index < sizeof backends / sizeof backends[0] ? backends[index] : NULL;
}

const char *fs_backend_name(const fs_backend *backend)
{
    return backend->name;
}

int fs_backend_runs(const fs_backend *backend)
{
    return backend->runs();
}

/* Called through a volatile pointer, so that no compiler can tell that the stores are dead. */
static void *(*const volatile wipe_with)(void *, int, size_t) = memset;

void fs_wipe(void *secret, size_t length)
{
    wipe_with(secret, 0, length);
}

void fs_wipe_stack(void)
{
    uint8_t left[FS_STACK_BYTES];
    fs_wipe(left, sizeof left);
}
