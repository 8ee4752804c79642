#include "engine/medium.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "media/media_file.h"
#include "media/video.h"
#include "tensor/finite.h"

static omni_status need_vision(const encoders *e, const char *name, omni_error *err) {
    return e->vision ? OMNI_OK
                     : fail(err, OMNI_ERR_ARGUMENT, "%s: pictures need a vision encoder: give an mmproj file that has one (--mmproj)", name);
}

static omni_status need_audio(const encoders *e, const char *name, omni_error *err) {
    return e->audio ? OMNI_OK : fail(err, OMNI_ERR_ARGUMENT, "%s: sounds need an audio encoder: give an mmproj file that has one (--mmproj)", name);
}

typedef struct picture_check {
    const patch_params *params;
    const budget *budget;
} picture_check;

static omni_status check_picture(void *arg, const char *name, int64_t width, int64_t height, omni_error *err) {
    const picture_check *c = arg;
    return patches_check(1, height, width, c->params, c->budget, name, err);
}

static omni_status load_image(const encoders *e, const char *path, const void *data, size_t size, budget *b, medium *m, omni_error *err) {
    TRY(need_vision(e, m->name, err));
    const patch_params *p = &vision_encoder_config(e->vision)->image;
    image im = {0};
    picture_check check = {p, b};
    b->on_size = check_picture;
    b->arg = &check;
    omni_status status = path ? image_open(path, b, &im, err) : image_decode(data, size, m->name, b, &im, err);
    b->on_size = NULL;
    TRY(status);
    status = patches_reserve(1, im.height, im.width, p, b, m->name, NULL, err);
    if (status == OMNI_OK) {
        status = patches_from_image(&im, p, &m->patches, err);
        status = status == OMNI_OK ? OMNI_OK : fail_in(err, status, "%s", m->name);
    }
    image_free(&im);
    return status;
}

static int64_t sound_rows(const encoders *e, int64_t samples) {
    return audio_encoder_rows(e->audio, samples / audio_encoder_mel(e->audio)->hop);
}

/* Samples of the longest sound of at most so many rows. */
static int64_t longest_sound(const encoders *e, int64_t rows) {
    int64_t low = 0, high = INT64_C(1) << 36; /* 50 days */
    while (low < high) {
        const int64_t middle = low + (high - low + 1) / 2;
        if (sound_rows(e, middle) <= rows) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

static omni_status load_sound(const encoders *e, const char *path, const void *data, size_t size, budget *b, medium *m, omni_error *err) {
    TRY(need_audio(e, m->name, err));
    b->sound_samples = longest_sound(e, b->context - b->rows);
    sound_options o = {.rate = audio_encoder_mel(e->audio)->rate, .may_be_silent = m->kind == PROMPT_VIDEO, .budget = b};
    TRY(path ? sound_load(path, &o, &m->sound, err) : sound_load_memory(data, size, m->name, &o, &m->sound, err));
    m->has_sound = m->sound.count > 0;
    return budget_rows(b, m->name, sound_rows(e, m->sound.count), err);
}

static omni_status load_video(const encoders *e, const char *path, const void *data, size_t size, const medium_options *options, budget *b, medium *m,
                              omni_error *err) {
    TRY(need_vision(e, m->name, err));
    video v = {0};
    video_options o = {.fps = options->fps, .max_frames = options->max_video_frames, .budget = b};
    const patch_params *p = &vision_encoder_config(e->vision)->video;
    TRY(path ? video_open(path, p, &o, &v, err) : video_open_memory(data, size, m->name, p, &o, &v, err));
    m->patches = v.patches;
    v.patches = (patch_set){0};
    m->seconds_per_grid = v.seconds_per_group;
    m->frames_only = v.sampled;
    video_free(&v);
    if (!options->use_audio_in_video || m->frames_only) {
        return OMNI_OK;
    }
    omni_status status = load_sound(e, path, data, size, b, m, err);
    return status == OMNI_OK ? OMNI_OK : fail_in(err, status, "the video's sound (--use-audio-in-video)");
}

static omni_status load_any(const encoders *e, omni_kind kind, const char *path, const void *data, size_t size, const medium_options *options,
                            budget *b, medium *m, omni_error *err) {
    if (path && media_is_stream(path)) { /* read once, also for a video whose pictures and sound are wanted */
        char *read;
        TRY(media_read(path, b, &read, &size, err));
        omni_status status = load_any(e, kind, NULL, read, size, options, b, m, err);
        free(read);
        budget_release(b, (int64_t)size);
        return status;
    }
    return kind == OMNI_IMAGE   ? load_image(e, path, data, size, b, m, err)
           : kind == OMNI_AUDIO ? load_sound(e, path, data, size, b, m, err)
                                : load_video(e, path, data, size, options, b, m, err);
}

omni_status medium_load(const encoders *e, omni_kind kind, const char *path, const void *data, size_t size, const medium_options *options, budget *b,
                        medium *out, omni_error *err) {
    *out = (medium){.kind = kind == OMNI_IMAGE   ? PROMPT_IMAGE
                            : kind == OMNI_AUDIO ? PROMPT_AUDIO
                                                 : PROMPT_VIDEO,
                    .name = strdup(path                 ? strcmp(path, "-") == 0 ? "standard input" : path
                                   : kind == OMNI_IMAGE ? "image data"
                                   : kind == OMNI_AUDIO ? "audio data"
                                                        : "video data")};
    if (!out->name) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    omni_status status = load_any(e, kind, path, data, size, options, b, out, err);
    if (status != OMNI_OK) {
        medium_free(e, out);
        return status;
    }
    out->grid[0] = out->patches.t;
    out->grid[1] = out->patches.h;
    out->grid[2] = out->patches.w;
    return OMNI_OK;
}

omni_status medium_copy(const encoders *e, const medium *from, budget *b, medium *out, omni_error *err) {
    const patch_set *p = &from->patches;
    const size_t levels = p->levels ? (size_t)patch_count(p) * 3 * (size_t)p->temporal * (size_t)p->patch * (size_t)p->patch : 0;
    const size_t samples = from->has_sound ? (size_t)from->sound.count * sizeof *from->sound.samples : 0;
    TRY(budget_rows(b, from->name, medium_least_rows(e, from), err));
    TRY(budget_hold(b, from->name, (int64_t)(levels + samples), err));
    *out = *from;
    out->name = strdup(from->name);
    out->patches.levels = levels ? malloc(levels) : NULL;
    out->sound.samples = samples ? malloc(samples) : NULL;
    if (!out->name || (levels && !out->patches.levels) || (samples && !out->sound.samples)) {
        medium_free(e, out);
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", from->name);
    }
    if (levels) {
        memcpy(out->patches.levels, p->levels, levels);
    }
    if (samples) {
        memcpy(out->sound.samples, from->sound.samples, samples);
    }
    return OMNI_OK;
}

void medium_free(const encoders *e, medium *m) {
    free(m->name);
    patch_set_free(&m->patches);
    sound_free(&m->sound);
    float *const held[] = {m->visual, m->deepstack, m->audio};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        if (held[i]) {
            e->b->ops->release(e->b, held[i]);
        }
    }
    *m = (medium){0};
}

static omni_status alloc_rows(backend *b, int64_t rows, int64_t width, float **out, omni_error *err) {
    return b->ops->alloc(b, (size_t)rows * (size_t)width * sizeof(float), (void **)out, err);
}

/* ---- tracing: values of backend memory, copied to the host only when there is a trace ---- */

static omni_status trace_rows(trace *t, backend *b, const char *name, const float *values, int64_t rows, int64_t width, omni_error *err) {
    float *host = malloc((size_t)rows * (size_t)width * sizeof *host + 1);
    if (!host) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the trace");
    }
    b->ops->download(b, host, values, (size_t)rows * (size_t)width * sizeof *host);
    trace_f32(t, name, 2, (int64_t[]){rows, width}, host);
    free(host);
    return OMNI_OK;
}

/* Pixel values and embeddings of all media of one kind, joined as the reference has them. */
static omni_status trace_visual(trace *t, const encoders *e, medium *const *media, size_t count, prompt_kind kind, omni_error *err) {
    const vision_config *c = vision_encoder_config(e->vision);
    int64_t width = 0, patches = 0, rows = 0;
    for (size_t i = 0; i < count; i++) {
        if (media[i]->kind == kind && !media[i]->encoded) {
            width = patch_width(kind == PROMPT_IMAGE ? &c->image : &c->video);
            patches += patch_count(&media[i]->patches);
            rows += media[i]->visual_rows;
        }
    }
    if (rows == 0) {
        return OMNI_OK;
    }
    float *pixels = malloc((size_t)(patches * width) * sizeof *pixels), *embeds = malloc((size_t)rows * (size_t)c->out * sizeof *embeds);
    if (!pixels || !embeds) {
        free(pixels);
        free(embeds);
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the trace");
    }
    int64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        if (media[i]->kind == kind && !media[i]->encoded) {
            patch_values(&media[i]->patches, 0, patch_count(&media[i]->patches), pixels + at * width);
            at += patch_count(&media[i]->patches);
        }
    }
    trace_f32(t, kind == PROMPT_IMAGE ? "inputs.pixel_values" : "inputs.pixel_values_videos", 2, (int64_t[]){patches, width}, pixels);
    for (int k = -1; k < c->deepstack; k++) {
        char name[32] = "image_embeds";
        if (k >= 0) {
            snprintf(name, sizeof name, "deepstack_embeds.%d", k);
        }
        at = 0;
        for (size_t i = 0; i < count; i++) {
            const medium *m = media[i];
            if (m->kind == kind && !m->encoded) {
                const float *from = k < 0 ? m->visual : m->deepstack + k * m->visual_rows * c->out;
                e->b->ops->download(e->b, embeds + at * c->out, from, (size_t)(m->visual_rows * c->out) * sizeof *embeds);
                at += m->visual_rows;
            }
        }
        trace_f32(t, name, 2, (int64_t[]){rows, c->out}, embeds);
    }
    free(pixels);
    free(embeds);
    return OMNI_OK;
}

/* ---- encoding ---- */

/* A value that is not finite would vanish in the answer, or spoil it without a word. A piece at a time, since the rows are the backend's. */
static omni_status check_finite(backend *b, const float *rows, int64_t n, const char *name, const char *encoder, omni_error *err) {
    enum { PIECE = 1 << 14 };
    float *piece = malloc(PIECE * sizeof *piece);
    if (!piece) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", name);
    }
    omni_status status = OMNI_OK;
    for (int64_t at = 0; status == OMNI_OK && at < n; at += PIECE) {
        const int64_t count = n - at < PIECE ? n - at : PIECE;
        b->ops->download(b, piece, rows + at, (size_t)count * sizeof *piece);
        if (find_not_finite(DTYPE_F32, piece, count) >= 0) {
            status = fail(err, OMNI_ERR_FORMAT, "%s: the %s encoder computed NaN or infinite values: its weights are damaged", name, encoder);
        }
    }
    free(piece);
    return status;
}

static omni_status encode_visual(const encoders *e, medium *m, omni_error *err) {
    const vision_config *c = vision_encoder_config(e->vision);
    m->visual_rows = vision_embeddings(c, &m->patches);
    TRY(alloc_rows(e->b, m->visual_rows, c->out, &m->visual, err));
    float *sets[16] = {0};
    if (c->deepstack > (int)(sizeof sets / sizeof *sets)) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%d deepstack sets; at most 16 are handled", c->deepstack);
    }
    if (c->deepstack > 0) {
        TRY(alloc_rows(e->b, m->visual_rows * c->deepstack, c->out, &m->deepstack, err));
        for (int k = 0; k < c->deepstack; k++) {
            sets[k] = m->deepstack + k * m->visual_rows * c->out;
        }
    }
    TRY(vision_encoder_run(e->vision, &m->patches, 1, m->visual, sets, err));
    TRY(check_finite(e->b, m->visual, m->visual_rows * c->out, m->name, "vision", err));
    return check_finite(e->b, m->deepstack, m->visual_rows * c->deepstack * c->out, m->name, "vision", err);
}

/* The longest sound of a call must reach a whole window of the analysis. */
static omni_status check_lengths(const encoders *e, medium *const *sounding, size_t n, omni_error *err) {
    const medium *longest = sounding[0];
    for (size_t i = 1; i < n; i++) {
        longest = sounding[i]->sound.count > longest->sound.count ? sounding[i] : longest;
    }
    const int64_t shortest = mel_shortest(e->mel), rate = audio_encoder_mel(e->audio)->rate, count = longest->sound.count;
    return count >= shortest
               ? OMNI_OK
               : fail(err, OMNI_ERR_ARGUMENT,
                      "%s: %lld samples of sound at %lld a second (%.4f seconds) are too few to be heard: give at least %lld (%.4f seconds)",
                      longest->name, (long long)count, (long long)rate, (double)count / (double)rate, (long long)shortest,
                      (double)shortest / (double)rate);
}

static omni_status encode_sounds(const encoders *e, medium **sounding, size_t n, trace *t, omni_error *err) {
    TRY(check_lengths(e, sounding, n, err));
    mel_sound *samples = calloc(n, sizeof *samples);
    mel_clip *clips = calloc(n, sizeof *clips);
    int64_t width = audio_encoder_width(e->audio), rows = 0, frames = 0;
    float *joined = NULL;
    omni_status status = samples && clips ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for %zu sounds", n);
    for (size_t i = 0; status == OMNI_OK && i < n; i++) {
        samples[i] = (mel_sound){sounding[i]->sound.samples, sounding[i]->sound.count};
    }
    if (status == OMNI_OK) {
        status = mel_run(e->mel, samples, (int)n, 0, clips, &frames, err);
    }
    for (size_t i = 0; status == OMNI_OK && i < n; i++) {
        sounding[i]->audio_rows = audio_encoder_rows(e->audio, clips[i].frames);
        rows += sounding[i]->audio_rows;
        status = alloc_rows(e->b, sounding[i]->audio_rows, width, &sounding[i]->audio, err);
    }
    if (status == OMNI_OK) {
        status = alloc_rows(e->b, rows, width, &joined, err);
    }
    if (status == OMNI_OK) {
        status = audio_encoder_run(e->audio, clips, (int)n, 0, joined, err);
    }
    int64_t at = 0;
    for (size_t i = 0; status == OMNI_OK && i < n; i++) {
        e->b->ops->copy(e->b, sounding[i]->audio, joined + at * width, (size_t)(sounding[i]->audio_rows * width) * sizeof(float));
        at += sounding[i]->audio_rows;
        status = check_finite(e->b, sounding[i]->audio, sounding[i]->audio_rows * width, sounding[i]->name, "audio", err);
    }
    if (status == OMNI_OK && t) {
        const int64_t bins = audio_encoder_mel(e->audio)->bins;
        float *features = malloc(n * (size_t)(bins * frames) * sizeof *features);
        if (features) {
            mel_features(e->mel, clips, (int)n, frames, features, NULL);
            trace_f32(t, "inputs.input_features", 3, (int64_t[]){(int64_t)n, bins, frames}, features);
            status = trace_rows(t, e->b, "audio_embeds", joined, rows, width, err);
        } else {
            status = fail(err, OMNI_ERR_MEMORY, "out of memory for the trace");
        }
        free(features);
    }
    if (joined) {
        e->b->ops->release(e->b, joined);
    }
    if (clips) {
        mel_clips_free(clips, (int)n);
    }
    free(clips);
    free(samples);
    return status;
}

static void forget(const encoders *e, float **rows) {
    if (*rows) {
        e->b->ops->release(e->b, *rows);
        *rows = NULL;
    }
}

/* Pictures one by one: each that is done stays done. */
static omni_status encode_pictures(const encoders *e, medium *const *media, size_t count, size_t work, size_t *done, receiver *to, omni_error *err) {
    for (size_t i = 0; i < count; i++) {
        medium *m = media[i];
        if (m->encoded || m->seen || m->kind == PROMPT_AUDIO) {
            continue;
        }
        omni_status status = encode_visual(e, m, err);
        if (status != OMNI_OK) {
            forget(e, &m->visual);
            forget(e, &m->deepstack);
            return status;
        }
        m->seen = true;
        receiver_progress(to, "seeing", ++*done, work);
        TRY(receiver_check(to, err));
    }
    return OMNI_OK;
}

omni_status media_encode(const encoders *e, medium *const *media, size_t count, receiver *to, trace *t, omni_error *err) {
    medium **sounding = calloc(count + 1, sizeof *sounding);
    if (!sounding) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    size_t sounds = 0, done = 0, work = 0;
    for (size_t i = 0; i < count; i++) {
        if (!media[i]->encoded) {
            work += (media[i]->kind != PROMPT_AUDIO && !media[i]->seen) + media[i]->has_sound;
            if (media[i]->has_sound) {
                sounding[sounds++] = media[i];
            }
        }
    }
    omni_status status = encode_pictures(e, media, count, work, &done, to, err);
    bool heard = status == OMNI_OK;
    if (status == OMNI_OK && sounds > 0) {
        status = encode_sounds(e, sounding, sounds, t, err);
        heard = status == OMNI_OK;
        for (size_t i = 0; !heard && i < sounds; i++) {
            forget(e, &sounding[i]->audio);
        }
        if (heard) {
            receiver_progress(to, "hearing", work, work);
            status = receiver_check(to, err);
        }
    }
    if (status == OMNI_OK && t && e->vision) {
        status = trace_visual(t, e, media, count, PROMPT_IMAGE, err);
        status = status == OMNI_OK ? trace_visual(t, e, media, count, PROMPT_VIDEO, err) : status;
    }
    free(sounding);
    for (size_t i = 0; i < count; i++) {
        medium *m = media[i];
        if (!m->encoded && (m->seen || m->kind == PROMPT_AUDIO) && (heard || !m->has_sound)) {
            m->encoded = true;
            patch_set_free(&m->patches);
            sound_free(&m->sound);
        }
    }
    return status;
}

int64_t medium_least_rows(const encoders *e, const medium *m) {
    if (m->encoded) {
        return m->visual_rows + m->audio_rows;
    }
    int64_t visual = m->kind == PROMPT_AUDIO ? 0 : vision_embeddings(vision_encoder_config(e->vision), &m->patches);
    return visual + (m->has_sound ? sound_rows(e, m->sound.count) : 0);
}

prompt_media medium_prompt(const encoders *e, const medium *m) {
    return (prompt_media){.kind = m->kind,
                          .grid = {m->grid[0], m->grid[1], m->grid[2]},
                          .seconds_per_grid = m->seconds_per_grid,
                          .audio_rows = m->has_sound ? (int32_t)m->audio_rows : -1};
}
