/* The kernels for x86-64, for the table of backends. Files of an instruction set compile to nothing
 * elsewhere. */
#ifndef FEDSEC_X86_H
#define FEDSEC_X86_H

#if defined(__x86_64__) || defined(_M_X64)
#define FS_X86_64

#include <immintrin.h>

#include "vector.h"

/* clang's memory sanitizer takes some instructions for branches on what they read. Files that use them have others for it. */
#ifdef __has_feature
#if __has_feature(memory_sanitizer)
#define FS_MEMORY_SANITIZER
#endif
#endif

int fs_runs_aesni(void);
int fs_runs_avx2(void);
int fs_runs_avx2_vaes(void);
int fs_runs_avx512(void);

size_t fs_avx2_read_packed(void *out, int lane, const uint8_t *packed, size_t length, unsigned bits, int add);
FS_DECLARE_NORMAL(fs_avx2);
FS_DECLARE_NORMAL(fs_avx512);
FS_DECLARE_BELL(fs_avx2);
FS_DECLARE_BELL(fs_avx512);
FS_DECLARE_NOISE(fs_aesni);
FS_DECLARE_NOISE(fs_vaes256);
FS_DECLARE_NOISE(fs_vaes512);
FS_DECLARE_GRID(fs_avx2);
FS_DECLARE_GRID(fs_avx512);
FS_DECLARE_STEP(fs_avx2);
FS_DECLARE_STEP(fs_avx512);
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
