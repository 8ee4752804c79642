#include "media/size_request.h"

#include <math.h>

#include "media/resize.h"

/* In merged patches: limits of a picture, of a frame, and of all frames (a context of 128,000, nine tenths of it). */
enum { IMAGE_LEAST = 4, IMAGE_MOST = 16384, FRAME_LEAST = 128, FRAME_MOST = 768, ALL_FRAMES = 115200, PAIR = 2, HIGHEST_RATIO = 200 };

bool size_is_requested(const size_request *r) {
    return r->min_pixels > 0 || r->max_pixels > 0 || r->total_pixels > 0 || r->height > 0;
}

/* smart_resize of qwen-omni-utils, which, unlike the processor's, gives a side at least one factor before it looks at the pixels. */
static omni_status fit(double height, double width, double factor, double least, double most, int64_t *out_height, int64_t *out_width,
                       omni_error *err) {
    if (most < least) {
        return fail(err, OMNI_ERR_ARGUMENT, "max_pixels of %.0f is less than min_pixels of %.0f", most, least);
    }
    if (fmax(height, width) / fmin(height, width) > HIGHEST_RATIO) {
        return fail(err, OMNI_ERR_LIMIT, "%.0f x %.0f pixels: one side is more than %d times the other", width, height, HIGHEST_RATIO);
    }
    double h = fmax(factor, rint(height / factor) * factor), w = fmax(factor, rint(width / factor) * factor);
    if (h * w > most) {
        const double beta = sqrt(height * width / most);
        h = floor(height / beta / factor) * factor;
        w = floor(width / beta / factor) * factor;
    } else if (h * w < least) {
        const double beta = sqrt(least / (height * width));
        h = ceil(height * beta / factor) * factor;
        w = ceil(width * beta / factor) * factor;
    }
    if (h < factor || w < factor) {
        return fail(err, OMNI_ERR_ARGUMENT, "%.0f x %.0f pixels do not fit into max_pixels of %.0f: a side would be shorter than %.0f", width, height,
                    most, factor);
    }
    *out_height = (int64_t)h;
    *out_width = (int64_t)w;
    return OMNI_OK;
}

omni_status size_requested(const size_request *r, int64_t frames, int64_t height, int64_t width, int64_t factor, int64_t most, int64_t *out_height,
                           int64_t *out_width, omni_error *err) {
    const double area = (double)factor * (double)factor;
    double low = (r->video ? FRAME_LEAST : IMAGE_LEAST) * area, high = IMAGE_MOST * area;
    low = r->min_pixels > 0 ? (double)r->min_pixels : low;
    if (r->video) {
        const double total = r->total_pixels > 0 ? (double)r->total_pixels : ALL_FRAMES * area;
        high = fmax(fmin(FRAME_MOST * area, total / (double)frames * PAIR), floor(low * 1.05));
        high = r->max_pixels > 0 ? fmin((double)r->max_pixels, high) : high;
    } else if (r->max_pixels > 0) {
        high = (double)r->max_pixels;
    }
    if (r->height > 0) {
        TRY(fit((double)r->height, (double)r->width, (double)factor, IMAGE_LEAST * area, IMAGE_MOST * area, out_height, out_width, err));
    } else {
        TRY(fit((double)height, (double)width, (double)factor, low, high, out_height, out_width, err));
    }
    return *out_height * *out_width > most ? resize_target(*out_height, *out_width, factor, 1, most, out_height, out_width, err) : OMNI_OK;
}
