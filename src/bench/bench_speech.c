/* Speech: whole frames of codes, their two parts alone, the waveform, and from a text or a question to the sound. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "model/talker_model.h"

enum { FRAMES = 25, POSITIONS = 512, ANSWER_TOKENS = 24, SPOKEN_FRAMES = 50 };

/* ---- frames of codes: talker and code predictor ---- */

typedef struct frame_work {
    omni_model *m;
    talker_runner *runner;
    talker_seq *seq;
    int32_t codes[256];
} frame_work;

/* The opening of an answer, and a text longer than the frames. */
static omni_status open_utterance(void *arg, omni_error *err) {
    frame_work *f = arg;
    const talker_config *c = talker_get_config(f->m->talker);
    prompt_row rows[3];
    const int32_t ids[3] = {c->im_start, c->assistant, c->user};
    for (int i = 0; i < 3; i++) {
        rows[i] = (prompt_row){.id = ids[i], .class = ROW_TEXT, .media = -1, .position = {(float)i, (float)i, (float)i}};
    }
    talker_prompt p = {.rows = rows, .n = 3};
    talker_sampling sampling = talker_sampling_default();
    TRY(talker_begin(f->seq, &p, 0, &sampling, err));
    TRY(talker_read(f->seq, INT64_MAX, err));
    int32_t text[FRAMES * 2];
    for (int i = 0; i < FRAMES * 2; i++) {
        text[i] = (int32_t)(i % 100);
    }
    return talker_push_text(f->seq, text, FRAMES * 2, err);
}

static omni_status make_frames(void *arg, omni_error *err) {
    frame_work *f = arg;
    for (int i = 0; i < FRAMES; i++) {
        talker_event event;
        TRY(talker_step(f->runner, &f->seq, 1, &event, f->codes, err));
        if (event != TALKER_FRAME) { /* random weights may end the speech at any frame; that step took as long as any other */
            TRY(open_utterance(f, err));
        }
    }
    return OMNI_OK;
}

static omni_status bench_frames(bench *x, omni_error *err) {
    if (!bench_wants(x, "speech frames")) {
        return OMNI_OK;
    }
    frame_work f = {.m = x->model};
    talker_runner_params p = {.max_sequences = 1, .positions = POSITIONS, .kv_type = DTYPE_F32};
    omni_status status = talker_runner_create(x->model->talker, &p, &f.runner, err);
    status = status == OMNI_OK ? talker_seq_create(f.runner, &f.seq, err) : status;
    if (status == OMNI_OK) {
        bench_work w = {open_utterance, make_frames, &f, FRAMES};
        status = bench_rate(x, "speech frames", "frames/s", &w, err);
    }
    talker_seq_destroy(f.seq);
    talker_runner_destroy(f.runner);
    return status;
}

/* ---- the talker's decoder alone, with its head ---- */

typedef struct step_work {
    const talker *t;
    kv_seq seq;
    decoder_runner *runner;
} step_work;

static omni_status rewind_talker(void *arg, omni_error *err) {
    kv_seq_truncate(&((step_work *)arg)->seq, 0);
    return OMNI_OK;
}

static omni_status step_talker(void *arg, omni_error *err) {
    step_work *s = arg;
    runner_options o = {.logits = true};
    for (int i = 0; i < FRAMES; i++) {
        float p = (float)i;
        decoder_row row = {.token = (int32_t)((i * 37) % s->t->c.decoder.vocab), .position = {p, p, p}};
        runner_input in = {&s->seq, &row, 1, 1};
        TRY(decoder_runner_run(s->runner, &in, 1, &o, err));
    }
    return OMNI_OK;
}

static omni_status bench_talker_alone(bench *x, omni_error *err) {
    if (!bench_wants(x, "talker")) {
        return OMNI_OK;
    }
    const talker *t = x->model->talker;
    const decoder_config *c = &t->c.decoder;
    step_work s = {.t = t};
    kv_pool *blocks = NULL;
    omni_status status = kv_pool_create(x->b, DTYPE_F32, DTYPE_F32, c->layers, c->kv_heads, c->head_dim, POSITIONS, &blocks, err);
    status = status == OMNI_OK ? kv_seq_init(blocks, POSITIONS, &s.seq, err) : status;
    status = status == OMNI_OK ? decoder_runner_create(x->b, c, &t->weights, blocks, 1, 1, POSITIONS / KV_BLOCK, &s.runner, err) : status;
    if (status == OMNI_OK) {
        bench_work w = {rewind_talker, step_talker, &s, FRAMES};
        status = bench_rate(x, "talker", "frames/s", &w, err);
    }
    decoder_runner_destroy(s.runner);
    kv_seq_release(&s.seq);
    kv_pool_destroy(blocks);
    return status;
}

/* ---- the code predictor alone ---- */

typedef struct predictor_work {
    const talker *t;
    predictor_runner *runner;
    float *hidden, *sum;
    int32_t *codes;
} predictor_work;

static omni_status predict(void *arg, omni_error *err) {
    predictor_work *p = arg;
    for (int i = 0; i < FRAMES; i++) {
        sample_row row = {.temperature = 1,
                          .top_k = 50,
                          .top_p = 0.8F,
                          .repeat_penalty = 1,
                          .suppress_from = INT32_MAX,
                          .suppress_keep = -1,
                          .stage = SAMPLE_PREDICTOR,
                          .step = (uint32_t)i,
                          .code = 1};
        p->t->b->ops->upload(p->t->b, p->codes, &(int32_t){i % 100}, sizeof(int32_t));
        TRY(predictor_run(p->runner, 1, p->hidden, &p->t->weights.token_embd, p->codes, p->sum, &row, err));
    }
    return OMNI_OK;
}

static omni_status bench_predictor(bench *x, omni_error *err) {
    if (!bench_wants(x, "code predictor")) {
        return OMNI_OK;
    }
    predictor_work p = {.t = x->model->talker};
    const ops *o = x->b->ops;
    const size_t width = (size_t)p.t->c.decoder.width;
    omni_status status = predictor_runner_create(&p.t->predictor, 1, &p.runner, err);
    status = status == OMNI_OK ? o->alloc(x->b, width * sizeof(float), (void **)&p.hidden, err) : status;
    status = status == OMNI_OK ? o->alloc(x->b, width * sizeof(float), (void **)&p.sum, err) : status;
    status = status == OMNI_OK ? o->alloc(x->b, (size_t)p.t->c.groups * sizeof(int32_t), (void **)&p.codes, err) : status;
    float *noise = malloc(width * sizeof *noise);
    if (status == OMNI_OK && noise) {
        bench_noise(noise, (int64_t)width, 9);
        o->upload(x->b, p.hidden, noise, width * sizeof *noise);
        bench_work w = {NULL, predict, &p, FRAMES};
        status = bench_rate(x, "code predictor", "frames/s", &w, err);
    }
    free(noise);
    void *const memory[] = {p.hidden, p.sum, p.codes};
    for (size_t i = 0; i < 3; i++) {
        if (memory[i]) {
            o->release(x->b, memory[i]);
        }
    }
    predictor_runner_destroy(p.runner);
    return status;
}

omni_status bench_talker(bench *x, omni_error *err) {
    TRY(bench_frames(x, err));
    TRY(bench_talker_alone(x, err));
    return bench_predictor(x, err);
}

/* ---- the waveform ---- */

typedef struct wave_work {
    const code2wav *c;
    code2wav_runner *runner;
    code2wav_stream *stream;
    int64_t chunk; /* frames a push */
    int32_t *codes;
    float *samples;
} wave_work;

static omni_status rewind_wave(void *arg, omni_error *err) {
    code2wav_stream_reset(((wave_work *)arg)->stream);
    return OMNI_OK;
}

static omni_status make_wave(void *arg, omni_error *err) {
    wave_work *w = arg;
    for (int64_t done = 0; done < FRAMES; done += w->chunk) {
        int64_t n;
        TRY(code2wav_push(w->runner, w->stream, w->codes, w->chunk, w->samples, &n, err));
    }
    return OMNI_OK;
}

static omni_status bench_wave(bench *x, const char *name, int64_t chunk, omni_error *err) {
    if (!bench_wants(x, name)) {
        return OMNI_OK;
    }
    wave_work v = {.c = x->model->code2wav, .chunk = chunk};
    int64_t groups = code2wav_groups(v.c), upsample = code2wav_upsample(v.c);
    v.codes = malloc((size_t)(chunk * groups) * sizeof *v.codes);
    v.samples = malloc((size_t)(chunk * upsample) * sizeof *v.samples);
    omni_status status =
        v.codes && v.samples ? code2wav_runner_create(v.c, NULL, chunk, &v.runner, err) : fail(err, OMNI_ERR_MEMORY, "out of memory for %s", name);
    status = status == OMNI_OK ? code2wav_stream_create(v.c, chunk, &v.stream, err) : status;
    if (status == OMNI_OK) {
        uint32_t state = 11;
        for (int64_t i = 0; i < chunk * groups; i++) {
            v.codes[i] = (int32_t)(bench_random(&state) % (uint32_t)code2wav_codebook(v.c));
        }
        bench_work w = {rewind_wave, make_wave, &v, (double)(FRAMES * upsample) / code2wav_sample_rate(v.c)};
        status = bench_rate(x, name, "s/s", &w, err);
    }
    code2wav_runner_destroy(v.runner);
    code2wav_stream_destroy(v.stream);
    free(v.codes);
    free(v.samples);
    return status;
}

omni_status bench_code2wav(bench *x, omni_error *err) {
    TRY(bench_wave(x, "code2wav", FRAMES, err));
    return bench_wave(x, "code2wav 1", 1, err); /* a frame at a time, as at the start of an answer */
}

/* ---- end to end ---- */

static const char TEXT[] = "The quick brown fox jumps over the lazy dog, and then it sleeps in the sun.";

static bool hear(void *arg, const float *samples, size_t count) {
    return true;
}

static omni_generate_params spoken(void) {
    omni_generate_params p = omni_generate_params_default();
    p.on_audio = hear;
    p.max_frames = SPOKEN_FRAMES;
    p.max_tokens = ANSWER_TOKENS;
    p.ignore_eos = true;
    return p;
}

/* Random weights may end the speech at once; such a run says nothing of the speed of speech. */
static bool usable(const omni_result *r) {
    return r->frames >= 10 && r->seconds_first_audio > 0;
}

static omni_status bench_speak(bench *x, omni_engine *e, omni_error *err) {
    bench_forget_peak();
    double first[64], factor[64];
    int n = 0, most = x->repetitions < 60 ? x->repetitions : 60;
    double started = engine_now();
    for (int i = 0; i < 2 * most + 1 && n < most && (n == 0 || engine_now() - started < x->max_seconds); i++) {
        TRY(bench_progress(x, "speak", n, most, err));
        omni_generate_params p = spoken();
        p.seed = (uint64_t)i;
        omni_result r;
        double start = engine_now();
        TRY(omni_speak(e, TEXT, &p, &r, err));
        double total = engine_now() - start;
        if (i > 0 && usable(&r)) { /* the first one warms up */
            first[n] = r.seconds_first_audio;
            factor[n++] = total * omni_model_sample_rate(x->model) / (double)r.samples;
        }
    }
    if (n == 0) {
        return OMNI_OK;
    }
    TRY(bench_values(x, "speak: text to first sound", "s", first, n, err));
    return bench_values(x, "speak: real-time factor", "x", factor, n, err);
}

static omni_status bench_question(bench *x, omni_engine *e, omni_conversation *c, omni_error *err) {
    bench_forget_peak();
    double first_text[64], first_sound[64], factor[64];
    int n = 0, most = x->repetitions < 60 ? x->repetitions : 60;
    double started = engine_now();
    for (int i = 0; i < 2 * most + 1 && n < most && (n == 0 || engine_now() - started < x->max_seconds); i++) {
        TRY(bench_progress(x, "answer", n, most, err));
        omni_conversation_reset(c);
        omni_engine_forget(e);
        omni_part part = {.kind = OMNI_TEXT, .text = TEXT};
        omni_message message = {OMNI_USER, &part, 1};
        TRY(omni_conversation_add(c, &message, err));
        omni_generate_params p = spoken();
        p.speak = true;
        p.seed = (uint64_t)i;
        omni_result r;
        double start = engine_now();
        TRY(omni_generate(e, c, &p, &r, err));
        double total = engine_now() - start;
        if (i > 0 && usable(&r)) {
            first_text[n] = r.seconds_media + r.seconds_prompt; /* random tokens have no text; the first is sampled at once after the prompt */
            first_sound[n] = r.seconds_first_audio;
            factor[n++] = total * omni_model_sample_rate(x->model) / (double)r.samples;
        }
    }
    if (n == 0) {
        return OMNI_OK;
    }
    TRY(bench_values(x, "answer: to first text", "s", first_text, n, err));
    TRY(bench_values(x, "answer: to first sound", "s", first_sound, n, err));
    return bench_values(x, "answer: real-time factor", "x", factor, n, err);
}

omni_status bench_answer(bench *x, omni_error *err) {
    bool speak = bench_wants(x, "speak"), answer = bench_wants(x, "answer") && !x->model->thinker->embeddings_only;
    if (!speak && !answer) {
        return OMNI_OK;
    }
    omni_engine *e = NULL;
    omni_conversation *c = NULL;
    omni_engine_params p = omni_engine_params_default();
    p.context = x->model->thinker->context < 1024 ? 0 : 1024;
    p.cache_type_k = x->params->cache_type_k;
    p.cache_type_v = x->params->cache_type_v;
    TRY(omni_engine_create(x->model, &p, &e, err));
    omni_status status = speak ? bench_speak(x, e, err) : OMNI_OK;
    if (status == OMNI_OK && answer) {
        status = omni_conversation_create(x->model, NULL, &c, err);
        status = status == OMNI_OK ? bench_question(x, e, c, err) : status;
    }
    omni_conversation_free(c);
    omni_engine_destroy(e);
    return status;
}
