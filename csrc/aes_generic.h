/* Bitsliced AES for the portable masked sums (aes_generic.c). */
#ifndef FEDSEC_AES_GENERIC_H
#define FEDSEC_AES_GENERIC_H

#include "core.h"

enum { FS_SLICED_BLOCKS = 16 }; /* blocks that are encrypted together, and keys that are expanded together */

/* key_words: 4 for AES-128, whose nonce follows in the seed, 8 for AES-256. n is at most FS_SLICED_BLOCKS. */
void fs_aes_generic_expand(fs_aes_sliced *keys, const uint8_t *seeds, size_t n, int key_words);
void fs_aes_generic_keystream(uint8_t *out, const fs_aes_sliced *key, const uint32_t nonce[3], int rounds,
                              uint32_t block);

#endif
