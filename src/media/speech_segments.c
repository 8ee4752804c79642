#include "media/speech_segments.h"

#include <stdlib.h>

#include "media/voice_activity.h"

enum { TAIL_MS = 200, SHORTEST_PAUSE_MS = 300, FRAME_MS = 10, QUIET_FRAMES = 10 };

speech_segments_params speech_segments_params_default(void) {
    return (speech_segments_params){.threshold = 0.5, .padding_ms = 300, .pause_ms = 1000, .max_seconds = 30};
}

static bool add(speech_segments *s, int64_t from, int64_t to, bool heard) {
    if (s->count == s->room) {
        const size_t room = s->room ? 2 * s->room : 64;
        speech_segment *grown = realloc(s->list, room * sizeof *grown);
        if (!grown) {
            return false;
        }
        s->list = grown;
        s->room = room;
    }
    s->list[s->count++] = (speech_segment){from, to, heard};
    return true;
}

/* ---- stretches of speech ---- */

typedef struct finding {
    speech_segments runs; /* the last one has to < 0 while it goes on */
    int64_t tail;
    bool failed; /* no memory */
} finding;

static void take_event(void *context, const voice_activity_event *e) {
    finding *f = context;
    speech_segment *last = f->runs.count > 0 ? &f->runs.list[f->runs.count - 1] : NULL;
    if (e->kind == SPEECH_STARTED) {
        if (last && last->to > e->position) {
            last->to = e->position;
        }
        f->failed |= !add(&f->runs, e->position, -1, true);
    } else if (last && last->to < 0) {
        last->to = e->position + f->tail < e->decided ? e->position + f->tail : e->decided;
    }
}

static omni_status find_runs(const float *samples, int64_t count, int rate, const speech_segments_params *p, const _Atomic bool *stop, finding *f,
                             omni_error *err) {
    const voice_activity_params vp = {.rate = rate,
                                      .threshold = p->threshold,
                                      .padding_ms = p->padding_ms,
                                      .silence_ms = p->pause_ms < SHORTEST_PAUSE_MS ? p->pause_ms : SHORTEST_PAUSE_MS};
    voice_activity *v = NULL;
    TRY(voice_activity_new(&vp, &v, err));
    for (int64_t at = 0; at < count && !f->failed; at += rate) {
        if (stop && atomic_load(stop)) {
            voice_activity_free(v);
            return fail(err, OMNI_CANCELLED, "cancelled");
        }
        voice_activity_push(v, samples + at, (size_t)(count - at < rate ? count - at : rate), take_event, f);
    }
    voice_activity_free(v);
    if (f->runs.count > 0 && f->runs.list[f->runs.count - 1].to < 0) {
        f->runs.list[f->runs.count - 1].to = count;
    }
    return f->failed ? fail(err, OMNI_ERR_MEMORY, "out of memory") : OMNI_OK;
}

/* ---- segments ---- */

/* Where [from, to) is quietest, over 100 ms: the middle of them. */
static int64_t quietest(const float *samples, int64_t from, int64_t to, int rate) {
    const int64_t frame = (int64_t)rate * FRAME_MS / 1000, width = QUIET_FRAMES * frame;
    double least = -1;
    int64_t best = (from + to) / 2;
    for (int64_t at = from; at + width <= to; at += frame) {
        double sum = 0;
        for (int64_t i = at; i < at + width; i++) {
            sum += (double)samples[i] * samples[i];
        }
        if (least < 0 || sum < least) {
            least = sum;
            best = at + width / 2;
        }
    }
    return best;
}

static omni_status join_runs(const float *samples, int rate, const speech_segments_params *p, const finding *f, speech_segments *out,
                             omni_error *err) {
    const int64_t most = (int64_t)(p->max_seconds * rate), pause = (int64_t)p->pause_ms * rate / 1000;
    bool good = true;
    for (size_t i = 0; good && i < f->runs.count; i++) {
        speech_segment run = f->runs.list[i], *last = out->count > 0 ? &out->list[out->count - 1] : NULL;
        /* The padding before and the tail behind are parts of the pause, as the detector counts it. */
        const int64_t gap = last ? run.from - last->to + (int64_t)p->padding_ms * rate / 1000 + f->tail : 0;
        if (run.to <= run.from) {
            continue;
        }
        if (last && gap < pause && run.to - last->from <= most) {
            last->to = run.to;
            continue;
        }
        while (good && run.to - run.from > most) {
            const int64_t at = quietest(samples, run.from + most * 2 / 3, run.from + most, rate);
            good = add(out, run.from, at, true);
            run.from = at;
        }
        good = good && add(out, run.from, run.to, true);
    }
    return good ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
}

omni_status speech_segments_find(const float *samples, int64_t count, int rate, const speech_segments_params *p, const _Atomic bool *stop,
                                 speech_segments *out, omni_error *err) {
    finding f = {.tail = (int64_t)TAIL_MS * rate / 1000};
    *out = (speech_segments){0};
    if (!(p->max_seconds >= 1 && p->max_seconds <= 3600) || p->pause_ms < 10 || p->pause_ms > 60000) {
        return fail(err, OMNI_ERR_ARGUMENT, "segments of 1 to 3600 seconds can be asked for, and pauses of 10 to 60000 ms");
    }
    omni_status status = find_runs(samples, count, rate, p, stop, &f, err);
    if (status == OMNI_OK) {
        status = join_runs(samples, rate, p, &f, out, err);
    }
    if (status == OMNI_OK && out->count == 0 && count > 0 && (double)count <= p->max_seconds * rate) {
        status = add(out, 0, count, false) ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    speech_segments_free(&f.runs);
    return status;
}

void speech_segments_free(speech_segments *s) {
    free(s->list);
    *s = (speech_segments){0};
}
