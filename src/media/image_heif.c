#define _GNU_SOURCE /* memmem */
/* HEIC and AVIF through libheif, which turns and mirrors the picture as the file says; EXIF and XMP data say nothing more here, as in Pillow. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <libheif/heif.h>

#include "media/image_formats.h"
#include "media/ycc.h"

/* Bytes a pixel beside the result: the decoded planes and libheif's copies of them on the way to RGBA. */
enum { BESIDES = 12 };

static omni_status failed(const image_source *in, struct heif_error e, omni_error *err) {
    return fail(err, e.code == heif_error_Memory_allocation_error ? OMNI_ERR_MEMORY : OMNI_ERR_FORMAT, "%s: damaged HEIC or AVIF: %s", in->name,
                e.message ? e.message : "unexpected data");
}

static omni_status take_pixels(const image_source *in, const struct heif_image *decoded, bool alpha, image *im, omni_error *err) {
    int stride = 0;
    const uint8_t *rows = heif_image_get_plane_readonly(decoded, heif_channel_interleaved, &stride);
    const int bytes = alpha ? 4 : 3;
    if (!rows || heif_image_get_width(decoded, heif_channel_interleaved) != im->width ||
        heif_image_get_height(decoded, heif_channel_interleaved) != im->height || stride < im->width * bytes) {
        return fail(err, OMNI_ERR_FORMAT, "%s: damaged HEIC or AVIF: a picture of another size than stated", in->name);
    }
    uint8_t *out = im->rgb;
    for (int y = 0; y < im->height; y++) {
        const uint8_t *p = rows + (ptrdiff_t)y * stride;
        for (int x = 0; x < im->width; x++, out += 3, p += bytes) {
            memcpy(out, p, 3);
            if (alpha) {
                over_white(out, p[3]);
            }
        }
    }
    return OMNI_OK;
}

/* The planes of a picture of 8 bits with luma and, but for grey ones, chroma; false: of another kind. */
static bool find_planes(const struct heif_image *decoded, const image *im, ycc_picture *out) {
    static const enum heif_channel channels[3] = {heif_channel_Y, heif_channel_Cb, heif_channel_Cr};
    const enum heif_colorspace space = heif_image_get_colorspace(decoded);
    const enum heif_chroma chroma = heif_image_get_chroma_format(decoded);
    if (space != heif_colorspace_YCbCr && space != heif_colorspace_monochrome) {
        return false;
    }
    *out = (ycc_picture){.width = im->width,
                         .height = im->height,
                         .half_columns = chroma == heif_chroma_420 || chroma == heif_chroma_422,
                         .half_rows = chroma == heif_chroma_420,
                         .full_range = true};
    for (int i = 0; i < (space == heif_colorspace_YCbCr ? 3 : 1); i++) {
        const int width = i && out->half_columns ? (im->width + 1) / 2 : im->width, height = i && out->half_rows ? (im->height + 1) / 2 : im->height;
        out->planes[i] = heif_image_get_plane_readonly(decoded, channels[i], &out->strides[i]);
        if (!out->planes[i] || heif_image_get_width(decoded, channels[i]) < width || heif_image_get_height(decoded, channels[i]) < height ||
            heif_image_get_bits_per_pixel_range(decoded, channels[i]) != 8) {
            return false;
        }
    }
    int matrix = 2; /* not specified */
    struct heif_color_profile_nclx *colours = NULL;
    if (heif_image_get_nclx_color_profile(decoded, &colours).code == 0 && colours) {
        matrix = (int)colours->matrix_coefficients;
        out->full_range = colours->full_range_flag;
    }
    if (colours) { /* also made where it has values that libheif does not know */
        heif_nclx_color_profile_free(colours);
    }
    switch (matrix) {
    case 1:
        out->kr = 0.2126;
        out->kb = 0.0722;
        return true;
    case 2:
    case 5:
    case 6:
        out->kr = 0.299;
        out->kb = 0.114;
        return true;
    case 9:
        out->kr = 0.2627;
        out->kb = 0.0593;
        return true;
    default:
        return false;
    }
}

/* How the file says that its chroma is stored: in the first configuration of AV1 that is not grey, as those of alpha are. */
static enum heif_chroma stored_chroma(const image_source *in) {
    enum { GREY = 0x10, HALF_COLUMNS = 8, HALF_ROWS = 4 };
    const uint8_t *at = in->data, *end = in->data + in->size;
    while ((at = memmem(at, (size_t)(end - at), "av1C\x81", 5)) && end - at > 6) {
        const int flags = at[6];
        if (!(flags & GREY)) {
            return !(flags & HALF_COLUMNS) ? heif_chroma_444 : flags & HALF_ROWS ? heif_chroma_420 : heif_chroma_422;
        }
        at += 5;
    }
    return heif_chroma_monochrome;
}

/* libheif repeats chroma for all the pixels that share it, Pillow's libavif interpolates: up to 20 levels apart at the edges of colours. *done: false
 * where the picture is of a kind that is left to libheif, and nothing is written. */
static omni_status interpolated(const struct heif_image_handle *handle, const struct heif_decoding_options *options, bool alpha,
                                const image_source *in, image *im, bool *done, omni_error *err) {
    struct heif_image *decoded = NULL;
    *done = false;
    if (heif_image_handle_get_luma_bits_per_pixel(handle) != 8) {
        return OMNI_OK;
    }
    const enum heif_chroma chroma = stored_chroma(in);
    const enum heif_colorspace space = chroma == heif_chroma_monochrome ? heif_colorspace_monochrome : heif_colorspace_YCbCr;
    struct heif_error e = heif_decode_image(handle, &decoded, space, chroma, options);
    ycc_picture planes;
    int stride = 0;
    omni_status status = e.code ? failed(in, e, err) : OMNI_OK;
    *done = status == OMNI_OK && find_planes(decoded, im, &planes);
    const uint8_t *cover = *done && alpha ? heif_image_get_plane_readonly(decoded, heif_channel_Alpha, &stride) : NULL;
    if (*done && alpha &&
        (!cover || heif_image_get_width(decoded, heif_channel_Alpha) < im->width || heif_image_get_height(decoded, heif_channel_Alpha) < im->height ||
         heif_image_get_bits_per_pixel_range(decoded, heif_channel_Alpha) != 8)) {
        *done = false;
    }
    if (*done) {
        ycc_to_rgb(&planes, im->rgb);
        for (int y = 0; cover && y < im->height; y++) {
            for (int x = 0; x < im->width; x++) {
                over_white(im->rgb + ((size_t)y * (size_t)im->width + (size_t)x) * 3, cover[(ptrdiff_t)y * stride + x]);
            }
        }
    }
    heif_image_release(decoded);
    return status;
}

static bool is_avif(const image_source *in) {
    return heif_has_compatible_brand(in->data, in->size < INT32_MAX ? (int)in->size : INT32_MAX, "avif") == 1;
}

/* The decoder for AV1 that prints nothing: libheif prefers dav1d, and cannot tell it to keep what it finds wrong to itself. NULL: libheif's choice.
 */
static const char *quiet_decoder(void) {
    enum { MOST = 16 };
    const struct heif_decoder_descriptor *known[MOST];
    const int n = heif_get_decoder_descriptors(heif_compression_AV1, known, MOST);
    for (int i = 0; i < n; i++) {
        const char *id = heif_decoder_descriptor_get_id_name(known[i]);
        if (id && strcmp(id, "aom") == 0) {
            return id;
        }
    }
    return NULL;
}

static omni_status decode_handle(const struct heif_image_handle *handle, const image_source *in, image *im, omni_error *err) {
    const bool alpha = heif_image_handle_has_alpha_channel(handle);
    struct heif_decoding_options *options = heif_decoding_options_alloc();
    if (!options) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", in->name);
    }
    bool done = false;
    omni_status status = OMNI_OK;
    if (is_avif(in)) {
        options->decoder_id = quiet_decoder();
        status = interpolated(handle, options, alpha, in, im, &done, err);
    }
    if (status == OMNI_OK && !done) {
        struct heif_image *decoded = NULL;
        struct heif_error e =
            heif_decode_image(handle, &decoded, heif_colorspace_RGB, alpha ? heif_chroma_interleaved_RGBA : heif_chroma_interleaved_RGB, options);
        status = e.code ? failed(in, e, err) : take_pixels(in, decoded, alpha, im, err);
        heif_image_release(decoded);
    }
    heif_decoding_options_free(options);
    return status;
}

static omni_status decode(struct heif_context *c, const image_source *in, image *im, omni_error *err) {
    struct heif_image_handle *handle = NULL;
    struct heif_error e = heif_context_read_from_memory_without_copy(c, in->data, in->size, NULL);
    e = e.code ? e : heif_context_get_primary_image_handle(c, &handle);
    if (e.code) {
        return failed(in, e, err);
    }
    omni_status status = image_allocate(heif_image_handle_get_width(handle), heif_image_handle_get_height(handle), BESIDES, in, im, err);
    if (status == OMNI_OK) {
        status = decode_handle(handle, in, im, err);
    }
    heif_image_handle_release(handle);
    return status;
}

omni_status image_decode_heif(const image_source *in, image *out, omni_error *err) {
    struct heif_context *c = heif_context_alloc();
    if (!c) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", in->name);
    }
    /* a side this long has more pixels than the limit, if the picture is no strip, which resizing refuses */
    heif_context_set_maximum_image_size_limit(c, 1 << 16);
    image im = {0};
    omni_status status = decode(c, in, &im, err);
    heif_context_free(c);
    if (status != OMNI_OK) {
        image_free(&im);
        return status;
    }
    *out = im;
    return OMNI_OK;
}
