/* Containers and codecs through FFmpeg. Only local files and plain containers: no playlists, nothing that opens further files. */
#include "media/video_container.h"

#include <stdlib.h>
#include <string.h>

#include <libavutil/avstring.h>
#include <libavutil/cpu.h>
#include <libavutil/display.h>
#include <libavutil/imgutils.h>

#include "media/containers.h"
#include "media/mp4_index.h"

/* Reading a damaged file always ends: every packet counts, those of other streams and those that fail too. */
enum { PACKETS_A_FRAME = 64, PACKETS_MORE = 100000, MEMORY_BUFFER = 1 << 16, MOST_STREAMS = 1000, MOST_THREADS = 16 };

static const char *av_text(int code, char buffer[AV_ERROR_MAX_STRING_SIZE]) {
    return av_strerror(code, buffer, AV_ERROR_MAX_STRING_SIZE) == 0 ? buffer : "unknown error";
}

void container_close(container *c) {
    avcodec_free_context(&c->codec);
    avformat_close_input(&c->format);
    if (c->io) {
        av_freep(&c->io->buffer);
    }
    avio_context_free(&c->io);
}

AVStream *container_stream(const container *c) {
    return c->format->streams[c->stream];
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
    c->format->pb = c->io;
    return OMNI_OK;
}

static int interrupted(void *arg) {
    const container *c = arg;
    return budget_stopped(c->budget, NULL) != OMNI_OK;
}

static void read_matrix(container *c) {
    const AVStream *stream = container_stream(c);
    size_t size = 0;
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(61, 0, 0) /* FFmpeg 7 moved it */
    const AVCodecParameters *of = stream->codecpar;
    const AVPacketSideData *data = av_packet_side_data_get(of->coded_side_data, of->nb_coded_side_data, AV_PKT_DATA_DISPLAYMATRIX);
    const uint8_t *matrix = data ? data->data : NULL;
    size = data ? data->size : 0;
#else
    const uint8_t *matrix = av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
#endif
    c->has_matrix = matrix && size >= sizeof c->matrix;
    if (c->has_matrix) {
        memcpy(c->matrix, matrix, sizeof c->matrix);
    }
}

/* ---- the decoder's frames ---- */

typedef struct held_frame {
    AVBufferRef *buffer;
    budget *budget;
    int64_t bytes;
} held_frame;

static void give_frame_back(void *arg, uint8_t *data) {
    held_frame *h = arg;
    (void)data;
    budget_release(h->budget, h->bytes);
    av_buffer_unref(&h->buffer);
    free(h);
}

/* libavcodec's own buffers, counted: what a decoder keeps is known only by asking for it. A quarter as much again is what decoders note beside the
 * pixels (motion vectors, types of blocks). */
static int get_frame(AVCodecContext *codec, AVFrame *frame, int flags) {
    container *c = codec->opaque;
    const int64_t pixels = (int64_t)frame->width * frame->height;
    if (atomic_load(&c->refused)) {
        return AVERROR(ENOMEM);
    }
    const int64_t made = atomic_fetch_add(&c->made_room, pixels) + pixels;
    if (!budget_fits_frames(c->budget, (double)made * c->share) || budget_stopped(c->budget, NULL) != OMNI_OK) {
        return AVERROR(ENOMEM); /* container_charge says why */
    }
    const int planes = av_image_get_buffer_size(frame->format, frame->width, frame->height, 1);
    const int64_t estimate = planes > 0 ? planes + planes / 4 : pixels * 3;
    held_frame *h = malloc(sizeof *h);
    if (!h) {
        atomic_store(&c->starved, true);
        return AVERROR(ENOMEM);
    }
    if (!budget_try_hold(c->budget, estimate)) {
        free(h);
        atomic_store(&c->refused, estimate);
        return AVERROR(ENOMEM);
    }
    int code = avcodec_default_get_buffer2(codec, frame, flags);
    if (code < 0) {
        budget_release(c->budget, estimate);
        free(h);
        if (code == AVERROR(ENOMEM)) {
            atomic_store(&c->starved, true);
        }
        return code;
    }
    *h = (held_frame){frame->buf[0], c->budget, estimate};
    AVBufferRef *counted = av_buffer_create(h->buffer->data, h->buffer->size, give_frame_back, h, 0);
    if (!counted) {
        budget_release(c->budget, estimate);
        free(h);
        av_frame_unref(frame);
        atomic_store(&c->starved, true);
        return AVERROR(ENOMEM);
    }
    frame->buf[0] = counted;
    return 0;
}

omni_status container_charge(container *c, int width, int height, int shown, omni_error *err) {
    const char *name = c->bytes->name;
    const int64_t refused = atomic_load(&c->refused), made = atomic_exchange(&c->made_room, 0);
    TRY(budget_stopped(c->budget, err));
    if (refused) {
        return budget_no_memory(c->budget, name, refused, err);
    }
    if (atomic_load(&c->starved)) { /* else the frame would pass for a damaged one, and be left out */
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for a frame of %d x %d", name, width, height);
    }
    if (made > 0) {
        /* a decoder with threads may not know its size yet */
        const bool known = width > 0 && height > 0;
        const double frames = known ? (double)made / ((double)width * height) : 1;
        TRY(budget_frames(c->budget, name, known ? width : made, known ? height : 1, frames * c->share, err));
    }
    return shown > 0 ? budget_frames(c->budget, name, width, height, shown * c->share, err) : OMNI_OK;
}

omni_status container_decoder(container *c, omni_error *err) {
    char text[AV_ERROR_MAX_STRING_SIZE];
    const char *path = c->bytes->name;
    AVStream *stream = container_stream(c);
    const AVCodec *codec = avcodec_find_decoder(stream->codecpar->codec_id);
    if (!codec) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: no decoder for the video codec %s", path, avcodec_get_name(stream->codecpar->codec_id));
    }
    c->codec = avcodec_alloc_context3(codec);
    if (!c->codec || avcodec_parameters_to_context(c->codec, stream->codecpar) < 0) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for the video decoder", path);
    }
    /* Codecs that predict from frame to frame and lose detail decode a pixel in a quarter of the time that others take, or less, where the file
     * is small for it. */
    const AVCodecDescriptor *kind = avcodec_descriptor_get(codec->id);
    bool predicts = kind && (kind->props & AV_CODEC_PROP_LOSSY) && !(kind->props & AV_CODEC_PROP_INTRA_ONLY);
    c->share = predicts ? 0.125 : 0.5;
    c->codec->opaque = c;
    c->codec->get_buffer2 = get_frame;
    c->codec->pkt_timebase = stream->time_base;
    c->codec->max_pixels = c->budget->limits.memory / 2;
    /* Each thread holds a frame: large ones are decoded with fewer. */
    const int64_t frame = (int64_t)stream->codecpar->width * stream->codecpar->height * 2;
    const int64_t most = frame > 0 ? c->budget->limits.memory / 4 / frame : MOST_THREADS;
    const int cores = av_cpu_count();
    c->codec->thread_count = (int)(most < 1 ? 1 : most < cores && most < MOST_THREADS ? most : cores < MOST_THREADS ? cores : MOST_THREADS);
    int code = avcodec_open2(c->codec, codec, NULL);
    if (code < 0) {
        return fail(err, code == AVERROR(ENOMEM) ? OMNI_ERR_MEMORY : OMNI_ERR_FORMAT, "%s: cannot start the %s decoder: %s", path, codec->name,
                    av_text(code, text));
    }
    return OMNI_OK;
}

/* ---- the container ---- */

/* What libavformat's error code means, where anything but a lack of memory means `other`. */
static omni_status status_of(int code, omni_status other) {
    return code == AVERROR(ENOMEM) ? OMNI_ERR_MEMORY : other;
}

static omni_status open_format(container *c, omni_error *err) {
    const char *path = c->bytes->name;
    char text[AV_ERROR_MAX_STRING_SIZE];
    c->format = avformat_alloc_context();
    if (!c->format) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    c->format->interrupt_callback = (AVIOInterruptCB){interrupted, c};
    if (c->bytes->data) {
        TRY(attach_memory(c, err));
    }
    char *url = av_asprintf("%s%s", c->bytes->data ? "memory" : "file:", c->bytes->data ? "" : path);
    if (!url) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    AVDictionary *options = NULL;
    av_dict_set(&options, "protocol_whitelist", "file", 0);
    av_dict_set(&options, "format_whitelist", media_containers, 0);
    /* No decoder has this name: avformat_find_stream_info reads headers and parses, and decodes nothing outside the budget. */
    av_dict_set(&options, "codec_whitelist", "none", 0);
    av_dict_set_int(&options, "max_streams", MOST_STREAMS, 0);
    int code = avformat_open_input(&c->format, url, NULL, &options);
    av_dict_free(&options);
    av_free(url);
    if (code < 0) {
        TRY(budget_stopped(c->budget, err));
        return fail(err, code == AVERROR(ENOENT) || code == AVERROR(EACCES) ? OMNI_ERR_IO : status_of(code, OMNI_ERR_FORMAT),
                    "%s: cannot open as a video: %s", path, av_text(code, text));
    }
    code = avformat_find_stream_info(c->format, NULL);
    if (code < 0) {
        TRY(budget_stopped(c->budget, err));
        return fail(err, status_of(code, OMNI_ERR_FORMAT), "%s: cannot read the video's streams: %s", path, av_text(code, text));
    }
    return OMNI_OK;
}

omni_status container_open(container *c, const video_bytes *bytes, const video_limits *limits, omni_error *err) {
    *c = (container){.bytes = bytes, .budget = limits->budget, .max_packets = limits->frames * PACKETS_A_FRAME + PACKETS_MORE};
    media_limit_libav();
    TRY(mp4_index_check(bytes->data, bytes->size, bytes->name, c->budget, err));
    TRY(open_format(c, err));
    c->stream = av_find_best_stream(c->format, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
    if (c->stream < 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: no video stream", bytes->name);
    }
    for (unsigned i = 0; i < c->format->nb_streams; i++) {
        if ((int)i != c->stream) {
            c->format->streams[i]->discard = AVDISCARD_ALL;
        }
    }
    read_matrix(c);
    return OMNI_OK;
}

omni_status container_packet(container *c, AVPacket *packet, int *got, omni_error *err) {
    *got = 0;
    for (;;) {
        if (++c->packets > c->max_packets) {
            return fail(err, OMNI_ERR_LIMIT, "%s: more than %lld packets", c->bytes->name, (long long)c->max_packets);
        }
        TRY(budget_stopped(c->budget, err));
        int code = av_read_frame(c->format, packet);
        if (code == AVERROR(EAGAIN)) {
            continue;
        }
        if (code == AVERROR(ENOMEM)) {
            return fail(err, OMNI_ERR_MEMORY, "%s: out of memory while reading", c->bytes->name);
        }
        if (code < 0) {
            return budget_stopped(c->budget, err);
        }
        if (packet->stream_index == c->stream) {
            *got = 1;
            return OMNI_OK;
        }
        av_packet_unref(packet);
    }
}
