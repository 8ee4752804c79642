#include "media/sound_encoder.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <math.h>
#include <soxr.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "media/containers.h"
#include "media/sound_mix.h"

enum {
    WAV_HEADER = 44,
    PIECE = 4096, /* samples that are worked on at once */
    IO_BUFFER = 4096,
    TELEPHONE_RATE = 8000,
    OPUS_PAGE = 4, /* packets of 20 ms in a page of Ogg: 80 ms, the length of a frame of speech */
};

/* RIFF sizes are 32 bits: "RIFF" counts the header less 8 bytes as well. */
static const uint64_t wav_most = UINT32_MAX - (WAV_HEADER - 8) - 1;

typedef enum layout { LAYOUT_WAV, LAYOUT_S16, LAYOUT_F32, LAYOUT_CODEC } layout;

struct sound_format {
    const char *name, *type;
    const char *endings; /* ".a.b." */
    layout layout;
    const char *encoder, *muxer; /* names of libavcodec and libavformat */
    const char *library;         /* what the encoder needs */
    enum AVSampleFormat samples; /* AV_SAMPLE_FMT_S16, or a float format */
    int bit_rate;
    const int *rates; /* that it takes, the one for others first, ended by 0; NULL: any */
};

static const int telephone_rates[] = {TELEPHONE_RATE, 0}, opus_rates[] = {48000, 24000, 16000, 12000, 8000, 0},
                 mp3_rates[] = {48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 0},
                 aac_rates[] = {48000, 96000, 88200, 64000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 0},
                 flac_rates[] = {48000, 192000, 176400, 96000, 88200, 44100, 32000, 24000, 22050, 16000, 8000, 0};

/* Bit rates at which speech of one channel loses little that can be heard. */
static const sound_format formats[] = {
    {"wav", "audio/wav", ".wav.", LAYOUT_WAV, .samples = AV_SAMPLE_FMT_S16},
    {"pcm16", "audio/pcm", ".pcm.raw.", LAYOUT_S16, .samples = AV_SAMPLE_FMT_S16},
    {"pcm_f32", "application/octet-stream", ".f32.", LAYOUT_F32, .samples = AV_SAMPLE_FMT_FLT},
    {"mulaw", "audio/basic", ".ulaw.ul.", LAYOUT_CODEC, "pcm_mulaw", "mulaw", "", AV_SAMPLE_FMT_S16, 0, telephone_rates},
    {"alaw", "audio/PCMA", ".alaw.al.", LAYOUT_CODEC, "pcm_alaw", "alaw", "", AV_SAMPLE_FMT_S16, 0, telephone_rates},
    {"mp3", "audio/mpeg", ".mp3.", LAYOUT_CODEC, "libmp3lame", "mp3", " with LAME", AV_SAMPLE_FMT_FLTP, 96000, mp3_rates},
    {"opus", "audio/ogg", ".opus.ogg.oga.", LAYOUT_CODEC, "libopus", "ogg", " with libopus", AV_SAMPLE_FMT_FLT, 64000, opus_rates},
    {"flac", "audio/flac", ".flac.", LAYOUT_CODEC, "flac", "flac", "", AV_SAMPLE_FMT_S16, 0, flac_rates},
    {"aac", "audio/aac", ".aac.", LAYOUT_CODEC, "aac", "adts", "", AV_SAMPLE_FMT_FLTP, 96000, aac_rates},
};

struct sound_encoder {
    const sound_format *format;
    sound_sink sink;
    int rate; /* of the sound that is written */
    bool failed;
    uint64_t bytes;    /* that the sink took, to the furthest */
    soxr_t resampler;  /* NULL: the samples come at this rate */
    float *resampled;  /* PIECE samples */
    uint64_t position; /* libavformat's */
    omni_error error;  /* of the sink, while libavformat calls it */
    AVIOContext *io;
    AVFormatContext *muxer;
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    int frame_size, filled; /* samples of a frame, and how many of them are there */
    int64_t samples;        /* that were given to the codec */
    int64_t packets;
};

/* ---- formats ---- */

const sound_format *sound_format_named(const char *name) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (strcmp(formats[i].name, name) == 0) {
            return &formats[i];
        }
    }
    return NULL;
}

const sound_format *sound_format_of_path(const char *path) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    const size_t n = dot ? strlen(dot) : 0;
    for (size_t i = 0; n > 1 && i < sizeof formats / sizeof *formats; i++) {
        for (const char *at = formats[i].endings; at[1]; at = strchr(at + 1, '.')) {
            if (strncasecmp(at, dot, n) == 0 && at[n] == '.') {
                return &formats[i];
            }
        }
    }
    return NULL;
}

const char *sound_format_name(const sound_format *f) {
    return f->name;
}

const char *sound_format_type(const sound_format *f) {
    return f->type;
}

omni_status sound_format_check(const sound_format *f, omni_error *err) {
    const unsigned v = avcodec_version();
    if (f->layout == LAYOUT_CODEC && !avcodec_find_encoder_by_name(f->encoder)) {
        return fail(
            err, OMNI_ERR_UNSUPPORTED,
            "this FFmpeg (libavcodec %u.%u.%u) was built without the encoder \"%s\" that %s needs: install FFmpeg%s, or choose another format",
            v >> 16, v >> 8 & 255, v & 255, f->encoder, f->name, *f->library ? f->library : "'s full libavcodec");
    }
    if (f->layout == LAYOUT_CODEC && !av_guess_format(f->muxer, NULL, NULL)) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "this FFmpeg was built without the container \"%s\" that %s needs: install its full libavformat",
                    f->muxer, f->name);
    }
    return OMNI_OK;
}

/* ---- samples and bytes ---- */

int16_t sound_sample_16(float x) {
    if (isnan(x)) {
        return 0;
    }
    float scaled = rintf(x * 32767.0f);
    return (int16_t)(scaled > 32767.0f ? 32767.0f : scaled < -32768.0f ? -32768.0f : scaled);
}

static float clean_float(float x) {
    return isnan(x) ? 0 : x > 1 ? 1 : x < -1 ? -1 : x;
}

static void put16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v) {
    put16(p, v);
    put16(p + 2, v >> 16);
}

static omni_status put_bytes(sound_encoder *e, uint64_t at, const void *data, size_t size, omni_error *err) {
    TRY(e->sink.write(e->sink.arg, at, data, size, err));
    e->bytes = at + size > e->bytes ? at + size : e->bytes;
    return OMNI_OK;
}

/* The header, 16-bit mono. Sizes of 0xFFFFFFFF are unknown: players read to the end then. */
static omni_status put_wav_header(sound_encoder *e, uint32_t riff_size, uint32_t data_size, omni_error *err) {
    uint8_t h[WAV_HEADER];
    memcpy(h, "RIFF", 4);
    put32(h + 4, riff_size);
    memcpy(h + 8, "WAVEfmt ", 8);
    put32(h + 16, 16);
    put16(h + 20, 1); /* integer PCM */
    put16(h + 22, 1); /* channels */
    put32(h + 24, (uint32_t)e->rate);
    put32(h + 28, (uint32_t)e->rate * 2);
    put16(h + 32, 2);
    put16(h + 34, 16);
    memcpy(h + 36, "data", 4);
    put32(h + 40, data_size);
    return put_bytes(e, 0, h, WAV_HEADER, err);
}

/* WAV and PCM; count: PIECE at most. */
static omni_status put_plain(sound_encoder *e, const float *samples, size_t count, omni_error *err) {
    uint8_t piece[PIECE * 4];
    const bool floats = e->format->layout == LAYOUT_F32;
    if (e->format->layout == LAYOUT_WAV && e->sink.can_seek && 2 * count > wav_most - (e->bytes - WAV_HEADER)) {
        return fail(err, OMNI_ERR_LIMIT, "a WAV file holds at most %llu samples; write .pcm or .flac for more", (unsigned long long)(wav_most / 2));
    }
    for (size_t i = 0; i < count; i++) {
        if (floats) {
            const float x = clean_float(samples[i]);
            uint32_t bits;
            memcpy(&bits, &x, sizeof bits);
            put32(piece + 4 * i, bits);
        } else {
            put16(piece + 2 * i, (uint16_t)sound_sample_16(samples[i]));
        }
    }
    return put_bytes(e, e->bytes, piece, count * (floats ? 4 : 2), err);
}

/* ---- libav ---- */

#if LIBAVFORMAT_VERSION_MAJOR >= 61
static int write_bytes(void *arg, const uint8_t *data, int size) {
#else
static int write_bytes(void *arg, uint8_t *data, int size) {
#endif
    sound_encoder *e = arg;
    if (e->error.code == OMNI_OK && put_bytes(e, e->position, data, (size_t)size, &e->error) != OMNI_OK && e->error.code == OMNI_OK) {
        e->error.code = OMNI_ERR_IO;
    }
    if (e->error.code != OMNI_OK) {
        return AVERROR(EIO);
    }
    e->position += (uint64_t)size;
    return size;
}

static int64_t seek_bytes(void *arg, int64_t offset, int whence) {
    sound_encoder *e = arg;
    if (whence & AVSEEK_SIZE) {
        return (int64_t)e->bytes;
    }
    whence &= ~AVSEEK_FORCE;
    const int64_t base = whence == SEEK_SET ? 0 : (int64_t)(whence == SEEK_CUR ? e->position : e->bytes);
    if (offset < -base || offset > (int64_t)e->bytes - base) {
        return AVERROR(EINVAL);
    }
    e->position = (uint64_t)(base + offset);
    return base + offset;
}

/* What a call of libav returned, as a status; the sink's error comes first. */
static omni_status av_status(sound_encoder *e, int code, const char *what, omni_error *err) {
    if (e->error.code != OMNI_OK) {
        return e->error.text[0] ? fail(err, e->error.code, "%s", e->error.text) : fail(err, e->error.code, "%s cannot be written", e->format->name);
    }
    if (code >= 0) {
        return OMNI_OK;
    }
    char text[AV_ERROR_MAX_STRING_SIZE];
    av_strerror(code, text, sizeof text);
    return fail(err, code == AVERROR(ENOMEM) ? OMNI_ERR_MEMORY : OMNI_ERR_UNSUPPORTED, "%s: %s: %s", e->format->name, what, text);
}

static omni_status no_memory(const sound_encoder *e, omni_error *err) {
    return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", e->format->name);
}

/* The packets that the codec has ready. */
static omni_status put_packets(sound_encoder *e, omni_error *err) {
    for (;;) {
        int code = avcodec_receive_packet(e->codec, e->packet);
        if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) {
            return OMNI_OK;
        }
        TRY(av_status(e, code, "cannot encode", err));
        av_packet_rescale_ts(e->packet, e->codec->time_base, e->muxer->streams[0]->time_base);
        e->packet->stream_index = 0;
        code = av_write_frame(e->muxer, e->packet);
        av_packet_unref(e->packet);
        TRY(av_status(e, code, "cannot be written", err));
        /* libavformat would hold a page of Ogg back until the next one is full. */
        if (e->packets++ % OPUS_PAGE == 0 && (e->muxer->oformat->flags & AVFMT_ALLOW_FLUSH)) {
            TRY(av_status(e, av_write_frame(e->muxer, NULL), "cannot be written", err));
        }
    }
}

/* Gives the codec the frame as far as it is filled. */
static omni_status put_frame(sound_encoder *e, omni_error *err) {
    e->frame->nb_samples = e->filled;
    e->frame->pts = e->samples;
    e->samples += e->filled;
    const int code = avcodec_send_frame(e->codec, e->frame);
    e->frame->nb_samples = e->frame_size;
    e->filled = 0;
    TRY(av_status(e, code, "cannot encode", err));
    return put_packets(e, err);
}

static omni_status put_coded(sound_encoder *e, const float *samples, size_t count, omni_error *err) {
    for (size_t i = 0; i < count;) {
        if (e->filled == 0) {
            TRY(av_status(e, av_frame_make_writable(e->frame), "no frame", err));
        }
        for (; e->filled < e->frame_size && i < count; e->filled++, i++) {
            if (e->format->samples == AV_SAMPLE_FMT_S16) {
                ((int16_t *)(void *)e->frame->data[0])[e->filled] = sound_sample_16(samples[i]);
            } else {
                ((float *)(void *)e->frame->data[0])[e->filled] = clean_float(samples[i]);
            }
        }
        if (e->filled == e->frame_size) {
            TRY(put_frame(e, err));
        }
    }
    return e->codec->frame_size == 0 && e->filled > 0 ? put_frame(e, err) : OMNI_OK; /* PCM: nothing needs to wait for more */
}

static omni_status open_codec(sound_encoder *e, omni_error *err) {
    const sound_format *f = e->format;
    const AVCodec *codec = avcodec_find_encoder_by_name(f->encoder);
    e->codec = avcodec_alloc_context3(codec);
    e->packet = av_packet_alloc();
    e->frame = av_frame_alloc();
    if (!e->codec || !e->packet || !e->frame) {
        return no_memory(e, err);
    }
    e->codec->sample_rate = e->frame->sample_rate = e->rate;
    e->codec->sample_fmt = f->samples;
    e->frame->format = f->samples;
    e->codec->time_base = (AVRational){1, e->rate};
    e->codec->bit_rate = f->bit_rate;
    e->codec->thread_count = 1;
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(57, 24, 100)
    av_channel_layout_default(&e->codec->ch_layout, 1);
    av_channel_layout_default(&e->frame->ch_layout, 1);
#else
    e->codec->channels = e->frame->channels = 1;
    e->codec->channel_layout = e->frame->channel_layout = AV_CH_LAYOUT_MONO;
#endif
    if (e->muxer->oformat->flags & AVFMT_GLOBALHEADER) {
        e->codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    }
    TRY(av_status(e, avcodec_open2(e->codec, codec, NULL), "cannot open the encoder", err));
    e->frame_size = e->codec->frame_size > 0 ? e->codec->frame_size : PIECE;
    e->frame->nb_samples = e->frame_size;
    return av_status(e, av_frame_get_buffer(e->frame, 0), "no frame", err);
}

static omni_status open_muxer(sound_encoder *e, omni_error *err) {
    TRY(av_status(e, avformat_alloc_output_context2(&e->muxer, NULL, e->format->muxer, NULL), "cannot open the container", err));
    uint8_t *buffer = av_malloc(IO_BUFFER);
    e->io = buffer ? avio_alloc_context(buffer, IO_BUFFER, 1, e, NULL, write_bytes, e->sink.can_seek ? seek_bytes : NULL) : NULL;
    if (!e->io) {
        av_free(buffer);
        return no_memory(e, err);
    }
    e->muxer->pb = e->io;
    e->muxer->flags |= AVFMT_FLAG_FLUSH_PACKETS | AVFMT_FLAG_BITEXACT | AVFMT_FLAG_CUSTOM_IO; /* the same sound, the same bytes */
    e->muxer->metadata_header_padding = 0;                                                    /* of FLAC: 8 KiB of zeros otherwise */
    return OMNI_OK;
}

static omni_status open_stream(sound_encoder *e, omni_error *err) {
    AVStream *stream = avformat_new_stream(e->muxer, NULL);
    if (!stream) {
        return no_memory(e, err);
    }
    stream->time_base = e->codec->time_base;
    TRY(av_status(e, avcodec_parameters_from_context(stream->codecpar, e->codec), "cannot open the container", err));
    AVDictionary *options = NULL;
    av_dict_set(&options, "id3v2_version", "0", 0); /* of MP3 alone; others leave it in options */
    const int code = avformat_write_header(e->muxer, &options);
    av_dict_free(&options);
    avio_flush(e->io);
    return av_status(e, code, "cannot begin", err);
}

/* ---- the encoder ---- */

static bool takes_rate(const sound_format *f, int rate) {
    for (const int *r = f->rates; r && *r; r++) {
        if (*r == rate) {
            return true;
        }
    }
    return !f->rates;
}

static omni_status open_parts(sound_encoder *e, int rate, omni_error *err) {
    if (rate != e->rate) {
        const soxr_io_spec_t io = soxr_io_spec(SOXR_FLOAT32_I, SOXR_FLOAT32_I);
        const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
        soxr_error_t problem = NULL;
        e->resampled = malloc(PIECE * sizeof *e->resampled);
        e->resampler = soxr_create(rate, e->rate, 1, &problem, &io, &quality, NULL);
        if (!e->resampled || !e->resampler) {
            return no_memory(e, err);
        }
    }
    if (e->format->layout == LAYOUT_WAV) {
        return put_wav_header(e, UINT32_MAX, UINT32_MAX, err);
    }
    if (e->format->layout == LAYOUT_CODEC) {
        TRY(open_muxer(e, err));
        TRY(open_codec(e, err));
        TRY(open_stream(e, err));
    }
    return OMNI_OK;
}

omni_status sound_encoder_open(const sound_format *f, int rate, const sound_sink *sink, sound_encoder **out, omni_error *err) {
    *out = NULL;
    media_limit_libav();
    TRY(sound_format_check(f, err));
    const int least = f->rates ? SOUND_LOWEST_RATE : 1, most = f->rates ? SOUND_HIGHEST_RATE : INT32_MAX / 2;
    if (rate < least || rate > most) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: no sample rate: %d (%d to %d)", f->name, rate, least, most);
    }
    sound_encoder *e = calloc(1, sizeof *e);
    if (!e) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", f->name);
    }
    *e = (sound_encoder){.format = f, .sink = *sink, .rate = takes_rate(f, rate) ? rate : f->rates[0]};
    const omni_status status = open_parts(e, rate, err);
    if (status != OMNI_OK) {
        sound_encoder_abandon(e);
        return status;
    }
    *out = e;
    return OMNI_OK;
}

static omni_status put_samples(sound_encoder *e, const float *samples, size_t count, omni_error *err) {
    return e->format->layout == LAYOUT_CODEC ? put_coded(e, samples, count, err) : put_plain(e, samples, count, err);
}

/* samples NULL: the end; what the resampler still has comes out. */
static omni_status resample(sound_encoder *e, const float *samples, size_t count, omni_error *err) {
    float clean[256];
    for (size_t made = PIECE; count > 0 || made > 0;) {
        size_t used = 0, n = count < 256 ? count : 256;
        for (size_t i = 0; i < n; i++) {
            clean[i] = clean_float(samples[i]);
        }
        if (soxr_process(e->resampler, samples ? clean : NULL, n, &used, e->resampled, PIECE, &made)) {
            return no_memory(e, err);
        }
        samples = samples ? samples + used : NULL;
        count -= used;
        TRY(put_samples(e, e->resampled, made, err));
        if (samples && count == 0) {
            break;
        }
    }
    return OMNI_OK;
}

omni_status sound_encoder_write(sound_encoder *e, const float *samples, size_t count, omni_error *err) {
    if (e->failed) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: an error came before", e->format->name);
    }
    omni_status status = OMNI_OK;
    while (status == OMNI_OK && count > 0) {
        const size_t n = count < PIECE ? count : PIECE;
        status = e->resampler ? resample(e, samples, n, err) : put_samples(e, samples, n, err);
        samples += n;
        count -= n;
    }
    e->failed = status != OMNI_OK;
    return status;
}

static omni_status finish_coded(sound_encoder *e, omni_error *err) {
    if (e->filled > 0) {
        TRY(put_frame(e, err));
    }
    TRY(av_status(e, avcodec_send_frame(e->codec, NULL), "cannot encode", err));
    TRY(put_packets(e, err));
    const int code = av_write_trailer(e->muxer);
    avio_flush(e->io);
    return av_status(e, code, "cannot be finished", err);
}

omni_status sound_encoder_finish(sound_encoder *e, omni_error *err) {
    omni_status status = e->resampler && !e->failed ? resample(e, NULL, 0, err) : OMNI_OK;
    if (status == OMNI_OK && e->format->layout == LAYOUT_CODEC && !e->failed) {
        status = finish_coded(e, err);
    } else if (status == OMNI_OK && e->format->layout == LAYOUT_WAV && e->sink.can_seek) {
        status = put_wav_header(e, (uint32_t)(e->bytes - 8), (uint32_t)(e->bytes - WAV_HEADER), err);
    }
    sound_encoder_abandon(e);
    return status;
}

void sound_encoder_abandon(sound_encoder *e) {
    if (!e) {
        return;
    }
    soxr_delete(e->resampler);
    free(e->resampled);
    av_frame_free(&e->frame);
    av_packet_free(&e->packet);
    avcodec_free_context(&e->codec);
    avformat_free_context(e->muxer);
    if (e->io) {
        av_freep(&e->io->buffer);
        avio_context_free(&e->io);
    }
    free(e);
}
