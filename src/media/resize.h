/* Resizing 8-bit RGB by bicubic convolution with antialias, bit for bit as torchvision does it on the CPU for uint8 tensors
 * (which follows Pillow's two-pass scheme: Keys' kernel with a = -0.5 stretched by the reduction, weights rounded to 16-bit
 * fixed point, each pass rounded to 8 bits). */
#ifndef OMNI_MEDIA_RESIZE_H
#define OMNI_MEDIA_RESIZE_H

#include <stdint.h>

#include "base/error.h"

/* Size that an image of height x width is resized to (Qwen2VLImageProcessor's smart_resize): both sides multiples of factor,
 * their product within [min_pixels, max_pixels] where possible. An aspect ratio over 200 is OMNI_ERR_LIMIT. */
omni_status resize_target(int64_t height, int64_t width, int64_t factor, int64_t min_pixels, int64_t max_pixels, int64_t *out_height,
                          int64_t *out_width, omni_error *err);

/* Weights for one pair of sizes, to be used for any number of images (the frames of a video). */
typedef struct resizer resizer;

omni_status resizer_create(int64_t height, int64_t width, int64_t out_height, int64_t out_width, resizer **out, omni_error *err);
void resizer_destroy(resizer *r);
/* in: [height, width, 3] uint8; out: [out_height, out_width, 3]. Equal sizes copy. */
void resizer_run(resizer *r, const uint8_t *in, uint8_t *out);

#endif
