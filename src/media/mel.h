/* Log-mel spectrograms as transformers' WhisperFeatureExtractor makes them for Qwen3-Omni (padding to the longest sound of the
 * call, no truncation): reflected edges, periodic Hann window, power spectrum, Slaney mel filters, log10 of at least 1e-10,
 * raised to the clip's largest value - 8, then (x + 4) / 4.
 *
 * Sounds of one call of the reference are padded with silence to the longest before the analysis, so a clip's frames depend a little on that:
 * a shorter clip fades into silence where a clip alone is reflected, and its last, partial hop counts as a frame. */
#ifndef OMNI_MEDIA_MEL_H
#define OMNI_MEDIA_MEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct mel_config {
    int rate;  /* samples a second: 16000 */
    int n_fft; /* samples a window: 400 */
    int hop;   /* samples from frame to frame: 160 */
    int bins;  /* mel filters from 0 to 8000 Hz, as the extractor fixes it: 128 */
} mel_config;

typedef struct mel mel;

/* Sizes outside what can be computed (n_fft 2 .. 8192, bins 1 .. 1024, hop 1 .. n_fft) are an OMNI_ERR_FORMAT. */
omni_status mel_create(const mel_config *config, mel **out, omni_error *err);
void mel_free(mel *m);

/* Samples of one sound. */
typedef struct mel_sound {
    const float *samples;
    int64_t count;
} mel_sound;

/* One sound's frames. Those from stored on, up to the longest clip's frames, all have the value rest in every bin. */
typedef struct mel_clip {
    float *values;  /* [stored, bins] */
    int64_t stored; /* >= frames */
    int64_t frames; /* that count: the sum of the reference's feature_attention_mask */
    float rest;
} mel_clip;

/* Samples that the longest sound of a call must have (reflection needs them): n_fft / 2 + 1. */
int64_t mel_shortest(const mel *m);
/* Frames that count of a sound of so many samples, in a call of the reference whose longest sound has longest. */
int64_t mel_frames(const mel *m, int64_t count, int64_t longest);
/* All lengths of the longest sound from this one on give a sound of so many samples the same frames. */
int64_t mel_longest(const mel *m, int64_t count);
/* Analyses n sounds of one call of the reference. longest: samples of the longest sound of that call, which need not be among these; 0, or less than
 * one of these has: it is. *frames receives the longest's frames (T below). Too short or empty sounds are an OMNI_ERR_ARGUMENT. On failure nothing
 * is left in clips. */
omni_status mel_run(const mel *m, const mel_sound *sounds, int n, int64_t longest, mel_clip *clips, int64_t *frames, omni_error *err);
void mel_clips_free(mel_clip *clips, int n);

/* One sound's analysis in pieces: mel_begin, mel_step until it says false, mel_end. The samples must stay until then. */
typedef struct mel_analysis mel_analysis;
omni_status mel_begin(const mel *m, const mel_sound *s, int64_t longest, mel_analysis **out, omni_error *err);
/* About so many frames more; false: the analysis is complete. */
bool mel_step(mel_analysis *a, int64_t frames);
/* The clip, which is the caller's; the analysis, which must be complete, is gone. */
mel_clip mel_end(mel_analysis *a);
void mel_abandon(mel_analysis *a); /* NULL is fine */

/* The tensors as the reference names them: input_features[n, bins, T] and feature_attention_mask[n, T], either may be NULL. */
void mel_features(const mel *m, const mel_clip *clips, int n, int64_t frames, float *features, int64_t *mask);

#endif
