/* The memory of an image, for every decoder. */
#include <stdlib.h>

#include "media/image_formats.h"

void image_free(image *im) {
    free(im->rgb);
    if (im->budget) {
        budget_release(im->budget, im->held);
    }
    *im = (image){0};
}

omni_status image_allocate(int64_t width, int64_t height, int besides, const image_source *s, image *out, omni_error *err) {
    budget *b = s->budget;
    if (width < 1 || height < 1 || width > INT32_MAX || height > INT32_MAX) {
        return fail(err, OMNI_ERR_FORMAT, "%s: an image of %lld x %lld pixels", s->name, (long long)width, (long long)height);
    }
    TRY(budget_pixels(b, s->name, width, height, err));
    int64_t bytes;
    if (__builtin_mul_overflow(width * height, 3 + besides, &bytes)) {
        bytes = INT64_MAX;
    }
    TRY(budget_hold(b, s->name, bytes, err));
    omni_status status = b->on_size ? b->on_size(b->arg, s->name, width, height, err) : OMNI_OK;
    uint8_t *rgb = status == OMNI_OK ? malloc((size_t)width * (size_t)height * 3) : NULL;
    if (!rgb) {
        budget_release(b, bytes);
        return status != OMNI_OK
                   ? status
                   : fail(err, OMNI_ERR_MEMORY, "%s: out of memory for %lld x %lld pixels", s->name, (long long)width, (long long)height);
    }
    *out = (image){.width = (int)width, .height = (int)height, .rgb = rgb, .budget = b, .held = bytes};
    return OMNI_OK;
}
