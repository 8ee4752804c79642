#include "engine/media_load.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void media_loading_begin(media_loading *l, omni_conversation *c) {
    const omni_conversation_params *p = &c->params;
    *l = (media_loading){0};
    budget_init(&l->budget, &(budget_limits){.pixels = p->max_pixels, .audio_seconds = p->max_audio_seconds, .memory = p->max_media_memory});
    l->budget.context = p->context;
    l->budget.stop = &c->cancelled;
}

void media_loading_end(media_loading *l) {
    free(l->loaded);
    *l = (media_loading){0};
}

static uint64_t hash_bytes(const uint8_t *p, size_t size) {
    uint64_t h = 0xcbf29ce484222325; /* FNV-1a */
    for (size_t i = 0; i < size; i++) {
        h = (h ^ p[i]) * 0x100000001b3;
    }
    return h;
}

/* Says in *out what tells this medium from others; false if nothing does, as with a pipe. */
static bool identify(const char *path, const void *data, size_t size, loaded_medium *out) {
    if (!path) {
        out->data = data;
        out->size = size;
        out->hash = hash_bytes(data, size);
        return true;
    }
    struct stat st;
    if (strcmp(path, "-") == 0 || stat(path, &st) != 0 || !S_ISREG(st.st_mode)) {
        return false;
    }
    out->size = (size_t)st.st_size;
    out->device = st.st_dev;
    out->inode = st.st_ino;
    out->changed[0] = st.st_mtim.tv_sec;
    out->changed[1] = st.st_mtim.tv_nsec;
    return true;
}

static bool same_part(const chat_media_options *a, const chat_media_options *b) {
    return a->fps == b->fps && a->start == b->start && a->end == b->end && a->frames == b->frames && a->min_frames == b->min_frames &&
           a->max_frames == b->max_frames && a->min_pixels == b->min_pixels && a->max_pixels == b->max_pixels && a->total_pixels == b->total_pixels &&
           a->height == b->height && a->width == b->width;
}

static bool same_options(const medium_options *a, const medium_options *b) {
    return a->fps == b->fps && a->use_audio_in_video == b->use_audio_in_video && a->max_video_frames == b->max_video_frames &&
           same_part(&a->part, &b->part);
}

static bool same(const loaded_medium *a, const loaded_medium *b) {
    return a->kind == b->kind && same_options(&a->options, &b->options) && !a->data == !b->data && a->size == b->size && a->hash == b->hash &&
           a->device == b->device && a->inode == b->inode && a->changed[0] == b->changed[0] && a->changed[1] == b->changed[1] &&
           (!a->data || memcmp(a->data, b->data, a->size) == 0);
}

omni_status media_loading_add(media_loading *l, omni_conversation *c, omni_kind kind, const char *path, const void *data, size_t size,
                              const chat_media_options *part, omni_error *err) {
    const omni_conversation_params *p = &c->params;
    loaded_medium now = {.kind = kind, .options = {p->fps, p->use_audio_in_video, p->max_video_frames, {0}}, .index = c->media_count};
    if (part) {
        now.options.part = *part;
    }
    medium *larger = realloc(c->media, (c->media_count + 1) * sizeof *larger);
    loaded_medium *more = realloc(l->loaded, (l->count + 1) * sizeof *more);
    c->media = larger ? larger : c->media;
    l->loaded = more ? more : l->loaded;
    if (!larger || !more) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    medium *out = &c->media[c->media_count];
    const bool known = identify(path, data, size, &now);
    for (size_t i = 0; known && i < l->count; i++) {
        if (same(&l->loaded[i], &now)) {
            TRY(medium_copy(&c->model->encoders, &c->media[l->loaded[i].index], &l->budget, out, err));
            c->media_count++;
            return OMNI_OK;
        }
    }
    TRY(medium_load(&c->model->encoders, kind, path, data, size, &now.options, &l->budget, out, err));
    c->media_count++;
    if (known) {
        l->loaded[l->count++] = now;
    }
    return OMNI_OK;
}
