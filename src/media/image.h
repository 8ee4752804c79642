/* Still images from a file or from memory, as 8-bit RGB: JPEG, PNG, WebP, and the first frame of a GIF.
 *
 * The values are those of Pillow's Image.open(path).convert("RGB"), which the reference pipeline uses: an alpha channel is dropped,
 * not blended; 16-bit channels keep their high byte (16-bit grey saturates at 255); CMYK is multiplied out without a profile;
 * a stored orientation (EXIF) is not applied. */
#ifndef OMNI_MEDIA_IMAGE_H
#define OMNI_MEDIA_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "media/budget.h"

typedef struct image {
    int width, height; /* pixels, at least 1 */
    uint8_t *rgb;      /* [height, width, 3] */
    budget *budget;    /* whose memory it holds, or NULL */
    int64_t held;      /* bytes of it */
} image;

/* Decodes the file at path ("-": standard input). What does not fit into the budget is OMNI_ERR_LIMIT, before it is decoded; NULL: one of its own,
 * with the default limits. A picture holds its memory of the budget until image_free. */
omni_status image_open(const char *path, budget *b, image *out, omni_error *err);
/* The same from memory; name stands for the path in errors. */
omni_status image_decode(const void *data, size_t size, const char *name, budget *b, image *out, omni_error *err);
/* Releases rgb; a zeroed image is fine. */
void image_free(image *im);

#endif
