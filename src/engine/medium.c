#include "engine/medium.h"

#include "engine/media_item.h"

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

/* The model's constants, with the size that a part asks for, which *request holds. */
static patch_params with_request(const patch_params *p, const chat_media_options *o, bool is_video, size_request *request) {
    *request = (size_request){is_video, o->min_pixels, o->max_pixels, o->total_pixels, o->height, o->width};
    patch_params out = *p;
    out.request = size_is_requested(request) ? request : NULL;
    return out;
}

static omni_status load_image(const encoders *e, const char *path, const void *data, size_t size, const medium_options *options, budget *b, medium *m,
                              omni_error *err) {
    TRY(need_vision(e, m->name, err));
    size_request request;
    const patch_params params = with_request(&vision_encoder_config(e->vision)->image, &options->part, false, &request), *p = &params;
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

static omni_status load_sound(const encoders *e, const char *path, const void *data, size_t size, const medium_options *options, budget *b, medium *m,
                              omni_error *err) {
    const double start = options->part.start, end = options->part.end;
    TRY(need_audio(e, m->name, err));
    b->sound_samples = longest_sound(e, b->context - b->rows);
    sound_options o = {.rate = audio_encoder_mel(e->audio)->rate,
                       .may_be_silent = m->kind == PROMPT_VIDEO,
                       .budget = b,
                       .start = start,
                       .duration = end > 0 ? end - start : 0};
    TRY(path ? sound_load(path, &o, &m->sound, err) : sound_load_memory(data, size, m->name, &o, &m->sound, err));
    m->has_sound = m->sound.count > 0;
    return budget_rows(b, m->name, sound_rows(e, m->sound.count), err);
}

static omni_status load_video(const encoders *e, const char *path, const void *data, size_t size, const medium_options *options, budget *b, medium *m,
                              omni_error *err) {
    TRY(need_vision(e, m->name, err));
    video v = {0};
    const chat_media_options *part = &options->part;
    const int64_t most = options->max_video_frames > 0 ? options->max_video_frames : 768;
    if (part->frames > most || part->max_frames > most) {
        return fail(err, OMNI_ERR_LIMIT, "%s: asks for %lld frames; the limit is %lld (--max-video-frames)", m->name,
                    (long long)(part->frames > most ? part->frames : part->max_frames), (long long)most);
    }
    video_options o = {.fps = part->fps > 0 ? part->fps : options->fps,
                       .min_frames = part->min_frames,
                       .max_frames = part->max_frames > 0 ? part->max_frames : options->max_video_frames,
                       .frames = part->frames,
                       .from = part->start,
                       .to = part->end,
                       .budget = b};
    size_request request;
    const patch_params params = with_request(&vision_encoder_config(e->vision)->video, part, true, &request), *p = &params;
    TRY(path ? video_open(path, p, &o, &v, err) : video_open_memory(data, size, m->name, p, &o, &v, err));
    m->patches = v.patches;
    v.patches = (patch_set){0};
    m->seconds_per_grid = v.seconds_per_group;
    m->frames_only = v.sampled;
    video_free(&v);
    if (m->frames_only && (part->frames > 0 || part->min_frames > 0 || part->max_frames > 0 || part->start > 0 || part->end > 0)) {
        return fail(err, OMNI_ERR_ARGUMENT,
                    "%s: all frames of an .npy file are taken: nframes, min_frames, max_frames, video_start and video_end cannot act", m->name);
    }
    if (!options->use_audio_in_video || m->frames_only) {
        return OMNI_OK;
    }
    omni_status status = load_sound(e, path, data, size, options, b, m, err);
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
    return kind == OMNI_IMAGE   ? load_image(e, path, data, size, options, b, m, err)
           : kind == OMNI_AUDIO ? load_sound(e, path, data, size, options, b, m, err)
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
        medium_free(out);
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
        medium_free(out);
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

void medium_free(medium *m) {
    free(m->name);
    patch_set_free(&m->patches);
    sound_free(&m->sound);
    media_item_drop(m->item);
    *m = (medium){0};
}

int64_t medium_least_rows(const encoders *e, const medium *m) {
    if (m->item) {
        const prompt_media p = media_item_prompt(e, m->item);
        const int merge = e->vision ? vision_encoder_config(e->vision)->merge : 1;
        return prompt_visual_rows(&(prompt_markup){.spatial_merge = merge}, &p) + (p.audio_rows > 0 ? p.audio_rows : 0);
    }
    int64_t visual = m->kind == PROMPT_AUDIO ? 0 : vision_embeddings(vision_encoder_config(e->vision), &m->patches);
    return visual + (m->has_sound ? sound_rows(e, m->sound.count) : 0);
}
