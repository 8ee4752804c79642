/* Code2wav: frames of codes to a waveform, as a stream.
 *
 * The network (reference: Qwen3OmniMoeCode2Wav): mean of the groups' code embeddings; a transformer with a sliding causal
 * window; upsampling blocks (transposed convolution, ConvNeXt); a causal convolution; decoder blocks (SnakeBeta, transposed
 * convolution, residual units with dilated convolutions); SnakeBeta; a convolution to one channel; clamp to [-1, 1].
 *
 * Everything in it is causal but the transposed convolutions, whose trimmed left edge makes a sample need the frame after it.
 * With the attention window, the convolutions' tails and the transposed convolutions' overlap kept from chunk to chunk,
 * chunks of any size join to what one pass over all frames gives. A push returns the samples that are final; what the
 * reference trims at the right edge (code2wav_trimmed samples) is never due, so the end of a stream needs no flush. */
#ifndef OMNI_MODEL_CODE2WAV_H
#define OMNI_MODEL_CODE2WAV_H

#include <stddef.h>
#include <stdint.h>

#include "gguf/gguf.h"
#include "tensor/ops.h"

typedef struct code2wav code2wav;
/* Working memory for one chunk at a time. Several runners may work on different streams at once, each on its own backend and thread. */
typedef struct code2wav_runner code2wav_runner;
/* What one stream keeps between its chunks. Its memory does not grow with the length of the stream. */
typedef struct code2wav_stream code2wav_stream;

/* The weights, from a talker file. The file and the backend must outlive the model. */
omni_status code2wav_open(backend *b, gguf *g, code2wav **out, omni_error *err);
void code2wav_close(code2wav *m); /* NULL is fine */

int code2wav_groups(const code2wav *m);      /* codes a frame */
int code2wav_codebook(const code2wav *m);    /* codes lie in [0, this) */
int code2wav_sample_rate(const code2wav *m); /* Hz */
int64_t code2wav_upsample(const code2wav *m);
/* Samples by which the waveform is shorter than frames * upsample. */
int64_t code2wav_trimmed(const code2wav *m);
/* Length of the waveform of so many frames, in samples. */
int64_t code2wav_length(const code2wav *m, int64_t frames);

/* max_frames: the largest chunk that is computed at once (longer pushes are cut); memory for activations grows with it. b computes: NULL is
 * the model's own backend; another must take the memory and the weights of that one, as two CPU backends do. */
omni_status code2wav_runner_create(const code2wav *m, backend *b, int64_t max_frames, code2wav_runner **out, omni_error *err);
void code2wav_runner_destroy(code2wav_runner *r); /* NULL is fine */
/* max_frames: the largest chunk that any runner will compute of it at once (longer pushes are cut). */
omni_status code2wav_stream_create(const code2wav *m, int64_t max_frames, code2wav_stream **out, omni_error *err);
void code2wav_stream_reset(code2wav_stream *s);   /* to its beginning */
void code2wav_stream_destroy(code2wav_stream *s); /* NULL is fine */
/* Bytes of backend memory that each takes. */
size_t code2wav_runner_memory(const code2wav *m, int64_t max_frames);
size_t code2wav_stream_memory(const code2wav *m, int64_t max_frames);

/* Decodes codes[frames, groups] (host memory) and writes the samples that became final, at most frames * upsample, to
 * samples (host memory); *n is how many. A code outside the codebook is an error that leaves the stream as it was. */
omni_status code2wav_push(code2wav_runner *r, code2wav_stream *s, const int32_t *codes, int64_t frames, float *samples, int64_t *n, omni_error *err);

#endif
