#include "media/budget.h"

#include <math.h>

static const int64_t DEFAULT_PIXELS = 100000000, DEFAULT_MEMORY = (int64_t)768 << 20, DEFAULT_FILE = (int64_t)4 << 30;
static const double DEFAULT_SECONDS = 3600, SOUND_RATE = 16000;
/* Bytes of files for which pixels and samples are allowed once more. */
static const double PICTURES_SHARE = 1 << 19, FRAMES_SHARE = 1 << 16, SAMPLES_SHARE = 1 << 19;

void budget_init(budget *b, const budget_limits *limits) {
    *b = (budget){.context = INT64_MAX, .sound_samples = INT64_MAX};
    b->limits = limits ? *limits : (budget_limits){0};
    b->limits.pixels = b->limits.pixels > 0 ? b->limits.pixels : DEFAULT_PIXELS;
    b->limits.audio_seconds = b->limits.audio_seconds > 0 ? b->limits.audio_seconds : DEFAULT_SECONDS;
    b->limits.memory = b->limits.memory > 0 ? b->limits.memory : DEFAULT_MEMORY;
    b->limits.file_bytes = b->limits.file_bytes > 0 ? b->limits.file_bytes : DEFAULT_FILE;
}

omni_status budget_stopped(const budget *b, omni_error *err) {
    return b->stop && atomic_load(b->stop) ? fail(err, OMNI_CANCELLED, "cancelled") : OMNI_OK;
}

omni_status budget_file(budget *b, const char *name, int64_t bytes, omni_error *err) {
    TRY(budget_stopped(b, err));
    if (bytes > b->limits.file_bytes) {
        return fail(err, OMNI_ERR_LIMIT, "%s: %lld bytes, over the limit of %lld bytes for a file", name, (long long)bytes,
                    (long long)b->limits.file_bytes);
    }
    b->bytes += bytes; /* each call reads or maps a file: the sum stays far below 2^63 */
    return OMNI_OK;
}

static double allowed_pixels(const budget *b, double share) {
    return (double)b->limits.pixels * (1 + (double)b->bytes / share);
}

/* Shares of what is allowed that are taken; together they are at most 1, so that a mixture costs no more than either. */
static double pictures_taken(const budget *b) {
    return (double)b->pixels / allowed_pixels(b, PICTURES_SHARE);
}

static double frames_taken(const budget *b) {
    return (double)atomic_load(&b->frames) / allowed_pixels(b, FRAMES_SHARE);
}

static omni_status too_many(const budget *b, const char *name, int64_t width, int64_t height, double asked, double allowed, omni_error *err) {
    return fail(err, OMNI_ERR_LIMIT,
                "%s: %lld x %lld pixels: %.0f decoded from %lld bytes, over the limit of %.0f pixels for media of that size; raise it with "
                "--max-pixels (now %lld)",
                name, (long long)width, (long long)height, asked, (long long)b->bytes, allowed, (long long)b->limits.pixels);
}

omni_status budget_pixels(budget *b, const char *name, int64_t width, int64_t height, omni_error *err) {
    TRY(budget_stopped(b, err));
    const double allowed = allowed_pixels(b, PICTURES_SHARE) * (1 - frames_taken(b));
    const double asked = (double)b->pixels + (double)width * (double)height;
    if (asked > allowed) {
        return too_many(b, name, width, height, asked, allowed, err);
    }
    b->pixels = (int64_t)asked;
    return OMNI_OK;
}

bool budget_fits_frames(const budget *b, double pixels) {
    return (double)atomic_load(&b->frames) + pixels <= allowed_pixels(b, FRAMES_SHARE) * (1 - pictures_taken(b));
}

omni_status budget_frames(budget *b, const char *name, int64_t width, int64_t height, double frames, omni_error *err) {
    TRY(budget_stopped(b, err));
    const double pixels = (double)width * (double)height * frames;
    if (!budget_fits_frames(b, pixels)) {
        const double allowed = allowed_pixels(b, FRAMES_SHARE) * (1 - pictures_taken(b));
        return too_many(b, name, width, height, (double)atomic_load(&b->frames) + pixels, allowed, err);
    }
    atomic_fetch_add(&b->frames, (int64_t)pixels);
    return OMNI_OK;
}

omni_status budget_samples(budget *b, const char *name, int64_t count, int channels, omni_error *err) {
    TRY(budget_stopped(b, err));
    const double allowed = b->limits.audio_seconds * SOUND_RATE * (1 + (double)b->bytes / SAMPLES_SHARE);
    const double asked = (double)b->samples + (double)count * channels;
    if (asked > allowed) {
        return fail(err, OMNI_ERR_LIMIT,
                    "%s: %.0f samples decoded from %lld bytes, over the limit of %.0f samples for media of that size; raise it with "
                    "--max-audio-seconds (now %g)",
                    name, asked, (long long)b->bytes, allowed, b->limits.audio_seconds);
    }
    b->samples = (int64_t)asked;
    return OMNI_OK;
}

omni_status budget_sound_length(const budget *b, const char *name, double samples, int rate, omni_error *err) {
    if (samples > b->limits.audio_seconds * rate) {
        return fail(err, OMNI_ERR_LIMIT, "%s: longer than the limit of %g seconds of sound; raise it with --max-audio-seconds", name,
                    b->limits.audio_seconds);
    }
    if (samples > (double)b->sound_samples) {
        return fail(err, OMNI_ERR_LIMIT,
                    "%s: longer than %.1f seconds of sound, which take the %lld tokens left of the context of %lld: give a larger one (-c)", name,
                    (double)b->sound_samples / rate, (long long)(b->context - b->rows), (long long)b->context);
    }
    return OMNI_OK;
}

bool budget_try_hold(budget *b, int64_t bytes) {
    int64_t before = atomic_load(&b->held);
    do {
        if (bytes < 0 || bytes > b->limits.memory - before) {
            return false;
        }
    } while (!atomic_compare_exchange_weak(&b->held, &before, before + bytes));
    return true;
}

omni_status budget_no_memory(const budget *b, const char *name, int64_t bytes, omni_error *err) {
    return fail(err, OMNI_ERR_LIMIT,
                "%s: decoding needs %lld bytes more than the %lld in use, over the limit of %lld bytes for media; raise it with --max-media-memory",
                name, (long long)bytes, (long long)atomic_load(&b->held), (long long)b->limits.memory);
}

omni_status budget_hold(budget *b, const char *name, int64_t bytes, omni_error *err) {
    TRY(budget_stopped(b, err));
    return budget_try_hold(b, bytes) ? OMNI_OK : budget_no_memory(b, name, bytes, err);
}

void budget_release(budget *b, int64_t bytes) {
    atomic_fetch_sub(&b->held, bytes);
}

omni_status budget_check_rows(const budget *b, const char *name, int64_t rows, omni_error *err) {
    if (rows > b->context - b->rows) {
        return fail(err, OMNI_ERR_LIMIT, "%s: takes %lld tokens, %lld are left of the context of %lld: give a larger one (-c)", name, (long long)rows,
                    (long long)(b->context - b->rows), (long long)b->context);
    }
    return OMNI_OK;
}

omni_status budget_rows(budget *b, const char *name, int64_t rows, omni_error *err) {
    TRY(budget_check_rows(b, name, rows, err));
    b->rows += rows;
    return OMNI_OK;
}
