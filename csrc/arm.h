/* The kernels for 64-bit Arm, for the table of backends. Files of an instruction set compile to nothing
 * elsewhere. */
#ifndef FEDSEC_ARM_H
#define FEDSEC_ARM_H

#if (defined(__aarch64__) && defined(__AARCH64EL__)) || defined(_M_ARM64)
#define FS_ARM64

#include <arm_neon.h>

#include "vector.h"

/* Old versions of clang have the AES intrinsics only where all code may use them. */
#if !defined(__clang__) || __clang_major__ >= 16 || defined(__ARM_FEATURE_AES) || defined(__ARM_FEATURE_CRYPTO)
#define FS_ARM64_AES
#endif

int fs_runs_neon_aes(void);

FS_DECLARE_NOISE(fs_neon);
FS_DECLARE_SUMS(fs_neon_aes128);
FS_DECLARE_SUMS(fs_neon_aes256);
FS_DECLARE_SUMS(fs_neon_chacha20);

void fs_neon_rounds(uint8_t *out, size_t n_bytes, int rounds);
void fs_neon_chacha20_blocks(uint8_t *out, size_t n_blocks, const uint8_t key[32], const uint8_t nonce[12],
                             uint32_t counter);

#endif
#endif
