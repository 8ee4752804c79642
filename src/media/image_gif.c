/* GIF through giflib: the first frame on a canvas of its transparent colour (or of colour 0), as Pillow composes it. */
#include <gif_lib.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "media/image_formats.h"

typedef struct gif_source {
    const uint8_t *data;
    size_t size, at;
} gif_source;

static int on_read(GifFileType *gif, GifByteType *out, int n) {
    gif_source *s = gif->UserData;
    size_t left = s->size - s->at, take = n < 0 ? 0 : (size_t)n < left ? (size_t)n : left;
    memcpy(out, s->data + s->at, take);
    s->at += take;
    return (int)take;
}

static omni_status damaged(const GifFileType *gif, const char *name, omni_error *err) {
    const char *text = GifErrorString(gif->Error);
    return fail(err, OMNI_ERR_FORMAT, "%s: damaged GIF: %s", name, text ? text : "unexpected data");
}

/* A palette that maps every index to the grey of that level is left out: indices past its end are then grey too. */
static void fill_table(const ColorMapObject *map, uint8_t table[256][3]) {
    bool ramp = true;
    for (int i = 0; map && i < map->ColorCount && i < 256; i++) {
        const GifColorType *c = &map->Colors[i];
        ramp = ramp && c->Red == i && c->Green == i && c->Blue == i;
        table[i][0] = c->Red;
        table[i][1] = c->Green;
        table[i][2] = c->Blue;
    }
    for (int i = 0; ramp && i < 256; i++) {
        memset(table[i], i, 3);
    }
}

/* Reads records up to the first picture's description. *transparent is its transparent index, or -1. */
static omni_status find_picture(GifFileType *gif, const char *name, int *transparent, omni_error *err) {
    *transparent = -1;
    for (;;) {
        GifRecordType record;
        if (DGifGetRecordType(gif, &record) == GIF_ERROR) {
            return damaged(gif, name, err);
        }
        if (record == IMAGE_DESC_RECORD_TYPE) {
            return DGifGetImageDesc(gif) == GIF_ERROR ? damaged(gif, name, err) : OMNI_OK;
        }
        if (record != EXTENSION_RECORD_TYPE) {
            return fail(err, OMNI_ERR_FORMAT, "%s: a GIF without a picture", name);
        }
        int code;
        GifByteType *block;
        if (DGifGetExtension(gif, &code, &block) == GIF_ERROR) {
            return damaged(gif, name, err);
        }
        if (code == GRAPHICS_EXT_FUNC_CODE && block && block[0] >= 4 && (block[1] & 1)) {
            *transparent = block[4];
        }
        while (block) {
            if (DGifGetExtensionNext(gif, &block) == GIF_ERROR) {
                return damaged(gif, name, err);
            }
        }
    }
}

static omni_status decode(GifFileType *gif, const image_source *in, image *im, omni_error *err) {
    const char *name = in->name;
    static const int begins[] = {0, 4, 2, 1}, steps[] = {8, 8, 4, 2};
    int transparent;
    TRY(find_picture(gif, name, &transparent, err));
    const GifImageDesc *d = &gif->Image;
    if (d->Left < 0 || d->Top < 0 || d->Width < 1 || d->Height < 1) {
        return fail(err, OMNI_ERR_FORMAT, "%s: a GIF picture of %d x %d pixels", name, d->Width, d->Height);
    }
    int width = d->Left + d->Width, height = d->Top + d->Height; /* each below 2^17 */
    width = width > gif->SWidth ? width : gif->SWidth;
    height = height > gif->SHeight ? height : gif->SHeight;
    TRY(image_allocate(width, height, 0, in, im, err));
    uint8_t table[256][3] = {0};
    fill_table(d->ColorMap ? d->ColorMap : gif->SColorMap, table);
    size_t row = (size_t)width * 3;
    for (size_t i = 0; i < (size_t)width * (size_t)height; i++) {
        memcpy(im->rgb + i * 3, table[transparent < 0 ? 0 : transparent], 3);
    }
    uint8_t *line = malloc((size_t)d->Width);
    if (!line) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", name);
    }
    omni_status status = OMNI_OK;
    for (int pass = d->Interlace ? 0 : 3; pass < 4; pass++) {
        int y = d->Interlace ? begins[pass] : 0, step = d->Interlace ? steps[pass] : 1;
        for (; y < d->Height; y += step) {
            if (DGifGetLine(gif, line, d->Width) == GIF_ERROR) {
                status = damaged(gif, name, err);
                break;
            }
            uint8_t *out = im->rgb + (size_t)(d->Top + y) * row + (size_t)d->Left * 3;
            for (int x = 0; x < d->Width; x++) {
                memcpy(out + (size_t)x * 3, table[line[x]], 3);
            }
        }
        if (status != OMNI_OK) {
            break;
        }
    }
    free(line);
    return status;
}

omni_status image_decode_gif(const image_source *in, image *out, omni_error *err) {
    gif_source source = {.data = in->data, .size = in->size};
    int code = 0;
    GifFileType *gif = DGifOpen(&source, on_read, &code);
    if (!gif) {
        const char *text = GifErrorString(code);
        return fail(err, OMNI_ERR_FORMAT, "%s: damaged GIF: %s", in->name, text ? text : "unexpected data");
    }
    image im = {0};
    omni_status status = decode(gif, in, &im, err);
    DGifCloseFile(gif, NULL);
    if (status != OMNI_OK) {
        image_free(&im);
        return status;
    }
    *out = im;
    return OMNI_OK;
}
