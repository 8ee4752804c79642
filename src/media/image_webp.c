/* WebP through libwebp: lossy, lossless, and the first frame of an animation on its canvas. */
#include <stdbool.h>
#include <stdlib.h>
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

/* Decodes a picture without animation to RGBA and lays it, its upper left corner at (left, top), on the canvas. */
static omni_status lay_rgba(const uint8_t *data, size_t size, int left, int top, bool white, const image_source *in, const image *im,
                            omni_error *err) {
    int width, height;
    if (!WebPGetInfo(data, size, &width, &height) || width > im->width - left || height > im->height - top) {
        return fail(err, OMNI_ERR_FORMAT, "%s: damaged WebP: a picture larger than its canvas", in->name);
    }
    const size_t bytes = (size_t)width * (size_t)height * 4;
    uint8_t *rgba = malloc(bytes);
    if (!rgba) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", in->name);
    }
    omni_status status = OMNI_OK;
    if (!WebPDecodeRGBAInto(data, size, rgba, bytes, width * 4)) {
        status = fail(err, OMNI_ERR_FORMAT, "%s: damaged WebP: %s", in->name, status_text(VP8_STATUS_BITSTREAM_ERROR));
    }
    for (int y = 0; status == OMNI_OK && y < height; y++) {
        const uint8_t *from = rgba + (size_t)y * (size_t)width * 4;
        uint8_t *to = im->rgb + ((size_t)(top + y) * (size_t)im->width + (size_t)left) * 3;
        for (int x = 0; x < width; x++, from += 4, to += 3) {
            memcpy(to, from, 3);
            if (white && from[3] != 255) {
                over_white(to, from[3]);
            }
        }
    }
    free(rgba);
    return status;
}

/* On a canvas without alpha, as Pillow has it, what the frame leaves free is black. */
static omni_status first_frame(const image_source *in, bool white, const image *im, omni_error *err) {
    WebPDemuxer *demuxer = WebPDemux(&(WebPData){.bytes = in->data, .size = in->size});
    WebPIterator frame;
    omni_status status;
    if (demuxer && WebPDemuxGetFrame(demuxer, 1, &frame)) {
        memset(im->rgb, white ? 255 : 0, (size_t)im->width * (size_t)im->height * 3);
        status = frame.x_offset >= 0 && frame.y_offset >= 0 && frame.x_offset <= im->width && frame.y_offset <= im->height
                     ? lay_rgba(frame.fragment.bytes, frame.fragment.size, frame.x_offset, frame.y_offset, white, in, im, err)
                     : fail(err, OMNI_ERR_FORMAT, "%s: damaged WebP animation: a frame outside its canvas", in->name);
        WebPDemuxReleaseIterator(&frame);
    } else {
        status = fail(err, OMNI_ERR_FORMAT, "%s: damaged WebP animation: its first frame cannot be decoded", in->name);
    }
    WebPDemuxDelete(demuxer);
    return status;
}

static omni_status opaque(const image_source *in, WebPDecoderConfig *config, const image *im, omni_error *err) {
    config->output.colorspace = MODE_RGB;
    config->output.is_external_memory = 1;
    config->output.u.RGBA.rgba = im->rgb;
    config->output.u.RGBA.stride = im->width * 3;
    config->output.u.RGBA.size = (size_t)im->width * (size_t)im->height * 3;
    const VP8StatusCode code = WebPDecode(in->data, in->size, config);
    WebPFreeDecBuffer(&config->output);
    return code == VP8_STATUS_OK ? OMNI_OK : fail(err, OMNI_ERR_FORMAT, "%s: damaged WebP: %s", in->name, status_text(code));
}

omni_status image_decode_webp(const image_source *in, image *out, omni_error *err) {
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config)) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: libwebp is of another version", in->name);
    }
    const VP8StatusCode code = WebPGetFeatures(in->data, in->size, &config.input);
    if (code != VP8_STATUS_OK) {
        return fail(err, OMNI_ERR_FORMAT, "%s: damaged WebP: %s", in->name, status_text(code));
    }
    image im;
    const bool alpha = config.input.has_alpha, animation = config.input.has_animation;
    /* the lossless decoder works on 4 bytes a pixel, and alpha and animations take 4 more */
    TRY(image_allocate(config.input.width, config.input.height, alpha || animation ? 8 : 4, in, &im, err));
    omni_status status = animation ? first_frame(in, alpha, &im, err)
                         : alpha   ? lay_rgba(in->data, in->size, 0, 0, true, in, &im, err)
                                   : opaque(in, &config, &im, err);
    if (status != OMNI_OK) {
        image_free(&im);
        return status;
    }
    *out = im;
    return OMNI_OK;
}
