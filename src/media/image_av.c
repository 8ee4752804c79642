/* BMP, TIFF, PNM and JPEG 2000 through libavcodec, whose decoders of single pictures need no container. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <libavcodec/avcodec.h>
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>

#include "media/containers.h"
#include "media/image_formats.h"

/* Bytes a pixel beside the result: the decoded frame (at most 4 channels of 16 bits), and JPEG 2000's coefficients with their code blocks. */
enum { FRAME_BYTES = 8, JPEG2000_BYTES = 24 };

typedef struct picture {
    const image_source *in;
    image im;
    int besides;
    omni_error *err;
    omni_status status;
} picture;

/* libav's decoder of TIFF takes no notice of strips that it cannot read: the rest of the picture stays as it was allocated. So the last row is marked
 * before, with bytes that no picture has by chance; rows shorter than MARKED bytes are left alone. */
enum { MARKED = 8 };

static uint8_t mark(int i) {
    return (uint8_t)(0x9d + 0x6b * i);
}

static uint8_t *last_row(const AVFrame *f, int width, int height, int *bytes) {
    *bytes = av_image_get_linesize(f->format, width, 0);
    return f->data[0] + (ptrdiff_t)(height - 1) * f->linesize[0];
}

static void mark_last_row(const AVFrame *f, int width, int height) {
    int bytes;
    uint8_t *row = last_row(f, width, height, &bytes);
    for (int i = 0; i < bytes; i++) {
        row[i] = mark(i);
    }
}

static bool is_marked(const AVFrame *f) {
    int bytes, i = 0;
    const uint8_t *row = last_row(f, f->width, f->height, &bytes);
    while (i < bytes && row[i] == mark(i)) {
        i++;
    }
    return i == bytes && bytes >= MARKED;
}

/* The size is known and the frame is not allocated yet. */
static int get_frame(AVCodecContext *codec, AVFrame *frame, int flags) {
    picture *p = codec->opaque;
    if (!p->im.rgb) {
        p->status = image_allocate(codec->width, codec->height, p->besides, p->in, &p->im, p->err);
    }
    if (p->status != OMNI_OK || frame->width < p->im.width || frame->height < p->im.height) {
        return AVERROR(ENOMEM);
    }
    const int code = avcodec_default_get_buffer2(codec, frame, flags);
    if (code >= 0 && codec->codec_id == AV_CODEC_ID_TIFF) {
        mark_last_row(frame, p->im.width, p->im.height);
    }
    return code;
}

/* Pillow's way to 8 bits: fewer are spread over the whole range, of more the upper ones are kept. */
static uint8_t to_8_bits(unsigned v, int depth) {
    return (uint8_t)(depth < 8 ? v * 255 / ((1u << depth) - 1) : v >> (depth - 8));
}

static void palette_rows(const AVFrame *f, image *im) {
    const uint32_t *palette = (const uint32_t *)(const void *)f->data[1];
    uint8_t *out = im->rgb;
    for (int y = 0; y < im->height; y++) {
        const uint8_t *in = f->data[0] + (ptrdiff_t)y * f->linesize[0];
        for (int x = 0; x < im->width; x++, out += 3) {
            const uint32_t c = palette[in[x]];
            out[0] = (uint8_t)(c >> 16);
            out[1] = (uint8_t)(c >> 8);
            out[2] = (uint8_t)c;
        }
    }
}

/* Grey or RGB, with or without alpha, of any depth. 16-bit grey saturates and grey's alpha is dropped, as in Pillow. */
static omni_status component_rows(const AVFrame *f, const AVPixFmtDescriptor *d, bool has_alpha, image *im, const char *name, omni_error *err) {
    const int colours = d->flags & AV_PIX_FMT_FLAG_RGB ? 3 : 1;
    const bool inverted = f->format == AV_PIX_FMT_MONOWHITE;
    const bool alpha = has_alpha && colours == 3 && d->flags & AV_PIX_FMT_FLAG_ALPHA;
    const int width = im->width;
    uint16_t *values = malloc((size_t)width * 4 * sizeof *values);
    if (!values) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", name);
    }
    for (int y = 0; y < im->height; y++) {
        uint8_t *out = im->rgb + (size_t)y * (size_t)width * 3;
        for (int c = 0; c < colours + alpha; c++) {
            av_read_image_line2(values + c * width, (const uint8_t **)f->data, f->linesize, d, 0, y, c, width, 0, 2);
        }
        for (int x = 0; x < width; x++, out += 3) {
            for (int c = 0; c < 3; c++) {
                const int from = colours == 3 ? c : 0, depth = d->comp[from].depth;
                const unsigned v = values[from * width + x];
                out[c] = colours == 1 && depth > 8 ? (uint8_t)(v > 255 ? 255 : v) : to_8_bits(inverted ? !v : v, depth);
            }
            if (alpha) {
                over_white(out, to_8_bits(values[3 * width + x], d->comp[3].depth));
            }
        }
    }
    free(values);
    return OMNI_OK;
}

/* YCbCr, in pictures always of the whole range and BT.601. */
static omni_status scaled_rows(const AVFrame *f, image *im, const char *name, omni_error *err) {
    struct SwsContext *sws = sws_getContext(im->width, im->height, f->format, im->width, im->height, AV_PIX_FMT_RGB24,
                                            SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP, NULL, NULL, NULL);
    uint8_t *line = sws ? malloc((size_t)im->width * (size_t)im->height * 3 + 64) : NULL; /* the scaler may write whole vectors */
    if (!line) {
        sws_freeContext(sws);
        return fail(err, sws ? OMNI_ERR_MEMORY : OMNI_ERR_UNSUPPORTED, "%s: pixels of format %d cannot be turned into RGB", name, f->format);
    }
    const int *bt601 = sws_getCoefficients(SWS_CS_ITU601);
    (void)sws_setColorspaceDetails(sws, bt601, 1, bt601, 1, 0, 1 << 16, 1 << 16);
    sws_scale(sws, (const uint8_t *const *)f->data, f->linesize, 0, im->height, &line, &(int){im->width * 3});
    memcpy(im->rgb, line, (size_t)im->width * (size_t)im->height * 3);
    free(line);
    sws_freeContext(sws);
    return OMNI_OK;
}

/* A BMP's fourth byte means something only where the header has a mask for it; libavcodec always takes it for alpha. */
static bool bmp_has_alpha(const image_source *s) {
    enum { HEADER = 14, COMPRESSION = 30, ALPHA_MASK = 66, BITFIELDS = 3, MASKS_HEADER = 56 };
    static const uint8_t none[4];
    return s->size >= ALPHA_MASK + 4 && s->data[HEADER] >= MASKS_HEADER && s->data[COMPRESSION] == BITFIELDS &&
           memcmp(s->data + ALPHA_MASK, none, 4) != 0;
}

static omni_status to_rgb(const AVFrame *f, const image_source *in, image *im, omni_error *err) {
    const char *name = in->name;
    const bool has_alpha = in->data[0] != 'B' || bmp_has_alpha(in);
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(f->format);
    if (f->format == AV_PIX_FMT_PAL8) {
        palette_rows(f, im);
        return OMNI_OK;
    }
    if (d && !(d->flags & (AV_PIX_FMT_FLAG_HWACCEL | AV_PIX_FMT_FLAG_FLOAT)) && (d->flags & AV_PIX_FMT_FLAG_RGB || d->nb_components < 3)) {
        return component_rows(f, d, has_alpha, im, name, err);
    }
    return scaled_rows(f, im, name, err);
}

static omni_status decode(picture *p, const AVCodec *codec, AVCodecContext *c, AVPacket *packet, AVFrame *frame, omni_error *err) {
    const char *name = p->in->name;
    if (!c || !packet || !frame || av_new_packet(packet, (int)p->in->size) < 0) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", name);
    }
    memcpy(packet->data, p->in->data, p->in->size);
    c->opaque = p;
    c->get_buffer2 = get_frame;
    c->thread_count = 1;
    c->max_pixels = (int64_t)1 << 30;
    int code = avcodec_open2(c, codec, NULL);
    code = code < 0 ? code : avcodec_send_packet(c, packet);
    code = code < 0 ? code : avcodec_send_packet(c, NULL);
    code = code < 0 ? code : avcodec_receive_frame(c, frame);
    TRY(p->status);
    if (code < 0 || !p->im.rgb || frame->width != p->im.width || frame->height != p->im.height) {
        char text[AV_ERROR_MAX_STRING_SIZE] = "no picture in it";
        if (code == AVERROR_PATCHWELCOME || code == AVERROR(ENOSYS)) {
            return fail(err, OMNI_ERR_UNSUPPORTED, "%s: a %s of a kind that this build of libavcodec cannot read; give it as PNG", name,
                        codec->long_name ? codec->long_name : codec->name);
        }
        if (code < 0) {
            av_strerror(code, text, sizeof text);
        }
        return fail(err, OMNI_ERR_FORMAT, "%s: damaged %s: %s", name, codec->long_name ? codec->long_name : codec->name, text);
    }
    if (c->codec_id == AV_CODEC_ID_TIFF && is_marked(frame)) {
        return fail(err, OMNI_ERR_UNSUPPORTED,
                    "%s: a TIFF image that is damaged or compressed in a way that this build of libavcodec cannot read; give it as PNG", name);
    }
    return to_rgb(frame, p->in, &p->im, err);
}

static omni_status decode_with(enum AVCodecID id, const image_source *in, image *out, omni_error *err) {
    const AVCodec *codec = avcodec_find_decoder(id);
    media_limit_libav();
    if (!codec || in->size > INT32_MAX - AV_INPUT_BUFFER_PADDING_SIZE) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: this build of libavcodec cannot read a %s picture of %zu bytes", in->name, avcodec_get_name(id),
                    in->size);
    }
    picture p = {.in = in, .err = err, .besides = id == AV_CODEC_ID_JPEG2000 ? JPEG2000_BYTES : FRAME_BYTES};
    TRY(budget_hold(in->budget, in->name, (int64_t)in->size, err)); /* the decoder reads from a copy */
    AVCodecContext *c = avcodec_alloc_context3(codec);
    AVPacket *packet = av_packet_alloc();
    AVFrame *frame = av_frame_alloc();
    omni_status status = decode(&p, codec, c, packet, frame, err);
    budget_release(in->budget, (int64_t)in->size);
    av_frame_free(&frame);
    av_packet_free(&packet);
    avcodec_free_context(&c);
    if (status != OMNI_OK) {
        image_free(&p.im);
        return status;
    }
    *out = p.im;
    return OMNI_OK;
}

omni_status image_decode_bmp(const image_source *in, image *out, omni_error *err) {
    return decode_with(AV_CODEC_ID_BMP, in, out, err);
}

omni_status image_decode_tiff(const image_source *in, image *out, omni_error *err) {
    return decode_with(AV_CODEC_ID_TIFF, in, out, err);
}

omni_status image_decode_jpeg2000(const image_source *in, image *out, omni_error *err) {
    return decode_with(AV_CODEC_ID_JPEG2000, in, out, err);
}

omni_status image_decode_pnm(const image_source *in, image *out, omni_error *err) {
    static const enum AVCodecID kinds[] = {AV_CODEC_ID_PBM, AV_CODEC_ID_PGM, AV_CODEC_ID_PPM, AV_CODEC_ID_PBM,
                                           AV_CODEC_ID_PGM, AV_CODEC_ID_PPM, AV_CODEC_ID_PAM};
    return decode_with(kinds[in->data[1] - '1'], in, out, err);
}
