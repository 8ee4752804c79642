/* Codes to samples on a thread of its own. code2wav computes, the talker waits for memory: side by side both cores are busy. */
#ifndef OMNI_ENGINE_CHUNK_DECODER_H
#define OMNI_ENGINE_CHUNK_DECODER_H

#include "model/code2wav.h"

typedef struct chunk_decoder chunk_decoder;

/* Decodes on beside, a backend with the memory and weights of the model's (backend.create_beside), which it takes over, also when it fails. Chunks of
 * at most max_frames frames, of which at most runner_frames are computed at once. */
omni_status chunk_decoder_create(const code2wav *m, backend *beside, int64_t max_frames, int64_t runner_frames, chunk_decoder **out, omni_error *err);
void chunk_decoder_destroy(chunk_decoder *d); /* NULL is fine; finishes the chunk under way */

/* Takes a copy of codes[frames, groups], the next frames of the stream, which is the decoder's until the chunk is taken. The chunk before must have
 * been taken. */
void chunk_decoder_start(chunk_decoder *d, code2wav_stream *stream, const int32_t *codes, int64_t frames);
/* A chunk is under way or has not been taken. */
bool chunk_decoder_busy(const chunk_decoder *d);

typedef struct chunk {
    const int32_t *codes; /* valid until the next start */
    const float *samples;
    int64_t frames, count;
    double seconds;
} chunk;

/* The chunk that was started; false when wait is not wanted and it is not ready, or there is none. *status: what became of it. */
bool chunk_decoder_take(chunk_decoder *d, bool wait, chunk *out, omni_status *status, omni_error *err);

#endif
