#include "media/ycc.h"

#include <stddef.h>

static int between(int v, int least, int most) {
    return v < least ? least : v > most ? most : v;
}

static uint8_t level(float v) {
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v + 0.5f);
}

/* Sixteen times the chroma at column x, less its middle, from its nearest row and the other one next to the pixel. last: the last column, which
 * libyuv, and so libavif, does not interpolate; -1: chroma has all columns. */
static float chroma_at(const uint8_t *nearest, const uint8_t *other, int x, int last) {
    const int column = last < 0 ? x : x / 2, next = last < 0 || x == 0 || x == last ? column : column + (x % 2 ? 1 : -1);
    return (float)(9 * nearest[column] + 3 * (nearest[next] + other[column]) + other[next] - 128 * 16);
}

void ycc_to_rgb(const ycc_picture *p, uint8_t *rgb) {
    const int last = p->half_columns ? p->width - 1 : -1, chroma_height = p->half_rows ? (p->height + 1) / 2 : p->height;
    const float luma = p->full_range ? 1 : 255.0f / 219, scale = (p->full_range ? 1 : 255.0f / 224) / 16, black = p->full_range ? 0 : 16;
    const float kr = (float)p->kr, kb = (float)p->kb, kg = 1 - kr - kb;
    const float red = 2 * (1 - kr) * scale, blue = 2 * (1 - kb) * scale, green_u = -2 * (1 - kb) * kb / kg * scale,
                green_v = -2 * (1 - kr) * kr / kg * scale;
    for (int y = 0; y < p->height; y++) {
        const int row = p->half_rows ? y / 2 : y, other = p->half_rows ? between(row + (y % 2 ? 1 : -1), 0, chroma_height - 1) : row;
        const uint8_t *from = p->planes[0] + (ptrdiff_t)y * p->strides[0];
        const uint8_t *chroma[2][2] = {{0}};
        for (int c = 0; c < 2 && p->planes[c + 1]; c++) {
            chroma[c][0] = p->planes[c + 1] + (ptrdiff_t)row * p->strides[c + 1];
            chroma[c][1] = p->planes[c + 1] + (ptrdiff_t)other * p->strides[c + 1];
        }
        for (int x = 0; x < p->width; x++, rgb += 3) {
            const float grey = ((float)from[x] - black) * luma;
            const float cb = chroma[0][0] ? chroma_at(chroma[0][0], chroma[0][1], x, last) : 0;
            const float cr = chroma[1][0] ? chroma_at(chroma[1][0], chroma[1][1], x, last) : 0;
            rgb[0] = level(grey + red * cr);
            rgb[1] = level(grey + green_u * cb + green_v * cr);
            rgb[2] = level(grey + blue * cb);
        }
    }
}
