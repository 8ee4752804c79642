/* The audio encoder: log-mel frames to embeddings in the thinker's width, 13 a second.
 *
 * Read from an mmproj GGUF (architecture "clip", projector "qwen3a"): sizes from clip.audio.*, weights from a.* and mm.a.*;
 * see docs/formats.md. Files of llama.cpp's converter lack the window lengths and the mel analysis; the values of the release are
 * taken then. Formulas: transformers, models/qwen3_omni_moe, Qwen3OmniMoeAudioEncoder. */
#ifndef OMNI_MODEL_AUDIO_ENCODER_H
#define OMNI_MODEL_AUDIO_ENCODER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "gguf/gguf.h"
#include "media/mel.h"
#include "tensor/ops.h"

typedef struct audio_encoder audio_encoder;

/* g and b must outlive the encoder: weights are used where the file is mapped. A file without an audio encoder is an
 * OMNI_ERR_UNSUPPORTED. */
omni_status audio_encoder_open(backend *b, gguf *g, audio_encoder **out, omni_error *err);
void audio_encoder_close(audio_encoder *e);

int audio_encoder_width(const audio_encoder *e);
/* The analysis that the encoder was trained on. */
const mel_config *audio_encoder_mel(const audio_encoder *e);
/* All lengths of the longest sound of a call from this one on (mel frames) give the same embeddings: a chunk. */
int64_t audio_encoder_longest(const audio_encoder *e);
/* Embeddings that a clip of so many mel frames gives (the reference's _get_feat_extract_output_lengths). */
int64_t audio_encoder_rows(const audio_encoder *e, int64_t frames);

/* Begins with sounds of one call of the reference, which pads shorter chunks to the longest chunk of the call, and the padding reaches their values.
 * longest: mel frames of the longest sound of that call, which need not be among these; 0, or less than one of these has: it is. A sound's bits
 * depend on those before it, within rounding: for the same bits always, give one at a time. embeds[sum of audio_encoder_rows(clips[i].frames), width]
 * is the backend's memory, clips in order. Scratch does not grow with the length of the sounds; it is allocated at the first run and kept. Not for
 * two threads at once. */
omni_status audio_encoder_begin(audio_encoder *e, const mel_clip *clips, int n, int64_t longest, float *embeds, omni_error *err);
/* The next unit of what was begun, which takes about as long as the MLP of one layer for so many rows (and not less than one chunk's convolutions);
 * false: nothing is left. With a batch-invariant backend the embeddings are the same bits whatever the units. What was given to audio_encoder_begin
 * must stay until the last one; beginning anew gives up what is not complete. */
bool audio_encoder_step(audio_encoder *e, int64_t rows);
/* All of it in one call. */
omni_status audio_encoder_run(audio_encoder *e, const mel_clip *clips, int n, int64_t longest, float *embeds, omni_error *err);

#endif
