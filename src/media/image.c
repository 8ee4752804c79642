#include "media/image.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "media/image_formats.h"

static const size_t DEFAULT_BYTES = (size_t)256 << 20;
static const int64_t DEFAULT_PIXELS = 178956970;

omni_status image_decode(const void *data, size_t size, const char *name, const image_limits *limits, image *out, omni_error *err) {
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    size_t max_bytes = limits && limits->bytes ? limits->bytes : DEFAULT_BYTES;
    int64_t max_pixels = limits && limits->pixels > 0 ? limits->pixels : DEFAULT_PIXELS;
    const uint8_t *p = data;
    *out = (image){0};
    if (size > max_bytes) {
        return fail(err, OMNI_ERR_LIMIT, "%s: %zu bytes, over the limit of %zu bytes for an image", name, size, max_bytes);
    }
    if (size >= 3 && p[0] == 0xff && p[1] == 0xd8 && p[2] == 0xff) {
        return image_decode_jpeg(p, size, name, max_pixels, out, err);
    }
    if (size >= 8 && memcmp(p, png, 8) == 0) {
        return image_decode_png(p, size, name, max_pixels, out, err);
    }
    if (size >= 12 && memcmp(p, "RIFF", 4) == 0 && memcmp(p + 8, "WEBP", 4) == 0) {
        return image_decode_webp(p, size, name, max_pixels, out, err);
    }
    if (size >= 6 && (memcmp(p, "GIF87a", 6) == 0 || memcmp(p, "GIF89a", 6) == 0)) {
        return image_decode_gif(p, size, name, max_pixels, out, err);
    }
    return fail(err, OMNI_ERR_UNSUPPORTED, "%s: not an image of a known kind (JPEG, PNG, WebP or GIF)", name);
}

omni_status image_open(const char *path, const image_limits *limits, image *out, omni_error *err) {
    char *data;
    size_t size;
    *out = (image){0};
    TRY(file_read(path, limits && limits->bytes ? limits->bytes : DEFAULT_BYTES, &data, &size, err));
    omni_status status = image_decode(data, size, path, limits, out, err);
    free(data);
    return status;
}
