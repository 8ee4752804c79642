#include "media/orientation.h"

#include <stddef.h>
#include <string.h>

orientation orientation_exif(int value) {
    static const orientation known[9] = {
        [2] = {.flip_columns = true},
        [3] = {.flip_rows = true, .flip_columns = true},
        [4] = {.flip_rows = true},
        [5] = {.transpose = true},
        [6] = {.transpose = true, .flip_rows = true},
        [7] = {.transpose = true, .flip_rows = true, .flip_columns = true},
        [8] = {.transpose = true, .flip_columns = true},
    };
    return value >= 0 && value <= 8 ? known[value] : (orientation){0};
}

void orientation_apply(orientation o, const uint8_t *in, int width, int height, uint8_t *out) {
    const int out_width = o.transpose ? height : width, out_height = o.transpose ? width : height;
    const ptrdiff_t row = (ptrdiff_t)width * 3;
    const ptrdiff_t down = o.flip_rows ? -row : row, right = o.flip_columns ? -3 : 3;
    const uint8_t *corner = in + (o.flip_rows ? (height - 1) * row : 0) + (o.flip_columns ? row - 3 : 0);
    const ptrdiff_t a_row = o.transpose ? right : down, a_column = o.transpose ? down : right;
    /* by tiles: a transposed picture is read across its rows */
    enum { TILE = 64 };
    for (int y0 = 0; y0 < out_height; y0 += TILE) {
        const int y1 = out_height - y0 < TILE ? out_height : y0 + TILE;
        for (int x0 = 0; x0 < out_width; x0 += TILE) {
            const int n = out_width - x0 < TILE ? out_width - x0 : TILE;
            for (int y = y0; y < y1; y++) {
                const uint8_t *from = corner + y * a_row + x0 * a_column;
                uint8_t *to = out + ((ptrdiff_t)y * out_width + x0) * 3;
                for (int x = 0; x < n; x++, from += a_column, to += 3) {
                    memcpy(to, from, 3);
                }
            }
        }
    }
}
