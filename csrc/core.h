/* fedsec core: what every C file of the package sees.
 *
 * Rules of the house: C11, no malloc, no stdio, no mutable globals, no calls to the operating system.
 * Randomness comes in as key bytes. Secrets on the stack are wiped before a function returns. */
#ifndef FEDSEC_CORE_H
#define FEDSEC_CORE_H

#include <stddef.h>
#include <stdint.h>

#include "core.cdef"

/* A backend is a value: one const table of kernels for an instruction set, all giving the same bytes. */
struct fs_backend {
    const char *name;
    /* Writes n_blocks ChaCha20 blocks (64 bytes each), block counters counter, counter + 1, ... */
    void (*chacha20_blocks)(uint8_t *out, size_t n_blocks, const uint8_t key[32], const uint8_t nonce[12],
                            uint32_t counter);
};

static inline uint32_t fs_load32_le(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline void fs_store32_le(uint8_t *p, uint32_t word)
{
    p[0] = (uint8_t)word;
    p[1] = (uint8_t)(word >> 8);
    p[2] = (uint8_t)(word >> 16);
    p[3] = (uint8_t)(word >> 24);
}

static inline uint64_t fs_load64_le(const uint8_t *p)
{
    return (uint64_t)fs_load32_le(p) | (uint64_t)fs_load32_le(p + 4) << 32;
}

#endif
