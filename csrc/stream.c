/* The generator of noise, and a key's stream of words for the samplers (core.h).
 *
 * AES-128 in counter mode under a key and a nonce that are drawn afresh for each call: the fastest generator where
 * there are AES instructions. Streams of one key differ in the nonce, so that no block is made twice; DOMAIN keeps
 * them from the mask (masked_sum.c) of a seed that is the same, should there ever be one. */
#include "core.h"

static const uint32_t DOMAIN = 0x73696f6e; /* "nois" */

void fs_generator_start(fs_generator *generator, const fs_backend *backend, const uint8_t *key)
{
    generator->backend = backend;
    backend->aes128_expand(&generator->aes, key);
}

void fs_generator_nonce(uint8_t nonce[12], const uint32_t stream[3])
{
    for (int w = 0; w < 3; w++)
        fs_store32_le(nonce + 4 * w, stream[w] ^ (w == 2 ? DOMAIN : 0));
}

void fs_generator_fill(const fs_generator *generator, void *out, size_t n_bytes, const uint32_t stream[3],
                       uint32_t block)
{
    uint8_t nonce[12];
    fs_generator_nonce(nonce, stream);
    generator->backend->aes128_blocks(out, n_bytes / 16, &generator->aes, nonce, block);
}

void fs_noise_keystream(const fs_backend *backend, uint8_t *out, size_t n_blocks, const uint8_t *key,
                        const uint32_t *stream, uint32_t block)
{
    fs_generator generator;
    fs_generator_start(&generator, backend, key);
    fs_generator_fill(&generator, out, 16 * n_blocks, stream, block);
    fs_wipe(&generator, sizeof generator);
}

void fs_stream_start(fs_stream *stream, const fs_backend *backend, const uint8_t *key)
{
    fs_generator_start(&stream->generator, backend, key);
    stream->next_block = 0;
    stream->position = FS_STREAM_WORDS;
}

void fs_stream_refill(fs_stream *stream)
{
    /* The buffer's blocks divide 2^32, so the counter never wraps within one call of the backend. */
    uint32_t numbers[3] = {(uint32_t)(stream->next_block >> 32), 0, 0};
    fs_generator_fill(&stream->generator, stream->buffer, sizeof stream->buffer, numbers,
                      (uint32_t)stream->next_block);
    stream->next_block += FS_STREAM_BLOCKS;
    stream->position = 0;
}
