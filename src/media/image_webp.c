/* WebP through libwebp: lossy, lossless, and the first frame of an animation on a transparent canvas. Alpha is dropped. */
#include <string.h>

#include <webp/decode.h>
#include <webp/demux.h>

#include "media/image_formats.h"

static const char *status_text(VP8StatusCode code) {
    switch (code) {
    case VP8_STATUS_OUT_OF_MEMORY:
        return "out of memory";
    case VP8_STATUS_NOT_ENOUGH_DATA:
        return "the file ends too early";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return "a feature that libwebp does not know";
    default:
        return "the data is damaged";
    }
}

static omni_status first_frame(const uint8_t *data, size_t size, const char *name, const image *im, omni_error *err) {
    WebPAnimDecoderOptions options;
    if (!WebPAnimDecoderOptionsInit(&options)) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: libwebpdemux is of another version", name);
    }
    options.color_mode = MODE_RGBA;
    WebPAnimDecoder *decoder = WebPAnimDecoderNew(&(WebPData){.bytes = data, .size = size}, &options);
    if (!decoder) {
        return fail(err, OMNI_ERR_FORMAT, "%s: damaged WebP animation", name);
    }
    WebPAnimInfo info;
    uint8_t *rgba;
    int time;
    omni_status status = OMNI_OK;
    if (!WebPAnimDecoderGetInfo(decoder, &info) || info.canvas_width != (uint32_t)im->width || info.canvas_height != (uint32_t)im->height ||
        !WebPAnimDecoderGetNext(decoder, &rgba, &time)) {
        status = fail(err, OMNI_ERR_FORMAT, "%s: damaged WebP animation: its first frame cannot be decoded", name);
    } else {
        size_t n = (size_t)im->width * (size_t)im->height;
        for (size_t i = 0; i < n; i++) {
            memcpy(im->rgb + i * 3, rgba + i * 4, 3);
        }
    }
    WebPAnimDecoderDelete(decoder);
    return status;
}

omni_status image_decode_webp(const image_source *in, image *out, omni_error *err) {
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config)) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: libwebp is of another version", in->name);
    }
    const uint8_t *data = in->data;
    const size_t size = in->size;
    const char *name = in->name;
    VP8StatusCode code = WebPGetFeatures(data, size, &config.input);
    if (code != VP8_STATUS_OK) {
        return fail(err, OMNI_ERR_FORMAT, "%s: damaged WebP: %s", name, status_text(code));
    }
    image im;
    TRY(image_allocate(config.input.width, config.input.height, config.input.has_animation ? 12 : 4, in, &im, err));
    omni_status status = OMNI_OK;
    if (config.input.has_animation) {
        status = first_frame(data, size, name, &im, err);
    } else {
        config.output.colorspace = MODE_RGB;
        config.output.is_external_memory = 1;
        config.output.u.RGBA.rgba = im.rgb;
        config.output.u.RGBA.stride = im.width * 3;
        config.output.u.RGBA.size = (size_t)im.width * (size_t)im.height * 3;
        code = WebPDecode(data, size, &config);
        if (code != VP8_STATUS_OK) {
            status = fail(err, OMNI_ERR_FORMAT, "%s: damaged WebP: %s", name, status_text(code));
        }
        WebPFreeDecBuffer(&config.output);
    }
    if (status != OMNI_OK) {
        image_free(&im);
        return status;
    }
    *out = im;
    return OMNI_OK;
}
