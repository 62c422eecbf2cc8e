/* A key's stream of words, for the samplers (core.h, fs_stream). */
#include "core.h"

void fs_stream_start(fs_stream *stream, const fs_backend *backend, const uint8_t *key)
{
    stream->backend = backend;
    stream->key = key;
    stream->next_block = 0;
    stream->position = FS_STREAM_WORDS;
}

void fs_stream_refill(fs_stream *stream)
{
    /* The buffer's blocks divide 2^32, so the counter never wraps within one call of the backend. */
    uint8_t nonce[12] = {0};
    fs_store32_le(nonce, (uint32_t)(stream->next_block >> 32));
    stream->backend->chacha20_blocks(stream->buffer, FS_STREAM_BLOCKS, stream->key, nonce,
                                     (uint32_t)stream->next_block);
    stream->next_block += FS_STREAM_BLOCKS;
    stream->position = 0;
}
