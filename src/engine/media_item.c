#include "engine/media_item.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- items ---- */

media_item *media_item_hold(media_item *m) {
    atomic_fetch_add(&m->holders, 1);
    return m;
}

void media_item_drop(media_item *m) {
    if (!m || atomic_fetch_sub(&m->holders, 1) > 1) {
        return;
    }
    if (m->embedded) {
        media_cache_drop(m->cache, m->embedded);
    }
    patch_set_free(&m->patches);
    sound_free(&m->sound);
    free(m->name);
    free(m);
}

bool media_item_is_encoded(media_item *m) {
    m->embedded = m->embedded ? m->embedded : media_cache_find(m->cache, &m->content);
    return m->embedded;
}

void media_item_forget(media_item *m) {
    if (m->embedded) {
        patch_set_free(&m->patches);
        sound_free(&m->sound);
    }
}

/* Lengths of the longest sound beyond this make no difference to one of so many samples. */
static int64_t longest_that_matters(const encoders *e, int64_t samples) {
    const int64_t analysis = mel_longest(e->mel, samples), chunk = audio_encoder_longest(e->audio) * audio_encoder_mel(e->audio)->hop;
    return analysis > chunk ? analysis : chunk;
}

static size_t patch_bytes(const patch_set *p) {
    return (size_t)patch_count(p) * 3 * (size_t)p->temporal * (size_t)p->patch * (size_t)p->patch;
}

static omni_status name_content(media_item *m, const char *owner, omni_error *err) {
    struct {
        int32_t kind, grid[3], temporal, patch, has_sound;
        int64_t samples, longest;
    } head;
    memset(&head, 0, sizeof head);
    head.kind = m->kind == PROMPT_AUDIO;
    memcpy(head.grid, m->grid, sizeof head.grid);
    head.temporal = m->patches.temporal;
    head.patch = m->patches.patch;
    head.has_sound = m->has_sound;
    head.samples = m->samples;
    head.longest = m->longest;
    const content_part parts[] = {
        {owner ? owner : "", owner ? strlen(owner) + 1 : 0},
        {&head, sizeof head},
        {m->patches.levels, m->patches.levels ? patch_bytes(&m->patches) : 0},
        {m->patches.value, m->patches.levels ? sizeof m->patches.value : 0},
        {m->sound.samples, (size_t)m->samples * sizeof *m->sound.samples},
    };
    return content_hash_of(parts, sizeof parts / sizeof *parts, &m->content, err);
}

/* The longest sound of a call must reach a whole window of the analysis. */
static omni_status check_length(const encoders *e, const medium *longest, omni_error *err) {
    const int64_t shortest = mel_shortest(e->mel), rate = audio_encoder_mel(e->audio)->rate, n = longest->sound.count;
    return n >= shortest
               ? OMNI_OK
               : fail(err, OMNI_ERR_ARGUMENT,
                      "%s: %lld samples of sound at %lld a second (%.4f seconds) are too few to be heard: give at least %lld (%.4f seconds)",
                      longest->name, (long long)n, (long long)rate, (double)n / (double)rate, (long long)shortest, (double)shortest / (double)rate);
}

omni_status media_items_take(const encoders *e, media_cache *cache, const char *owner, medium *media, size_t count, omni_error *err) {
    int64_t longest = 0;
    const medium *longest_medium = NULL;
    for (size_t i = 0; i < count; i++) {
        const bool is_new = !media[i].item && media[i].has_sound;
        if (is_new && (!longest_medium || media[i].sound.count > longest)) {
            longest_medium = &media[i];
            longest = media[i].sound.count;
        }
    }
    if (longest_medium) {
        TRY(check_length(e, longest_medium, err));
    }
    for (size_t i = 0; i < count; i++) {
        medium *from = &media[i];
        if (from->item) {
            continue;
        }
        media_item *m = calloc(1, sizeof *m);
        char *name = strdup(from->name);
        if (!m || !name) {
            free(m);
            free(name);
            return fail(err, OMNI_ERR_MEMORY, "out of memory for %s", from->name);
        }
        m->name = name;
        atomic_init(&m->holders, 1);
        m->cache = cache;
        m->kind = from->kind;
        memcpy(m->grid, from->grid, sizeof m->grid);
        m->seconds_per_grid = from->seconds_per_grid;
        m->has_sound = from->has_sound;
        m->patches = from->patches;
        m->sound = from->sound;
        if (m->has_sound) {
            const int64_t most = longest_that_matters(e, from->sound.count);
            m->samples = from->sound.count;
            m->longest = longest < most ? longest : most;
        }
        omni_status status = name_content(m, owner, err);
        if (status != OMNI_OK) { /* the medium keeps what it has */
            free(name);
            free(m);
            return status;
        }
        from->patches = (patch_set){0};
        from->sound = (sound){0};
        from->item = m;
    }
    return OMNI_OK;
}

static int64_t audio_rows(const encoders *e, const media_item *m) {
    return audio_encoder_rows(e->audio, mel_frames(e->mel, m->samples, m->longest));
}

prompt_media media_item_prompt(const encoders *e, const media_item *m) {
    return (prompt_media){.kind = m->kind,
                          .grid = {m->grid[0], m->grid[1], m->grid[2]},
                          .seconds_per_grid = m->seconds_per_grid,
                          .audio_rows = m->has_sound ? (int32_t)audio_rows(e, m) : -1};
}

thinker_media media_item_embedded(const media_item *m, int64_t width) {
    const embeddings *x = m->embedded;
    return x ? (thinker_media){x->visual, x->audio, x->deepstack, x->visual_rows * width} : (thinker_media){0};
}

/* ---- tracing: values of backend memory, copied to the host ---- */

static bool has_patches(const media_item *m, prompt_kind kind) {
    return m->kind == kind && m->patches.levels && m->embedded;
}

/* Pixel values and embeddings of all of one kind, joined as the reference has them. */
static omni_status trace_visual(const encoders *e, media_item *const *items, size_t count, prompt_kind kind, trace *t, omni_error *err) {
    const vision_config *c = vision_encoder_config(e->vision);
    int64_t width = 0, patches = 0, rows = 0, at = 0;
    for (size_t i = 0; i < count; i++) {
        if (has_patches(items[i], kind)) {
            width = patch_width(kind == PROMPT_IMAGE ? &c->image : &c->video);
            patches += patch_count(&items[i]->patches);
            rows += items[i]->embedded->visual_rows;
        }
    }
    if (rows == 0) {
        return OMNI_OK;
    }
    float *pixels = malloc((size_t)(patches * width) * sizeof *pixels), *embeds = malloc((size_t)(rows * c->out) * sizeof *embeds);
    if (!pixels || !embeds) {
        free(pixels);
        free(embeds);
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the trace");
    }
    for (size_t i = 0; i < count; i++) {
        if (has_patches(items[i], kind)) {
            const patch_set *p = &items[i]->patches;
            patch_values(p, 0, patch_count(p), pixels + at * width);
            at += patch_count(p);
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
            if (has_patches(items[i], kind)) {
                const embeddings *x = items[i]->embedded;
                const float *from = k < 0 ? x->visual : x->deepstack + k * x->visual_rows * c->out;
                e->b->ops->download(e->b, embeds + at * c->out, from, (size_t)(x->visual_rows * c->out) * sizeof *embeds);
                at += x->visual_rows;
            }
        }
        trace_f32(t, name, 2, (int64_t[]){rows, c->out}, embeds);
    }
    free(pixels);
    free(embeds);
    return OMNI_OK;
}

static bool has_samples(const media_item *m) {
    return m->sound.samples && m->embedded;
}

/* The spectrograms of all sounds of the call, and their embeddings. */
static omni_status trace_sounds(const encoders *e, media_item *const *items, size_t count, trace *t, omni_error *err) {
    const int64_t bins = audio_encoder_mel(e->audio)->bins, width = audio_encoder_width(e->audio);
    int n = 0;
    int64_t rows = 0, frames = 0, at = 0;
    mel_sound *sounds = calloc(count, sizeof *sounds);
    mel_clip *clips = calloc(count, sizeof *clips);
    omni_status status = sounds && clips ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for the trace");
    for (size_t i = 0; status == OMNI_OK && i < count; i++) {
        if (has_samples(items[i])) {
            sounds[n++] = (mel_sound){items[i]->sound.samples, items[i]->samples};
            rows += items[i]->embedded->audio_rows;
        }
    }
    if (status == OMNI_OK) {
        status = mel_run(e->mel, sounds, n, 0, clips, &frames, err);
    }
    if (status == OMNI_OK) {
        float *features = malloc((size_t)(n * bins * frames) * sizeof *features), *embeds = malloc((size_t)(rows * width) * sizeof *embeds);
        status = features && embeds ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for the trace");
        if (status == OMNI_OK) {
            mel_features(e->mel, clips, n, frames, features, NULL);
            trace_f32(t, "inputs.input_features", 3, (int64_t[]){n, bins, frames}, features);
            for (size_t i = 0; i < count; i++) {
                if (has_samples(items[i])) {
                    const embeddings *x = items[i]->embedded;
                    e->b->ops->download(e->b, embeds + at * width, x->audio, (size_t)(x->audio_rows * width) * sizeof *embeds);
                    at += x->audio_rows;
                }
            }
            trace_f32(t, "audio_embeds", 2, (int64_t[]){rows, width}, embeds);
        }
        free(features);
        free(embeds);
        mel_clips_free(clips, n);
    }
    free(sounds);
    free(clips);
    return status;
}

omni_status media_items_trace(const encoders *e, media_item *const *items, size_t count, trace *t, omni_error *err) {
    bool sounds = false;
    for (size_t i = 0; i < count; i++) {
        sounds = sounds || has_samples(items[i]);
    }
    if (sounds) {
        TRY(trace_sounds(e, items, count, t, err));
    }
    if (e->vision) {
        TRY(trace_visual(e, items, count, PROMPT_IMAGE, t, err));
        TRY(trace_visual(e, items, count, PROMPT_VIDEO, t, err));
    }
    return OMNI_OK;
}
