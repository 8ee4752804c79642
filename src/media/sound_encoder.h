/* Sound out: mono float samples, as they come, to WAV, raw PCM, MP3, Opus in Ogg, FLAC or AAC (ADTS), and their bytes, as soon as they exist, to a
 * callback. What comes out does not depend on how the samples are cut into calls.
 *
 * WAV and PCM are made here; the codecs are libavcodec's, the containers libavformat's. Codecs that do not take the samples' rate get them
 * resampled by libsoxr: mu-law and A-law always have 8000 samples a second, as telephones do.
 * A sample x becomes round(x * 32767) where the format has 16 bits, halves to even, clipped to [-32768, 32767]; NaN becomes 0. Codecs that take
 * floats get them clipped to [-1, 1]. */
#ifndef OMNI_MEDIA_SOUND_ENCODER_H
#define OMNI_MEDIA_SOUND_ENCODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct sound_format sound_format;

/* By name: "wav", "pcm16", "pcm_f32", "mulaw", "alaw", "mp3", "opus", "flac", "aac"; NULL: none is called so. */
const sound_format *sound_format_named(const char *name);
/* By a file name's ending, in any case: .wav, .pcm .raw (16-bit), .f32, .ulaw .ul, .alaw .al, .mp3, .opus .ogg .oga, .flac, .aac; NULL: another. */
const sound_format *sound_format_of_path(const char *path);
const char *sound_format_name(const sound_format *f);
const char *sound_format_type(const sound_format *f); /* the media type: "audio/mpeg" */
/* OMNI_ERR_UNSUPPORTED, with what to install: this FFmpeg lacks the encoder or the container. */
omni_status sound_format_check(const sound_format *f, omni_error *err);

/* Where the bytes go. at: their offset; each piece follows the one before, but with can_seek a few may lie earlier, when the end has come: sizes
 * and checksums in headers. Without, such fields say "unknown". */
typedef struct sound_sink {
    omni_status (*write)(void *arg, uint64_t at, const void *data, size_t size, omni_error *err);
    void *arg;
    bool can_seek;
} sound_sink;

typedef struct sound_encoder sound_encoder;

/* rate: of the samples, a second. What the format begins with may be written at once. */
omni_status sound_encoder_open(const sound_format *f, int rate, const sound_sink *sink, sound_encoder **out, omni_error *err);
/* An error of the sink comes back as it was; after any error only sound_encoder_finish does anything. */
omni_status sound_encoder_write(sound_encoder *e, const float *samples, size_t count, omni_error *err);
/* Writes what is still held back, and fields that were unknown, and frees e, whatever the outcome. After an error of sound_encoder_write only the
 * sizes of a WAV header are filled in, so that what was written is valid. */
omni_status sound_encoder_finish(sound_encoder *e, omni_error *err);
/* Frees it without another byte; NULL is allowed. */
void sound_encoder_abandon(sound_encoder *e);

int16_t sound_sample_16(float x);

#endif
