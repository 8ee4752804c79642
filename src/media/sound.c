#define _GNU_SOURCE
#include "media/sound.h"

#include <errno.h>
#include <fcntl.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/log.h>
#include <math.h>
#include <soxr.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

enum { IO_BUFFER = 1 << 15, LOWEST_RATE = 1000, HIGHEST_RATE = 1000000, MOST_CHANNELS = 256, MOST_SEGMENTS = 1000, VORBIS_BLOCK = 8192 };

/* Containers that hold their own data: nothing here makes libav open another file. */
static const char containers[] = "wav,w64,aiff,au,caf,mp3,aac,flac,ogg,mov,matroska,avi,mpegts,amr,wv,tta,ac3";

/* Where the bytes come from: memory, or a regular file. */
typedef struct source {
    const uint8_t *data;
    int fd;
    int64_t size, at;
} source;

/* Samples on their way to the wanted rate. */
typedef struct collector {
    const char *name;
    sound_options options;
    soxr_t resampler; /* NULL when the rates are equal */
    int rate;         /* of the segment being read; 0: none yet */
    int64_t segment;  /* its samples so far */
    int64_t begin;    /* count when it began */
    int segments;     /* so far */
    double seconds;   /* before it */
    float *samples;
    int64_t count, capacity;
    float *mono; /* samples held back, then one decoded frame */
    int64_t mono_capacity;
    int64_t hold; /* samples to hold back, because the end of the sound may turn out to be before them */
    int64_t held;
} collector;

static double collector_seconds(const collector *c) {
    return c->seconds + (c->rate ? (double)c->segment / c->rate : 0);
}

static omni_status reserve(collector *c, int64_t more, omni_error *err) {
    if (more > c->capacity - c->count) {
        budget *b = c->options.budget;
        int64_t capacity = c->capacity * 2 > c->count + more ? c->capacity * 2 : c->count + more;
        const int64_t bytes = (capacity - c->capacity) * (int64_t)sizeof(float);
        TRY(budget_hold(b, c->name, bytes, err));
        float *larger = realloc(c->samples, (size_t)capacity * sizeof(float));
        if (!larger) {
            budget_release(b, bytes);
            return fail(err, OMNI_ERR_MEMORY, "%s: out of memory after %.1f seconds of sound", c->name, collector_seconds(c));
        }
        c->samples = larger;
        c->capacity = capacity;
    }
    return OMNI_OK;
}

/* Resamples n samples; NULL drains what the resampler still holds. */
static omni_status resample(collector *c, const float *in, size_t n, omni_error *err) {
    const size_t room = 1 << 14;
    size_t produced;
    do {
        TRY(reserve(c, (int64_t)room, err));
        size_t used = 0;
        produced = 0;
        soxr_error_t e = soxr_process(c->resampler, in, n, &used, c->samples + c->count, room, &produced);
        if (e) {
            return fail(err, OMNI_ERR_MEMORY, "%s: resampling from %d to %d a second failed: %s", c->name, c->rate, c->options.rate,
                        soxr_strerror(e));
        }
        c->count += (int64_t)produced;
        if (in) {
            in += used;
            n -= used;
        }
    } while (produced == room || (in && n > 0));
    return OMNI_OK;
}

/* Passes on the first n of the samples in mono and keeps the others for later. */
static omni_status pass_on(collector *c, int64_t n, int64_t all, omni_error *err) {
    if (n > 0 && c->resampler) {
        TRY(resample(c, c->mono, (size_t)n, err));
    } else if (n > 0) {
        TRY(reserve(c, n, err));
        memcpy(c->samples + c->count, c->mono, (size_t)n * sizeof(float));
        c->count += n;
    }
    if (n > 0 && n < all) {
        memmove(c->mono, c->mono + n, (size_t)(all - n) * sizeof(float));
    }
    c->held = all - n;
    return OMNI_OK;
}

/* Ends a stretch of one rate: exactly ceil(samples * to / from) samples, as librosa fixes the length. */
static omni_status end_segment(collector *c, omni_error *err) {
    if (c->rate == 0) {
        return OMNI_OK;
    }
    TRY(pass_on(c, c->held, c->held, err));
    if (c->resampler) {
        if (c->segment > 0) {
            TRY(resample(c, NULL, 0, err));
        }
        soxr_delete(c->resampler);
        c->resampler = NULL;
        const int64_t wanted = (int64_t)ceil((double)c->segment * ((double)c->options.rate / c->rate));
        const int64_t have = c->count - c->begin;
        if (wanted > have) {
            TRY(reserve(c, wanted - have, err));
            memset(c->samples + c->count, 0, (size_t)(wanted - have) * sizeof(float));
        }
        c->count = c->begin + wanted;
    }
    c->seconds += (double)c->segment / c->rate;
    c->rate = 0;
    c->segment = 0;
    return OMNI_OK;
}

static omni_status begin_segment(collector *c, int rate, omni_error *err) {
    if (rate < LOWEST_RATE || rate > HIGHEST_RATE) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: %d samples a second; from %d to %d can be read", c->name, rate, LOWEST_RATE, HIGHEST_RATE);
    }
    /* Each costs a filter: frames that take turns with two rates would keep us busy for hours. */
    if (++c->segments > MOST_SEGMENTS) {
        return fail(err, OMNI_ERR_LIMIT, "%s: more than %d changes of the rate, the last after %.3f seconds of sound", c->name, MOST_SEGMENTS,
                    collector_seconds(c));
    }
    if (rate != c->options.rate) {
        const soxr_io_spec_t io = soxr_io_spec(SOXR_FLOAT32_I, SOXR_FLOAT32_I);
        const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
        soxr_error_t e = NULL;
        c->resampler = soxr_create(rate, c->options.rate, 1, &e, &io, &quality, NULL);
        if (!c->resampler) {
            return fail(err, OMNI_ERR_MEMORY, "%s: cannot resample from %d to %d a second: %s", c->name, rate, c->options.rate, soxr_strerror(e));
        }
    }
    c->rate = rate;
    c->begin = c->count;
    return OMNI_OK;
}

/* Value i of a channel, in libav's sample formats, as libsndfile scales them. */
static inline float sample_value(enum AVSampleFormat packed, const uint8_t *data, int64_t i) {
    switch (packed) {
    case AV_SAMPLE_FMT_U8:
        return (float)(data[i] - 128) / 128.0f;
    case AV_SAMPLE_FMT_S16:
        return (float)((const int16_t *)(const void *)data)[i] / 32768.0f;
    case AV_SAMPLE_FMT_S32:
        return (float)((const int32_t *)(const void *)data)[i] / 2147483648.0f;
    case AV_SAMPLE_FMT_S64:
        return (float)((const int64_t *)(const void *)data)[i] / 9223372036854775808.0f;
    case AV_SAMPLE_FMT_FLT:
        return ((const float *)(const void *)data)[i];
    case AV_SAMPLE_FMT_DBL:
        return (float)((const double *)(const void *)data)[i];
    default:
        return 0;
    }
}

static int frame_channels(const AVFrame *frame) {
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(57, 24, 100)
    return frame->ch_layout.nb_channels;
#else
    return frame->channels;
#endif
}

/* Samples at the frame's beginning that are no sound: newer versions of libav say so of Vorbis' first block, which older ones leave out. It
 * comes as side data where libav does not cut itself. */
static int frame_lead(const AVFrame *frame) {
    const AVFrameSideData *data = av_frame_get_side_data(frame, AV_FRAME_DATA_SKIP_SAMPLES);
    if (!data || data->size < 4) {
        return 0;
    }
    const uint32_t lead = data->data[0] | (uint32_t)data->data[1] << 8 | (uint32_t)data->data[2] << 16 | (uint32_t)data->data[3] << 24;
    return lead < (uint32_t)frame->nb_samples ? (int)lead : frame->nb_samples;
}

static omni_status add_frame(collector *c, const AVFrame *frame, omni_error *err) {
    const int lead = frame_lead(frame), n = frame->nb_samples - lead, channels = frame_channels(frame);
    const enum AVSampleFormat format = frame->format, packed = av_get_packed_sample_fmt(format);
    if (n <= 0) {
        return OMNI_OK;
    }
    TRY(budget_samples(c->options.budget, c->name, n, channels > 0 ? channels : 1, err));
    if (channels < 1 || channels > MOST_CHANNELS || packed == AV_SAMPLE_FMT_NONE) {
        return fail(err, OMNI_ERR_FORMAT, "%s: %d channels of sample format %d at %.3f seconds", c->name, channels, (int)format,
                    collector_seconds(c));
    }
    if (frame->sample_rate != c->rate) {
        TRY(end_segment(c, err));
        TRY(begin_segment(c, frame->sample_rate, err));
    }
    if (c->held + n > c->mono_capacity) {
        float *larger = realloc(c->mono, (size_t)(c->held + n) * sizeof(float));
        if (!larger) {
            return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", c->name);
        }
        c->mono = larger;
        c->mono_capacity = c->held + n;
    }
    float *mono = c->mono + c->held;
    const bool planar = av_sample_fmt_is_planar(format);
    bool finite = true;
    for (int i = 0; i < n; i++) {
        float sum = 0;
        for (int ch = 0; ch < channels; ch++) {
            sum += planar ? sample_value(packed, frame->extended_data[ch], lead + i)
                          : sample_value(packed, frame->extended_data[0], (int64_t)(lead + i) * channels + ch);
        }
        mono[i] = sum / (float)channels;
        finite &= isfinite(mono[i]) != 0;
    }
    if (!finite) {
        return fail(err, OMNI_ERR_FORMAT, "%s: samples that are not finite numbers, near %.3f seconds", c->name, collector_seconds(c));
    }
    c->segment += n;
    if (collector_seconds(c) > c->options.max_seconds) {
        return fail(err, OMNI_ERR_LIMIT, "%s: longer than the limit of %g seconds of sound", c->name, c->options.max_seconds);
    }
    TRY(budget_sound_length(c->options.budget, c->name, collector_seconds(c) * c->options.rate, c->options.rate, err));
    const int64_t all = c->held + n;
    return pass_on(c, all > c->hold ? all - c->hold : 0, all, err);
}

/* ---- libav's side ---- */

static int source_read(void *arg, uint8_t *to, int size) {
    source *s = arg;
    int64_t n = s->size - s->at < size ? s->size - s->at : size;
    if (n <= 0) {
        return AVERROR_EOF;
    }
    if (s->data) {
        memcpy(to, s->data + s->at, (size_t)n);
    } else {
        do {
            n = pread(s->fd, to, (size_t)n, s->at);
        } while (n < 0 && errno == EINTR);
        if (n <= 0) {
            return n < 0 ? AVERROR(errno) : AVERROR_EOF;
        }
    }
    s->at += n;
    return (int)n;
}

static int64_t source_seek(void *arg, int64_t offset, int whence) {
    source *s = arg;
    if (whence & AVSEEK_SIZE) {
        return s->size;
    }
    whence &= ~AVSEEK_FORCE;
    const int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? s->at : s->size;
    if (offset < -base || offset > s->size - base) {
        return AVERROR(EINVAL);
    }
    return s->at = base + offset;
}

/* A playlist or reference inside the file asks for another one: never. */
static int refuse_open(AVFormatContext *f, AVIOContext **io, const char *url, int flags, AVDictionary **options) {
    return AVERROR(EPERM);
}

static const char *av_text(int code, char text[AV_ERROR_MAX_STRING_SIZE]) {
    av_strerror(code, text, AV_ERROR_MAX_STRING_SIZE);
    return text;
}

typedef struct decoder {
    AVIOContext *io;
    AVFormatContext *format;
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    int stream;
    bool cut; /* the end is to be cut off here and not by libav */
} decoder;

static void decoder_close(decoder *d) {
    av_frame_free(&d->frame);
    av_packet_free(&d->packet);
    avcodec_free_context(&d->codec);
    avformat_close_input(&d->format);
    if (d->io) {
        av_freep(&d->io->buffer);
        avio_context_free(&d->io);
    }
}

/* The default sound track, else the first. */
static int find_track(const AVFormatContext *f) {
    int first = -1;
    for (unsigned i = 0; i < f->nb_streams; i++) {
        const AVStream *s = f->streams[i];
        if (s->codecpar->codec_type == AVMEDIA_TYPE_AUDIO && s->codecpar->codec_id != AV_CODEC_ID_NONE) {
            if (s->disposition & AV_DISPOSITION_DEFAULT) {
                return (int)i;
            }
            first = first < 0 ? (int)i : first;
        }
    }
    return first;
}

static omni_status decoder_open(decoder *d, source *s, const char *name, omni_error *err) {
    char text[AV_ERROR_MAX_STRING_SIZE];
    uint8_t *buffer = av_malloc(IO_BUFFER);
    d->io = buffer ? avio_alloc_context(buffer, IO_BUFFER, 0, s, source_read, NULL, source_seek) : NULL;
    if (!d->io) {
        av_free(buffer);
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", name);
    }
    d->format = avformat_alloc_context();
    d->packet = av_packet_alloc();
    d->frame = av_frame_alloc();
    if (!d->format || !d->packet || !d->frame || !(d->format->format_whitelist = av_strdup(containers))) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", name);
    }
    d->format->pb = d->io;
    d->format->io_open = refuse_open;
    d->format->flags |= AVFMT_FLAG_CUSTOM_IO;
    d->format->error_recognition |= AV_EF_CRCCHECK;
    int e = avformat_open_input(&d->format, NULL, NULL, NULL);
    if (e < 0) { /* which also freed the context */
        return fail(err, e == AVERROR(ENOMEM) ? OMNI_ERR_MEMORY : OMNI_ERR_FORMAT, "%s: no kind of sound or video file known here, or damaged: %s",
                    name, av_text(e, text));
    }
    d->stream = find_track(d->format);
    if (d->stream < 0) {
        /* Some containers have no header: their tracks show only in the data. */
        avformat_find_stream_info(d->format, NULL);
        d->stream = find_track(d->format);
    }
    if (d->stream < 0) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: has no sound (a %s file with %u other streams)", name, d->format->iformat->name,
                    d->format->nb_streams);
    }
    for (unsigned i = 0; i < d->format->nb_streams; i++) {
        if ((int)i != d->stream) {
            d->format->streams[i]->discard = AVDISCARD_ALL;
        }
    }
    AVStream *track = d->format->streams[d->stream];
    /* Of Opus there are two decoders; the one that librosa's libsndfile uses is preferred: in speech modes they differ by 4e-4. */
    const AVCodec *codec = track->codecpar->codec_id == AV_CODEC_ID_OPUS ? avcodec_find_decoder_by_name("libopus") : NULL;
    codec = codec ? codec : avcodec_find_decoder(track->codecpar->codec_id);
    if (!codec) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: sound encoded as %s, which this build of libavcodec cannot decode", name,
                    avcodec_get_name(track->codecpar->codec_id));
    }
    d->codec = avcodec_alloc_context3(codec);
    if (!d->codec) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", name);
    }
    e = avcodec_parameters_to_context(d->codec, track->codecpar);
    d->codec->pkt_timebase = track->time_base;
    d->codec->thread_count = 1;
    d->codec->request_sample_fmt = AV_SAMPLE_FMT_FLT;
    /* Vorbis in Ogg ends inside a block, at the position of its last page. libav cuts off no more than the last packet for that,
     * and of a file of one page too much. */
    d->cut = codec->id == AV_CODEC_ID_VORBIS && strcmp(d->format->iformat->name, "ogg") == 0 && track->time_base.num == 1 && track->duration > 0;
    if (d->cut) {
        d->codec->flags2 |= AV_CODEC_FLAG2_SKIP_MANUAL;
    }
    if (codec->id == AV_CODEC_ID_FLAC) {
        d->codec->err_recognition |= AV_EF_CRCCHECK | AV_EF_EXPLODE;
    }
    e = e < 0 ? e : avcodec_open2(d->codec, codec, NULL);
    if (e < 0) {
        return fail(err, e == AVERROR(ENOMEM) ? OMNI_ERR_MEMORY : OMNI_ERR_FORMAT, "%s: cannot start decoding %s: %s", name, codec->name,
                    av_text(e, text));
    }
    return OMNI_OK;
}

/* Everything that the packet just sent gives. *e receives libav's verdict when it is neither "more" nor "end". */
static omni_status take_frames(decoder *d, collector *c, int *e, omni_error *err) {
    for (;;) {
        *e = avcodec_receive_frame(d->codec, d->frame);
        if (*e < 0) {
            *e = *e == AVERROR(EAGAIN) || *e == AVERROR_EOF ? 0 : *e;
            return OMNI_OK;
        }
        omni_status status = add_frame(c, d->frame, err);
        av_frame_unref(d->frame);
        if (status != OMNI_OK) {
            return status;
        }
    }
}

/* Lossless sound must decode whole. Of lossy streams a few packets may be broken, as players take them: files cut from a broadcast
 * begin in the middle of a packet and end with tags. */
static omni_status decode_all(decoder *d, collector *c, int64_t size, omni_error *err) {
    char text[AV_ERROR_MAX_STRING_SIZE];
    const AVCodecDescriptor *kind = avcodec_descriptor_get(d->codec->codec_id);
    const bool lossless = kind && (kind->props & AV_CODEC_PROP_LOSSLESS) && !(kind->props & AV_CODEC_PROP_LOSSY);
    const int block = d->codec->block_align;
    const AVStream *track = d->format->streams[d->stream];
    c->hold = d->cut ? VORBIS_BLOCK : 0;
    int64_t packets = 0, bytes = 0, broken = 0;
    double first_broken = 0;
    int first_code = 0;
    for (bool more = true; more;) {
        int e = av_read_frame(d->format, d->packet);
        if (e < 0 && e != AVERROR_EOF) {
            return fail(err, e == AVERROR(ENOMEM) ? OMNI_ERR_MEMORY : OMNI_ERR_FORMAT, "%s: damaged after %.3f seconds of sound: %s", c->name,
                        collector_seconds(c), av_text(e, text));
        }
        more = e >= 0;
        bytes += more ? d->packet->size : 0;
        /* An index may point at the same bytes again and again; no honest one does it often. */
        if (more && (++packets > size + 16 || bytes > 4 * size + (1 << 20))) {
            return fail(err, OMNI_ERR_FORMAT, "%s: damaged: its index names more data than the file has", c->name);
        }
        if (more && d->packet->stream_index != d->stream) {
            av_packet_unref(d->packet);
            continue;
        }
        const int packet_size = more ? d->packet->size : 0;
        const double at = collector_seconds(c);
        e = avcodec_send_packet(d->codec, more ? d->packet : NULL);
        av_packet_unref(d->packet);
        int verdict = 0;
        TRY(take_frames(d, c, &verdict, err));
        e = e < 0 ? e : verdict;
        if (e == AVERROR(ENOMEM)) {
            return fail(err, OMNI_ERR_MEMORY, "%s: out of memory while decoding", c->name);
        }
        if (e < 0 && e != AVERROR_EOF && !(lossless && packet_size < block)) { /* a cut off last sample is no damage */
            first_broken = broken == 0 ? at : first_broken;
            first_code = broken == 0 ? e : first_code;
            broken++;
            if (lossless) {
                break;
            }
        }
    }
    if (broken > 0 && (lossless || broken > (packets / 100 > 2 ? packets / 100 : 2))) {
        return fail(err, OMNI_ERR_FORMAT, "%s: damaged: %lld of %lld packets cannot be decoded, the first after %.3f seconds of sound: %s", c->name,
                    (long long)broken, (long long)packets, first_broken, av_text(first_code, text));
    }
    const int64_t beyond = d->cut && track->time_base.den == c->rate ? c->segment - track->duration : 0;
    if (beyond > 0 && beyond <= c->held) {
        c->held -= beyond;
        c->segment -= beyond;
    }
    return end_segment(c, err);
}

static omni_status load(source *s, const char *name, const sound_options *options, sound *out, omni_error *err) {
    av_log_set_level(AV_LOG_QUIET);
    collector c = {.name = name};
    c.options = options ? *options : (sound_options){0};
    c.options.rate = c.options.rate ? c.options.rate : 16000;
    budget own;
    budget_init(&own, NULL);
    c.options.budget = c.options.budget ? c.options.budget : &own;
    c.options.max_seconds = c.options.max_seconds > 0 ? c.options.max_seconds : c.options.budget->limits.audio_seconds;
    c.options.max_bytes = c.options.max_bytes ? c.options.max_bytes : (size_t)c.options.budget->limits.file_bytes;
    if ((uint64_t)s->size > c.options.max_bytes) {
        return fail(err, OMNI_ERR_LIMIT, "%s: %lld bytes, over the limit of %zu for a sound", name, (long long)s->size, c.options.max_bytes);
    }
    TRY(budget_file(c.options.budget, name, s->size, err));
    if (c.options.rate < LOWEST_RATE || c.options.rate > HIGHEST_RATE) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: cannot give %d samples a second (%d to %d)", name, c.options.rate, LOWEST_RATE, HIGHEST_RATE);
    }
    if (s->size == 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: empty", name);
    }
    decoder d = {.stream = -1};
    omni_status status = decoder_open(&d, s, name, err);
    if (status == OMNI_OK) {
        status = decode_all(&d, &c, s->size, err);
    }
    if (status == OMNI_OK && c.count == 0) {
        status = fail(err, OMNI_ERR_FORMAT, "%s: holds no samples", name);
    }
    decoder_close(&d);
    soxr_delete(c.resampler);
    free(c.mono);
    if (status != OMNI_OK) {
        budget_release(c.options.budget, c.capacity * (int64_t)sizeof(float));
        free(c.samples);
        return status;
    }
    *out = (sound){.samples = c.samples, .count = c.count, .rate = c.options.rate};
    return OMNI_OK;
}

omni_status sound_load_memory(const void *data, size_t size, const char *name, const sound_options *options, sound *out, omni_error *err) {
    *out = (sound){0};
    if (size > INT64_MAX / 8) {
        return fail(err, OMNI_ERR_LIMIT, "%s: %zu bytes are too many for a sound", name, size);
    }
    source s = {.data = data, .fd = -1, .size = (int64_t)size};
    return load(&s, name, options, out, err);
}

omni_status sound_load(const char *path, const sound_options *options, sound *out, omni_error *err) {
    *out = (sound){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return fail(err, OMNI_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    struct stat st;
    omni_status status;
    if (fstat(fd, &st) != 0) {
        status = fail(err, OMNI_ERR_IO, "%s: cannot be examined: %s", path, strerror(errno));
    } else if (S_ISDIR(st.st_mode)) {
        status = fail(err, OMNI_ERR_IO, "%s: is a folder", path);
    } else if (S_ISREG(st.st_mode)) {
        source s = {.fd = fd, .size = st.st_size};
        status = load(&s, path, options, out, err);
    } else { /* a pipe: decoding needs to seek */
        char *data;
        size_t size;
        status = file_read(path, options && options->max_bytes ? options->max_bytes : (size_t)1 << 30, &data, &size, err);
        if (status == OMNI_OK) {
            status = sound_load_memory(data, size, path, options, out, err);
            free(data);
        }
    }
    close(fd);
    return status;
}

void sound_free(sound *s) {
    free(s->samples);
    *s = (sound){0};
}
