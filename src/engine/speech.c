#include "engine/speech.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "engine/engine.h"
#include "engine/piece_decoder.h"

/* A piece costs hardly more a frame when it is small; larger ones only save reading the weights. MAX_HELD: frames that may wait for
 * the decoder. */
enum { MAX_PIECE = 8, MAX_HELD = 25 };

struct speech {
    talker *talker;
    code2wav *code2wav;
    talker_runner *runner;
    talker_seq *seq;
    code2wav_runner *wave; /* decodes on the talker's backend */
    code2wav_stream *stream;
    piece_decoder *decoder; /* NULL: pieces are decoded between the frames */
    pool *pool;             /* the talker's; its threads are shared with the decoder */
    int decoder_threads;
    int groups;
    int32_t *codes; /* [MAX_HELD, groups]: frames not yet decoded */
    float *samples; /* [MAX_HELD * upsample] */

    receiver *to;
    trace *trace;
    int64_t positions; /* room of the runner */
    int64_t held;      /* frames in codes */
    int64_t piece;     /* frames to wait for before decoding: small at first for a low latency, then larger for throughput */
    int64_t max_frames, frames, made_samples;
    bool ended;
    omni_limit limit; /* what cut the speech; none: the talker ended it */
    double talker_seconds, code2wav_seconds;
};

/* With several CPU threads some of them decode while the others make the next frames. A profile counts one backend, a collector of inputs sees one:
 * then all in turn. */
static omni_status create_decoder(speech *s, backend *b, omni_error *err) {
    if (strcmp(b->name, "cpu") != 0 || b->profile || cpu_backend_collects(b)) {
        return OMNI_OK;
    }
    s->pool = cpu_backend_pool(b);
    const int threads = pool_threads(s->pool);
    if (threads < 2) {
        return OMNI_OK;
    }
    s->decoder_threads = (threads + 2) / 4;
    return piece_decoder_create(s->code2wav, b, MAX_HELD, MAX_PIECE, s->decoder_threads, &s->decoder, err);
}

omni_status speech_create(backend *b, talker *t, code2wav *c, int64_t positions, speech **out, omni_error *err) {
    *out = NULL;
    speech *s = calloc(1, sizeof *s);
    if (!s) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    s->talker = t;
    s->code2wav = c;
    s->groups = code2wav_groups(c);
    s->codes = calloc((size_t)MAX_HELD * (size_t)s->groups, sizeof *s->codes);
    s->samples = calloc((size_t)(MAX_HELD * code2wav_upsample(c)), sizeof *s->samples);
    int64_t most = talker_get_config(t)->context_length;
    s->positions = positions < most ? positions : most;
    talker_runner_params p = {.max_sequences = 1, .positions = s->positions, .kv_type = DTYPE_F32};
    omni_status status = s->codes && s->samples ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for speech");
    status = status == OMNI_OK ? talker_runner_create(t, &p, &s->runner, err) : status;
    status = status == OMNI_OK ? talker_seq_create(s->runner, &s->seq, err) : status;
    status = status == OMNI_OK ? code2wav_runner_create(c, NULL, MAX_PIECE, &s->wave, err) : status;
    status = status == OMNI_OK ? code2wav_stream_create(c, MAX_PIECE, &s->stream, err) : status;
    status = status == OMNI_OK ? create_decoder(s, b, err) : status;
    if (status != OMNI_OK) {
        speech_destroy(s);
        return status;
    }
    *out = s;
    return OMNI_OK;
}

bool speech_fits(const speech *s, int64_t positions) {
    return positions <= s->positions || s->positions == talker_get_config(s->talker)->context_length;
}

void speech_destroy(speech *s) {
    if (s) {
        speech_abandon(s);
        piece_decoder_destroy(s->decoder);
        code2wav_runner_destroy(s->wave);
        code2wav_stream_destroy(s->stream);
        talker_seq_destroy(s->seq);
        talker_runner_destroy(s->runner);
        free(s->codes);
        free(s->samples);
        free(s);
    }
}

omni_status speech_begin(speech *s, const talker_prompt *opening, receiver *to, uint64_t turn, trace *t, omni_error *err) {
    const omni_generate_params *params = to->params;
    size_t voice;
    TRY(talker_find_voice(s->talker, params->voice, &voice, err));
    talker_sampling sampling = talker_sampling_default();
    const omni_sampling *p = &params->speech;
    sampling.greedy = p->greedy;
    sampling.temperature = p->temperature;
    sampling.top_k = p->top_k;
    sampling.top_p = p->top_p;
    sampling.min_p = p->min_p;
    sampling.repeat_penalty = p->repeat_penalty;
    sampling.seed = params->seed;
    sampling.sequence = turn;
    s->to = to;
    s->trace = t;
    s->held = s->frames = s->made_samples = 0;
    s->piece = 1;
    s->max_frames = params->max_frames > 0 ? params->max_frames : SPEECH_DEFAULT_FRAMES;
    s->ended = false;
    s->limit = OMNI_LIMIT_NONE;
    s->talker_seconds = s->code2wav_seconds = 0;
    speech_abandon(s);
    code2wav_stream_reset(s->stream);
    double start = engine_now();
    omni_status status = talker_begin(s->seq, opening, voice, &sampling, err);
    status = status == OMNI_OK ? talker_read(s->seq, INT64_MAX, err) : status;
    s->talker_seconds += engine_now() - start;
    return status;
}

omni_status speech_push(speech *s, const int32_t *ids, int64_t n, omni_error *err) {
    return s->ended ? OMNI_OK : talker_push_text(s->seq, ids, n, err);
}

/* Samples of a piece to the receiver. */
static omni_status deliver(speech *s, const piece *p, omni_error *err) {
    s->code2wav_seconds += p->seconds;
    trace_append_codes(s->trace, p->codes, p->frames, s->groups);
    trace_append(s->trace, "wav", p->samples, p->count, 0);
    s->made_samples += p->count;
    return receiver_audio(s->to, p->samples, (size_t)p->count) ? OMNI_OK : fail(err, OMNI_CANCELLED, "stopped by the receiver of the sound");
}

/* What the decoder has finished. */
static omni_status collect(speech *s, bool wait, omni_error *err) {
    piece p;
    omni_status status;
    if (!s->decoder || !piece_decoder_take(s->decoder, wait, &p, &status, err)) {
        return OMNI_OK;
    }
    pool_limit(s->pool, pool_threads(s->pool));
    return status == OMNI_OK ? deliver(s, &p, err) : status;
}

void speech_abandon(speech *s) {
    piece p;
    omni_status status;
    if (s->decoder && piece_decoder_take(s->decoder, true, &p, &status, NULL)) {
        pool_limit(s->pool, pool_threads(s->pool));
    }
}

/* With all threads, on the calling one: the first piece, for which there is nothing else to do, and the last. */
static omni_status decode_here(speech *s, omni_error *err) {
    piece p = {.codes = s->codes, .samples = s->samples, .frames = s->held};
    if (s->held == 0) {
        return OMNI_OK;
    }
    double start = engine_now();
    TRY(code2wav_push(s->wave, s->stream, s->codes, s->held, s->samples, &p.count, err));
    p.seconds = engine_now() - start;
    s->held = 0;
    return deliver(s, &p, err);
}

static omni_status decode_held(speech *s, omni_error *err) {
    if (!s->decoder || s->made_samples == 0) {
        TRY(decode_here(s, err));
    } else {
        if (piece_decoder_busy(s->decoder)) {
            if (s->held < MAX_HELD) {
                return OMNI_OK;
            }
            TRY(collect(s, true, err));
        }
        piece_decoder_start(s->decoder, s->stream, s->codes, s->held);
        pool_limit(s->pool, pool_threads(s->pool) - s->decoder_threads);
        s->held = 0;
    }
    s->piece = s->piece * 2 < MAX_PIECE ? s->piece * 2 : MAX_PIECE;
    return OMNI_OK;
}

omni_status speech_run(speech *s, int64_t most, bool *ended, omni_error *err) {
    for (int64_t made = 0; !s->ended && made < most; made++) {
        if (s->frames >= s->max_frames) {
            s->ended = true;
            s->limit = OMNI_LIMIT_MAX_FRAMES;
            break;
        }
        TRY(receiver_check(s->to, err));
        talker_event event;
        double start = engine_now();
        TRY(talker_step(s->runner, &s->seq, 1, &event, s->codes + s->held * s->groups, err));
        s->talker_seconds += engine_now() - start;
        if (event == TALKER_NEEDS_TEXT) {
            break;
        }
        if (event == TALKER_NO_MEMORY) {
            return fail(err, OMNI_ERR_LIMIT, "the talker's key/value cache is full");
        }
        if (event != TALKER_FRAME) {
            s->ended = true;
            s->limit = event == TALKER_FULL ? OMNI_LIMIT_TALKER_CONTEXT : OMNI_LIMIT_NONE;
            break;
        }
        s->frames++;
        s->held++;
        TRY(collect(s, false, err));
        if (s->held >= s->piece) {
            TRY(decode_held(s, err));
        }
    }
    *ended = s->ended;
    return OMNI_OK;
}

omni_status speech_finish(speech *s, omni_error *err) {
    bool ended;
    talker_finish_text(s->seq);
    TRY(speech_run(s, INT64_MAX, &ended, err));
    TRY(collect(s, true, err));
    TRY(receiver_check(s->to, err));
    TRY(decode_here(s, err));
    trace_append_codes(s->trace, s->codes, 0, s->groups); /* also when there is no frame at all: the tensors exist, empty */
    trace_append(s->trace, "wav", s->samples, 0, 0);
    return OMNI_OK;
}

void speech_account(const speech *s, omni_result *r) {
    r->frames = s->frames;
    r->samples = s->made_samples;
    r->speech_limit = s->limit;
    r->speech_cut = s->limit != OMNI_LIMIT_NONE;
    r->seconds_talker = s->talker_seconds;
    r->seconds_code2wav = s->code2wav_seconds;
}
