/* Placeholder expansion: the ids of the reference's processor, and where each row's embedding comes from. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/positions.h"

int64_t prompt_visual_rows(const prompt_markup *m, const prompt_media *media) {
    if (media->kind == PROMPT_AUDIO) {
        return 0;
    }
    return (int64_t)media->grid[0] * (media->grid[1] / m->spatial_merge) * (media->grid[2] / m->spatial_merge);
}

static bool has_sound(const prompt_media *media) {
    return media->kind == PROMPT_VIDEO && media->audio_rows >= 0;
}

static omni_status check_media(const prompt_markup *m, const prompt_media *media, int32_t index, omni_error *err) {
    if (media->kind == PROMPT_AUDIO) {
        if (media->audio_rows < 0) {
            return fail(err, OMNI_ERR_ARGUMENT, "media %d: a sound of %d embeddings", index, media->audio_rows);
        }
        return OMNI_OK;
    }
    int64_t merge = m->spatial_merge, h = media->grid[1], w = media->grid[2];
    if (media->grid[0] <= 0 || h <= 0 || w <= 0 || h % merge || w % merge || (h / merge) * (w / merge) > INT32_MAX / media->grid[0]) {
        return fail(err, OMNI_ERR_ARGUMENT, "media %d: a grid of %d x %lld x %lld patches; height and width must be multiples of %lld", index,
                    media->grid[0], (long long)h, (long long)w, (long long)merge);
    }
    if (media->kind == PROMPT_VIDEO && (!isfinite(media->seconds_per_grid) || media->seconds_per_grid < 0 || media->audio_rows < -1)) {
        return fail(err, OMNI_ERR_ARGUMENT, "media %d: a video with %g seconds a frame group and %d embeddings of sound", index,
                    media->seconds_per_grid, media->audio_rows);
    }
    return OMNI_OK;
}

/* Rows that a marker becomes, the inner brackets of a clip with sound included. */
static int64_t media_rows(const prompt_markup *m, const prompt_media *media) {
    if (media->kind == PROMPT_AUDIO) {
        return media->audio_rows;
    }
    return prompt_visual_rows(m, media) + (has_sound(media) ? (int64_t)media->audio_rows + 2 : 0);
}

static void push(prompt *p, int32_t id, row_class class, int32_t media, int64_t media_row) {
    p->rows[p->n++] = (prompt_row){.id = id, .class = (uint8_t) class, .media = media, .media_row = (int32_t)media_row};
}

static void push_media(const prompt_markup *m, const prompt_media *media, int32_t index, prompt *p) {
    int64_t visual = prompt_visual_rows(m, media), v = 0, a = 0;
    if (media->kind == PROMPT_IMAGE) {
        for (; v < visual; v++) {
            push(p, m->image, ROW_IMAGE, index, v);
        }
        return;
    }
    bool clip = has_sound(media);
    int64_t frame = media->grid[0] > 0 ? visual / media->grid[0] : 1, sound = media->audio_rows < 0 ? 0 : media->audio_rows;
    if (clip) {
        push(p, m->audio_start, ROW_AUDIO_START, -1, 0);
    }
    while (v < visual || a < sound) {
        /* The processor compares in double, without the offset that get_rope_index adds in float. */
        bool picture = a == sound || (v < visual && (double)(v / frame) * media->seconds_per_grid * m->ids_per_second <= (double)a);
        if (picture) {
            push(p, m->video, ROW_VIDEO, index, v);
            v++;
        } else {
            push(p, m->audio, ROW_AUDIO, index, a);
            a++;
        }
    }
    if (clip) {
        push(p, m->audio_end, ROW_TEXT, -1, 0);
    }
}

/* Checks the ids and markers; order receives the media as they come, *rows the size of the expanded prompt. */
static omni_status survey(const prompt_markup *m, const int32_t *ids, int64_t count, const prompt_media *media, int32_t media_count, int32_t *order,
                          int32_t *order_count, int64_t *rows, omni_error *err) {
    *rows = count;
    *order_count = 0;
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] >= 0) {
            continue;
        }
        int32_t index = -1 - ids[i];
        if (index >= media_count || *order_count == media_count) {
            return fail(err, OMNI_ERR_ARGUMENT, "marker %lld names media %d of %d", (long long)i, index, media_count);
        }
        const prompt_media *x = &media[index];
        bool sound = x->kind == PROMPT_AUDIO;
        int32_t open = sound ? m->audio_start : m->vision_start, close = sound ? m->audio_end : m->vision_end;
        if (i == 0 || i + 1 == count || ids[i - 1] != open || ids[i + 1] != close) {
            return fail(err, OMNI_ERR_ARGUMENT, "marker %lld of media %d is not between token %d and token %d", (long long)i, index, open, close);
        }
        TRY(check_media(m, x, index, err));
        order[(*order_count)++] = index;
        *rows += media_rows(m, x) - 1;
    }
    return OMNI_OK;
}

static omni_status fill_positions(const prompt_markup *m, prompt *p, const position_media *lists, omni_error *err) {
    size_t n = (size_t)p->n;
    uint8_t *classes = malloc(n ? n : 1);
    float(*positions)[3] = malloc((n ? n : 1) * sizeof *positions);
    omni_status status = classes && positions ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for the positions of %zu rows", n);
    if (status == OMNI_OK) {
        for (size_t i = 0; i < n; i++) {
            classes[i] = p->rows[i].class;
        }
        status = positions_compute(m, classes, p->n, lists, positions, NULL, err);
    }
    for (size_t i = 0; status == OMNI_OK && i < n; i++) {
        memcpy(p->rows[i].position, positions[i], sizeof positions[i]);
    }
    free(classes);
    free(positions);
    return status;
}

omni_status prompt_expand(const prompt_markup *m, const int32_t *ids, int64_t count, const prompt_media *media, int32_t media_count, int64_t limit,
                          prompt *out, omni_error *err) {
    *out = (prompt){0};
    if (m->spatial_merge <= 0 || count < 0 || media_count < 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "a prompt of %lld ids and %d media, merged by %d", (long long)count, media_count, m->spatial_merge);
    }
    int32_t *order = malloc((size_t)(media_count + 1) * sizeof *order), order_count = 0;
    if (!order) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %d media", media_count);
    }
    int64_t rows = 0;
    position_lists lists = {0};
    omni_status status = survey(m, ids, count, media, media_count, order, &order_count, &rows, err);
    if (status == OMNI_OK && rows > limit) {
        status = fail(err, OMNI_ERR_LIMIT, "the conversation needs %lld tokens, media included; there is room for %lld", (long long)rows,
                      (long long)limit);
    }
    if (status == OMNI_OK) {
        out->rows = malloc((size_t)(rows ? rows : 1) * sizeof *out->rows);
        status = out->rows ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for a prompt of %lld rows", (long long)rows);
    }
    for (int64_t i = 0; status == OMNI_OK && i < count; i++) {
        if (ids[i] < 0) {
            push_media(m, &media[-1 - ids[i]], -1 - ids[i], out);
            continue;
        }
        bool opens = i + 1 < count && ids[i + 1] < 0;
        row_class class = !opens ? ROW_TEXT : media[-1 - ids[i + 1]].kind == PROMPT_AUDIO ? ROW_AUDIO_START : ROW_VISION_START;
        push(out, ids[i], class, -1, 0);
    }
    if (status == OMNI_OK) {
        status = position_lists_make(media, order, order_count, &lists, err);
    }
    if (status == OMNI_OK) {
        status = fill_positions(m, out, &lists.media, err);
    }
    position_lists_free(&lists);
    free(order);
    if (status != OMNI_OK) {
        prompt_free(out);
    }
    return status;
}

void prompt_free(prompt *p) {
    free(p->rows);
    *p = (prompt){0};
}
