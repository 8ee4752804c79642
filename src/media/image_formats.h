/* One decoder a file format, behind image_decode. Each takes pixels and memory from the budget before it allocates and leaves *out untouched on
 * error. */
#ifndef OMNI_MEDIA_IMAGE_FORMATS_H
#define OMNI_MEDIA_IMAGE_FORMATS_H

#include "media/image.h"

typedef struct image_source {
    const uint8_t *data;
    size_t size;
    const char *name; /* in errors */
    budget *budget;
} image_source;

/* Sizes an image: takes its pixels from the budget, and its memory with the `besides` bytes a pixel that the decoder needs until image_decode
 * returns; allocates rgb (not cleared). */
omni_status image_allocate(int64_t width, int64_t height, int besides, const image_source *s, image *out, omni_error *err);

omni_status image_decode_jpeg(const image_source *s, image *out, omni_error *err);
omni_status image_decode_png(const image_source *s, image *out, omni_error *err);
omni_status image_decode_webp(const image_source *s, image *out, omni_error *err);
omni_status image_decode_gif(const image_source *s, image *out, omni_error *err);

#endif
