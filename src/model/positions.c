#include "model/positions.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------ media lists */

omni_status position_lists_make(const prompt_media *media, const int32_t *order, int32_t count, position_lists *out, omni_error *err) {
    *out = (position_lists){0};
    /* One block: two lists of grids, seconds, sounds. */
    size_t n = (size_t)count;
    char *memory = calloc(n ? n : 1, sizeof(double) + 6 * sizeof(int32_t) + sizeof(int32_t));
    if (!memory) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the positions of %d media", count);
    }
    double *seconds = (double *)memory;
    int32_t(*images)[3] = (int32_t(*)[3])(seconds + n), (*videos)[3] = images + n;
    int32_t *sounds = (int32_t *)(videos + n);
    position_media *p = &out->media;
    for (int32_t i = 0; i < count; i++) {
        const prompt_media *m = &media[order[i]];
        if (m->kind == PROMPT_IMAGE) {
            memcpy(images[p->image_count++], m->grid, sizeof m->grid);
        } else if (m->kind == PROMPT_VIDEO) {
            seconds[p->video_count] = m->seconds_per_grid;
            memcpy(videos[p->video_count++], m->grid, sizeof m->grid);
        }
        if (m->kind == PROMPT_AUDIO || (m->kind == PROMPT_VIDEO && m->audio_rows >= 0)) {
            sounds[p->audio_count++] = m->audio_rows;
        }
    }
    p->images = (const int32_t(*)[3])images;
    p->videos = (const int32_t(*)[3])videos;
    p->seconds_per_grid = seconds;
    p->audio_rows = sounds;
    p->audio_in_video = true;
    out->memory = memory;
    return OMNI_OK;
}

void position_lists_free(position_lists *l) {
    free(l->memory);
    *l = (position_lists){0};
}

/* ------------------------------------------------------------------------------------------------ get_rope_index */

/* The positions made so far. Appending in chunks matters: the next block starts at the largest id of the last chunk + 1. */
typedef struct counter {
    float (*positions)[3];
    int64_t n, room;
    float chunk_max; /* of the last chunk */
} counter;

static float next_start(const counter *c) {
    return c->n ? c->chunk_max + 1.0f : 0.0f;
}

static omni_status room_for(const counter *c, int64_t rows, omni_error *err) {
    if (rows > c->room - c->n) {
        return fail(err, OMNI_ERR_ARGUMENT, "positions: media of %lld rows do not fit behind row %lld of %lld; the rows and the media disagree",
                    (long long)rows, (long long)c->n, (long long)c->room);
    }
    return OMNI_OK;
}

/* rows ids start, start + 1, ... in all three. */
static omni_status append_text(counter *c, int64_t rows, float start, omni_error *err) {
    TRY(room_for(c, rows, err));
    for (int64_t i = 0; i < rows; i++) {
        float id = (float)i + start;
        c->positions[c->n][0] = c->positions[c->n][1] = c->positions[c->n][2] = id;
        c->n++;
        c->chunk_max = id;
    }
    return OMNI_OK;
}

/* One frame's or clip's grid: row i of t * h * w merged patches. */
typedef struct vision_grid {
    int64_t h, w, rows;
    bool image;
    float seconds; /* a frame group; a video's */
    float ids_per_second;
    float start;
} vision_grid;

static void vision_position(const vision_grid *g, int64_t row, float out[3]) {
    int64_t t = row / (g->h * g->w), h = row / g->w % g->h, w = row % g->w;
    float time = g->image ? (float)(t * (int64_t)g->ids_per_second) : (float)t * g->seconds * g->ids_per_second;
    out[0] = time + g->start;
    out[1] = (float)h + g->start;
    out[2] = (float)w + g->start;
}

/* Rows [begin, end) as one chunk. */
static void append_vision(counter *c, const vision_grid *g, int64_t begin, int64_t end) {
    float largest = -INFINITY;
    for (int64_t i = begin; i < end; i++) {
        float *p = c->positions[c->n++];
        vision_position(g, i, p);
        largest = fmaxf(largest, fmaxf(p[0], fmaxf(p[1], p[2])));
    }
    if (end > begin) {
        c->chunk_max = largest;
    }
}

/* Pictures and sound of a clip in the order of their time ids, pictures first where they are equal. */
static omni_status append_clip(counter *c, const vision_grid *g, int64_t audio_rows, omni_error *err) {
    TRY(room_for(c, g->rows + audio_rows, err));
    int64_t v = 0, a = 0;
    while (v < g->rows && a < audio_rows) {
        float video[3];
        vision_position(g, v, video);
        if (video[0] <= (float)a + g->start) {
            append_vision(c, g, v, v + 1);
            v++;
        } else {
            TRY(append_text(c, 1, (float)a + g->start, err));
            a++;
        }
    }
    append_vision(c, g, v, g->rows);
    for (; a < audio_rows; a++) {
        TRY(append_text(c, 1, (float)a + g->start, err));
    }
    return OMNI_OK;
}

static omni_status make_grid(const prompt_markup *m, const int32_t grid[3], float start, vision_grid *out, omni_error *err) {
    int32_t merge = m->spatial_merge;
    int64_t h = grid[1] / merge, w = grid[2] / merge;
    if (grid[0] <= 0 || h <= 0 || w <= 0 || h * w > INT32_MAX || grid[0] * (h * w) > INT32_MAX) {
        return fail(err, OMNI_ERR_ARGUMENT, "positions: a grid of %d x %d x %d patches, merged by %d", grid[0], grid[1], grid[2], merge);
    }
    *out = (vision_grid){.h = h, .w = w, .rows = grid[0] * h * w, .ids_per_second = (float)m->ids_per_second, .start = start};
    return OMNI_OK;
}

static int64_t find_class(const uint8_t *classes, int64_t from, int64_t n, row_class class) {
    while (from < n && classes[from] != class) {
        from++;
    }
    return from;
}

typedef struct census {
    int64_t images, videos, clips, audios; /* openings; clips are videos with sound */
} census;

static census count_openings(const uint8_t *classes, int64_t n) {
    census s = {0};
    for (int64_t i = 0; i < n; i++) {
        s.audios += classes[i] == ROW_AUDIO_START;
        if (classes[i] == ROW_VISION_START && i + 1 < n) {
            s.images += classes[i + 1] == ROW_IMAGE;
            s.videos += classes[i + 1] == ROW_VIDEO;
            s.clips += classes[i + 1] == ROW_AUDIO_START;
        }
    }
    return s;
}

omni_status positions_compute(const prompt_markup *m, const uint8_t *classes, int64_t n, const position_media *media, float (*positions)[3],
                              float *delta, omni_error *err) {
    if (m->spatial_merge <= 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "positions: a spatial merge of %d", m->spatial_merge);
    }
    census s = count_openings(classes, n);
    /* Videos without sound beside clips with sound do not occur in the reference; here they are further blocks. */
    int64_t blocks = s.images + s.videos + s.audios;
    int64_t images_left = s.images, videos_left = s.videos + (media->audio_in_video ? s.clips : 0), audios_left = s.audios;
    int32_t image = 0, video = 0, audio = 0;
    counter c = {.positions = positions, .room = n};
    int64_t at = 0; /* rows consumed */
    if (media->image_count == 0 && media->video_count == 0) {
        blocks = 0; /* text and sound alone count up one by one */
    }
    for (int64_t block = 0; block < blocks; block++) {
        int64_t vision_start = videos_left > 0 || images_left > 0 ? find_class(classes, at, n, ROW_VISION_START) : n;
        int64_t audio_start = audios_left > 0 ? find_class(classes, at, n, ROW_AUDIO_START) : n;
        int64_t open = vision_start < audio_start ? vision_start : audio_start;
        if (open >= n) {
            return fail(err, OMNI_ERR_ARGUMENT, "positions: %lld media are opened behind row %lld, but no such opening is left",
                        (long long)(blocks - block), (long long)at);
        }
        float start = next_start(&c);
        int64_t text = open - at;
        TRY(append_text(&c, text, start, err));
        start = (float)text + start;
        bool clip = open == vision_start && vision_start + 1 == audio_start;
        int64_t brackets = clip ? 2 : 1;
        TRY(append_text(&c, brackets, start, err));
        start = start + (float)brackets;
        int64_t rows;
        uint8_t inside = open + 1 < n ? classes[open + 1] : ROW_TEXT;
        bool is_audio = open == audio_start, is_image = !is_audio && inside == ROW_IMAGE, is_video = !is_audio && (clip || inside == ROW_VIDEO);
        if ((is_image && image >= media->image_count) || (is_video && video >= media->video_count) ||
            ((is_audio || clip) && audio >= media->audio_count) || !(is_image || is_video || is_audio)) {
            return fail(err, OMNI_ERR_ARGUMENT, "positions: row %lld opens a media beyond the %d images, %d videos and %d sounds given",
                        (long long)open, media->image_count, media->video_count, media->audio_count);
        }
        int64_t sound = is_audio || clip ? media->audio_rows[audio] : 0;
        if (sound < 0) {
            return fail(err, OMNI_ERR_ARGUMENT, "positions: sound %d has %lld rows", audio, (long long)sound);
        }
        if (is_audio) {
            TRY(append_text(&c, sound, start, err));
            rows = sound;
        } else {
            vision_grid g = {0};
            TRY(make_grid(m, is_image ? media->images[image] : media->videos[video], start, &g, err));
            g.image = is_image;
            g.seconds = is_image ? 0 : (float)media->seconds_per_grid[video];
            TRY(append_clip(&c, &g, sound, err));
            rows = g.rows + sound;
        }
        audio += is_audio || clip;
        audios_left -= is_audio || clip;
        video += is_video;
        videos_left -= is_video;
        image += is_image;
        images_left -= is_image;
        TRY(append_text(&c, brackets, next_start(&c), err));
        at += text + brackets + rows + brackets;
    }
    TRY(append_text(&c, n - at, next_start(&c), err));
    if (delta) {
        float largest = n ? -INFINITY : -1.0f;
        for (int64_t i = 0; i < n; i++) {
            largest = fmaxf(largest, fmaxf(positions[i][0], fmaxf(positions[i][1], positions[i][2])));
        }
        *delta = largest + 1.0f - (float)n;
    }
    return OMNI_OK;
}

void positions_classes(const prompt_markup *m, const int32_t *ids, int64_t n, uint8_t *classes) {
    for (int64_t i = 0; i < n; i++) {
        int32_t id = ids[i];
        classes[i] = id == m->image          ? ROW_IMAGE
                     : id == m->video        ? ROW_VIDEO
                     : id == m->audio        ? ROW_AUDIO
                     : id == m->vision_start ? ROW_VISION_START
                     : id == m->audio_start  ? ROW_AUDIO_START
                                             : ROW_TEXT;
    }
}
