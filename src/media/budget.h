/* What decoding media may cost: one budget for all pictures, sounds and videos of a message, or of a conversation given as JSON.
 *
 * Compressed media can be small and stand for a lot, so nothing about them is known from their size. Every decoder takes from the budget
 * before it spends: memory before it allocates, pixels and samples before (or, where the library decodes first, right after) each frame, rows of
 * the context as soon as a medium's size is known. What does not fit is an OMNI_ERR_LIMIT that names the medium, the limit and the flag that
 * raises it. Honest files are larger the more they hold, so pixels and samples are allowed in proportion to the bytes that were read: a
 * file of a few kilobytes gets the limits as they are.
 *
 * A budget is used from one thread, but for the functions that say otherwise, which decoders call from theirs. */
#ifndef OMNI_MEDIA_BUDGET_H
#define OMNI_MEDIA_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* 0 takes the default. */
typedef struct budget_limits {
    int64_t pixels;       /* width * height, summed over pictures, for 512 KiB of files, or over frames, for 64 KiB (100,000,000) */
    double audio_seconds; /* length of one sound (3600); the channels of all sounds may have as many samples at 16 kHz for 512 KiB of files */
    int64_t memory;       /* bytes held at once: files, decoders' frames, decoded media (805,306,368) */
    int64_t file_bytes;   /* of one file (4 GiB); files that are read into memory also count as such */
} budget_limits;

typedef struct budget {
    budget_limits limits;   /* zeros replaced */
    int64_t bytes;          /* of the files so far */
    int64_t pixels;         /* of pictures, taken so far */
    _Atomic int64_t frames; /* pixels of frames */
    int64_t samples;        /* of all channels */
    _Atomic int64_t held;   /* bytes */
    int64_t rows, context;  /* of the context: taken so far, and how many there are; INT64_MAX: not checked */
    /* Samples that the longest sound that still fits into the context has, at the rate asked for; INT64_MAX: not checked. */
    int64_t sound_samples;
    bool standard_input_read; /* "-" was one of the media */
    const _Atomic bool *stop; /* once set, everything that takes from the budget is OMNI_CANCELLED; may be NULL */
    /* Called when the size of a picture is known and nothing is decoded yet: an error ends the decoding. May be NULL. */
    omni_status (*on_size)(void *arg, const char *name, int64_t width, int64_t height, omni_error *err);
    void *arg;
} budget;

/* limits may be NULL. Nothing needs releasing. */
void budget_init(budget *b, const budget_limits *limits);

/* A file of so many bytes comes in: its size is checked, and allows pixels and samples in proportion. */
omni_status budget_file(budget *b, const char *name, int64_t bytes, omni_error *err);
/* A picture will be decoded. */
omni_status budget_pixels(budget *b, const char *name, int64_t width, int64_t height, omni_error *err);
/* So many frames of a video will be, or were; parts of frames stand for those that cost less. */
omni_status budget_frames(budget *b, const char *name, int64_t width, int64_t height, double frames, omni_error *err);
/* Whether so many pixels more of frames would fit; from any thread. */
bool budget_fits_frames(const budget *b, double pixels);
/* count samples of each of so many channels were, or will be, decoded. */
omni_status budget_samples(budget *b, const char *name, int64_t count, int channels, omni_error *err);
/* A sound of so many samples at the rate asked for: fits it into the seconds of one sound, and into the context? */
omni_status budget_sound_length(const budget *b, const char *name, double samples, int rate, omni_error *err);
/* Memory in use until budget_release gives it back; from any thread. */
omni_status budget_hold(budget *b, const char *name, int64_t bytes, omni_error *err);
/* The same without an error's text: false when it does not fit. */
bool budget_try_hold(budget *b, int64_t bytes);
void budget_release(budget *b, int64_t bytes);
/* The error of a budget_try_hold that failed. */
omni_status budget_no_memory(const budget *b, const char *name, int64_t bytes, omni_error *err);
/* A medium takes so many rows of the context. */
omni_status budget_rows(budget *b, const char *name, int64_t rows, omni_error *err);
/* Whether they would fit, without taking them. */
omni_status budget_check_rows(const budget *b, const char *name, int64_t rows, omni_error *err);
/* OMNI_CANCELLED when the caller has had enough. */
omni_status budget_stopped(const budget *b, omni_error *err);

#endif
