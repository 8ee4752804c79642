/* Planes of luma and chroma to RGB. */
#ifndef OMNI_MEDIA_YCC_H
#define OMNI_MEDIA_YCC_H

#include <stdbool.h>
#include <stdint.h>

typedef struct ycc_picture {
    const uint8_t *planes[3]; /* Y, Cb, Cr, of 8 bits; without the last two it is grey */
    int strides[3];           /* bytes */
    int width, height;        /* of luma */
    bool half_columns;        /* 4:2:2 and 4:2:0: chroma has half the columns, rounded up */
    bool half_rows;           /* 4:2:0: and half the rows */
    bool full_range;          /* else luma 16 to 235, chroma 16 to 240 */
    double kr, kb;            /* shares of red and blue in luma (ITU-T H.273, matrix coefficients) */
} ycc_picture;

/* rgb: [height, width, 3]. Subsampled chroma lies between the pixels that share it and is interpolated linearly, as libavif does it by default. */
void ycc_to_rgb(const ycc_picture *p, uint8_t *rgb);

#endif
