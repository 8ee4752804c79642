/* One decoder a file format, behind image_decode. Each checks the pixel limit before it allocates and leaves *out untouched on error. */
#ifndef OMNI_MEDIA_IMAGE_FORMATS_H
#define OMNI_MEDIA_IMAGE_FORMATS_H

#include "media/image.h"

/* Sizes an image: checks width * height against the limit and allocates rgb (not cleared). */
omni_status image_allocate(int64_t width, int64_t height, int64_t max_pixels, const char *name, image *out, omni_error *err);

omni_status image_decode_jpeg(const uint8_t *data, size_t size, const char *name, int64_t max_pixels, image *out, omni_error *err);
omni_status image_decode_png(const uint8_t *data, size_t size, const char *name, int64_t max_pixels, image *out, omni_error *err);
omni_status image_decode_webp(const uint8_t *data, size_t size, const char *name, int64_t max_pixels, image *out, omni_error *err);
omni_status image_decode_gif(const uint8_t *data, size_t size, const char *name, int64_t max_pixels, image *out, omni_error *err);

#endif
