/* The talker and its code predictor against codes of the reference, one by one and stepped together. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/code2wav.h"
#include "model/talker.h"

#include "talker_vectors.h"

enum { MAX_CASES = 64 };

typedef struct fixture {
    backend *b;
    gguf *g, *cases;
    talker *t;
    uint32_t count;
} fixture;

static int set_up(void **state) {
    fixture *f = calloc(1, sizeof *f);
    omni_error err = {0};
    must(cpu_backend_create(2, &f->b, &err), &err);
    f->g = vectors_open("talker.gguf");
    f->cases = vectors_open("talker_vectors.gguf");
    const tensor *embd = gguf_tensor(f->cases, "thinker.token_embd.weight");
    assert_non_null(embd);
    must(talker_open(f->b, f->g, embd, &f->t, &err), &err);
    f->count = vectors_u32(f->cases, "cases");
    assert_in_range(f->count, 1, MAX_CASES);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    talker_close(f->t);
    gguf_close(f->g);
    gguf_close(f->cases);
    cpu_backend_destroy(f->b);
    free(f);
    return 0;
}

/* One stored case, ready to begin. */
typedef struct example {
    prompt_media media[16];
    int32_t media_count;
    prompt prompt;
    void *hidden;        /* backend */
    int32_t *hidden_row; /* NULL: in order */
    const tensor *answer, *codes;
    size_t voice;
    talker_sampling sampling;
    int64_t max_frames;
} example;

static uint32_t case_u32(const gguf *g, uint32_t i, const char *what) {
    char key[64];
    snprintf(key, sizeof key, "case.%u.%s", i, what);
    return vectors_u32(g, key);
}

static float case_f32(const gguf *g, uint32_t i, const char *what) {
    char key[64];
    float v = 0;
    omni_error err = {0};
    snprintf(key, sizeof key, "case.%u.%s", i, what);
    must(gguf_need_f32(g, key, &v, &err), &err);
    return v;
}

static void example_load(fixture *f, uint32_t i, example *e) {
    *e = (example){0};
    omni_error err = {0};
    const tensor *media = vectors_case(f->cases, i, "media");
    const double seconds = 2.0 / (double)case_f32(f->cases, i, "fps");
    for (int64_t k = 0; media && k < media->ne[1]; k++) {
        const int32_t *m = (const int32_t *)media->data + k * 5;
        assert_true(e->media_count < 16);
        e->media[e->media_count++] =
            (prompt_media){.kind = (prompt_kind)m[0], .grid = {m[1], m[2], m[3]}, .seconds_per_grid = seconds, .audio_rows = m[4]};
    }
    /* The file says nothing of the closing brackets, which only the expansion needs: they follow the markers. */
    prompt_markup markup = talker_get_config(f->t)->markup;
    const tensor *marked = vectors_case(f->cases, i, "marked"), *ids = vectors_case(f->cases, i, "prompt");
    const int32_t *m = marked->data;
    for (int64_t k = 0; k + 1 < marked->ne[0]; k++) {
        if (m[k] < 0) {
            *(e->media[-1 - m[k]].kind == PROMPT_AUDIO ? &markup.audio_end : &markup.vision_end) = m[k + 1];
        }
    }
    must(prompt_expand(&markup, m, marked->ne[0], e->media, e->media_count, 1 << 20, &e->prompt, &err), &err);
    assert_int_equal(e->prompt.n, ids->ne[0]);
    for (int64_t k = 0; k < e->prompt.n; k++) {
        /* a clip's inner closing bracket is not known here */
        if (e->prompt.rows[k].id >= 0) {
            assert_int_equal(e->prompt.rows[k].id, ((const int32_t *)ids->data)[k]);
        }
        e->prompt.rows[k].id = ((const int32_t *)ids->data)[k];
    }
    const tensor *hidden = vectors_case(f->cases, i, "media_hidden");
    if (hidden) {
        /* In odd cases they lie in another order than the rows that want them. */
        const int64_t n = hidden->ne[1], width = hidden->ne[0];
        must(f->b->ops->alloc(f->b, hidden->size, &e->hidden, &err), &err);
        e->hidden_row = i % 2 ? malloc((size_t)n * sizeof *e->hidden_row) : NULL;
        for (int64_t k = 0; k < n; k++) {
            const int64_t at = i % 2 ? n - 1 - k : k;
            f->b->ops->upload(f->b, (float *)e->hidden + at * width, (const float *)hidden->data + k * width, (size_t)width * sizeof(float));
            if (e->hidden_row) {
                e->hidden_row[k] = (int32_t)at;
            }
        }
    }
    char key[64];
    const char *voice;
    snprintf(key, sizeof key, "case.%u.voice", i);
    must(gguf_need_str(f->cases, key, &voice, &err), &err);
    must(talker_find_voice(f->t, voice, &e->voice, &err), &err);
    e->answer = vectors_case(f->cases, i, "answer");
    e->codes = vectors_case(f->cases, i, "codes");
    e->sampling = talker_sampling_default();
    e->sampling.greedy = true;
    e->sampling.repeat_penalty = case_f32(f->cases, i, "penalty");
    e->max_frames = case_u32(f->cases, i, "max_frames");
}

static void example_free(fixture *f, example *e) {
    if (e->hidden) {
        f->b->ops->release(f->b, e->hidden);
    }
    free(e->hidden_row);
    prompt_free(&e->prompt);
}

static void example_begin(const example *e, talker_seq *s) {
    omni_error err = {0};
    const talker_prompt p = {.rows = e->prompt.rows,
                             .n = e->prompt.n,
                             .media = e->media,
                             .media_count = e->media_count,
                             .media_hidden = e->hidden,
                             .media_hidden_row = e->hidden_row};
    must(talker_begin(s, &p, e->voice, &e->sampling, &err), &err);
    const int64_t unread = talker_unread(s);
    assert_true(unread >= 8);
    must(talker_read(s, 5, &err), &err); /* in chunks of any size */
    assert_int_equal(talker_unread(s), unread - 5);
    must(talker_read(s, INT64_MAX, &err), &err);
    assert_int_equal(talker_unread(s), 0);
}

static talker_runner *make_runner(fixture *f, int sequences, int64_t prompt_rows) {
    omni_error err = {0};
    talker_runner *r;
    const talker_runner_params params = {
        .max_sequences = sequences, .positions = 2048 * (int64_t)sequences, .prompt_rows = prompt_rows, .kv_type = DTYPE_F32};
    must(talker_runner_create(f->t, &params, &r, &err), &err);
    return r;
}

/* What the reference never feeds back, it does not speak: all tokens of the answer but the last. */
static int64_t spoken(const example *e) {
    return e->answer->ne[0] - 1;
}

static void check_codes(const example *e, uint32_t i, const int32_t *codes, int64_t frames, int32_t groups) {
    const int64_t want = e->codes ? e->codes->ne[1] : 0;
    if (frames != want) {
        fail_msg("case %u: %lld frames, the reference has %lld", i, (long long)frames, (long long)want);
    }
    const int32_t *w = want ? e->codes->data : NULL;
    for (int64_t k = 0; k < frames * groups; k++) {
        if (codes[k] != w[k]) {
            fail_msg("case %u: frame %lld, group %lld: code %d, the reference has %d", i, (long long)(k / groups), (long long)(k % groups), codes[k],
                     w[k]);
        }
    }
}

/* Runs one utterance to its end, giving it text only when it asks (one token at a time) or all of it at once. */
static int64_t speak(fixture *f, talker_runner *r, talker_seq *s, const example *e, bool sparingly, int32_t *codes) {
    omni_error err = {0};
    const int32_t groups = talker_get_config(f->t)->groups, *answer = e->answer->data;
    int64_t frames = 0, pushed = 0;
    example_begin(e, s);
    if (!sparingly) {
        must(talker_push_text(s, answer, spoken(e), &err), &err);
        talker_finish_text(s);
    }
    while (frames < e->max_frames) {
        talker_event event;
        must(talker_step(r, &s, 1, &event, codes + frames * groups, &err), &err);
        if (event == TALKER_END) {
            break;
        }
        if (event == TALKER_NEEDS_TEXT) {
            assert_true(sparingly);
            assert_int_equal(talker_pending_text(s), 0);
            if (pushed == spoken(e)) {
                talker_finish_text(s);
            } else {
                must(talker_push_text(s, answer + pushed++, 1, &err), &err);
            }
            continue;
        }
        assert_int_equal(event, TALKER_FRAME);
        frames++;
    }
    return frames;
}

static void test_equals_reference(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    const int32_t groups = talker_get_config(f->t)->groups;
    int64_t total = 0;
    for (int way = 0; way < 2; way++) {
        talker_runner *r = make_runner(f, 1, way ? 7 : 0); /* prompts in chunks of 7 rows give the same */
        talker_seq *s;
        must(talker_seq_create(r, &s, &err), &err);
        for (uint32_t i = 0; i < f->count; i++) {
            example e;
            example_load(f, i, &e);
            int32_t *codes = malloc((size_t)((e.max_frames + 1) * groups) * sizeof *codes);
            const int64_t frames = speak(f, r, s, &e, way, codes);
            check_codes(&e, i, codes, frames, groups);

            int64_t n;
            const float(*at)[3] = talker_prompt_positions(s, &n);
            const tensor *want = vectors_case(f->cases, i, "positions");
            assert_int_equal(n, want->ne[1]);
            assert_memory_equal(at, want->data, (size_t)n * sizeof *at);
            total += frames;
            free(codes);
            example_free(f, &e);
        }
        talker_seq_destroy(s);
        talker_runner_destroy(r);
    }
    printf("%lld frames equal\n", (long long)total);
    assert_true(total > 20);
}

static void test_stepped_together(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    const int32_t groups = talker_get_config(f->t)->groups;
    talker_runner *r = make_runner(f, MAX_CASES, 64);
    example e[MAX_CASES];
    talker_seq *s[MAX_CASES], *live[MAX_CASES];
    int32_t *codes[MAX_CASES], step[MAX_CASES * 64];
    int64_t frames[MAX_CASES] = {0};
    int which[MAX_CASES], n = (int)f->count;
    assert_true(groups <= 64);
    for (int i = 0; i < n; i++) {
        example_load(f, (uint32_t)i, &e[i]);
        codes[i] = malloc((size_t)((e[i].max_frames + 1) * groups) * sizeof **codes);
        must(talker_seq_create(r, &s[i], &err), &err);
        example_begin(&e[i], s[i]);
    }
    bool ended[MAX_CASES] = {false};
    for (int turn = 0;; turn++) {
        int k = 0, left = 0;
        for (int i = n - 1; i >= 0; i--) { /* sequence i joins at turn 2 i; every third turn leaves some out */
            left += !ended[i];
            if (!ended[i] && turn >= 2 * i && (turn % 3 || i % 2)) {
                which[k] = i;
                live[k++] = s[i];
            }
        }
        if (left == 0) {
            break;
        }
        if (k == 0) {
            continue;
        }
        talker_event events[MAX_CASES];
        must(talker_step(r, live, k, events, step, &err), &err);
        for (int j = 0; j < k; j++) {
            const int i = which[j];
            if (events[j] == TALKER_NEEDS_TEXT) { /* each brings all of its text when first asked */
                must(talker_push_text(s[i], e[i].answer->data, spoken(&e[i]), &err), &err);
                talker_finish_text(s[i]);
            } else if (events[j] == TALKER_FRAME) {
                memcpy(codes[i] + frames[i] * groups, step + j * groups, (size_t)groups * sizeof *step);
                ended[i] = ++frames[i] == e[i].max_frames;
            } else {
                assert_int_equal(events[j], TALKER_END);
                ended[i] = true;
            }
        }
    }
    for (int i = 0; i < n; i++) {
        check_codes(&e[i], (uint32_t)i, codes[i], frames[i], groups);
        talker_seq_destroy(s[i]);
        example_free(f, &e[i]);
        free(codes[i]);
    }
    talker_runner_destroy(r);
}

static void test_sampling_follows_seed(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    const talker_config *c = talker_get_config(f->t);
    talker_runner *r = make_runner(f, 1, 0);
    talker_seq *s;
    must(talker_seq_create(r, &s, &err), &err);
    example e;
    example_load(f, 0, &e);
    e.sampling.greedy = false;
    enum { FRAMES = 12, GROUPS = 64 };
    assert_true(c->groups <= GROUPS);
    e.max_frames = FRAMES;
    int32_t codes[3][(FRAMES + 1) * GROUPS];
    int64_t frames[3];
    const uint64_t seeds[3] = {7, 8, 7};
    for (int i = 0; i < 3; i++) {
        e.sampling.seed = seeds[i];
        frames[i] = speak(f, r, s, &e, false, codes[i]);
        for (int64_t k = 0; k < frames[i]; k++) { /* suppressed ids are never drawn */
            assert_true(codes[i][k * c->groups] < c->decoder.vocab - 1024);
        }
    }
    assert_int_equal(frames[0], frames[2]);
    assert_memory_equal(codes[0], codes[2], (size_t)(frames[0] * c->groups) * sizeof(int32_t));
    const int64_t both = frames[0] < frames[1] ? frames[0] : frames[1];
    assert_true(frames[0] != frames[1] || memcmp(codes[0], codes[1], (size_t)(both * c->groups) * sizeof(int32_t)) != 0);
    example_free(f, &e);
    talker_seq_destroy(s);
    talker_runner_destroy(r);
}

static void test_voices(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    size_t a = 99, b = 99;
    assert_int_equal(talker_find_voice(f->t, NULL, &a, &err), OMNI_OK);
    assert_int_equal(talker_find_voice(f->t, "CheLSie", &b, &err), OMNI_OK);
    assert_int_equal(a, b);
    assert_string_equal(talker_voice_name(f->t, a), "chelsie");
    assert_int_equal(talker_find_voice(f->t, "nobody", &a, &err), OMNI_ERR_ARGUMENT);
    for (size_t i = 0; i < talker_voice_count(f->t); i++) {
        assert_non_null(strstr(err.text, talker_voice_name(f->t, i)));
    }
}

/* Just the opening of the answer: what `omni speak` uses. */
static void test_speaks_without_conversation(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    const talker_config *c = talker_get_config(f->t);
    talker_runner *r = make_runner(f, 1, 0);
    talker_seq *s;
    must(talker_seq_create(r, &s, &err), &err);
    const prompt_row rows[3] = {{.id = c->im_start, .media = -1}, {.id = c->assistant, .media = -1}, {.id = 10, .media = -1}};
    const talker_sampling greedy = {.greedy = true, .repeat_penalty = 1.05f, .residual_top_k = 50, .residual_top_p = 0.8f};
    talker_prompt p = {.rows = rows, .n = 3};
    int32_t codes[256];
    talker_event event;
    must(talker_begin(s, &p, 0, &greedy, &err), &err);
    assert_int_equal(talker_step(r, &s, 1, &event, codes, &err), OMNI_ERR_ARGUMENT); /* the prompt has not been read */
    must(talker_read(s, INT64_MAX, &err), &err);
    must(talker_step(r, &s, 1, &event, codes, &err), &err);
    assert_int_equal(event, TALKER_NEEDS_TEXT);
    must(talker_push_text(s, (const int32_t[]){20, 21}, 2, &err), &err);
    must(talker_step(r, &s, 1, &event, codes, &err), &err);
    assert_int_equal(event, TALKER_FRAME);
    int64_t n;
    talker_prompt_positions(s, &n);
    assert_int_equal(n, 9);

    must(talker_begin(s, &p, 0, &greedy, &err), &err); /* no text at all: nothing to say */
    must(talker_read(s, INT64_MAX, &err), &err);
    talker_finish_text(s);
    must(talker_step(r, &s, 1, &event, codes, &err), &err);
    assert_int_equal(event, TALKER_END);
    must(talker_step(r, &s, 1, &event, codes, &err), &err);
    assert_int_equal(event, TALKER_END);

    p.n = 2;
    assert_int_equal(talker_begin(s, &p, 0, &greedy, &err), OMNI_ERR_ARGUMENT);
    assert_int_equal(talker_step(r, &s, 1, &event, codes, &err), OMNI_ERR_ARGUMENT); /* not begun */
    const int32_t outside = (int32_t)gguf_tensor(f->cases, "thinker.token_embd.weight")->ne[1];
    assert_int_equal(talker_push_text(s, &outside, 1, &err), OMNI_ERR_ARGUMENT);
    talker_seq_destroy(s);
    talker_runner_destroy(r);
}

static void test_full_context(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    const talker_config *c = talker_get_config(f->t);
    talker_runner *r;
    const talker_runner_params params = {.max_sequences = 1, .positions = 18, .kv_type = DTYPE_F32};
    must(talker_runner_create(f->t, &params, &r, &err), &err);
    talker_seq *s;
    must(talker_seq_create(r, &s, &err), &err);
    const prompt_row rows[3] = {{.id = c->im_start, .media = -1}, {.id = c->assistant, .media = -1}, {.id = 10, .media = -1}};
    const talker_prompt p = {.rows = rows, .n = 3};
    talker_sampling sampling = talker_sampling_default();
    talker_event event = TALKER_FRAME;
    int frames = 0;
    for (uint64_t seed = 0; seed < 100; seed++) { /* until one does not end by itself */
        sampling.seed = seed;
        must(talker_begin(s, &p, 0, &sampling, &err), &err);
        must(talker_read(s, INT64_MAX, &err), &err);
        must(talker_push_text(s, (const int32_t[]){20}, 1, &err), &err);
        talker_finish_text(s);
        int32_t codes[256];
        for (frames = 0;; frames++) {
            must(talker_step(r, &s, 1, &event, codes, &err), &err);
            if (event != TALKER_FRAME) {
                break;
            }
        }
        if (event == TALKER_FULL) {
            break;
        }
    }
    assert_int_equal(event, TALKER_FULL);
    assert_int_equal(frames, 18 - 8);
    example e;
    example_load(f, 0, &e);
    const talker_prompt longer = {.rows = e.prompt.rows, .n = e.prompt.n};
    assert_int_equal(talker_begin(s, &longer, 0, &sampling, &err), OMNI_ERR_LIMIT);
    example_free(f, &e);
    talker_seq_destroy(s);
    talker_runner_destroy(r);
}

/* Two sequences and two blocks: the one that needs a second block waits for the other to give its own back, and then goes on. */
static void test_full_pool(void **state) {
    fixture *f = *state;
    omni_error err = {0};
    const talker_config *c = talker_get_config(f->t);
    assert_true(c->context_length > KV_BLOCK);
    talker_runner *r;
    const talker_runner_params params = {.max_sequences = 2, .positions = 2 * KV_BLOCK, .kv_type = DTYPE_F32};
    must(talker_runner_create(f->t, &params, &r, &err), &err);
    talker_seq *s[2], *twice[2];
    must(talker_seq_create(r, &s[0], &err), &err);
    must(talker_seq_create(r, &s[1], &err), &err);
    const prompt_row rows[3] = {{.id = c->im_start, .media = -1}, {.id = c->assistant, .media = -1}, {.id = 10, .media = -1}};
    const talker_prompt p = {.rows = rows, .n = 3};
    talker_sampling sampling = talker_sampling_default();
    talker_event event = TALKER_END, events[2];
    int32_t codes[512];
    must(talker_begin(s[1], &p, 0, &sampling, &err), &err);
    must(talker_read(s[1], INT64_MAX, &err), &err);
    twice[0] = twice[1] = s[1];
    assert_int_equal(talker_step(r, twice, 2, events, codes, &err), OMNI_ERR_ARGUMENT);
    int frames = 0;
    for (uint64_t seed = 0; seed < 500 && event != TALKER_NO_MEMORY; seed++) { /* until one does not end by itself */
        sampling.seed = seed;
        must(talker_begin(s[0], &p, 0, &sampling, &err), &err);
        must(talker_read(s[0], INT64_MAX, &err), &err);
        must(talker_push_text(s[0], (const int32_t[]){20}, 1, &err), &err);
        talker_finish_text(s[0]);
        event = TALKER_FRAME;
        for (frames = -1; event == TALKER_FRAME; frames++) {
            must(talker_step(r, &s[0], 1, &event, codes, &err), &err);
        }
    }
    assert_int_equal(event, TALKER_NO_MEMORY);
    assert_int_equal(frames, KV_BLOCK - 8);
    must(talker_step(r, &s[0], 1, &event, codes, &err), &err); /* nothing was done, and nothing is */
    assert_int_equal(event, TALKER_NO_MEMORY);
    talker_seq_destroy(s[1]);
    must(talker_step(r, &s[0], 1, &event, codes, &err), &err);
    assert_true(event == TALKER_FRAME || event == TALKER_END);
    talker_seq_destroy(s[0]);
    talker_runner_destroy(r);
}

/* A file with one byte changed, or cut, gives an error or runs. */
static void test_damaged_files(void **state) {
    fixture *f = *state;
    char path[4096];
    char *data;
    size_t size;
    omni_error err = {0};
    snprintf(path, sizeof path, "%s/talker.gguf", vectors_dir);
    must(file_read(path, 1 << 28, &data, &size, &err), &err);
    if (size > 1 << 22) { /* a checkpoint given by hand: too slow to copy so often */
        free(data);
        skip();
    }
    uint8_t *copy = aligned_alloc(64, (size + 63) & ~(size_t)63);
    uint32_t x = 2463534242u;
    int opened = 0, refused = 0;
    for (int i = 0; i < 300; i++) {
        x = x * 1664525u + 1013904223u;
        const size_t at = (size_t)(x >> 4) % (i % 2 ? 16384 < size ? 16384 : size : size); /* half of them among keys and names */
        memcpy(copy, data, size);
        const size_t kept = i % 10 == 9 ? at : size;
        copy[at % size] ^= (uint8_t)(1u << (x >> 2) % 8);
        gguf *g = NULL;
        talker *t = NULL;
        code2wav *w = NULL;
        bool ok = gguf_open_memory(copy, kept, "damaged", &g, &err) == OMNI_OK;
        ok = ok && talker_open(f->b, g, gguf_tensor(f->cases, "thinker.token_embd.weight"), &t, &err) == OMNI_OK;
        ok = ok && code2wav_open(f->b, g, &w, &err) == OMNI_OK;
        if (ok) {
            const talker_config *c = talker_get_config(t);
            const talker_runner_params params = {.max_sequences = 1, .positions = 64, .prompt_rows = 4, .kv_type = DTYPE_F16};
            const prompt_row rows[3] = {{.id = c->im_start, .media = -1}, {.id = c->assistant, .media = -1}, {.id = 10, .media = -1}};
            const talker_prompt p = {.rows = rows, .n = 3};
            const talker_sampling sampling = talker_sampling_default();
            talker_runner *r = NULL;
            talker_seq *s = NULL;
            code2wav_runner *wave = NULL;
            code2wav_stream *v = NULL;
            int32_t *codes = calloc(512, sizeof *codes);
            float *wav = malloc((size_t)code2wav_upsample(w) * sizeof *wav);
            talker_event event;
            int64_t n;
            if (talker_runner_create(t, &params, &r, &err) == OMNI_OK && talker_seq_create(r, &s, &err) == OMNI_OK &&
                talker_begin(s, &p, 0, &sampling, &err) == OMNI_OK && talker_read(s, 8, &err) == OMNI_OK &&
                talker_push_text(s, (const int32_t[]){20}, 1, &err) == OMNI_OK && talker_step(r, &s, 1, &event, codes, &err) == OMNI_OK &&
                event == TALKER_FRAME && code2wav_runner_create(w, NULL, 1, &wave, &err) == OMNI_OK &&
                code2wav_stream_create(w, 1, &v, &err) == OMNI_OK) {
                code2wav_push(wave, v, codes, 1, wav, &n, &err);
            }
            code2wav_stream_destroy(v);
            code2wav_runner_destroy(wave);
            talker_seq_destroy(s);
            talker_runner_destroy(r);
            free(codes);
            free(wav);
            opened++;
        } else {
            assert_true(err.text[0] != 0);
            refused++;
        }
        code2wav_close(w);
        talker_close(t);
        gguf_close(g);
    }
    printf("%d damaged files ran, %d were refused\n", opened, refused);
    assert_true(opened > 0 && refused > 0);
    free(copy);
    free(data);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        vectors_dir = argv[1];
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_reference),
        cmocka_unit_test(test_stepped_together),
        cmocka_unit_test(test_sampling_follows_seed),
        cmocka_unit_test(test_voices),
        cmocka_unit_test(test_speaks_without_conversation),
        cmocka_unit_test(test_full_context),
        cmocka_unit_test(test_full_pool),
        cmocka_unit_test(test_damaged_files),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
