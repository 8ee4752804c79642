/* PNG through libpng. Every kind is read into rows of three bytes a pixel: what libpng does not turn into RGB itself (palettes,
 * whose missing entries are black here, and 16-bit grey, which saturates) takes at most two and is spread out in place. */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>
#include <stdbool.h>

#include "media/image_formats.h"

typedef struct png_source {
    const image_source *in;
    size_t at;
    omni_error *err;
    omni_status status;
    image im;
    png_bytepp rows;
    uint8_t *rgba;
} png_source;

static void on_error(png_structp png, png_const_charp text) {
    png_source *s = png_get_error_ptr(png);
    s->status = fail(s->err, OMNI_ERR_FORMAT, "%s: damaged PNG: %s", s->in->name, text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text) {
    (void)png;
    (void)text;
}

static void on_read(png_structp png, png_bytep out, size_t n) {
    png_source *s = png_get_io_ptr(png);
    if (n > s->in->size - s->at) {
        png_error(png, "the file ends too early");
    }
    memcpy(out, s->in->data + s->at, n);
    s->at += n;
}

static void spread_palette(png_structp png, png_infop info, const image *im) {
    uint8_t table[256][3] = {0};
    png_colorp palette;
    int n = 0;
    if (png_get_PLTE(png, info, &palette, &n)) {
        for (int i = 0; i < n && i < 256; i++) {
            table[i][0] = palette[i].red;
            table[i][1] = palette[i].green;
            table[i][2] = palette[i].blue;
        }
    }
    for (int y = 0; y < im->height; y++) {
        uint8_t *row = im->rgb + (size_t)y * (size_t)im->width * 3;
        for (int x = im->width - 1; x >= 0; x--) {
            memcpy(row + (size_t)x * 3, table[row[x]], 3);
        }
    }
}

static void spread_grey16(const image *im) {
    for (int y = 0; y < im->height; y++) {
        uint8_t *row = im->rgb + (size_t)y * (size_t)im->width * 3;
        for (int x = im->width - 1; x >= 0; x--) {
            uint8_t v = row[(size_t)x * 2] ? 255 : row[(size_t)x * 2 + 1];
            memset(row + (size_t)x * 3, v, 3);
        }
    }
}

/* Rows of RGBA; all of them at once where they come interlaced. */
static void read_over_white(png_structp png, png_source *s, bool interlaced) {
    const size_t width = (size_t)s->im.width, height = (size_t)s->im.height;
    s->rgba = malloc(width * 4 * (interlaced ? height : 1));
    s->rows = malloc(height * sizeof *s->rows);
    if (!s->rgba || !s->rows) {
        s->status = fail(s->err, OMNI_ERR_MEMORY, "%s: out of memory", s->in->name);
        return;
    }
    for (size_t y = 0; y < height; y++) {
        s->rows[y] = s->rgba + (interlaced ? y * width * 4 : 0);
    }
    if (interlaced) {
        png_read_image(png, s->rows);
    }
    for (size_t y = 0; y < height; y++) {
        if (!interlaced) {
            png_read_row(png, s->rows[y], NULL);
        }
        const uint8_t *in = s->rows[y];
        uint8_t *out = s->im.rgb + y * width * 3;
        for (size_t x = 0; x < width; x++, in += 4, out += 3) {
            memcpy(out, in, 3);
            if (in[3] != 255) {
                over_white(out, in[3]);
            }
        }
    }
}

static void decode(png_structp png, png_infop info, png_source *s) {
    png_set_read_fn(png, s, on_read);
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff); /* the product is checked below */
    png_set_chunk_malloc_max(png, 8 << 20);
    /* Texts, profiles and the like are skipped, not unpacked: a few kilobytes of them may stand for megabytes. */
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_read_info(png, info);
    int colour = png_get_color_type(png, info), depth = png_get_bit_depth(png, info);
    /* Pillow makes RGBA of grey with alpha only where it has 16 bits. */
    const bool alpha = colour == PNG_COLOR_TYPE_RGB_ALPHA || (colour == PNG_COLOR_TYPE_GRAY_ALPHA && depth == 16);
    const bool interlaced = png_get_interlace_type(png, info) != PNG_INTERLACE_NONE;
    const int channels = alpha ? 4 : 3;
    s->status = image_allocate(png_get_image_width(png, info), png_get_image_height(png, info), alpha && interlaced ? 4 : 0, s->in, &s->im, s->err);
    if (s->status != OMNI_OK) {
        return;
    }
    bool palette = colour == PNG_COLOR_TYPE_PALETTE, grey16 = colour == PNG_COLOR_TYPE_GRAY && depth == 16;
    if (palette) {
        png_set_packing(png);
    } else if (!grey16) {
        if (colour == PNG_COLOR_TYPE_GRAY && depth < 8) {
            png_set_expand_gray_1_2_4_to_8(png);
        }
        if (depth == 16) {
            png_set_strip_16(png);
        }
        if (colour == PNG_COLOR_TYPE_GRAY_ALPHA && depth < 16) {
            png_set_strip_alpha(png);
        }
        if (!(colour & PNG_COLOR_MASK_COLOR)) {
            png_set_gray_to_rgb(png);
        }
    }
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    if (png_get_rowbytes(png, info) > (size_t)s->im.width * (size_t)channels) {
        png_error(png, "rows of an unexpected size");
    }
    if (alpha) {
        read_over_white(png, s, interlaced);
        return;
    }
    s->rows = malloc((size_t)s->im.height * sizeof *s->rows);
    if (!s->rows) {
        s->status = fail(s->err, OMNI_ERR_MEMORY, "%s: out of memory", s->in->name);
        return;
    }
    for (int y = 0; y < s->im.height; y++) {
        s->rows[y] = s->im.rgb + (size_t)y * (size_t)s->im.width * 3;
    }
    png_read_image(png, s->rows);
    if (palette) {
        spread_palette(png, info, &s->im);
    } else if (grey16) {
        spread_grey16(&s->im);
    }
}

omni_status image_decode_png(const image_source *in, image *out, omni_error *err) {
    png_source *s = calloc(1, sizeof *s);
    if (!s) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", in->name);
    }
    *s = (png_source){.in = in, .err = err};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, s, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info) {
        s->status = fail(err, OMNI_ERR_MEMORY, "%s: out of memory", in->name);
    } else if (setjmp(png_jmpbuf(png)) == 0) {
        decode(png, info, s);
    }
    png_destroy_read_struct(&png, &info, NULL);
    omni_status status = s->status;
    if (status == OMNI_OK) {
        *out = s->im;
    } else {
        image_free(&s->im);
    }
    free(s->rows);
    free(s->rgba);
    free(s);
    return status;
}
