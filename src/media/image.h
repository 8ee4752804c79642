/* Still images from a file or from memory, as 8-bit RGB: JPEG, PNG, WebP, GIF, BMP, TIFF, PNM, JPEG 2000, AVIF and HEIC; of animations the first
 * frame.
 *
 * The values are those of Pillow as the reference's loaders use it. The picture is upright: the orientation that EXIF or XMP data states is applied
 * (ImageOps.exif_transpose, in transformers' load_image). Pictures of colours with an alpha channel are laid over white (to_rgb of
 * qwen-omni-utils); as there, the alpha of grey pictures and of palettes, and a GIF's transparent colour, are dropped: what lies under them shows.
 * 16-bit channels keep their high byte (16-bit grey saturates at 255); CMYK is multiplied out without a profile. Lossy AVIF, HEIC and JPEG 2000 are
 * decoded by other libraries than Pillow's: their values may differ by the rounding of YCbCr, as those of a TIFF in YCbCr do. */
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
