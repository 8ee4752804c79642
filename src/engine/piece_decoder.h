/* Codes to samples on a thread of its own. code2wav computes, the talker waits for memory: side by side both cores are busy. */
#ifndef OMNI_ENGINE_PIECE_DECODER_H
#define OMNI_ENGINE_PIECE_DECODER_H

#include "model/code2wav.h"

typedef struct piece_decoder piece_decoder;

/* Decodes on beside, a backend with the memory and weights of the model's (backend.create_beside), which it takes over, also when it fails. Pieces of
 * at most max_frames frames, of which at most runner_frames are computed at once. */
omni_status piece_decoder_create(const code2wav *m, backend *beside, int64_t max_frames, int64_t runner_frames, piece_decoder **out, omni_error *err);
void piece_decoder_destroy(piece_decoder *d); /* NULL is fine; finishes the piece under way */

/* Takes a copy of codes[frames, groups], the next frames of the stream, which is the decoder's until the piece is taken. The piece before must have
 * been taken. */
void piece_decoder_start(piece_decoder *d, code2wav_stream *stream, const int32_t *codes, int64_t frames);
/* A piece is under way or has not been taken. */
bool piece_decoder_busy(const piece_decoder *d);

typedef struct piece {
    const int32_t *codes; /* valid until the next start */
    const float *samples;
    int64_t frames, count;
    double seconds;
} piece;

/* The piece that was started; false when wait is not wanted and it is not ready, or there is none. *status: what became of it. */
bool piece_decoder_take(piece_decoder *d, bool wait, piece *out, omni_status *status, omni_error *err);

#endif
