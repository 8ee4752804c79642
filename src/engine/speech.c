#include "engine/speech.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/chunk_decoder.h"
#include "engine/engine.h"

/* A chunk costs hardly more a frame when it is small; larger ones only save reading the weights. MAX_HELD: frames that may wait for the decoder. */
enum { MAX_CHUNK = 8, MAX_HELD = 25 };

struct speech_stream {
    speech *s;
    bool open;
    talker_seq *seq;
    code2wav_stream *wave;
    int32_t *codes; /* [MAX_HELD, groups]: frames not yet decoded */
    receiver *to;
    trace *trace;
    int64_t held;  /* frames in codes */
    int64_t chunk; /* frames to wait for before decoding: small at first for a low latency, then larger for throughput */
    int64_t max_frames, frames, made_samples;
    bool text_finished;
    bool waits;           /* the reader has not caught up */
    bool decoding;        /* a chunk of it is with the decoder */
    bool ended;           /* no more frames */
    omni_limit limit;     /* what cut the speech; none: the talker ended it */
    double first_samples; /* when they were handed over; 0: not yet */
    double talker_seconds, code2wav_seconds;
    omni_status status; /* of this utterance alone */
    omni_error err;
};

struct speech {
    backend *b;
    talker *talker;
    code2wav *code2wav;
    talker_runner *runner;
    code2wav_runner *wave;  /* decodes on the talker's backend */
    chunk_decoder *decoder; /* NULL: chunks are decoded between the frames */
    int groups, count;
    speech_stream *streams;      /* [count] */
    speech_stream *with_decoder; /* whose chunk the decoder has; NULL: none, or of one that was closed */
    float *samples;              /* [MAX_HELD * upsample] */
    int32_t *codes;              /* [count, groups]: of one step */
    talker_seq **seqs;           /* [count] */
    talker_event *events;
    speech_stream **stepped;
};

/* Where a part of the machine can decode while the rest makes the next frames. */
static omni_status create_decoder(speech *s, omni_error *err) {
    backend *beside = NULL;
    if (s->b->create_beside) {
        TRY(s->b->create_beside(s->b, &beside, err));
    }
    return beside ? chunk_decoder_create(s->code2wav, beside, MAX_HELD, MAX_CHUNK, &s->decoder, err) : OMNI_OK;
}

static omni_status create(speech *s, int64_t positions, omni_error *err) {
    const size_t count = (size_t)s->count, groups = (size_t)s->groups;
    s->samples = calloc((size_t)(MAX_HELD * code2wav_upsample(s->code2wav)), sizeof *s->samples);
    s->codes = calloc(count * groups, sizeof *s->codes);
    s->streams = calloc(count, sizeof *s->streams);
    s->seqs = calloc(count, sizeof *s->seqs);
    s->events = calloc(count, sizeof *s->events);
    s->stepped = calloc(count, sizeof *s->stepped);
    if (!s->samples || !s->codes || !s->streams || !s->seqs || !s->events || !s->stepped) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu utterances at once", count);
    }
    /* Each has its own, whatever the others need; one alone has all that the talker was made for, which costs nothing until it is used. */
    const int64_t most = talker_get_config(s->talker)->context_length,
                  each = ((s->count > 1 && positions < most ? positions : most) + KV_BLOCK - 1) / KV_BLOCK * KV_BLOCK;
    talker_runner_params p = {.max_sequences = s->count, .positions = each * s->count, .each = each, .kv_type = DTYPE_F32};
    TRY(talker_runner_create(s->talker, &p, &s->runner, err));
    TRY(code2wav_runner_create(s->code2wav, NULL, MAX_CHUNK, &s->wave, err));
    return create_decoder(s, err);
}

omni_status speech_create(backend *b, talker *t, code2wav *c, int streams, int64_t positions, speech **out, omni_error *err) {
    *out = NULL;
    speech *s = calloc(1, sizeof *s);
    if (!s) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    *s = (speech){.b = b, .talker = t, .code2wav = c, .groups = code2wav_groups(c), .count = streams};
    omni_status status = create(s, positions, err);
    if (status != OMNI_OK) {
        speech_destroy(s);
        return status;
    }
    *out = s;
    return OMNI_OK;
}

/* What the decoder has finished goes to nobody; the backend has the whole machine again. */
static bool take_chunk(speech *s, bool wait, chunk *p, omni_status *status, omni_error *err) {
    if (!s->decoder || !chunk_decoder_take(s->decoder, wait, p, status, err)) {
        return false;
    }
    s->b->give_way(s->b, false);
    return true;
}

void speech_destroy(speech *s) {
    if (!s) {
        return;
    }
    chunk p;
    omni_status status;
    take_chunk(s, true, &p, &status, NULL);
    chunk_decoder_destroy(s->decoder);
    for (int i = 0; s->streams && i < s->count; i++) {
        talker_seq_destroy(s->streams[i].seq);
        code2wav_stream_destroy(s->streams[i].wave);
        free(s->streams[i].codes);
    }
    talker_runner_destroy(s->runner);
    code2wav_runner_destroy(s->wave);
    free(s->streams);
    free(s->samples);
    free(s->codes);
    free(s->seqs);
    free(s->events);
    free(s->stepped);
    free(s);
}

static bool collect(speech *s, bool wait);

/* ---- one utterance ---- */

/* What a stream keeps is made at its first use: most programs speak with one voice at a time. */
static omni_status prepare(speech_stream *u, omni_error *err) {
    speech *s = u->s;
    u->codes = u->codes ? u->codes : calloc((size_t)MAX_HELD * (size_t)s->groups, sizeof *u->codes);
    if (!u->codes) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for speech");
    }
    if (!u->seq) {
        TRY(talker_seq_create(s->runner, &u->seq, err));
    }
    if (!u->wave) {
        TRY(code2wav_stream_create(s->code2wav, MAX_CHUNK, &u->wave, err));
    }
    return OMNI_OK;
}

static talker_sampling sampling_of(const omni_generate_params *params, uint64_t turn) {
    talker_sampling sampling = talker_sampling_default();
    const omni_sampling *p = &params->speech;
    sampling.greedy = p->greedy;
    sampling.temperature = p->temperature;
    sampling.top_k = p->top_k;
    sampling.top_p = p->top_p;
    sampling.min_p = p->min_p;
    sampling.repeat_penalty = p->repeat_penalty;
    sampling.frequency_penalty = p->frequency_penalty;
    sampling.presence_penalty = p->presence_penalty;
    sampling.seed = params->seed;
    sampling.sequence = turn;
    return sampling;
}

omni_status speech_open(speech *s, const talker_prompt *opening, receiver *to, uint64_t turn, trace *t, speech_stream **out, omni_error *err) {
    *out = NULL;
    speech_stream *u = NULL;
    for (int i = 0; !u && i < s->count; i++) { /* one whose last chunk is still with the decoder is not free yet */
        u = s->streams[i].open || s->streams[i].decoding ? NULL : &s->streams[i];
    }
    if (!u && s->with_decoder && !s->with_decoder->open) { /* its owner went away in the middle of a chunk */
        u = s->with_decoder;
        collect(s, true);
    }
    if (!u) {
        return fail(err, OMNI_ERR_LIMIT, "%d utterances at once are all there is room for", s->count);
    }
    size_t voice;
    u->s = s;
    TRY(talker_find_voice(s->talker, to->params->voice, &voice, err));
    TRY(prepare(u, err));
    *u = (speech_stream){.s = s,
                         .seq = u->seq,
                         .wave = u->wave,
                         .codes = u->codes,
                         .to = to,
                         .trace = t,
                         .chunk = 1,
                         .max_frames = to->params->max_frames > 0 ? to->params->max_frames : SPEECH_DEFAULT_FRAMES};
    code2wav_stream_reset(u->wave);
    const talker_sampling sampling = sampling_of(to->params, turn);
    TRY(talker_begin(u->seq, opening, voice, &sampling, err));
    trace_append_codes(t, NULL, 0, s->groups); /* the tensors exist, empty, when there is no frame at all */
    trace_append(t, "wav", NULL, 0, 0);
    u->open = true;
    *out = u;
    return OMNI_OK;
}

void speech_close(speech_stream *u) {
    if (u) {
        u->open = false;
        talker_end(u->seq);
    }
}

bool speech_stream_reads(const speech_stream *u) {
    return talker_unread(u->seq) > 0;
}

omni_status speech_stream_read(speech_stream *u, omni_error *err) {
    const double start = engine_now();
    omni_status status = talker_read(u->seq, INT64_MAX, err);
    u->talker_seconds += engine_now() - start;
    return status;
}

omni_status speech_push(speech_stream *u, const int32_t *ids, int64_t n, omni_error *err) {
    return u->ended ? OMNI_OK : talker_push_text(u->seq, ids, n, err);
}

void speech_finish_text(speech_stream *u) {
    u->text_finished = true;
    talker_finish_text(u->seq);
}

bool speech_done(const speech_stream *u, omni_status *status, omni_error *err) {
    *status = u->status;
    if (u->status != OMNI_OK) {
        *err = u->err;
    }
    return u->status != OMNI_OK || (u->ended && u->held == 0 && !u->decoding);
}

void speech_hold(speech_stream *u, bool held) {
    u->waits = held;
}

void speech_account(const speech_stream *u, omni_result *r) {
    r->frames = u->frames;
    r->samples = u->made_samples;
    r->speech_limit = u->limit;
    r->speech_cut = u->limit != OMNI_LIMIT_NONE;
    r->seconds_talker = u->talker_seconds;
    r->seconds_code2wav = u->code2wav_seconds;
}

/* Seconds of sound that the listener still has; a stream that has given none is the most urgent. */
static double slack(const speech_stream *u, double now) {
    if (u->first_samples == 0) {
        return -INFINITY;
    }
    return (double)u->made_samples / code2wav_sample_rate(u->s->code2wav) - (now - u->first_samples);
}

double speech_stream_slack(const speech_stream *u) {
    return u->first_samples == 0 ? INFINITY : slack(u, engine_now());
}

/* ---- samples ---- */

static void fail_stream(speech_stream *u, omni_status status, const omni_error *err) {
    if (u->status == OMNI_OK) {
        u->status = status;
        u->err = *err;
    }
}

/* Samples of a chunk to the receiver. */
static void deliver(speech_stream *u, const chunk *p) {
    omni_error err = {0};
    u->code2wav_seconds += p->seconds;
    trace_append_codes(u->trace, p->codes, p->frames, u->s->groups);
    trace_append(u->trace, "wav", p->samples, p->count, 0);
    u->made_samples += p->count;
    if (p->count > 0 && u->first_samples == 0) {
        u->first_samples = engine_now();
    }
    if (!receiver_audio(u->to, p->samples, (size_t)p->count)) {
        fail_stream(u, fail(&err, OMNI_CANCELLED, "stopped by the receiver of the sound"), &err);
    }
}

/* What the decoder has finished; false: nothing. */
static bool collect(speech *s, bool wait) {
    chunk p;
    omni_status status;
    omni_error err = {0};
    if (!take_chunk(s, wait, &p, &status, &err)) {
        return false;
    }
    speech_stream *u = s->with_decoder;
    s->with_decoder = NULL;
    u->decoding = false;
    if (u->open && status == OMNI_OK) {
        deliver(u, &p);
    } else if (u->open) {
        fail_stream(u, status, &err);
    }
    return true;
}

bool speech_wait(speech *s) {
    return collect(s, true);
}

/* With all threads that there are, on the calling one. */
static void decode_here(speech_stream *u) {
    speech *s = u->s;
    omni_error err = {0};
    chunk p = {.codes = u->codes, .samples = s->samples, .frames = u->held};
    const double start = engine_now();
    omni_status status = code2wav_push(s->wave, u->wave, u->codes, u->held, s->samples, &p.count, &err);
    p.seconds = engine_now() - start;
    u->held = 0;
    if (status == OMNI_OK) {
        deliver(u, &p);
    } else {
        fail_stream(u, status, &err);
    }
}

static void decode_beside(speech_stream *u) {
    speech *s = u->s;
    chunk_decoder_start(s->decoder, u->wave, u->codes, u->held);
    s->b->give_way(s->b, true);
    s->with_decoder = u;
    u->decoding = true;
    u->held = 0;
}

/* The utterance whose frames are to be decoded first: of those that have enough, the one whose listener runs out of sound first. A listener who has
 * less than a frame left does not wait until there are enough; where he has run out, larger chunks are what helps. */
static speech_stream *next_to_decode(speech *s, double now, double *urgency) {
    const double frame = (double)code2wav_upsample(s->code2wav) / code2wav_sample_rate(s->code2wav);
    speech_stream *best = NULL;
    for (int i = 0; i < s->count; i++) {
        speech_stream *u = &s->streams[i];
        const double its = slack(u, now);
        const bool enough = u->held >= u->chunk || u->ended || (its >= 0 && its < frame);
        if (!u->open || u->decoding || u->status != OMNI_OK || u->held == 0 || !enough) {
            continue;
        }
        if (!best || its < *urgency) {
            best = u;
            *urgency = its;
        }
    }
    return best;
}

/* The first chunk of an utterance and its last are decoded at once: there is nothing else to do for it. Others go to the decoder's thread; while that
 * is busy they wait, unless too many frames have come together or a listener is about to run out of sound. */
static bool decode_chunks(speech *s) {
    enum { HURRY_MS = 300 };
    bool did = false;
    double urgency = 0;
    for (speech_stream *u; (u = next_to_decode(s, engine_now(), &urgency)); did = true) {
        const bool hurry = s->count > 1 && urgency < HURRY_MS / 1000.0;
        if (!s->decoder || u->made_samples == 0 || u->ended) {
            decode_here(u);
        } else if (!chunk_decoder_busy(s->decoder)) {
            decode_beside(u);
        } else if (u->held == MAX_HELD || hurry) {
            decode_here(u);
        } else {
            break;
        }
        u->chunk = u->chunk * 2 < MAX_CHUNK ? u->chunk * 2 : MAX_CHUNK;
    }
    return did;
}

/* ---- frames ---- */

static void take_event(speech_stream *u, talker_event event, const int32_t *codes) {
    omni_error err = {0};
    if (event == TALKER_FRAME) {
        memcpy(u->codes + u->held * u->s->groups, codes, (size_t)u->s->groups * sizeof *codes);
        u->frames++;
        u->held++;
        if (u->frames >= u->max_frames) {
            u->ended = true;
            u->limit = OMNI_LIMIT_MAX_FRAMES;
        }
    } else if (event == TALKER_NO_MEMORY) {
        fail_stream(u, fail(&err, OMNI_ERR_LIMIT, "the talker's key/value cache is full"), &err);
    } else if (event != TALKER_NEEDS_TEXT) {
        u->ended = true;
        u->limit = event == TALKER_FULL ? OMNI_LIMIT_TALKER_CONTEXT : OMNI_LIMIT_NONE;
    }
}

static bool can_step(const speech_stream *u) {
    return u->open && u->status == OMNI_OK && !u->ended && !u->waits && u->held < MAX_HELD && talker_unread(u->seq) == 0 &&
           (u->text_finished || talker_pending_text(u->seq) > 0);
}

bool speech_stream_active(const speech_stream *u) {
    return can_step(u) || u->decoding || (u->open && u->status == OMNI_OK && (u->held > 0 || (!u->waits && talker_unread(u->seq) > 0)));
}

static bool make_frames(speech *s) {
    int n = 0;
    for (int i = 0; i < s->count; i++) {
        if (can_step(&s->streams[i])) {
            s->stepped[n] = &s->streams[i];
            s->seqs[n++] = s->streams[i].seq;
        }
    }
    if (n == 0) {
        return false;
    }
    omni_error err = {0};
    const double start = engine_now();
    omni_status status = talker_step(s->runner, s->seqs, n, s->events, s->codes, &err);
    const double seconds = engine_now() - start;
    for (int i = 0; i < n; i++) {
        s->stepped[i]->talker_seconds += seconds / n;
        if (status == OMNI_OK) {
            take_event(s->stepped[i], s->events[i], s->codes + i * s->groups);
        } else {
            fail_stream(s->stepped[i], status, &err);
        }
    }
    return true;
}

static bool read_prompts(speech *s, int64_t rows) {
    bool did = false;
    for (int i = 0; i < s->count; i++) {
        speech_stream *u = &s->streams[i];
        if (u->open && u->status == OMNI_OK && !u->waits && talker_unread(u->seq) > 0) {
            omni_error err = {0};
            const double start = engine_now();
            omni_status status = talker_read(u->seq, rows, &err);
            u->talker_seconds += engine_now() - start;
            if (status != OMNI_OK) {
                fail_stream(u, status, &err);
            }
            did = true;
        }
    }
    return did;
}

bool speech_step(speech *s, int64_t rows) {
    bool did = collect(s, false);
    did |= read_prompts(s, rows);
    did |= make_frames(s);
    did |= decode_chunks(s);
    return did;
}
