#define _GNU_SOURCE
#include "media/sound.h"

#include <errno.h>
#include <fcntl.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "media/containers.h"
#include "media/media_file.h"
#include "media/mp4_index.h"
#include "media/sound_mix.h"

enum { IO_BUFFER = 1 << 15, VORBIS_BLOCK = 8192 };

/* Where the bytes come from: memory, or a regular file. */
typedef struct source {
    const uint8_t *data;
    int fd;
    int64_t size, at;
} source;

/* ---- libav's side ---- */

/* Bytes from a place on; 0: at the end. */
static int64_t source_bytes(const source *s, int64_t at, uint8_t *to, int64_t size) {
    int64_t n = s->size - at < size ? s->size - at : size;
    if (n <= 0) {
        return 0;
    }
    if (s->data) {
        memcpy(to, s->data + at, (size_t)n);
        return n;
    }
    do {
        n = pread(s->fd, to, (size_t)n, at);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? AVERROR(errno) : n;
}

static int source_read(void *arg, uint8_t *to, int size) {
    source *s = arg;
    const int64_t n = source_bytes(s, s->at, to, size);
    if (n <= 0) {
        return n < 0 ? (int)n : AVERROR_EOF;
    }
    s->at += n;
    return (int)n;
}

/* As with files, a place behind the end can be sought; there is nothing to read. */
static int64_t source_seek(void *arg, int64_t offset, int whence) {
    source *s = arg;
    if (whence & AVSEEK_SIZE) {
        return s->size;
    }
    whence &= ~AVSEEK_FORCE;
    const int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? s->at : s->size;
    if (offset < -base || offset > INT64_MAX / 2 - base) {
        return AVERROR(EINVAL);
    }
    return s->at = base + offset;
}

/* A playlist or reference inside the file asks for another one: never. */
static int refuse_open(AVFormatContext *f, AVIOContext **io, const char *url, int flags, AVDictionary **options) {
    return AVERROR(EPERM);
}

static int parameters_channels(const AVCodecParameters *p) {
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(57, 24, 100)
    return p->ch_layout.nb_channels;
#else
    return p->channels;
#endif
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

/* The size of a PCM sample in WAV is that of its place in the block. libav goes by the number of valid bits, which is smaller in
 * WAVE_FORMAT_EXTENSIBLE (24 bits in 32, say), and reads the samples of RIFX, the big-endian twin of WAV, as if they were RIFF's. */
static void size_samples(AVFormatContext *f, const source *s) {
    enum { INTEGER = 1, FLOAT = 3, WIDEST = 8 }; /* WAVE_FORMAT_PCM, WAVE_FORMAT_IEEE_FLOAT */
    static const enum AVCodecID integers[2][WIDEST + 1] =
        {{[1] = AV_CODEC_ID_PCM_U8, AV_CODEC_ID_PCM_S16LE, AV_CODEC_ID_PCM_S24LE, AV_CODEC_ID_PCM_S32LE, [8] = AV_CODEC_ID_PCM_S64LE},
         {[1] = AV_CODEC_ID_PCM_U8, AV_CODEC_ID_PCM_S16BE, AV_CODEC_ID_PCM_S24BE, AV_CODEC_ID_PCM_S32BE, [8] = AV_CODEC_ID_PCM_S64BE}},
                                                     floats[2][WIDEST + 1] = {{[4] = AV_CODEC_ID_PCM_F32LE, [8] = AV_CODEC_ID_PCM_F64LE},
                                                                              {[4] = AV_CODEC_ID_PCM_F32BE, [8] = AV_CODEC_ID_PCM_F64BE}};
    if (f->nb_streams != 1 || (strcmp(f->iformat->name, "wav") != 0 && strcmp(f->iformat->name, "w64") != 0)) {
        return;
    }
    AVCodecParameters *p = f->streams[0]->codecpar;
    const int channels = parameters_channels(p), width = channels > 0 && p->block_align % channels == 0 ? p->block_align / channels : 0;
    uint8_t begin[4] = {0};
    const bool big = source_bytes(s, 0, begin, sizeof begin) == sizeof begin && memcmp(begin, "RIFX", sizeof begin) == 0;
    const enum AVCodecID id = width < 1 || width > WIDEST ? AV_CODEC_ID_NONE
                              : p->codec_tag == INTEGER   ? integers[big][width]
                              : p->codec_tag == FLOAT     ? floats[big][width]
                                                          : AV_CODEC_ID_NONE;
    if (p->codec_type == AVMEDIA_TYPE_AUDIO && id != AV_CODEC_ID_NONE) {
        p->codec_id = id;
        p->bits_per_coded_sample = width * 8;
    }
}

/* Whether another Ogg stream begins after the first: files that were joined. */
static bool ogg_is_chained(const source *s) {
    enum { HEADER = 27, MOST = HEADER + 255, BEGINS = 2 };
    uint8_t page[MOST];
    bool data = false;
    for (int64_t at = 0; source_bytes(s, at, page, MOST) >= HEADER && memcmp(page, "OggS", 4) == 0;) {
        const bool begins = page[5] & BEGINS;
        if (begins && data) {
            return true;
        }
        data |= !begins;
        at += HEADER + page[26];
        for (int i = 0; i < page[26]; i++) {
            at += page[HEADER + i];
        }
    }
    return false;
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

/* Lossless encodings with long adaptive filters: silence takes next to no bytes and, for each sample, a microsecond or more, far beyond what the
 * budget counts a sample for. */
static bool is_costly(enum AVCodecID id) {
    static const enum AVCodecID costly[] = {AV_CODEC_ID_APE,         AV_CODEC_ID_MP4ALS, AV_CODEC_ID_TAK,   AV_CODEC_ID_DST,
                                            AV_CODEC_ID_WMALOSSLESS, AV_CODEC_ID_MLP,    AV_CODEC_ID_TRUEHD};
    for (size_t i = 0; i < sizeof costly / sizeof *costly; i++) {
        if (costly[i] == id) {
            return true;
        }
    }
    return false;
}

/* d->stream is -1 where there is no sound. */
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
    if (!d->format || !d->packet || !d->frame || !(d->format->format_whitelist = av_strdup(media_containers))) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", name);
    }
    d->format->pb = d->io;
    d->format->io_open = refuse_open;
    d->format->flags |= AVFMT_FLAG_CUSTOM_IO;
    d->format->error_recognition |= AV_EF_CRCCHECK;
    int e = avformat_open_input(&d->format, NULL, NULL, NULL);
    if (e < 0) { /* which also freed the context */
        return fail(err, e == AVERROR(ENOMEM) ? OMNI_ERR_MEMORY : OMNI_ERR_FORMAT,
                    "%s: no kind of sound or video file known here, or damaged (%s); ffmpeg may turn it into one: ffmpeg -i FILE out.wav", name,
                    av_text(e, text));
    }
    size_samples(d->format, s);
    d->stream = find_track(d->format);
    if (d->stream < 0) {
        /* Some containers have no header: their tracks show only in the data. */
        avformat_find_stream_info(d->format, NULL);
        d->stream = find_track(d->format);
    }
    if (d->stream < 0) {
        return OMNI_OK;
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
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: sound encoded as %s, which this build of libavcodec cannot decode; give WAV, FLAC or MP3", name,
                    avcodec_get_name(track->codecpar->codec_id));
    }
    if (is_costly(codec->id)) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: sound encoded as %s, of which few bytes can take long to decode; give WAV, FLAC or MP3", name,
                    codec->name);
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
     * and of a file of one page too much. Joined files are left to it: the last position is that of the last file. */
    d->cut = codec->id == AV_CODEC_ID_VORBIS && strcmp(d->format->iformat->name, "ogg") == 0 && track->time_base.num == 1 && track->duration > 0 &&
             !ogg_is_chained(s);
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
static omni_status take_frames(decoder *d, sound_mix *m, int *e, omni_error *err) {
    for (;;) {
        *e = avcodec_receive_frame(d->codec, d->frame);
        if (*e < 0) {
            *e = *e == AVERROR(EAGAIN) || *e == AVERROR_EOF ? 0 : *e;
            return OMNI_OK;
        }
        omni_status status = mix_add(m, d->frame, err);
        av_frame_unref(d->frame);
        if (status != OMNI_OK) {
            return status;
        }
    }
}

/* Bytes of one PCM sample of all channels; 0 for other codecs. */
static int pcm_block(const AVCodecParameters *p) {
    const bool pcm = p->codec_id >= AV_CODEC_ID_FIRST_AUDIO && p->codec_id < AV_CODEC_ID_ADPCM_IMA_QT;
    return pcm ? av_get_exact_bits_per_sample(p->codec_id) * parameters_channels(p) / 8 : 0;
}

/* Whether a packet is one of the two headers of Opus in Ogg, which libav hands on where joined files begin. */
static bool is_opus_header(const AVPacket *p, enum AVCodecID codec) {
    return codec == AV_CODEC_ID_OPUS && p->size >= 8 && (memcmp(p->data, "OpusHead", 8) == 0 || memcmp(p->data, "OpusTags", 8) == 0);
}

/* Packets that cannot be decoded. */
typedef struct breakage {
    int64_t count;
    double at;      /* seconds before the first */
    int code;       /* libav's verdict on the first */
    AVPacket *last; /* of lossless sound, until another packet comes */
} breakage;

/* Whether a lossless packet at the end cannot be decoded because the file was cut off inside it, and not because it is damaged: the container
 * found too few bytes, or the decoder does, once it is told not to mind checksums. */
static bool is_cut_off(decoder *d, AVPacket *last) {
    if (last->flags & AV_PKT_FLAG_CORRUPT) {
        return true;
    }
    avcodec_flush_buffers(d->codec);
    d->codec->err_recognition = 0;
    const int sent = avcodec_send_packet(d->codec, last), got = avcodec_receive_frame(d->codec, d->frame);
    av_frame_unref(d->frame);
    return sent < 0 || got < 0;
}

static omni_status damaged(const sound_mix *m, const breakage *b, int64_t packets, omni_error *err) {
    char text[AV_ERROR_MAX_STRING_SIZE];
    return fail(err, OMNI_ERR_FORMAT, "%s: damaged: %lld of %lld packets cannot be decoded, the first after %.3f seconds of sound: %s", m->name,
                (long long)b->count, (long long)packets, b->at, av_text(b->code, text));
}

/* Lossless sound must decode whole, but for a last packet that the file was cut off in. Of lossy streams a few packets may be broken, as players
 * take them: files cut from a broadcast begin in the middle of a packet and end with tags. */
static omni_status decode_packets(decoder *d, sound_mix *m, int64_t size, breakage *b, omni_error *err) {
    char text[AV_ERROR_MAX_STRING_SIZE];
    const AVStream *track = d->format->streams[d->stream];
    const AVCodecDescriptor *kind = avcodec_descriptor_get(d->codec->codec_id);
    const bool lossless = kind && (kind->props & AV_CODEC_PROP_LOSSLESS) && !(kind->props & AV_CODEC_PROP_LOSSY);
    const int block = pcm_block(track->codecpar);
    m->hold = d->cut ? VORBIS_BLOCK : 0;
    int64_t packets = 0, bytes = 0;
    for (bool more = true; more && !m->full;) {
        int e = av_read_frame(d->format, d->packet);
        if (e < 0 && e != AVERROR_EOF && !(d->io->eof_reached && m->segment > 0)) { /* a file may be cut off anywhere */
            return fail(err, e == AVERROR(ENOMEM) ? OMNI_ERR_MEMORY : OMNI_ERR_FORMAT, "%s: damaged after %.3f seconds of sound: %s", m->name,
                        mix_seconds(m), av_text(e, text));
        }
        more = e >= 0;
        bytes += more ? d->packet->size : 0;
        /* An index may point at the same bytes again and again; no honest one does it often. */
        if (more && (++packets > size + 16 || bytes > 4 * size + (1 << 20))) {
            return fail(err, OMNI_ERR_FORMAT, "%s: damaged: its index names more data than the file has", m->name);
        }
        if (more && block > 0 && d->packet->size % block != 0) { /* a sample that was cut off */
            av_shrink_packet(d->packet, d->packet->size - d->packet->size % block);
        }
        if (more && (d->packet->stream_index != d->stream || d->packet->size == 0 || is_opus_header(d->packet, d->codec->codec_id))) {
            av_packet_unref(d->packet);
            continue;
        }
        if (more && b->last) {
            return damaged(m, b, packets, err);
        }
        const double at = mix_seconds(m);
        e = avcodec_send_packet(d->codec, more ? d->packet : NULL);
        int verdict = 0;
        TRY(take_frames(d, m, &verdict, err));
        e = e < 0 ? e : verdict;
        if (e == AVERROR(ENOMEM)) {
            return fail(err, OMNI_ERR_MEMORY, "%s: out of memory while decoding", m->name);
        }
        if (e < 0 && e != AVERROR_EOF) {
            if (b->count++ == 0) {
                b->at = at;
                b->code = e;
            }
            if (lossless && more && !(b->last = av_packet_clone(d->packet))) {
                return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", m->name);
            }
        }
        av_packet_unref(d->packet);
    }
    const bool too_many = b->count > (lossless ? 0 : packets / 100 > 2 ? packets / 100 : 2);
    if (b->count > 0 && (m->segment == 0 || (too_many && !(lossless && b->last && is_cut_off(d, b->last))))) {
        return damaged(m, b, packets, err);
    }
    if (d->cut && track->time_base.den == m->rate) {
        mix_cut(m, m->segment - track->duration);
    }
    return mix_end(m, err);
}

static omni_status decode_all(decoder *d, sound_mix *m, int64_t size, omni_error *err) {
    breakage b = {0};
    omni_status status = decode_packets(d, m, size, &b, err);
    av_packet_free(&b.last);
    return status;
}

static omni_status load(source *s, const char *name, const sound_options *options, sound *out, omni_error *err) {
    media_limit_libav();
    sound_mix m = {.name = name};
    m.options = options ? *options : (sound_options){0};
    m.options.rate = m.options.rate ? m.options.rate : 16000;
    budget own;
    budget_init(&own, NULL);
    m.options.budget = m.options.budget ? m.options.budget : &own;
    m.options.max_seconds = m.options.max_seconds > 0 ? m.options.max_seconds : m.options.budget->limits.audio_seconds;
    m.options.max_bytes = m.options.max_bytes ? m.options.max_bytes : (size_t)m.options.budget->limits.file_bytes;
    if ((uint64_t)s->size > m.options.max_bytes) {
        return fail(err, OMNI_ERR_LIMIT, "%s: %lld bytes, over the limit of %zu for a sound", name, (long long)s->size, m.options.max_bytes);
    }
    TRY(budget_file(m.options.budget, name, s->size, err));
    if (m.options.rate < SOUND_LOWEST_RATE || m.options.rate > SOUND_HIGHEST_RATE) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: cannot give %d samples a second (%d to %d)", name, m.options.rate, SOUND_LOWEST_RATE,
                    SOUND_HIGHEST_RATE);
    }
    if (s->size == 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: empty", name);
    }
    decoder d = {.stream = -1};
    omni_status status = mp4_index_check(s->data, (size_t)s->size, name, m.options.budget, err);
    if (status == OMNI_OK) {
        status = decoder_open(&d, s, name, err);
    }
    if (status == OMNI_OK && d.stream >= 0) {
        status = decode_all(&d, &m, s->size, err);
    }
    const bool stretch = m.options.start > 0 || m.options.duration > 0;
    if (status == OMNI_OK && d.stream >= 0 && m.count == 0 && stretch && mix_seconds(&m) > 0) {
        status = fail(err, OMNI_ERR_ARGUMENT, "%s: no sound is within the stretch that begins at %g seconds: it has %.3f seconds", name,
                      m.options.start, mix_seconds(&m));
    } else if (status == OMNI_OK && m.count == 0 && !m.options.may_be_silent) {
        status = d.stream >= 0 ? fail(err, OMNI_ERR_FORMAT, "%s: holds no samples", name)
                               : fail(err, OMNI_ERR_UNSUPPORTED, "%s: has no sound (a %s file with %u other streams)", name, d.format->iformat->name,
                                      d.format->nb_streams);
    }
    decoder_close(&d);
    mix_free(&m);
    if (status != OMNI_OK) {
        budget_release(m.options.budget, m.capacity * (int64_t)sizeof(float));
        free(m.samples);
        return status;
    }
    *out = (sound){.samples = m.samples, .count = m.count, .rate = m.options.rate};
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

/* A pipe: decoding needs to seek. */
static omni_status load_stream(const char *path, const sound_options *options, sound *out, omni_error *err) {
    sound_options o = options ? *options : (sound_options){0};
    budget own;
    budget_init(&own, NULL);
    o.budget = o.budget ? o.budget : &own;
    char *data;
    size_t size;
    TRY(media_read(path, o.budget, &data, &size, err));
    omni_status status = sound_load_memory(data, size, strcmp(path, "-") == 0 ? "standard input" : path, &o, out, err);
    free(data);
    budget_release(o.budget, (int64_t)size);
    return status;
}

omni_status sound_load(const char *path, const sound_options *options, sound *out, omni_error *err) {
    *out = (sound){0};
    if (media_is_stream(path)) {
        return load_stream(path, options, out, err);
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* whatever it has become since: nothing waits */
    if (fd < 0) {
        return fail(err, OMNI_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    }
    struct stat st;
    omni_status status;
    if (fstat(fd, &st) != 0) {
        status = fail(err, OMNI_ERR_IO, "%s: cannot be examined: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        status = fail(err, OMNI_ERR_IO, "%s: is %s", path, S_ISDIR(st.st_mode) ? "a folder" : "no regular file");
    } else {
        source s = {.fd = fd, .size = st.st_size};
        status = load(&s, path, options, out, err);
    }
    close(fd);
    return status;
}

void sound_free(sound *s) {
    free(s->samples);
    *s = (sound){0};
}
