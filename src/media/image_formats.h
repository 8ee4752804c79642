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
omni_status image_decode_bmp(const image_source *s, image *out, omni_error *err);
omni_status image_decode_tiff(const image_source *s, image *out, omni_error *err);
omni_status image_decode_pnm(const image_source *s, image *out, omni_error *err);
omni_status image_decode_jpeg2000(const image_source *s, image *out, omni_error *err);
omni_status image_decode_heif(const image_source *s, image *out, omni_error *err);

/* A pixel with alpha on a white page, rounded as Pillow's paste with a mask. */
static inline void over_white(uint8_t rgb[3], uint8_t alpha) {
    for (int c = 0; c < 3; c++) {
        const unsigned v = 255u * (255u - alpha) + (unsigned)rgb[c] * alpha + 128;
        rgb[c] = (uint8_t)((v + (v >> 8)) >> 8);
    }
}

#endif
