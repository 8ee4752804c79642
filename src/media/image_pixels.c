/* The memory of an image, for every decoder. */
#include <stdlib.h>

#include "media/image_formats.h"

void image_free(image *im) {
    free(im->rgb);
    *im = (image){0};
}

omni_status image_allocate(int64_t width, int64_t height, int64_t max_pixels, const char *name, image *out, omni_error *err) {
    if (width < 1 || height < 1 || width > INT32_MAX || height > INT32_MAX) {
        return fail(err, OMNI_ERR_FORMAT, "%s: an image of %lld x %lld pixels", name, (long long)width, (long long)height);
    }
    if (width > max_pixels / height) {
        return fail(err, OMNI_ERR_LIMIT, "%s: %lld x %lld pixels, over the limit of %lld pixels", name, (long long)width, (long long)height,
                    (long long)max_pixels);
    }
    uint8_t *rgb = malloc((size_t)width * (size_t)height * 3);
    if (!rgb) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for %lld x %lld pixels", name, (long long)width, (long long)height);
    }
    *out = (image){.width = (int)width, .height = (int)height, .rgb = rgb};
    return OMNI_OK;
}
