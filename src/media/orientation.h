/* The eight ways in which a stored picture can be turned and mirrored before it is shown. */
#ifndef OMNI_MEDIA_ORIENTATION_H
#define OMNI_MEDIA_ORIENTATION_H

#include <stdbool.h>
#include <stdint.h>

/* The shown picture's row y, column x is the stored picture's row y, column x, with the two swapped first if `transpose` is set, and then counted
 * from the other end where `flip_rows`, `flip_columns` are. All false: as stored. */
typedef struct orientation {
    bool transpose, flip_rows, flip_columns;
} orientation;

static inline bool orientation_changes(orientation o) {
    return o.transpose || o.flip_rows || o.flip_columns;
}

/* Of the value 1 to 8 of the EXIF tag Orientation (0x0112); others are 1. */
orientation orientation_exif(int value);

/* in [height, width, 3] as stored -> out, [height, width, 3] or with transpose [width, height, 3]. */
void orientation_apply(orientation o, const uint8_t *in, int width, int height, uint8_t *out);

#endif
