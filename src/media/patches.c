#include "media/patches.h"

#include <stdlib.h>
#include <string.h>

#include "media/resize.h"

struct patch_writer {
    patch_params params;
    patch_set set;
    int64_t frames, done; /* announced, taken */
    resizer *resize;      /* NULL when the size fits already */
    uint8_t *frame;       /* [h * patch, w * patch, 3]: resized */
};

int64_t patch_width(const patch_params *p) {
    return (int64_t)3 * p->temporal * p->patch * p->patch;
}

int64_t patch_count(const patch_set *s) {
    return (int64_t)s->t * s->h * s->w;
}

void patch_set_free(patch_set *s) {
    free(s->levels);
    *s = (patch_set){0};
}

void patch_values(const patch_set *s, int64_t first, int64_t count, float *out) {
    int64_t plane = (int64_t)s->temporal * s->patch * s->patch;
    const uint8_t *p = s->levels + first * 3 * plane;
    for (int64_t i = 0; i < count; i++) {
        for (int c = 0; c < 3; c++) {
            const float *value = s->value[c];
            for (int64_t k = 0; k < plane; k++) {
                *out++ = value[*p++];
            }
        }
    }
}

static omni_status target_size(int64_t frames, int64_t height, int64_t width, const patch_params *p, int64_t *h, int64_t *w, omni_error *err) {
    const int64_t factor = (int64_t)p->patch * p->merge;
    return p->request ? size_requested(p->request, frames, height, width, factor, p->max_pixels, h, w, err)
                      : resize_target(height, width, factor, p->min_pixels, p->max_pixels, h, w, err);
}

static omni_status measure(int64_t frames, int64_t height, int64_t width, const patch_params *p, const char *name, patch_cost *out, omni_error *err) {
    int64_t h, w, pixels;
    omni_status status = target_size(frames, height, width, p, &h, &w, err);
    if (status != OMNI_OK) {
        return fail_in(err, status, "%s", name);
    }
    const int64_t groups = (frames + p->temporal - 1) / p->temporal, side = (int64_t)p->patch * p->merge;
    out->rows = groups * (h / side) * (w / side);
    /* levels, one resized frame, and the rows between the two passes of resizing */
    if (__builtin_mul_overflow(h * w * 3, groups * p->temporal + 1, &pixels)) {
        pixels = INT64_MAX / 2;
    }
    out->bytes = pixels + (h != height || w != width ? height * w * 3 : 0);
    return OMNI_OK;
}

omni_status patches_check(int64_t frames, int64_t height, int64_t width, const patch_params *p, const budget *b, const char *name, omni_error *err) {
    patch_cost cost = {0};
    TRY(measure(frames, height, width, p, name, &cost, err));
    return budget_check_rows(b, name, cost.rows, err);
}

omni_status patches_reserve(int64_t frames, int64_t height, int64_t width, const patch_params *p, budget *b, const char *name, patch_cost *out,
                            omni_error *err) {
    patch_cost cost = {0};
    TRY(measure(frames, height, width, p, name, &cost, err));
    TRY(budget_rows(b, name, cost.rows, err));
    omni_status status = budget_hold(b, name, cost.bytes, err);
    if (status != OMNI_OK) {
        b->rows -= cost.rows;
        return status;
    }
    if (out) {
        *out = cost;
    }
    return OMNI_OK;
}

void patches_give_back(budget *b, patch_cost cost) {
    b->rows -= cost.rows;
    budget_release(b, cost.bytes);
}

omni_status patches_begin(int64_t frames, int64_t height, int64_t width, const patch_params *p, patch_writer **out, omni_error *err) {
    *out = NULL;
    if (frames < 1 || frames > INT32_MAX || p->patch < 1 || p->patch > 256 || p->merge < 1 || p->merge > 16 || p->temporal < 1 || p->temporal > 64) {
        return fail(err, OMNI_ERR_ARGUMENT, "cannot cut %lld frames into groups of %d and patches of %d merged by %d", (long long)frames, p->temporal,
                    p->patch, p->merge);
    }
    int64_t h, w;
    TRY(target_size(frames, height, width, p, &h, &w, err));
    patch_writer *writer = calloc(1, sizeof *writer);
    if (!writer) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for patches");
    }
    writer->params = *p;
    writer->frames = frames;
    patch_set *s = &writer->set;
    *s = (patch_set){.t = (int32_t)((frames + p->temporal - 1) / p->temporal),
                     .h = (int32_t)(h / p->patch),
                     .w = (int32_t)(w / p->patch),
                     .patch = p->patch,
                     .temporal = p->temporal};
    for (int c = 0; c < 3; c++) {
        float mean = p->mean[c] * 255.0f, std = p->std[c] * 255.0f;
        for (int i = 0; i < 256; i++) {
            s->value[c][i] = ((float)i - mean) / std;
        }
    }
    omni_status status = OMNI_OK;
    size_t bytes;
    if (__builtin_mul_overflow((size_t)h * (size_t)w * 3, (size_t)s->t * (size_t)p->temporal, &bytes)) {
        bytes = SIZE_MAX;
    }
    s->levels = bytes <= PTRDIFF_MAX ? malloc(bytes) : NULL;
    writer->frame = malloc((size_t)h * (size_t)w * 3);
    if (!s->levels || !writer->frame) {
        status = fail(err, OMNI_ERR_MEMORY, "out of memory for the patches of %lld frames of %lld x %lld pixels", (long long)frames, (long long)w,
                      (long long)h);
    } else if (h != height || w != width) {
        status = resizer_create(height, width, h, w, &writer->resize, err);
    }
    if (status != OMNI_OK) {
        patches_abandon(writer);
        return status;
    }
    *out = writer;
    return OMNI_OK;
}

/* Writes rgb [h * patch, w * patch, 3] into the place of frame `slot` of group `group`. */
static void cut_frame(const patch_params *p, patch_set *s, const uint8_t *rgb, int64_t group, int slot) {
    int P = p->patch, m = p->merge;
    size_t row_bytes = (size_t)s->w * (size_t)P * 3, area = (size_t)P * (size_t)P, plane = (size_t)p->temporal * area;
    uint8_t *out = s->levels + (size_t)group * (size_t)s->h * (size_t)s->w * 3 * plane + (size_t)slot * area;
    for (int64_t by = 0; by < s->h; by += m) {
        for (int64_t bx = 0; bx < s->w; bx += m) {
            for (int64_t y = by; y < by + m; y++) {
                for (int64_t x = bx; x < bx + m; x++, out += 3 * plane) {
                    const uint8_t *in = rgb + (size_t)y * (size_t)P * row_bytes + (size_t)x * (size_t)P * 3;
                    for (int i = 0; i < P; i++, in += row_bytes) {
                        uint8_t *red = out + (size_t)i * (size_t)P, *green = red + plane, *blue = green + plane;
                        for (int j = 0; j < P; j++) {
                            red[j] = in[j * 3];
                            green[j] = in[j * 3 + 1];
                            blue[j] = in[j * 3 + 2];
                        }
                    }
                }
            }
        }
    }
}

static void put_frame(patch_writer *w, const uint8_t *rgb) {
    cut_frame(&w->params, &w->set, rgb, w->done / w->params.temporal, (int)(w->done % w->params.temporal));
    w->done++;
}

omni_status patches_frame(patch_writer *w, const uint8_t *rgb, omni_error *err) {
    if (w->done >= w->frames) {
        return fail(err, OMNI_ERR_ARGUMENT, "more than the %lld frames announced", (long long)w->frames);
    }
    if (w->resize) {
        resizer_run(w->resize, rgb, w->frame);
    } else {
        memcpy(w->frame, rgb, (size_t)w->set.h * (size_t)w->set.w * (size_t)w->params.patch * (size_t)w->params.patch * 3);
    }
    put_frame(w, w->frame);
    return OMNI_OK;
}

omni_status patches_end(patch_writer *w, patch_set *out, omni_error *err) {
    *out = (patch_set){0};
    if (w->done < 1) {
        patches_abandon(w);
        return fail(err, OMNI_ERR_FORMAT, "not a single frame");
    }
    while (w->done % w->params.temporal != 0) {
        put_frame(w, w->frame); /* the last group is filled up with the last frame */
    }
    w->set.t = (int32_t)(w->done / w->params.temporal);
    *out = w->set;
    w->set.levels = NULL;
    patches_abandon(w);
    return OMNI_OK;
}

void patches_abandon(patch_writer *w) {
    if (w) {
        resizer_destroy(w->resize);
        free(w->frame);
        patch_set_free(&w->set);
        free(w);
    }
}

omni_status patches_from_image(const image *im, const patch_params *p, patch_set *out, omni_error *err) {
    patch_writer *w;
    *out = (patch_set){0};
    TRY(patches_begin(1, im->height, im->width, p, &w, err));
    omni_status status = patches_frame(w, im->rgb, err);
    if (status != OMNI_OK) {
        patches_abandon(w);
        return status;
    }
    return patches_end(w, out, err);
}
