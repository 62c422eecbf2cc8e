/* fedsec core: what every C file of the package sees.
 *
 * Rules of the house: C11, no malloc, no stdio, no mutable globals, no calls to the operating system.
 * Randomness comes in as key bytes.
 *
 * Wiped before the function that the caller called returns: every array and structure on the stack that holds
 * cipher states, keystream, shares, or the state of a sampler; and after a masked sum the stack that its
 * kernel used, spilled registers included. Not wiped: registers, and single values in flight where other
 * compilers spill them, such as the numbers behind one noise variate (its candidate magnitude, the comparison
 * that accepted it, a Box-Muller radius) or the words of one field multiplication. */
#ifndef FEDSEC_CORE_H
#define FEDSEC_CORE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core.cdef"

/* A masked sum's work for one kernel: out[j] = (out[j] + sum_i signs[i] * word j under seed i) & mask, over
 * length_bytes at out, which begin at byte `begin` of the keystreams. signs are +1 or -1. */
typedef struct {
    uint8_t *out;
    size_t length_bytes;
    uint64_t begin;
    const uint8_t *seeds; /* 32 bytes each */
    const int8_t *signs;
    size_t n_seeds;
    uint64_t mask;
} fs_sum;

/* AES-128 with a nonce, the generator of noise, as a backend's kernels want it: round keys one after the other, the
 * nonce added to the first; or, bitsliced, in planes as each of four blocks sees them, the nonce apart. */
enum { FS_AES_ROUNDS_MOST = 14 };

typedef struct {
    uint64_t round[FS_AES_ROUNDS_MOST + 1][8];
    uint32_t nonce[3];
} fs_aes_sliced;

typedef union {
    uint8_t rounds[16 * 11];
    fs_aes_sliced sliced;
} fs_aes_key;

enum { FS_NORMAL_GROUP_BYTES = 4096 };

/* A group of values to be quantised has a word of 64 bits for every four. */
enum { FS_QUANTIZE_GROUP = 512, FS_QUANTIZE_WORDS = 128, FS_QUANTIZE_BLOCKS = 64 };

/* A grid of steps for the kernels of quantize.h: 1 / g, the largest quotient, and the largest value, as bits of a number in
 * double and in single precision. `small` where no quotient is above 2^19 - 1. Results are reduced by mask and stored in
 * lanes of 16, 32 or 64 bits. */
typedef struct {
    double reciprocal, top;
    uint64_t limit, mask;
    uint32_t single_limit;
    int lane, small;
} fs_grid;

typedef struct fs_generator fs_generator;

/* A chunk's work for the kernels of bell.c. */
typedef struct fs_bell_work fs_bell_work;

enum { FS_BELL_GROUP = 1024, FS_BELL_BLOCK = 32, FS_BELL_BLOCKS = FS_BELL_GROUP / FS_BELL_BLOCK };

enum { FS_LANE16, FS_LANE32, FS_LANE64, FS_LANES };

/* A backend is a value: one const table of kernels for an instruction set, all giving the same bytes. */
struct fs_backend {
    const char *name;
    int (*runs)(void); /* whether this CPU and operating system can */
    /* Writes n_blocks ChaCha20 blocks (64 bytes each), block counters counter, counter + 1, ... */
    void (*chacha20_blocks)(uint8_t *out, size_t n_blocks, const uint8_t key[32], const uint8_t nonce[12],
                            uint32_t counter);
    /* AES-128 in counter mode [SP 800-38A, sec. 6.5]: a seed's first 16 bytes are the key, the next 12 the nonce, to
     * which `nonce` is added; n_blocks blocks of 16 bytes, block counters counter, counter + 1, ... */
    void (*aes128_expand)(fs_aes_key *key, const uint8_t *seed);
    void (*aes128_blocks)(uint8_t *out, size_t n_blocks, const fs_aes_key *key, const uint8_t nonce[12],
                          uint32_t counter);
    void (*masked_sum[FS_PRGS][FS_LANES])(const fs_sum *sum);
    /* Variates from a group's candidates, from the block on that is the next: how many. They stop before a block that the
     * filter leaves open; up to FS_BELL_BLOCK elements behind the last variate may be overwritten (bell.c). */
    size_t (*bell32)(fs_bell_work *work, int32_t *out);
    size_t (*bell64)(fs_bell_work *work, int64_t *out);
    /* Groups of normal variates of mean 0, from block 2^32 i + j on, which is stream (i, 0, 0)'s j-th (normal.h). The
     * stream is long enough for them. */
    void (*normal32)(float *out, size_t n_groups, const fs_generator *generator, uint64_t block, float stddev);
    void (*normal64)(double *out, size_t n_groups, const fs_generator *generator, uint64_t block, double stddev);
    /* Levels of groups of values by stochastic rounding, into the grid's lanes, with the stream's words from the first
     * group's on (quantize.h); not 0 when a value is out of range. */
    uint64_t (*quantize32)(void *out, const float *values, size_t n_groups, const fs_generator *generator,
                           size_t first_group, const fs_grid *grid);
    uint64_t (*quantize64)(void *out, const double *values, size_t n_groups, const fs_generator *generator,
                           size_t first_group, const fs_grid *grid);
    /* And back: residues mod 2^bits in lanes stand for signed levels; not 0 when one is beyond bound. */
    uint64_t (*dequantize32)(float *out, const void *residues, size_t length, int lane, unsigned bits,
                             double step, int64_t bound);
    uint64_t (*dequantize64)(double *out, const void *residues, size_t length, int lane, unsigned bits,
                             double step, int64_t bound);
    /* Reads packed residues into lanes or adds them, from the first on, and tells how many: a multiple of 8. NULL where
     * packing.c reads them all. */
    size_t (*read_packed)(void *out, int lane, const uint8_t *packed, size_t length, unsigned bits, int add);
    double (*sum_of_squares)(const float *values, size_t length);
    void (*squared_norm)(uint64_t *low, uint64_t *high, const int32_t *levels, size_t length);
    /* The first levels of Walsh-Hadamard transforms, and the later ones (rotation.h). */
    void (*hadamard_parts)(float *x, size_t length, size_t part, const uint8_t *signs, float scale);
    void (*hadamard_levels)(float *x, size_t length, size_t half);
    /* A training step's passes over all parameters (step.h); the sign bit is set when a release refuses a value. */
    void (*weighted_sum32)(float *total, const float *values, const double *weights, size_t rows, size_t length,
                           int fresh);
    void (*weighted_sum64)(double *total, const float *values, const double *weights, size_t rows, size_t length,
                           int fresh);
    uint64_t (*release32_32)(float *out, const float *values, const int64_t *noise, size_t length,
                             double granularity, double scale);
    uint64_t (*release64_32)(float *out, const double *values, const int64_t *noise, size_t length,
                             double granularity, double scale);
    uint64_t (*release64_64)(double *out, const double *values, const int64_t *noise, size_t length,
                             double granularity, double scale);
    /* Sums of outer products (products.h), with scratch memory as in core.cdef. */
    void (*products32)(float *total, const fs_product *product, int fresh, double *scratch);
    void (*products64)(double *total, const fs_product *product, int fresh, double *scratch);
    /* For measurements: AES rounds on a register file's worth of blocks and nothing else, as many as a masked
     * sum needs for n_bytes of keystream. NULL without AES instructions. */
    void (*aes_rounds)(uint8_t *out, size_t n_bytes, int rounds);
};


/* Overwrites what functions that have returned left on the stack below the caller: FS_STACK_BYTES, which is
 * more than any kernel takes. */
enum { FS_STACK_BYTES = 32 * 1024 };
void fs_wipe_stack(void);

/* A number that comes from secrets and is told to the caller: tests of constant time mark it as no secret. */
#ifndef FS_TELL
#define FS_TELL(number) (number)
#endif

/* Little-endian loads and stores at any address. Where the machine's order is known to be the same they are
 * one instruction, which lets compilers turn loops over them into vectors. */
#if defined(_WIN32) || (defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
#define FS_LOAD_STORE(BITS)                                                    \
    static inline uint##BITS##_t fs_load##BITS##_le(const uint8_t *p)          \
    {                                                                          \
        uint##BITS##_t word;                                                   \
        memcpy(&word, p, sizeof word);                                         \
        return word;                                                           \
    }                                                                          \
    static inline void fs_store##BITS##_le(uint8_t *p, uint##BITS##_t word)    \
    {                                                                          \
        memcpy(p, &word, sizeof word);                                         \
    }
#else
#define FS_LOAD_STORE(BITS)                                                    \
    static inline uint##BITS##_t fs_load##BITS##_le(const uint8_t *p)          \
    {                                                                          \
        uint64_t word = 0;                                                     \
        for (int i = 0; i < BITS / 8; i++)                                     \
            word |= (uint64_t)p[i] << 8 * i;                                   \
        return (uint##BITS##_t)word;                                           \
    }                                                                          \
    static inline void fs_store##BITS##_le(uint8_t *p, uint##BITS##_t word)    \
    {                                                                          \
        for (int i = 0; i < BITS / 8; i++)                                     \
            p[i] = (uint8_t)(word >> 8 * i);                                   \
    }
#endif

FS_LOAD_STORE(16)
FS_LOAD_STORE(32)
FS_LOAD_STORE(64)

/* A word whose bytes in memory are little-endian: for arrays of words, which vectors read better than bytes.
 * */
static inline uint16_t fs_from_le16(uint16_t word)
{
    return fs_load16_le((const uint8_t *)&word);
}

static inline uint64_t fs_from_le64(uint64_t word)
{
    return fs_load64_le((const uint8_t *)&word);
}

/* The generator of noise under a key of 32 bytes: AES-128 in counter mode, whose nonce tells apart streams of one key
 * by three numbers. Bytes from block `block` (16 bytes each) of a stream on; n_bytes is a multiple of 16. */
struct fs_generator {
    const fs_backend *backend;
    fs_aes_key aes;
};

void fs_generator_start(fs_generator *generator, const fs_backend *backend, const uint8_t *key);
void fs_generator_nonce(uint8_t nonce[12], const uint32_t stream[3]);
void fs_generator_fill(const fs_generator *generator, void *out, size_t n_bytes, const uint32_t stream[3],
                       uint32_t block);

/* A group's candidates in words of the stream, in the stream's byte order: in blocks of FS_BELL_BLOCK, whose canonical
 * order has the even candidates first. `rest` is in canonical order already. Of the next block: which candidates stand,
 * which may, and whether the former is settled. */
struct fs_bell_work {
    uint16_t choices[FS_BELL_GROUP], uniforms[FS_BELL_GROUP], offsets[FS_BELL_GROUP];
    uint32_t rest[FS_BELL_GROUP];
    size_t block;
    uint32_t standing, possible;
    int settled;
    const fs_bell *bell;
    fs_generator generator;
    uint32_t chunk;
    int exact_only;
    size_t group, n_done;
    const uint32_t *refused;
    size_t n_refused;
    fs_bell_undecided *undecided;
    size_t room, n_undecided;
};

/* A key's stream of 64-bit words: blocks 0, 1, 2, ..., read as little-endian words in order. The stream's first
 * number carries the block index past 2^32, so that no call runs out of stream or repeats it. */
enum { FS_STREAM_WORDS = 512, FS_STREAM_BLOCKS = FS_STREAM_WORDS / 2 };

typedef struct {
    fs_generator generator;
    uint64_t next_block;
    size_t position; /* of the next unread word; FS_STREAM_WORDS when all are read */
    uint8_t buffer[8 * FS_STREAM_WORDS];
} fs_stream;

void fs_stream_start(fs_stream *stream, const fs_backend *backend, const uint8_t *key);
void fs_stream_refill(fs_stream *stream);

static inline uint64_t fs_stream_next(fs_stream *stream)
{
    if (stream->position == FS_STREAM_WORDS)
        fs_stream_refill(stream);
    return fs_load64_le(stream->buffer + 8 * stream->position++);
}

#endif
