/* What the kernels of masked sums share.
 *
 * They work on whole chunks of the keystream, of a size that each chooses. The first and the last chunk of a
 * sum may stick out of it: those are worked on in a buffer. */
#ifndef FEDSEC_MASKED_SUM_H
#define FEDSEC_MASKED_SUM_H

#include "core.h"

typedef struct {
    uint64_t index;  /* within the keystream */
    uint8_t *at;     /* its bytes: in place, or the buffer */
    uint8_t *inside; /* where its part of the sum stands in out */
    size_t skipped;  /* bytes of the chunk before that part */
    size_t length;   /* bytes of that part */
} fs_chunk;

static inline uint64_t fs_chunk_count(const fs_sum *sum, size_t size)
{
    return sum->length_bytes ? (sum->begin % size + sum->length_bytes - 1) / size + 1 : 0;
}

/* The i-th chunk that holds some of the sum. buffer: `size` bytes. */
static inline fs_chunk fs_open_chunk(const fs_sum *sum, uint64_t i, size_t size, uint8_t *buffer)
{
    uint64_t first = sum->begin / size, begin = (first + i) * size, end = begin + size;
    if (begin < sum->begin)
        begin = sum->begin;
    if (end > sum->begin + sum->length_bytes)
        end = sum->begin + sum->length_bytes;
    uint8_t *inside = sum->out + (size_t)(begin - sum->begin);
    fs_chunk chunk = {first + i, inside, inside, (size_t)(begin % size), (size_t)(end - begin)};
    if (chunk.length < size) {
        chunk.at = buffer;
        memset(buffer, 0, size);
        memcpy(buffer + chunk.skipped, inside, chunk.length);
    }
    return chunk;
}

static inline void fs_close_chunk(const fs_chunk *chunk)
{
    if (chunk->at != chunk->inside)
        memcpy(chunk->inside, chunk->at + chunk->skipped, chunk->length);
}

/* One kernel a lane: prototypes, and the row of fs_backend.masked_sum. */
#define FS_DECLARE_SUMS(NAME)                \
    void NAME##_lane16(const fs_sum *sum);   \
    void NAME##_lane32(const fs_sum *sum);   \
    void NAME##_lane64(const fs_sum *sum)
#define FS_SUMS(NAME) {NAME##_lane16, NAME##_lane32, NAME##_lane64}

/* The mask of one lane, repeated through 64 bits. */
static inline uint64_t fs_repeat(uint64_t word, int lane)
{
    return word * (lane == FS_LANE16 ? 0x0001000100010001 : lane == FS_LANE32 ? 0x0000000100000001 : 1);
}

/* Key schedules are made for as many seeds at a time as leave most of the first-level cache to everything
 * else. */
enum { FS_SCHEDULE_BYTES = 20 * 1024 };

static inline size_t fs_seeds_at_a_time(size_t n_seeds, size_t most)
{
    size_t groups = n_seeds ? (n_seeds - 1) / most + 1 : 1;
    return (n_seeds + groups - 1) / groups;
}

#endif
