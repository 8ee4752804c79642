#include "media/image.h"

#include <stdlib.h>
#include <string.h>

#include "media/exif.h"
#include "media/image_formats.h"
#include "media/media_file.h"

typedef omni_status decode_fn(const image_source *s, image *out, omni_error *err);

static decode_fn *find_decoder(const uint8_t *p, size_t size) {
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    if (size >= 3 && p[0] == 0xff && p[1] == 0xd8 && p[2] == 0xff) {
        return image_decode_jpeg;
    }
    if (size >= 8 && memcmp(p, png, 8) == 0) {
        return image_decode_png;
    }
    if (size >= 12 && memcmp(p, "RIFF", 4) == 0 && memcmp(p + 8, "WEBP", 4) == 0) {
        return image_decode_webp;
    }
    if (size >= 6 && (memcmp(p, "GIF87a", 6) == 0 || memcmp(p, "GIF89a", 6) == 0)) {
        return image_decode_gif;
    }
    if (size >= 12 && (memcmp(p, "II*\0", 4) == 0 || memcmp(p, "MM\0*", 4) == 0)) {
        return image_decode_tiff;
    }
    if (size >= 26 && p[0] == 'B' && p[1] == 'M') {
        return image_decode_bmp;
    }
    if (size >= 8 && p[0] == 'P' && p[1] >= '1' && p[1] <= '7' && (p[2] == ' ' || p[2] == '\n' || p[2] == '\r' || p[2] == '\t')) {
        return image_decode_pnm;
    }
    if (size >= 12 && (memcmp(p, "\0\0\0\x0cjP  ", 8) == 0 || memcmp(p, "\xff\x4f\xff\x51", 4) == 0)) {
        return image_decode_jpeg2000;
    }
    if (size >= 12 && memcmp(p + 4, "ftyp", 4) == 0) {
        return image_decode_heif;
    }
    return NULL;
}

static omni_status turn_upright(const image_source *s, image *im, omni_error *err) {
    orientation o;
    TRY(exif_orientation(s->data, s->size, s->name, s->budget, &o, err));
    if (!orientation_changes(o)) {
        return OMNI_OK;
    }
    TRY(budget_hold(s->budget, s->name, im->held, err));
    uint8_t *rgb = malloc((size_t)im->held);
    if (rgb) {
        orientation_apply(o, im->rgb, im->width, im->height, rgb);
        free(im->rgb);
        im->rgb = rgb;
        const int width = im->width;
        im->width = o.transpose ? im->height : width;
        im->height = o.transpose ? width : im->height;
    }
    budget_release(s->budget, im->held);
    return rgb ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "%s: out of memory", s->name);
}

static omni_status decode(const image_source *s, image *out, omni_error *err) {
    TRY(budget_file(s->budget, s->name, (int64_t)s->size, err));
    decode_fn *decoder = find_decoder(s->data, s->size);
    if (!decoder) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: not an image of a known kind (JPEG, PNG, WebP, GIF, BMP, TIFF, PNM, JPEG 2000, AVIF or HEIC)",
                    s->name);
    }
    TRY(decoder(s, out, err));
    const int64_t kept = (int64_t)out->width * out->height * 3;
    budget_release(s->budget, out->held - kept);
    out->held = kept;
    omni_status status = turn_upright(s, out, err);
    if (status != OMNI_OK) {
        image_free(out);
    }
    return status;
}

omni_status image_decode(const void *data, size_t size, const char *name, budget *b, image *out, omni_error *err) {
    budget own;
    budget_init(&own, NULL);
    *out = (image){0};
    omni_status status = decode(&(image_source){data, size, name, b ? b : &own}, out, err);
    if (!b) {
        out->budget = NULL;
    }
    return status;
}

omni_status image_open(const char *path, budget *b, image *out, omni_error *err) {
    budget own;
    char *data;
    size_t size;
    budget_init(&own, NULL);
    *out = (image){0};
    TRY(media_read(path, b ? b : &own, &data, &size, err));
    omni_status status = image_decode(data, size, path, b, out, err);
    free(data);
    if (b) {
        budget_release(b, (int64_t)size);
    }
    return status;
}
