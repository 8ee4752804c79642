#include "media/sound_stretch.h"

#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "media/containers.h"
#include "media/sound_mix.h"

enum { PIECE = 480 }; /* samples given to the filter at once: always as many, since its roundings depend on that */

struct sound_stretch {
    sound_taker taker;
    int rate;
    int64_t given; /* samples so far */
    AVFilterGraph *graph;
    AVFilterContext *in, *out; /* of graph */
    AVFrame *frame;
    float held[PIECE];
    size_t held_count;
};

static omni_status av_status(int code, omni_error *err) {
    if (code >= 0) {
        return OMNI_OK;
    }
    char text[AV_ERROR_MAX_STRING_SIZE];
    av_strerror(code, text, sizeof text);
    return fail(err, code == AVERROR(ENOMEM) ? OMNI_ERR_MEMORY : OMNI_ERR_UNSUPPORTED, "the sound's speed cannot be changed: %s", text);
}

static omni_status open_graph(sound_stretch *s, double speed, omni_error *err) {
    char text[320];
    /* One filter halves or doubles at most: more would leave sound out, where two blend it. */
    const double each = speed < 0.5 || speed > 2 ? sqrt(speed) : speed;
    char again[32] = "";
    if (each != speed) {
        snprintf(again, sizeof again, ",atempo=%.9f", each);
    }
    snprintf(text, sizeof text,
             "abuffer@in=sample_rate=%d:sample_fmt=flt:channel_layout=mono:time_base=1/%d,atempo=%.9f%s,aformat=sample_fmts=flt,abuffersink@out",
             s->rate, s->rate, each, again);
    if (!avfilter_get_by_name("atempo")) {
        return fail(err, OMNI_ERR_UNSUPPORTED,
                    "this FFmpeg was built without the filter \"atempo\" that another speed than 1 needs: install its full "
                    "libavfilter");
    }
    s->graph = avfilter_graph_alloc();
    s->frame = av_frame_alloc();
    if (!s->graph || !s->frame) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    s->graph->nb_threads = 1;
    AVFilterInOut *inputs = NULL, *outputs = NULL;
    TRY(av_status(avfilter_graph_parse2(s->graph, text, &inputs, &outputs), err));
    avfilter_inout_free(&inputs); /* none: the chain begins and ends itself */
    avfilter_inout_free(&outputs);
    TRY(av_status(avfilter_graph_config(s->graph, NULL), err));
    s->in = avfilter_graph_get_filter(s->graph, "abuffer@in");
    s->out = avfilter_graph_get_filter(s->graph, "abuffersink@out");
    return s->in && s->out ? OMNI_OK : av_status(AVERROR_FILTER_NOT_FOUND, err);
}

omni_status sound_stretch_open(int rate, double speed, const sound_taker *taker, sound_stretch **out, omni_error *err) {
    *out = NULL;
    if (!(speed >= SOUND_SLOWEST && speed <= SOUND_FASTEST)) {
        return fail(err, OMNI_ERR_ARGUMENT, "\"speed\" must be from %g to %g", SOUND_SLOWEST, SOUND_FASTEST);
    }
    if (rate < SOUND_LOWEST_RATE || rate > SOUND_HIGHEST_RATE) {
        return fail(err, OMNI_ERR_ARGUMENT, "no sample rate: %d", rate);
    }
    media_limit_libav();
    sound_stretch *s = calloc(1, sizeof *s);
    if (!s) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    *s = (sound_stretch){.taker = *taker, .rate = rate};
    const omni_status status = open_graph(s, speed, err);
    if (status != OMNI_OK) {
        sound_stretch_free(s);
        return status;
    }
    *out = s;
    return OMNI_OK;
}

/* Hands on what the filter has ready. */
static omni_status hand_on(sound_stretch *s, omni_error *err) {
    for (;;) {
        const int code = av_buffersink_get_frame(s->out, s->frame);
        if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) {
            return OMNI_OK;
        }
        TRY(av_status(code, err));
        const omni_status status = s->taker.take(s->taker.arg, (const float *)(const void *)s->frame->data[0], (size_t)s->frame->nb_samples, err);
        av_frame_unref(s->frame);
        TRY(status);
    }
}

/* Gives the filter what is held. */
static omni_status put_held(sound_stretch *s, omni_error *err) {
    const int count = (int)s->held_count;
    s->held_count = 0;
    s->frame->format = AV_SAMPLE_FMT_FLT;
    s->frame->sample_rate = s->rate;
    s->frame->nb_samples = count;
    s->frame->pts = s->given;
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(57, 24, 100)
    av_channel_layout_default(&s->frame->ch_layout, 1);
#else
    s->frame->channels = 1;
    s->frame->channel_layout = AV_CH_LAYOUT_MONO;
#endif
    int code = av_frame_get_buffer(s->frame, 0);
    if (code >= 0) {
        memcpy(s->frame->data[0], s->held, (size_t)count * sizeof *s->held);
        code = av_buffersrc_add_frame(s->in, s->frame); /* takes what the frame holds */
    }
    av_frame_unref(s->frame);
    TRY(av_status(code, err));
    s->given += count;
    return hand_on(s, err);
}

omni_status sound_stretch_write(sound_stretch *s, const float *samples, size_t count, omni_error *err) {
    for (size_t i = 0; i < count; i++) {
        s->held[s->held_count++] = isfinite(samples[i]) ? samples[i] : 0;
        if (s->held_count == PIECE) {
            TRY(put_held(s, err));
        }
    }
    return OMNI_OK;
}

omni_status sound_stretch_flush(sound_stretch *s, omni_error *err) {
    if (s->held_count > 0) {
        TRY(put_held(s, err));
    }
    TRY(av_status(av_buffersrc_add_frame(s->in, NULL), err));
    return hand_on(s, err);
}

void sound_stretch_free(sound_stretch *s) {
    if (s) {
        av_frame_free(&s->frame);
        avfilter_graph_free(&s->graph);
        free(s);
    }
}
