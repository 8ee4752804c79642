#include "media/sound_mix.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CHANNELS = 256, MOST_SEGMENTS = 1000 };

double mix_seconds(const sound_mix *m) {
    return m->seconds + (m->rate ? (double)m->segment / m->rate : 0);
}

static omni_status reserve(sound_mix *m, int64_t more, omni_error *err) {
    if (more > m->capacity - m->count) {
        int64_t capacity = m->capacity * 2 > m->count + more ? m->capacity * 2 : m->count + more;
        budget *b = m->options.budget;
        const int64_t bytes = (capacity - m->capacity) * (int64_t)sizeof(float);
        TRY(budget_hold(b, m->name, bytes, err));
        float *larger = realloc(m->samples, (size_t)capacity * sizeof(float));
        if (!larger) {
            budget_release(b, bytes);
            return fail(err, OMNI_ERR_MEMORY, "%s: out of memory after %.1f seconds of sound", m->name, mix_seconds(m));
        }
        m->samples = larger;
        m->capacity = capacity;
    }
    return OMNI_OK;
}

/* Resamples n samples; NULL drains what the resampler still holds. */
static omni_status resample(sound_mix *m, const float *in, size_t n, omni_error *err) {
    const size_t room = 1 << 14;
    size_t produced;
    do {
        TRY(reserve(m, (int64_t)room, err));
        size_t used = 0;
        produced = 0;
        soxr_error_t e = soxr_process(m->resampler, in, n, &used, m->samples + m->count, room, &produced);
        if (e) {
            return fail(err, OMNI_ERR_MEMORY, "%s: resampling from %d to %d a second failed: %s", m->name, m->rate, m->options.rate,
                        soxr_strerror(e));
        }
        m->count += (int64_t)produced;
        if (in) {
            in += used;
            n -= used;
        }
    } while (produced == room || (in && n > 0));
    return OMNI_OK;
}

/* Cut off, not rounded, as librosa does it. */
static double whole_samples(const sound_mix *m, double seconds) {
    return floor(fmin(seconds * m->rate, 9e15));
}

/* Which of the next n samples are within the stretch that is wanted: [*from, *from + what is returned). */
static int64_t within_stretch(sound_mix *m, int64_t n, int64_t *from) {
    const double first = whole_samples(m, m->options.start), length = m->options.duration > 0 ? whole_samples(m, m->options.duration) : INFINITY;
    const double at = (double)m->passed, begin = fmin(fmax(first - at, 0), (double)n), end = fmin(fmax(first + length - at, begin), (double)n);
    m->passed += n;
    m->full = (double)m->passed >= first + length;
    *from = (int64_t)begin;
    return (int64_t)(end - begin);
}

/* Passes on the first n of the samples in mono and keeps the others for later. */
static omni_status pass_on(sound_mix *m, int64_t n, int64_t all, omni_error *err) {
    int64_t from, wanted = within_stretch(m, n, &from);
    if (wanted > 0 && m->resampler) {
        TRY(resample(m, m->mono + from, (size_t)wanted, err));
    } else if (wanted > 0) {
        TRY(reserve(m, wanted, err));
        memcpy(m->samples + m->count, m->mono + from, (size_t)wanted * sizeof(float));
        m->count += wanted;
    }
    m->kept += wanted;
    if (n > 0 && n < all) {
        memmove(m->mono, m->mono + n, (size_t)(all - n) * sizeof(float));
    }
    m->held = all - n;
    return OMNI_OK;
}

/* Ends a stretch of one rate: exactly ceil(samples * to / from) samples, as librosa fixes the length. */
omni_status mix_end(sound_mix *m, omni_error *err) {
    if (m->rate == 0) {
        return OMNI_OK;
    }
    TRY(pass_on(m, m->held, m->held, err));
    if (m->resampler) {
        if (m->kept > 0) {
            TRY(resample(m, NULL, 0, err));
        }
        soxr_delete(m->resampler);
        m->resampler = NULL;
        const int64_t wanted = (int64_t)ceil((double)m->kept * ((double)m->options.rate / m->rate));
        const int64_t have = m->count - m->begin;
        if (wanted > have) {
            TRY(reserve(m, wanted - have, err));
            memset(m->samples + m->count, 0, (size_t)(wanted - have) * sizeof(float));
        }
        m->count = m->begin + wanted;
    }
    m->seconds += (double)m->segment / m->rate;
    m->rate = 0;
    m->segment = m->kept = 0;
    return OMNI_OK;
}

static omni_status begin_segment(sound_mix *m, int rate, omni_error *err) {
    if (rate < SOUND_LOWEST_RATE || rate > SOUND_HIGHEST_RATE) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: %d samples a second; from %d to %d can be read", m->name, rate, SOUND_LOWEST_RATE,
                    SOUND_HIGHEST_RATE);
    }
    /* Each costs a filter: frames that take turns with two rates would keep us busy for hours. */
    if (++m->segments > MOST_SEGMENTS) {
        return fail(err, OMNI_ERR_LIMIT, "%s: more than %d changes of the rate, the last after %.3f seconds of sound", m->name, MOST_SEGMENTS,
                    mix_seconds(m));
    }
    if (rate != m->options.rate) {
        const soxr_io_spec_t io = soxr_io_spec(SOXR_FLOAT32_I, SOXR_FLOAT32_I);
        const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
        soxr_error_t e = NULL;
        m->resampler = soxr_create(rate, m->options.rate, 1, &e, &io, &quality, NULL);
        if (!m->resampler) {
            return fail(err, OMNI_ERR_MEMORY, "%s: cannot resample from %d to %d a second: %s", m->name, rate, m->options.rate, soxr_strerror(e));
        }
    }
    m->rate = rate;
    m->begin = m->count;
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

omni_status mix_add(sound_mix *m, const AVFrame *frame, omni_error *err) {
    const int lead = frame_lead(frame), n = frame->nb_samples - lead, channels = frame_channels(frame);
    const enum AVSampleFormat format = frame->format, packed = av_get_packed_sample_fmt(format);
    if (n <= 0) {
        return OMNI_OK;
    }
    TRY(budget_samples(m->options.budget, m->name, n, channels > 0 ? channels : 1, err));
    if (channels < 1 || channels > MOST_CHANNELS || packed == AV_SAMPLE_FMT_NONE) {
        return fail(err, OMNI_ERR_FORMAT, "%s: %d channels of sample format %d at %.3f seconds", m->name, channels, (int)format, mix_seconds(m));
    }
    if (frame->sample_rate != m->rate) {
        TRY(mix_end(m, err));
        TRY(begin_segment(m, frame->sample_rate, err));
    }
    if (m->held + n > m->mono_capacity) {
        float *larger = realloc(m->mono, (size_t)(m->held + n) * sizeof(float));
        if (!larger) {
            return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", m->name);
        }
        m->mono = larger;
        m->mono_capacity = m->held + n;
    }
    float *mono = m->mono + m->held;
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
        return fail(err, OMNI_ERR_FORMAT, "%s: samples that are not finite numbers, near %.3f seconds", m->name, mix_seconds(m));
    }
    m->segment += n;
    double seconds = fmax(mix_seconds(m) - m->options.start, 0);
    seconds = m->options.duration > 0 ? fmin(seconds, m->options.duration) : seconds;
    if (seconds > m->options.max_seconds) {
        return fail(err, OMNI_ERR_LIMIT, "%s: longer than the limit of %g seconds of sound", m->name, m->options.max_seconds);
    }
    TRY(budget_sound_length(m->options.budget, m->name, seconds * m->options.rate, m->options.rate, err));
    const int64_t all = m->held + n;
    return pass_on(m, all > m->hold ? all - m->hold : 0, all, err);
}

void mix_cut(sound_mix *m, int64_t n) {
    if (n > 0 && n <= m->held) {
        m->held -= n;
        m->segment -= n;
    }
}

void mix_free(sound_mix *m) {
    soxr_delete(m->resampler);
    m->resampler = NULL;
    free(m->mono);
    m->mono = NULL;
}
