/* HEIC and AVIF through libheif, which turns and mirrors the picture as the file says; EXIF and XMP data say nothing more here, as in Pillow. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <libheif/heif.h>

#include "media/image_formats.h"

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

/* The decoder for AV1 that prints nothing: libheif prefers dav1d, and cannot tell it to keep what it finds wrong to itself. NULL: libheif's choice.
 */
static const char *quiet_decoder(const image_source *in) {
    enum { MOST = 16 };
    const struct heif_decoder_descriptor *known[MOST];
    const int length = in->size < INT32_MAX ? (int)in->size : INT32_MAX;
    if (heif_has_compatible_brand(in->data, length, "avif") != 1) {
        return NULL;
    }
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
    options->decoder_id = quiet_decoder(in);
    struct heif_image *decoded = NULL;
    struct heif_error e =
        heif_decode_image(handle, &decoded, heif_colorspace_RGB, alpha ? heif_chroma_interleaved_RGBA : heif_chroma_interleaved_RGB, options);
    omni_status status = e.code ? failed(in, e, err) : take_pixels(in, decoded, alpha, im, err);
    heif_image_release(decoded);
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
