/* Containers and codecs through FFmpeg. Only local files and plain containers: no playlists, nothing that opens further files. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/avstring.h>
#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libswscale/swscale.h>

#include "media/video_source.h"

static const char CONTAINERS[] = "mov,matroska,avi,mpegts,mpeg,flv,ogg,asf,mpegvideo,h264,hevc,ivf,gif,apng,mjpeg,m4v,av1,obu,"
                                 "yuv4mpegpipe,mxf,nut,dv,vc1";
/* Reading a damaged file always ends: every packet counts, those of other streams and those that fail too. */
enum { PACKETS_A_FRAME = 64, PACKETS_MORE = 100000, MEMORY_BUFFER = 1 << 16 };

typedef struct container {
    AVFormatContext *format;
    AVIOContext *io; /* for memory; NULL when the file is read by libavformat */
    const video_bytes *bytes;
    int64_t at; /* where in memory */
    AVCodecContext *codec;
    int stream;
    int quarters; /* counterclockwise turns of 90 degrees to display a frame upright */
    int64_t packets, max_packets;
} container;

static const char *av_text(int code, char buffer[AV_ERROR_MAX_STRING_SIZE]) {
    return av_strerror(code, buffer, AV_ERROR_MAX_STRING_SIZE) == 0 ? buffer : "unknown error";
}

static void container_close(container *c) {
    avcodec_free_context(&c->codec);
    avformat_close_input(&c->format);
    if (c->io) {
        av_freep(&c->io->buffer);
    }
    avio_context_free(&c->io);
}

static int read_memory(void *arg, uint8_t *out, int n) {
    container *c = arg;
    int64_t left = (int64_t)c->bytes->size - c->at;
    if (left <= 0 || n <= 0) {
        return AVERROR_EOF;
    }
    n = left < n ? (int)left : n;
    memcpy(out, c->bytes->data + c->at, (size_t)n);
    c->at += n;
    return n;
}

static int64_t seek_memory(void *arg, int64_t offset, int whence) {
    container *c = arg;
    int64_t size = (int64_t)c->bytes->size;
    whence &= ~AVSEEK_FORCE;
    if (whence == AVSEEK_SIZE) {
        return size;
    }
    int64_t base = whence == SEEK_CUR ? c->at : whence == SEEK_END ? size : 0;
    if (offset < -base || offset > size - base) {
        return AVERROR(EINVAL);
    }
    return c->at = base + offset;
}

/* Gives the format context its own reader over memory. On failure container_close releases what was made. */
static omni_status attach_memory(container *c, omni_error *err) {
    uint8_t *buffer = av_malloc(MEMORY_BUFFER);
    c->io = buffer ? avio_alloc_context(buffer, MEMORY_BUFFER, 0, c, read_memory, NULL, seek_memory) : NULL;
    if (!c->io) {
        av_free(buffer);
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", c->bytes->name);
    }
    c->format = avformat_alloc_context();
    if (!c->format) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", c->bytes->name);
    }
    c->format->pb = c->io;
    return OMNI_OK;
}

static int stored_quarters(const AVStream *stream) {
    size_t size = 0;
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(61, 0, 0) /* FFmpeg 7 moved it */
    const AVCodecParameters *of = stream->codecpar;
    const AVPacketSideData *data = av_packet_side_data_get(of->coded_side_data, of->nb_coded_side_data, AV_PKT_DATA_DISPLAYMATRIX);
    const uint8_t *matrix = data ? data->data : NULL;
    size = data ? data->size : 0;
#else
    const uint8_t *matrix = av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
#endif
    if (!matrix || size < 9 * sizeof(int32_t)) {
        return 0;
    }
    int32_t values[9];
    memcpy(values, matrix, sizeof values);
    double degrees = av_display_rotation_get(values);
    if (!isfinite(degrees)) {
        return 0;
    }
    return (int)(((long)rint(degrees / 90) % 4 + 4) % 4);
}

static omni_status open_decoder(container *c, const char *path, const video_limits *limits, omni_error *err) {
    char text[AV_ERROR_MAX_STRING_SIZE];
    AVStream *stream = c->format->streams[c->stream];
    const AVCodec *codec = avcodec_find_decoder(stream->codecpar->codec_id);
    if (!codec) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: no decoder for the video codec %s", path, avcodec_get_name(stream->codecpar->codec_id));
    }
    c->codec = avcodec_alloc_context3(codec);
    if (!c->codec || avcodec_parameters_to_context(c->codec, stream->codecpar) < 0) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for the video decoder", path);
    }
    c->codec->pkt_timebase = stream->time_base;
    c->codec->thread_count = 0; /* one a core */
    c->codec->max_pixels = limits->pixels;
    int code = avcodec_open2(c->codec, codec, NULL);
    if (code < 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: cannot start the %s decoder: %s", path, codec->name, av_text(code, text));
    }
    return OMNI_OK;
}

static omni_status container_open(container *c, const video_bytes *bytes, const video_limits *limits, omni_error *err) {
    const char *path = bytes->name;
    char text[AV_ERROR_MAX_STRING_SIZE];
    *c = (container){.bytes = bytes, .max_packets = limits->frames * PACKETS_A_FRAME + PACKETS_MORE};
    av_log_set_level(AV_LOG_QUIET);
    if (bytes->data) {
        TRY(attach_memory(c, err));
    }
    char *url = av_asprintf("%s%s", bytes->data ? "memory" : "file:", bytes->data ? "" : path);
    if (!url) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    AVDictionary *options = NULL;
    av_dict_set(&options, "protocol_whitelist", "file", 0);
    av_dict_set(&options, "format_whitelist", CONTAINERS, 0);
    int code = avformat_open_input(&c->format, url, NULL, &options);
    av_dict_free(&options);
    av_free(url);
    if (code < 0) {
        return fail(err, code == AVERROR(ENOENT) || code == AVERROR(EACCES) ? OMNI_ERR_IO : OMNI_ERR_FORMAT, "%s: cannot open as a video: %s", path,
                    av_text(code, text));
    }
    code = avformat_find_stream_info(c->format, NULL);
    if (code < 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: cannot read the video's streams: %s", path, av_text(code, text));
    }
    c->stream = av_find_best_stream(c->format, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
    if (c->stream < 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: no video stream", path);
    }
    for (unsigned i = 0; i < c->format->nb_streams; i++) {
        if ((int)i != c->stream) {
            c->format->streams[i]->discard = AVDISCARD_ALL;
        }
    }
    AVStream *stream = c->format->streams[c->stream];
    int64_t width = stream->codecpar->width, height = stream->codecpar->height;
    if (width < 1 || height < 1) {
        return fail(err, OMNI_ERR_FORMAT, "%s: frames of %lld x %lld pixels", path, (long long)width, (long long)height);
    }
    if (width > limits->pixels / height) {
        return fail(err, OMNI_ERR_LIMIT, "%s: %lld x %lld pixels a frame, over the limit of %lld pixels", path, (long long)width, (long long)height,
                    (long long)limits->pixels);
    }
    c->quarters = stored_quarters(stream);
    return open_decoder(c, path, limits, err);
}

/* The next packet of the video stream: 1, or 0 at the end of the file (a read error ends it too: what came before is used). */
static omni_status next_packet(container *c, const char *path, AVPacket *packet, int *got, omni_error *err) {
    *got = 0;
    for (;;) {
        if (++c->packets > c->max_packets) {
            return fail(err, OMNI_ERR_LIMIT, "%s: more than %lld packets", path, (long long)c->max_packets);
        }
        int code = av_read_frame(c->format, packet);
        if (code == AVERROR(EAGAIN)) {
            continue;
        }
        if (code < 0) {
            return OMNI_OK;
        }
        if (packet->stream_index == c->stream) {
            *got = 1;
            return OMNI_OK;
        }
        av_packet_unref(packet);
    }
}

static omni_status scan(container *c, const char *path, const video_limits *limits, AVPacket *packet, video_info *out, omni_error *err) {
    AVStream *stream = c->format->streams[c->stream];
    int64_t begin = INT64_MAX, end = INT64_MIN;
    for (;;) {
        int got;
        TRY(next_packet(c, path, packet, &got, err));
        if (!got) {
            break;
        }
        if (!(packet->flags & AV_PKT_FLAG_DISCARD)) {
            out->frames++;
            int64_t at = packet->pts != AV_NOPTS_VALUE ? packet->pts : packet->dts;
            if (at != AV_NOPTS_VALUE && at > -(INT64_MAX / 4) && at < INT64_MAX / 4) {
                int64_t length = packet->duration > 0 && packet->duration < INT64_MAX / 4 ? packet->duration : 0;
                begin = at < begin ? at : begin;
                end = at + length > end ? at + length : end;
            }
        }
        av_packet_unref(packet);
        if (out->frames > limits->frames) {
            return fail(err, OMNI_ERR_LIMIT, "%s: more than the limit of %lld frames", path, (long long)limits->frames);
        }
    }
    if (out->frames < 1) {
        return fail(err, OMNI_ERR_FORMAT, "%s: the video stream holds no frames", path);
    }
    double unit = av_q2d(stream->time_base);
    AVRational rate = stream->avg_frame_rate.num > 0 ? stream->avg_frame_rate : stream->r_frame_rate;
    out->stated_fps = rate.den > 0 ? av_q2d(rate) : 0;
    out->span = end > begin ? (double)(end - begin) * unit : 0;
    out->start = begin <= end && isfinite((double)begin * unit) ? (double)begin * unit : 0;
    bool turned = c->quarters % 2 != 0;
    out->width = turned ? stream->codecpar->height : stream->codecpar->width;
    out->height = turned ? stream->codecpar->width : stream->codecpar->height;
    return OMNI_OK;
}

omni_status video_scan(const video_bytes *bytes, const video_limits *limits, video_info *out, omni_error *err) {
    container c;
    *out = (video_info){0};
    omni_status status = container_open(&c, bytes, limits, err);
    if (status == OMNI_OK) {
        AVPacket *packet = av_packet_alloc();
        status = packet ? scan(&c, bytes->name, limits, packet, out, err) : fail(err, OMNI_ERR_MEMORY, "%s: out of memory", bytes->name);
        av_packet_free(&packet);
    }
    container_close(&c);
    return status;
}

/* Frames to RGB. */
typedef struct converter {
    struct SwsContext *sws;
    int width, height; /* before turning */
    uint8_t *rgb, *turned;
} converter;

static omni_status convert(converter *v, const char *path, const AVFrame *frame, omni_error *err) {
    /* sws_getCachedContext takes frames of another size or format too: they are scaled to the first one's size */
    v->sws = sws_getCachedContext(v->sws, frame->width, frame->height, frame->format, v->width, v->height, AV_PIX_FMT_RGB24, SWS_BILINEAR, NULL, NULL,
                                  NULL);
    if (!v->sws) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: frames of %d x %d pixels in format %d cannot be turned into RGB", path, frame->width,
                    frame->height, frame->format);
    }
    int space = frame->colorspace == AVCOL_SPC_UNSPECIFIED || frame->colorspace == AVCOL_SPC_RGB ? SWS_CS_DEFAULT : (int)frame->colorspace;
    const int *coefficients = sws_getCoefficients(space);
    sws_setColorspaceDetails(v->sws, coefficients, frame->color_range == AVCOL_RANGE_JPEG, coefficients, 1, 0, 1 << 16, 1 << 16);
    uint8_t *planes[4] = {v->rgb};
    int strides[4] = {v->width * 3};
    if (sws_scale(v->sws, (const uint8_t *const *)frame->data, frame->linesize, 0, frame->height, planes, strides) < 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: a frame cannot be turned into RGB", path);
    }
    return OMNI_OK;
}

/* in [height, width, 3] turned counterclockwise by quarters of a circle. */
static void turn(const uint8_t *in, int width, int height, int quarters, uint8_t *out) {
    int out_width = quarters % 2 ? height : width, out_height = quarters % 2 ? width : height;
    for (int y = 0; y < out_height; y++) {
        for (int x = 0; x < out_width; x++, out += 3) {
            int from_x = quarters == 1 ? width - 1 - y : quarters == 2 ? width - 1 - x : y;
            int from_y = quarters == 1 ? x : quarters == 2 ? height - 1 - y : height - 1 - x;
            memcpy(out, in + ((size_t)from_y * (size_t)width + (size_t)from_x) * 3, 3);
        }
    }
}

/* What decode() works on. */
typedef struct decoding {
    container c;
    converter v;
    AVPacket *packet;
    AVFrame *frame;
    const char *path;
    const video_limits *limits;
    const int32_t *indices;
    int64_t n, taken, seen;
    video_frame_fn take;
    void *arg;
} decoding;

static omni_status take_frame(decoding *d, omni_error *err) {
    int64_t index = d->seen++;
    if (d->seen > d->limits->frames) {
        return fail(err, OMNI_ERR_LIMIT, "%s: more than the limit of %lld frames", d->path, (long long)d->limits->frames);
    }
    if (d->taken == d->n || d->indices[d->taken] != index) {
        return OMNI_OK;
    }
    if (d->frame->width < 1 || d->frame->height < 1 || d->frame->width > d->limits->pixels / d->frame->height) {
        return fail(err, OMNI_ERR_LIMIT, "%s: frame %lld has %d x %d pixels, over the limit of %lld pixels", d->path, (long long)index,
                    d->frame->width, d->frame->height, (long long)d->limits->pixels);
    }
    TRY(convert(&d->v, d->path, d->frame, err));
    const uint8_t *rgb = d->v.rgb;
    if (d->c.quarters != 0) {
        turn(d->v.rgb, d->v.width, d->v.height, d->c.quarters, d->v.turned);
        rgb = d->v.turned;
    }
    while (d->taken < d->n && d->indices[d->taken] == index) {
        TRY(d->take(d->arg, index, rgb, err));
        d->taken++;
    }
    return OMNI_OK;
}

static omni_status decode(decoding *d, omni_error *err) {
    bool flushing = false;
    for (;;) {
        int code = avcodec_receive_frame(d->c.codec, d->frame);
        if (code == 0) {
            omni_status status = take_frame(d, err);
            av_frame_unref(d->frame);
            TRY(status);
        } else if (code == AVERROR_EOF || (flushing && code == AVERROR(EAGAIN))) {
            return OMNI_OK;
        } else if (flushing) {
            /* damaged to the end: every further call takes one of a bounded number of frames out of the decoder */
            if (++d->c.packets > d->c.max_packets) {
                return OMNI_OK;
            }
        } else {
            int got;
            TRY(next_packet(&d->c, d->path, d->packet, &got, err));
            flushing = !got;
            avcodec_send_packet(d->c.codec, got ? d->packet : NULL); /* damaged packets are left out */
            av_packet_unref(d->packet);
        }
    }
}

omni_status video_decode(const video_bytes *bytes, const video_limits *limits, const video_info *info, const int32_t *indices, int64_t n,
                         video_frame_fn take, void *arg, int64_t *decoded, omni_error *err) {
    const char *path = bytes->name;
    decoding d = {.path = path, .limits = limits, .indices = indices, .n = n, .take = take, .arg = arg};
    *decoded = 0;
    omni_status status = container_open(&d.c, bytes, limits, err);
    if (status == OMNI_OK) {
        bool turned = d.c.quarters % 2 != 0;
        d.v.width = turned ? info->height : info->width;
        d.v.height = turned ? info->width : info->height;
        size_t area = (size_t)d.v.width * (size_t)d.v.height * 3;
        d.packet = av_packet_alloc();
        d.frame = av_frame_alloc();
        d.v.rgb = malloc(area + 64); /* the scaler may write whole vectors */
        d.v.turned = d.c.quarters ? malloc(area) : NULL;
        if (!d.packet || !d.frame || !d.v.rgb || (d.c.quarters && !d.v.turned)) {
            status = fail(err, OMNI_ERR_MEMORY, "%s: out of memory for frames of %d x %d pixels", path, d.v.width, d.v.height);
        } else {
            status = decode(&d, err);
        }
    }
    *decoded = d.seen;
    free(d.v.rgb);
    free(d.v.turned);
    sws_freeContext(d.v.sws);
    av_packet_free(&d.packet);
    av_frame_free(&d.frame);
    container_close(&d.c);
    return status;
}
