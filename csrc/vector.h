/* What the files of all vector instruction sets share. */
#ifndef FEDSEC_VECTOR_H
#define FEDSEC_VECTOR_H

#include "masked_sum.h"

/* Each function names the instructions it may use, so that files need no flags of their own. MSVC needs no
 * names. */
#if defined(__GNUC__) || defined(__clang__)
#define FS_TARGET(NAMES) __attribute__((target(NAMES)))
#define FS_INLINE static inline __attribute__((always_inline))
#define FS_UNROLL _Pragma("GCC unroll 16")
#else
#define FS_TARGET(NAMES)
#define FS_INLINE static __forceinline
#define FS_UNROLL
#endif

/* Asks for the lines of n_bytes at p, which are read or written soon: a vector is in no cache, or in a far one. p may be
 * behind an array's end. */
FS_INLINE void fs_will_read(const void *p, size_t n_bytes)
{
#if defined(__GNUC__) || defined(__clang__)
    for (size_t i = 0; i < n_bytes; i += 64)
        __builtin_prefetch((const uint8_t *)p + i, 0);
#else
    (void)p, (void)n_bytes;
#endif
}

FS_INLINE void fs_will_write(void *p, size_t n_bytes)
{
#if defined(__GNUC__) || defined(__clang__)
    for (size_t i = 0; i < n_bytes; i += 64)
        __builtin_prefetch((uint8_t *)p + i, 1);
#else
    (void)p, (void)n_bytes;
#endif
}

/* The kernels of bell.c, for the table of backends. */
#define FS_DECLARE_BELL(PREFIX) \
    size_t PREFIX##_bell32(fs_bell_work *work, int32_t *out); \
    size_t PREFIX##_bell64(fs_bell_work *work, int64_t *out)
#define FS_BELL(PREFIX) .bell32 = PREFIX##_bell32, .bell64 = PREFIX##_bell64

/* The kernels of normal.h, for the table of backends. */
#define FS_DECLARE_NORMAL(PREFIX) \
    void PREFIX##_normal32(float *out, size_t n_groups, const fs_generator *generator, uint64_t block, float stddev); \
    void PREFIX##_normal64(double *out, size_t n_groups, const fs_generator *generator, uint64_t block, double stddev)
#define FS_NORMAL(PREFIX) .normal32 = PREFIX##_normal32, .normal64 = PREFIX##_normal64

/* The generator of noise, for the table of backends. */
#define FS_DECLARE_NOISE(PREFIX) \
    void PREFIX##_aes128_expand(fs_aes_key *key, const uint8_t *seed); \
    void PREFIX##_aes128_blocks(uint8_t *out, size_t n_blocks, const fs_aes_key *key, \
                                const uint8_t nonce[12], uint32_t counter)
#define FS_NOISE(PREFIX) .aes128_expand = PREFIX##_aes128_expand, .aes128_blocks = PREFIX##_aes128_blocks

/* The kernels of quantize.h and those of rotations, for the table of backends. */
#define FS_DECLARE_GRID(PREFIX)                                                                                  \
    uint64_t PREFIX##_quantize32(void *out, const float *x, size_t n_groups, const fs_generator *generator,      \
                                 size_t first_group, const fs_grid *grid);                                       \
    uint64_t PREFIX##_quantize64(void *out, const double *x, size_t n_groups, const fs_generator *generator,     \
                                 size_t first_group, const fs_grid *grid);                                       \
    uint64_t PREFIX##_dequantize32(float *out, const void *residues, size_t length, int lane, unsigned bits,     \
                                   double step, int64_t bound);                                                  \
    uint64_t PREFIX##_dequantize64(double *out, const void *residues, size_t length, int lane, unsigned bits,    \
                                   double step, int64_t bound);                                                  \
    double PREFIX##_sum_of_squares(const float *values, size_t length);                                          \
    void PREFIX##_squared_norm(uint64_t *low, uint64_t *high, const int32_t *levels, size_t length);             \
    void PREFIX##_hadamard_parts(float *x, size_t length, size_t part, const uint8_t *signs, float scale);       \
    void PREFIX##_hadamard_levels(float *x, size_t length, size_t half)
#define FS_GRID(PREFIX)                                                                                          \
    .quantize32 = PREFIX##_quantize32, .quantize64 = PREFIX##_quantize64, .dequantize32 = PREFIX##_dequantize32, \
    .dequantize64 = PREFIX##_dequantize64, .sum_of_squares = PREFIX##_sum_of_squares,                            \
    .squared_norm = PREFIX##_squared_norm, .hadamard_parts = PREFIX##_hadamard_parts,                            \
    .hadamard_levels = PREFIX##_hadamard_levels

/* The kernels of step.h and products.h, for the table of backends. */
#define FS_DECLARE_STEP(PREFIX)                                                                                  \
    void PREFIX##_weighted_sum32(float *total, const float *values, const double *weights, size_t rows,          \
                                 size_t length, int fresh);                                                      \
    void PREFIX##_weighted_sum64(double *total, const float *values, const double *weights, size_t rows,         \
                                 size_t length, int fresh);                                                      \
    void PREFIX##_products32(float *total, const fs_product *product, int fresh, double *scratch);                \
    void PREFIX##_products64(double *total, const fs_product *product, int fresh, double *scratch);               \
    uint64_t PREFIX##_release32_32(float *out, const float *values, const int64_t *noise, size_t length,         \
                                   double granularity, double scale);                                            \
    uint64_t PREFIX##_release64_32(float *out, const double *values, const int64_t *noise, size_t length,        \
                                   double granularity, double scale);                                            \
    uint64_t PREFIX##_release64_64(double *out, const double *values, const int64_t *noise, size_t length,       \
                                   double granularity, double scale)
#define FS_STEP(PREFIX)                                                                                          \
    .weighted_sum32 = PREFIX##_weighted_sum32, .weighted_sum64 = PREFIX##_weighted_sum64,                        \
    .products32 = PREFIX##_products32, .products64 = PREFIX##_products64,                                        \
    .release32_32 = PREFIX##_release32_32,                                      \
    .release64_32 = PREFIX##_release64_32, .release64_64 = PREFIX##_release64_64

enum { FS_AES128_ROUNDS = 10, FS_AES256_ROUNDS = 14 };

#endif
