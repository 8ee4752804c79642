/* The frames of a container: counted, then decoded and turned into RGB. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <libavutil/display.h>
#include <libswscale/swscale.h>

#include "media/orientation.h"
#include "media/video_container.h"

static omni_status scan(container *c, const char *path, const video_limits *limits, AVPacket *packet, video_info *out, omni_error *err) {
    const AVStream *stream = container_stream(c);
    int64_t begin = INT64_MAX, end = INT64_MIN;
    video_packets_begin(&out->packets, stream->codecpar, limits->budget);
    for (;;) {
        int got;
        TRY(container_packet(c, packet, &got, err));
        if (!got) {
            break;
        }
        const uint8_t kind = video_packet_kind(&out->packets, packet);
        omni_status status = video_packets_add(&out->packets, path, packet, kind, err);
        if (kind & PACKET_SHOWN) {
            out->frames++;
            int64_t at = packet->pts != AV_NOPTS_VALUE ? packet->pts : packet->dts;
            if (at != AV_NOPTS_VALUE && at > -(INT64_MAX / 4) && at < INT64_MAX / 4) {
                int64_t length = packet->duration > 0 && packet->duration < INT64_MAX / 4 ? packet->duration : 0;
                begin = at < begin ? at : begin;
                end = at + length > end ? at + length : end;
            }
        }
        av_packet_unref(packet);
        TRY(status);
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

/* How a frame with this matrix is shown: turned by the angle of its first row and column, rounded to quarters of a circle, and mirrored where the
 * matrix does so. The same as FFmpeg's own program for angles that are quarters. Others it draws tilted on black, with the corners cut off;
 * torchcodec, and so the reference, turns by the nearest quarter. */
static orientation display_orientation(const int32_t matrix[9]) {
    const double angle = av_display_rotation_get(matrix); /* counterclockwise */
    if (!isfinite(angle)) {
        return (orientation){0};
    }
    switch ((-lround(angle / 90) % 4 + 4) % 4) { /* clockwise; halves as torchcodec rounds them */
    case 1:
        return (orientation){.transpose = true, .flip_rows = matrix[3] <= 0};
    case 2:
        return (orientation){.flip_columns = matrix[0] < 0, .flip_rows = matrix[4] < 0};
    case 3:
        return (orientation){.transpose = true, .flip_columns = true, .flip_rows = matrix[3] < 0};
    default:
        return (orientation){.flip_rows = matrix[4] < 0};
    }
}

/* What decode() works on. */
typedef struct decoding {
    container c;
    converter v;
    orientation turn;
    AVPacket *packet;
    AVFrame *frame;
    const char *path;
    const video_limits *limits;
    const int32_t *indices;
    int64_t n, taken, seen, held;
    const video_sink *sink;
    video_plan plan;    /* without steps: everything is decoded */
    int64_t packets;    /* read so far */
    int64_t came_at;    /* the last frame's timestamp, or AV_NOPTS_VALUE */
    int64_t entered_at; /* the timestamp of the frame that decoding began anew with, until it comes; else AV_NOPTS_VALUE */
    bool broken;        /* the frames do not come as the plan expects */
} decoding;

/* The first frame decides on the size: others are scaled to it. */
static omni_status begin(decoding *d, omni_error *err) {
    const int width = d->frame->width, height = d->frame->height;
    if (d->c.has_matrix) {
        d->turn = display_orientation(d->c.matrix);
    }
    TRY(d->sink->begin(d->sink->arg, d->turn.transpose ? width : height, d->turn.transpose ? height : width, err));
    const size_t area = (size_t)width * (size_t)height * 3;
    const int64_t bytes = (int64_t)area * (orientation_changes(d->turn) ? 2 : 1);
    TRY(budget_hold(d->limits->budget, d->path, bytes, err));
    d->held = bytes;
    d->v.rgb = malloc(area + 64); /* the scaler may write whole vectors */
    d->v.turned = orientation_changes(d->turn) ? malloc(area) : NULL;
    if (!d->v.rgb || (orientation_changes(d->turn) && !d->v.turned)) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for frames of %d x %d pixels", d->path, width, height);
    }
    d->v.width = width;
    d->v.height = height;
    return OMNI_OK;
}

static bool is_interlaced(const AVFrame *frame) {
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(58, 7, 100) /* FFmpeg 6.1 */
    return frame->flags & AV_FRAME_FLAG_INTERLACED;
#else
    return frame->interlaced_frame;
#endif
}

/* Whether the frame is one that the plan lets come now. *index: which of the file's frames it is, -1: one that nobody wants. */
static bool follows_plan(decoding *d, int64_t *index) {
    const AVFrame *f = d->frame;
    const int64_t at = f->pts, *times = d->plan.times;
    /* H.264 may have fields in packets of their own, which count as two frames in the list */
    const bool fields = is_interlaced(f) && (d->c.codec->codec_id == AV_CODEC_ID_H264 || d->c.codec->codec_id == AV_CODEC_ID_HEVC);
    if (at == AV_NOPTS_VALUE || fields || (!d->v.rgb && at != times[0]) || (d->came_at != AV_NOPTS_VALUE && at <= d->came_at)) {
        return false;
    }
    d->came_at = at;
    if (d->entered_at != AV_NOPTS_VALUE && at >= d->entered_at) {
        if (at != d->entered_at || f->pict_type != AV_PICTURE_TYPE_I) { /* no key frame, whatever the container says */
            return false;
        }
        d->entered_at = AV_NOPTS_VALUE;
    }
    const int64_t due = d->taken < d->n ? times[d->indices[d->taken]] : INT64_MAX;
    *index = at == due ? d->indices[d->taken] : -1;
    return at <= due;
}

static omni_status take_frame(decoding *d, omni_error *err) {
    int64_t index = d->seen++;
    if (d->plan.steps && !follows_plan(d, &index)) {
        d->broken = true;
        return OMNI_OK;
    }
    if (d->seen > d->limits->frames) {
        return fail(err, OMNI_ERR_LIMIT, "%s: more than the limit of %lld frames", d->path, (long long)d->limits->frames);
    }
    if (d->frame->width < 1 || d->frame->height < 1) {
        return fail(err, OMNI_ERR_FORMAT, "%s: frame %lld has %d x %d pixels", d->path, (long long)d->seen - 1, d->frame->width, d->frame->height);
    }
    TRY(container_charge(&d->c, d->frame->width, d->frame->height, 1, err));
    if (!d->v.rgb) {
        TRY(begin(d, err));
    }
    if (d->taken == d->n || d->indices[d->taken] != index) {
        return OMNI_OK;
    }
    TRY(budget_frames(d->limits->budget, d->path, d->v.width, d->v.height, 1, err));
    TRY(convert(&d->v, d->path, d->frame, err));
    const uint8_t *rgb = d->v.rgb;
    if (d->v.turned) {
        orientation_apply(d->turn, d->v.rgb, d->v.width, d->v.height, d->v.turned);
        rgb = d->v.turned;
    }
    while (d->taken < d->n && d->indices[d->taken] == index) {
        TRY(d->sink->take(d->sink->arg, index, rgb, err));
        d->taken++;
    }
    return OMNI_OK;
}

static bool finished(const decoding *d) {
    return d->broken || (d->plan.steps && d->taken == d->n);
}

/* Takes the frames that the decoder has ready; at the end of its input all that are left. */
static omni_status receive(decoding *d, bool at_end, omni_error *err) {
    while (!finished(d)) {
        int code = avcodec_receive_frame(d->c.codec, d->frame);
        if (code == 0) {
            omni_status status = take_frame(d, err);
            av_frame_unref(d->frame);
            TRY(status);
            continue;
        }
        /* damaged frames and those that are not shown cost as much */
        TRY(container_charge(&d->c, d->c.codec->width, d->c.codec->height, 0, err));
        if (!at_end || code == AVERROR_EOF || code == AVERROR(EAGAIN)) {
            break;
        }
        /* damaged to the end: every further call takes one of a bounded number of frames out of the decoder */
        if (++d->c.packets > d->c.max_packets) {
            break;
        }
    }
    return OMNI_OK;
}

/* Hands the packet that was read to the decoder as the plan says. */
static omni_status send_packet(decoding *d, omni_error *err) {
    const video_packets *p = d->plan.packets;
    int step = PLAN_DECODE;
    if (d->plan.steps) {
        const int64_t i = d->packets++;
        if (i >= p->n || d->packet->pts != p->times[i]) { /* the file changed since the scan */
            d->broken = true;
            return OMNI_OK;
        }
        step = d->plan.steps[i];
        if (step == PLAN_DROP) {
            return OMNI_OK;
        }
        if (step == PLAN_ENTER) {
            avcodec_send_packet(d->c.codec, NULL);
            TRY(receive(d, true, err));
            avcodec_flush_buffers(d->c.codec);
            d->entered_at = d->packet->pts;
        }
    }
    d->c.codec->skip_frame = step == PLAN_REFERENCE ? AVDISCARD_NONREF : AVDISCARD_DEFAULT;
    avcodec_send_packet(d->c.codec, d->packet); /* damaged packets are left out */
    return OMNI_OK;
}

static omni_status decode(decoding *d, omni_error *err) {
    for (;;) {
        int got;
        TRY(receive(d, false, err));
        if (finished(d)) {
            return OMNI_OK;
        }
        TRY(container_packet(&d->c, d->packet, &got, err));
        if (!got) {
            avcodec_send_packet(d->c.codec, NULL);
            TRY(receive(d, true, err));
            d->broken = d->broken || (d->plan.steps && d->taken < d->n);
            return OMNI_OK;
        }
        omni_status status = send_packet(d, err);
        av_packet_unref(d->packet);
        TRY(status);
    }
}

omni_status video_decode(const video_bytes *bytes, const video_limits *limits, video_packets *packets, const int32_t *indices, int64_t n,
                         const video_sink *sink, int64_t *decoded, omni_error *err) {
    decoding d = {
        .path = bytes->name, .limits = limits, .indices = indices, .n = n, .sink = sink, .came_at = AV_NOPTS_VALUE, .entered_at = AV_NOPTS_VALUE};
    *decoded = 0;
    omni_status status = container_open(&d.c, bytes, limits, err);
    if (status == OMNI_OK && packets) {
        status = video_plan_make(packets, d.path, indices, n, &d.plan, err);
    }
    if (status == OMNI_OK) {
        status = container_decoder(&d.c, err);
    }
    if (status == OMNI_OK) {
        d.packet = av_packet_alloc();
        d.frame = av_frame_alloc();
        status = d.packet && d.frame ? decode(&d, err) : fail(err, OMNI_ERR_MEMORY, "%s: out of memory", d.path);
    }
    *decoded = d.broken ? -1 : d.plan.steps ? packets->shown : d.seen;
    video_plan_free(&d.plan);
    free(d.v.rgb);
    free(d.v.turned);
    budget_release(limits->budget, d.held);
    sws_freeContext(d.v.sws);
    av_packet_free(&d.packet);
    av_frame_free(&d.frame);
    container_close(&d.c);
    return status;
}
