/* The kernels for x86-64, for the table of backends. Files of an instruction set compile to nothing
 * elsewhere. */
#ifndef FEDSEC_X86_H
#define FEDSEC_X86_H

#if defined(__x86_64__) || defined(_M_X64)
#define FS_X86_64

#include <immintrin.h>

#include "masked_sum.h"

/* Each function names the instructions it may use, so that files need no flags of their own. MSVC needs no
 * names. */
#if defined(__GNUC__) || defined(__clang__)
#define FS_TARGET(NAMES) __attribute__((target(NAMES)))
#define FS_INLINE static inline __attribute__((always_inline))
#else
#define FS_TARGET(NAMES)
#define FS_INLINE static __forceinline
#endif

/* AES keys as the masked sums want them: one after the other, each `rounds` + 1 round keys. The first holds
 * the nonce too, so that it turns a counter into a cipher's first state. The last is complemented for a sign
 * of -1, so that the cipher's output comes out complemented, which is its negative less one. */
enum {
    FS_AES128_ROUNDS = 10,
    FS_AES256_ROUNDS = 14,
    FS_AES128_GROUP = FS_SCHEDULE_BYTES / (16 * (FS_AES128_ROUNDS + 1)),
    FS_AES256_GROUP = FS_SCHEDULE_BYTES / (16 * (FS_AES256_ROUNDS + 1)),
};

void fs_aesni_expand(__m128i *keys, const uint8_t *seeds, const int8_t *signs, size_t n, int rounds);

int fs_runs_aesni(void);
int fs_runs_avx2(void);
int fs_runs_avx2_vaes(void);
int fs_runs_avx512(void);

FS_DECLARE_SUMS(fs_aesni_aes128);
FS_DECLARE_SUMS(fs_aesni_aes256);
FS_DECLARE_SUMS(fs_vaes256_aes128);
FS_DECLARE_SUMS(fs_vaes256_aes256);
FS_DECLARE_SUMS(fs_vaes512_aes128);
FS_DECLARE_SUMS(fs_vaes512_aes256);
FS_DECLARE_SUMS(fs_avx2_chacha20);
FS_DECLARE_SUMS(fs_avx512_chacha20);

void fs_aesni_rounds(uint8_t *out, size_t n_bytes, int rounds);
void fs_vaes256_rounds(uint8_t *out, size_t n_bytes, int rounds);
void fs_vaes512_rounds(uint8_t *out, size_t n_bytes, int rounds);

void fs_avx2_chacha20_blocks(uint8_t *out, size_t n_blocks, const uint8_t key[32], const uint8_t nonce[12],
                             uint32_t counter);
void fs_avx512_chacha20_blocks(uint8_t *out, size_t n_blocks, const uint8_t key[32], const uint8_t nonce[12],
                               uint32_t counter);

#endif
#endif
