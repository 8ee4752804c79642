/* What omni_generate_params asks of the choice of tokens, through the engine: penalties, bias and mask against the traced logits, for many requests
 * at once as for each alone. On the tiny model. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dialogue.h"
#include "engine/scheduler.h"
#include "gguf/safetensors.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

#define MODELS TEST_DATA "/../../models"

static omni_model *model;
static omni_error err;
static char folder[] = "/tmp/sampler-test-XXXXXX", path[64];
static int32_t vocab;

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

static int set_up(void **state) {
    omni_model_params p = omni_model_params_default();
    p.model = MODELS "/tiny/qwen3-omni-f16.gguf";
    p.talker = MODELS "/tiny/talker-qwen3-omni-f16.gguf";
    p.threads = 1;
    must(omni_model_open(&p, &model, &err));
    vocab = (int32_t)omni_model_vocabulary(model);
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    return 0;
}

static int tear_down(void **state) {
    omni_model_close(model);
    return rmdir(folder);
}

static omni_conversation *asked(const char *text) {
    omni_conversation *c;
    omni_part part = {.kind = OMNI_TEXT, .text = text};
    must(omni_conversation_create(model, NULL, &c, &err));
    must(omni_conversation_add(c, &(omni_message){OMNI_USER, &part, 1}, &err));
    return c;
}

enum { TOKENS = 150 };

/* Tokens that are divisible by 3 after an even number of tokens, and those that are not after an odd one; a few never. */
static bool is_allowed(size_t count, int32_t id) {
    return id % 11 != 4 && (id % 3 == 0) == (count % 2 == 0);
}

typedef struct asker {
    size_t calls;
    int32_t answer[TOKENS];
    int64_t end; /* the call that returns false; 0: none */
} asker;

static bool thirds(void *arg, const int32_t *answer, size_t count, uint32_t *bits) {
    asker *a = arg;
    assert_int_equal(count, a->calls++);
    if (count > 0) {
        a->answer[count - 1] = answer[count - 1];
    }
    assert_memory_equal(answer, a->answer, count * sizeof *answer);
    for (int32_t i = 0; i < vocab; i++) {
        assert_true(bits[i / 32] >> i % 32 & 1); /* all set, and so every time */
        bits[i / 32] &= ~((uint32_t)!is_allowed(count, i) << i % 32);
    }
    return a->end == 0 || (int64_t)a->calls < a->end;
}

/* Case 0 has nothing of all this; each bit adds something. */
enum { REPEAT = 1, FREQUENCY = 2, PRESENCE = 4, BIAS = 8, MASK = 16, CASES = 32 };

static const omni_logit_bias biases[] = {{17, 0.5f}, {400, -0.25f}, {17, 0.25f}, {90, -100}, {91, -INFINITY}, {400, -0.5f}, {91, 100}};

static omni_generate_params case_params(int i, asker *a) {
    omni_generate_params p = omni_generate_params_default();
    p.ignore_eos = true;
    p.max_tokens = TOKENS;
    p.text.greedy = true;
    p.text.repeat_penalty = i & REPEAT ? 1.2f : 1;
    p.text.frequency_penalty = i & FREQUENCY ? 0.03f : 0;
    p.text.presence_penalty = i & PRESENCE ? 0.05f : 0;
    p.logit_bias = biases;
    p.logit_bias_count = i & BIAS ? sizeof biases / sizeof *biases : 0;
    p.mask = i & MASK ? thirds : NULL;
    p.mask_arg = a;
    return p;
}

/* The rules once more, in double precision: the logit of a token before draw n of the answer. in_prompt, count: how often it has occurred. */
static double changed(int i, int32_t id, double logit, int64_t n, int in_prompt, int count) {
    if (i & BIAS) {
        logit += id == 17 ? 0.75 : id == 400 ? -0.75 : 0;
        logit = id == 90 || id == 91 ? -INFINITY : logit;
    }
    if (i & MASK && !is_allowed((size_t)n, id)) {
        logit = -INFINITY;
    }
    if (i & REPEAT && in_prompt + count > 0) {
        logit = logit > 0 ? logit / (double)1.2f : logit * (double)1.2f;
    }
    logit -= i & FREQUENCY ? (double)count * 0.03 : 0;
    logit -= i & PRESENCE && count > 0 ? 0.05 : 0;
    return logit;
}

/* What a request tells of its tokens. Each comes before the text that it adds to, so the text so far is the beginning of what they stand for. */
typedef struct told {
    int32_t ids[TOKENS], top_ids[TOKENS][20];
    float logprob[TOKENS], top_logprob[TOKENS][20];
    size_t count, top;
} told;

static void take_token(told *to, const omni_event *e) {
    size_t size;
    assert_true(to->count < TOKENS);
    to->ids[to->count] = e->token->id;
    to->logprob[to->count] = e->token->logprob;
    to->top = e->top_count;
    for (size_t i = 0; i < e->top_count; i++) {
        to->top_ids[to->count][i] = e->top[i].id;
        to->top_logprob[to->count][i] = e->top[i].logprob;
        assert_ptr_equal(e->top[i].bytes, tokenizer_piece(model->tokenizer, e->top[i].id, &size));
        assert_int_equal(e->top[i].size, size);
    }
    assert_ptr_equal(e->token->bytes, tokenizer_piece(model->tokenizer, e->token->id, &size));
    assert_int_equal(e->token->size, size);
    to->count++;
}

/* What the first count tokens stand for. The caller frees it. */
static char *text_of(const told *of, size_t count, size_t *size) {
    const size_t room = token_stream_room(model->tokenizer);
    char *text = malloc((count + 1) * (room + 4));
    token_stream stream = {0};
    assert_non_null(text);
    *size = 0;
    for (size_t i = 0; i < count; i++) {
        *size += token_stream_push(&stream, model->tokenizer, of->ids[i], text + *size);
    }
    *size += token_stream_flush(&stream, text + *size);
    return text;
}

/* text is the whole of what the tokens stand for, or only a beginning of it. */
static void assert_text_of(const told *of, const char *text, size_t size, bool whole) {
    size_t all_size;
    char *all = text_of(of, of->count, &all_size);
    assert_true(whole ? size == all_size : size <= all_size);
    assert_memory_equal(text, all, size);
    free(all);
}

static told heard; /* by the last run */

static void run(omni_request *r, char *text, size_t room) {
    omni_event event;
    size_t size = 0;
    heard = (told){0};
    do {
        assert_true(omni_request_next(r, -1, &event));
        if (event.kind == OMNI_EVENT_TOKEN) {
            take_token(&heard, &event);
        }
        if (event.kind == OMNI_EVENT_TEXT && text) {
            assert_true(size + event.size < room);
            memcpy(text + size, event.text, event.size);
            size += event.size;
            if (heard.count > 0) {
                assert_text_of(&heard, text, size, false);
            }
        }
    } while (event.kind != OMNI_EVENT_DONE);
    if (text) {
        text[size] = 0;
    }
}

/* Greedy answers take the largest logit of those that were computed, as the rules change them. */
static void follows_the_rules(void **state) {
    omni_engine *e;
    must(omni_engine_create(model, NULL, &e, &err));
    for (int i = 0; i < CASES; i++) {
        asker a = {0};
        omni_conversation *c = asked("Say something long.");
        omni_generate_params p = case_params(i, &a);
        omni_request *r;
        p.trace = path;
        p.logprobs = i % 3 > 0;
        p.top_logprobs = p.logprobs ? i % 21 : 0;
        must(omni_request_submit(e, c, &p, &r, &err));
        run(r, NULL, 0);
        assert_int_equal(heard.count, p.logprobs ? TOKENS : 0);
        assert_int_equal(heard.top, p.top_logprobs);
        assert_int_equal(r->status, OMNI_OK);
        assert_int_equal(a.calls, i & MASK ? TOKENS : 0);
        safetensors *f;
        must(safetensors_open_file(path, &f, &err));
        const st_tensor *logits = safetensors_find(f, "logits"), *ids = safetensors_find(f, "sequences");
        assert_true(logits && ids);
        const int64_t n = ids->shape[1], start = n - TOKENS;
        int64_t *sequence = malloc((size_t)n * sizeof *sequence), different = 0;
        float *row = malloc((size_t)vocab * sizeof *row);
        int *in_prompt = calloc((size_t)vocab, sizeof *in_prompt), *count = calloc((size_t)vocab, sizeof *count);
        memcpy(sequence, ids->data, (size_t)n * sizeof *sequence);
        for (int64_t k = 0; k < start; k++) {
            in_prompt[sequence[k]]++;
        }
        for (int64_t k = 0; k < TOKENS; k++) {
            memcpy(row, (const char *)logits->data + (size_t)(k * vocab) * sizeof *row, (size_t)vocab * sizeof *row);
            double most = -INFINITY, sum = 0;
            int32_t plain = 0;
            for (int32_t id = 0; id < vocab; id++) {
                most = fmax(most, changed(i, id, (double)row[id], k, in_prompt[id], count[id]));
                plain = row[id] > row[plain] ? id : plain;
                sum += exp((double)row[id]);
            }
            const int32_t took = (int32_t)sequence[start + k];
            assert_true(fabs(changed(i, took, (double)row[took], k, in_prompt[took], count[took]) - most) < 1e-5 * (1 + fabs(most)));
            count[took]++;
            if (p.logprobs) { /* of the logits as they came */
                assert_int_equal(heard.ids[k], took);
                assert_true(fabs((double)heard.logprob[k] - ((double)row[took] - log(sum))) < 1e-5);
                assert_true(p.top_logprobs == 0 || heard.top_ids[k][0] == plain);
            }
            for (size_t t = 0; t < heard.top; t++) {
                int larger = 0;
                for (int32_t id = 0; id < vocab; id++) {
                    larger += row[id] > row[heard.top_ids[k][t]];
                }
                assert_true(larger <= (int)t && (t == 0 || heard.top_logprob[k][t] <= heard.top_logprob[k][t - 1]));
                assert_true(fabs((double)heard.top_logprob[k][t] - ((double)row[heard.top_ids[k][t]] - log(sum))) < 1e-5);
            }
            different += took != plain;
        }
        assert_true((i == 0) == (different == 0)); /* what is asked for makes a difference here */
        free(sequence);
        free(row);
        free(in_prompt);
        free(count);
        safetensors_close(f);
        unlink(path);
        omni_request_free(r);
        omni_conversation_free(c);
    }
    omni_engine_destroy(e);
}

/* All cases at once, drawn with temperature, in a cache that is too small for them: each is answered as alone. */
static void together_as_alone(void **state) {
    enum { ROOM = 4096, PARALLEL = 12 };
    static char alone[CASES][ROOM], together[CASES][ROOM];
    static told alone_told[CASES], together_told[CASES];
    uint64_t preempted = 0;
    int different = 0;
    for (int parallel = 1; parallel <= PARALLEL; parallel += PARALLEL - 1) {
        omni_engine_params ep = omni_engine_params_default();
        omni_engine *e;
        ep.parallel = parallel;
        ep.context = 256;
        ep.cache_tokens = 640;
        must(omni_engine_create(model, &ep, &e, &err));
        omni_request *r[CASES];
        asker a[CASES] = {{0}};
        for (int i = 0; i < CASES; i++) {
            omni_conversation *c = asked(i % 3 == 0 ? "Count." : "Say something long about numbers, colours and the weather of the last few days.");
            omni_generate_params p = case_params(i, &a[i]);
            p.text.greedy = i % 5 == 0;
            p.text.top_k = i % 2 ? 20 : 0;
            p.text.top_p = 1;
            p.seed = (uint64_t)i;
            p.logprobs = i % 7 < 4;
            p.top_logprobs = p.logprobs ? (i * 5) % 21 : 0;
            must(omni_request_submit(e, c, &p, &r[i], &err));
            omni_conversation_free(c);
        }
        for (int i = 0; i < CASES; i++) {
            run(r[i], (parallel == 1 ? alone : together)[i], ROOM);
            (parallel == 1 ? alone_told : together_told)[i] = heard;
            assert_int_equal(heard.count, i % 7 < 4 ? TOKENS : 0);
            assert_int_equal(r[i]->status, OMNI_OK);
            assert_int_equal(r[i]->answer.count, TOKENS);
            for (size_t k = 0; k < TOKENS; k++) {
                assert_true(!(i & MASK) || is_allowed(k, r[i]->answer.ids[k]));
                assert_true(!(i & BIAS) || (r[i]->answer.ids[k] != 90 && r[i]->answer.ids[k] != 91));
            }
            omni_request_free(r[i]);
        }
        preempted += omni_engine_count(e).preempted;
        omni_engine_destroy(e);
    }
    for (int i = 0; i < CASES; i++) {
        assert_string_equal(alone[i], together[i]);
        assert_memory_equal(&alone_told[i], &together_told[i], sizeof alone_told[i]);
        different += strcmp(alone[i], alone[0]) != 0;
    }
    assert_true(preempted > 0 && different > CASES / 2);
}

/* A stop string withholds tokens: those are told of which something is shown, whatever is held back on the way. */
static void withheld(void **state) {
    enum { ROOM = 4096 };
    static char all[ROOM], shown[ROOM];
    omni_engine *e;
    must(omni_engine_create(model, NULL, &e, &err));
    omni_conversation *c = asked("Say something long.");
    omni_generate_params p = case_params(REPEAT, NULL);
    p.logprobs = true;
    omni_request *r;
    must(omni_request_submit(e, c, &p, &r, &err));
    run(r, all, ROOM);
    omni_request_free(r);
    const told every = heard;
    int stopped = 0;
    assert_text_of(&heard, all, strlen(all), true);
    for (size_t from = 0; from < 60; from++) {
        for (size_t length = 1; length < 12; length += 5) {
            char text[16];
            memcpy(text, all + from, length);
            text[length] = 0;
            const char *stop[] = {text, "never in it, but its first letters may be"};
            p.stop = stop;
            p.stop_count = 2;
            must(omni_request_submit(e, c, &p, &r, &err));
            run(r, shown, ROOM);
            if (r->status != OMNI_OK) { /* a stop string that ends or begins inside a character */
                assert_non_null(strstr(r->err.text, "stop string"));
                omni_request_free(r);
                continue;
            }
            stopped++;
            const size_t size = strlen(shown);
            assert_memory_equal(all, shown, size);
            assert_memory_equal(all + size, text, length);
            assert_memory_equal(heard.ids, every.ids, heard.count * sizeof *heard.ids);
            assert_text_of(&heard, shown, size, false);
            if (heard.count > 0) { /* not one token too many: those before the last stand for less, but for a character that ends in it */
                size_t fewer;
                free(text_of(&heard, heard.count - 1, &fewer));
                assert_true(fewer < size + 3);
            }
            assert_true((heard.count > 0) == (size > 0));
            omni_request_free(r);
        }
    }
    assert_true(stopped > 90);
    omni_conversation_free(c);
    omni_engine_destroy(e);
}

static omni_status ask(const omni_generate_params *p, omni_result *result) {
    dialogue *s;
    omni_part part = {.kind = OMNI_TEXT, .text = "Hello"};
    must(dialogue_create(model, NULL, &s, &err));
    must(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, &part, 1}, &err));
    omni_status status = omni_generate(s->engine, s->conversation, p, result, &err);
    dialogue_destroy(s);
    return status;
}

static bool nothing(void *arg, const int32_t *answer, size_t count, uint32_t *bits) {
    if (count == 2) {
        memset(bits, 0, (size_t)(vocab + 31) / 32 * sizeof *bits);
    }
    return true;
}

static bool one_token(void *arg, const int32_t *answer, size_t count, uint32_t *bits) {
    memset(bits, 0, (size_t)(vocab + 31) / 32 * sizeof *bits);
    const int32_t id = *(int32_t *)arg;
    bits[id / 32] |= 1u << id % 32;
    return true;
}

static void ends(void **state) {
    omni_result result;
    asker a = {.end = 5};
    omni_generate_params p = case_params(MASK, &a);
    must(ask(&p, &result)); /* as for every callback that returns false */
    assert_int_equal(result.finish, OMNI_FINISH_CANCELLED);
    assert_int_equal(result.answer_tokens, 4);
    p.mask = nothing;
    assert_int_equal(ask(&p, &result), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "no token is allowed as number 3 of the answer"));
    /* One token alone, and that one banned. */
    int32_t only = 40;
    const omni_logit_bias ban = {40, -INFINITY};
    p.mask = one_token;
    p.mask_arg = &only;
    must(ask(&p, &result));
    assert_int_equal(result.answer_tokens, TOKENS);
    p.logit_bias = &ban;
    p.logit_bias_count = 1;
    assert_int_equal(ask(&p, &result), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "no token is allowed as number 1 of the answer"));
    /* Only the end of the answer is allowed: it ends. */
    while (!tokenizer_is_end(model->tokenizer, only)) {
        only++;
        assert_true(only < vocab);
    }
    p.logit_bias_count = 0;
    p.ignore_eos = false;
    must(ask(&p, &result));
    assert_int_equal(result.finish, OMNI_FINISH_STOP);
    /* A mask, penalties and bias do not concern what is said of a given text; the mask is not called. */
    p = case_params(MASK | BIAS, &a);
    p.logit_bias = (const omni_logit_bias *)16;
    p.max_frames = 2;
    a.calls = 77;
    dialogue *s;
    must(dialogue_create(model, NULL, &s, &err));
    must(omni_speak(s->engine, "Hello", &p, &result, &err));
    assert_int_equal(a.calls, 77);
    dialogue_destroy(s);
}

typedef struct listener {
    size_t tokens, texts, tops;
    size_t last; /* the token that wants to be the last; 0: none */
} listener;

static bool on_token(void *arg, const omni_token *token, const omni_token *top, size_t top_count) {
    listener *l = arg;
    l->tops += top_count;
    return ++l->tokens != l->last;
}

static bool on_text(void *arg, const char *text, size_t size) {
    ((listener *)arg)->texts++;
    return true;
}

/* In a session: a callback, which can end the answer as all others can. */
static void calls_back(void **state) {
    omni_result result;
    listener l = {0};
    omni_generate_params p = case_params(0, NULL);
    p.on_token = on_token;
    p.on_text = on_text;
    p.arg = &l;
    must(ask(&p, &result));
    assert_true(l.tokens == 0 && l.texts > 0);
    p.logprobs = true;
    p.top_logprobs = 7;
    must(ask(&p, &result));
    assert_true(l.tokens == TOKENS && l.tops == 7 * TOKENS);
    l = (listener){.last = 3};
    must(ask(&p, &result));
    assert_int_equal(result.finish, OMNI_FINISH_CANCELLED);
    assert_int_equal(l.tokens, 3);
    p.on_token = NULL;
    must(ask(&p, &result));
    /* The token that ends an answer is not told. */
    p = case_params(0, NULL);
    int32_t end = 0;
    while (!tokenizer_is_end(model->tokenizer, end)) {
        end++;
    }
    p.mask = one_token;
    p.mask_arg = &end;
    p.ignore_eos = false;
    p.logprobs = true;
    p.on_token = on_token;
    l = (listener){0};
    p.arg = &l;
    must(ask(&p, &result));
    assert_int_equal(l.tokens, 0);
    assert_int_equal(result.answer_tokens, 1);
}

static void refused(void **state) {
    omni_result result;
    asker a = {0};
    const struct {
        omni_logit_bias bias;
        const char *text;
    } bad[] = {{{vocab, 1}, "logit bias of token"},
               {{-1, 1}, "logit bias of token -1"},
               {{INT32_MAX, 1}, "logit bias of token 2147483647"},
               {{3, NAN}, "logit bias of token 3:"},
               {{3, INFINITY}, "is no bias"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        omni_generate_params p = case_params(0, &a);
        const omni_logit_bias list[] = {{1, 1}, bad[i].bias};
        p.logit_bias = list;
        p.logit_bias_count = 2;
        assert_int_equal(ask(&p, &result), OMNI_ERR_ARGUMENT);
        assert_non_null(strstr(err.text, bad[i].text));
        char sizes[64];
        snprintf(sizes, sizeof sizes, "the vocabulary has %d tokens", vocab);
        assert_true(i > 2 || strstr(err.text, sizes));
    }
    /* Biases as large as numbers get make no NaN of the logits: the token comes, or never does. */
    const omni_logit_bias large[] = {{7, 3e38f}, {7, 3e38f}, {8, -3e38f}, {9, 3e38f}, {9, -INFINITY}};
    omni_generate_params p = case_params(REPEAT | FREQUENCY | PRESENCE, &a);
    p.logit_bias = large;
    p.logit_bias_count = 5;
    must(ask(&p, &result));
    assert_int_equal(result.answer_tokens, TOKENS);
}

/* The engine's thread is asking the mask when its request is freed: after that, the mask is not called. */
static _Atomic int called, freed, late;

static bool slow(void *arg, const int32_t *answer, size_t count, uint32_t *bits) {
    atomic_fetch_add(&called, 1);
    usleep(20000);
    atomic_fetch_add(&late, atomic_load(&freed));
    return true;
}

static void freed_meanwhile(void **state) {
    omni_engine *e;
    must(omni_engine_create(model, NULL, &e, &err));
    must(omni_engine_start(e, &err));
    for (int i = 0; i < 5; i++) {
        omni_conversation *c = asked("Hello");
        omni_request *r;
        omni_generate_params p = case_params(0, NULL);
        p.mask = slow;
        atomic_store(&called, 0);
        atomic_store(&freed, 0);
        must(omni_request_submit(e, c, &p, &r, &err));
        while (atomic_load(&called) == 0) {
            usleep(500);
        }
        omni_request_free(r);
        atomic_store(&freed, 1);
        usleep(40000);
        omni_conversation_free(c);
    }
    assert_int_equal(atomic_load(&late), 0);
    omni_engine_destroy(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_the_rules), cmocka_unit_test(together_as_alone), cmocka_unit_test(withheld),        cmocka_unit_test(ends),
        cmocka_unit_test(calls_back),        cmocka_unit_test(refused),           cmocka_unit_test(freed_meanwhile),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
