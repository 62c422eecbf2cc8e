/* The kernels in portable C, for the table of backends. */
#ifndef FEDSEC_GENERIC_H
#define FEDSEC_GENERIC_H

#include "vector.h"

void fs_generic_chacha20_blocks(uint8_t *out, size_t n_blocks, const uint8_t key[32], const uint8_t nonce[12],
                                uint32_t counter);

FS_DECLARE_NORMAL(fs_generic);
FS_DECLARE_BELL(fs_generic);
FS_DECLARE_NOISE(fs_generic);
FS_DECLARE_GRID(fs_generic);
FS_DECLARE_STEP(fs_generic);
FS_DECLARE_SUMS(fs_generic_chacha20);
FS_DECLARE_SUMS(fs_generic_aes128);
FS_DECLARE_SUMS(fs_generic_aes256);

#endif
