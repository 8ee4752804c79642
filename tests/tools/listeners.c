/* listeners OUT.csv [--seconds-a-row X] [--no-prompt]: four streams of speech on the tiny model, whose passes are made to take as long as a large
 * model's on a card, and in their middle a prompt of some 4,000 tokens. Writes how much sound each listener had left whenever more came, as
 * STREAM,SECONDS,LEFT before and after it, and the marks of the prompt; says the least of each since then. Fails when a listener ran out of sound.
 * bench/listeners.py draws it. */
#include <math.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "../unit/mixed.h"
#include "cpu/cpu.h"

enum { STREAMS = 4, CONTEXT = 4096, WORDS = 1950, FRAMES = 150 };

/* Of a pass: of the thinker and of the talker; the code predictor's are the talker's. A row more of a prompt. */
static double pass_seconds = 0.012, talker_seconds = 0.012, row_seconds = 0.0004;

static ops waiting;
static const ops *inner;
static int thinker_layers, thinker_heads;

static void wait_for(double seconds) {
    const struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)(fmod(seconds, 1) * 1e9)};
    nanosleep(&t, NULL);
}

/* The first layer of every pass waits for all of it; the code predictor's have few positions and are left out. */
static void slow_attention(backend *b, const kv_cache *cache, int layer, const int32_t *block_table, const attention_row *at, const float *q,
                           int64_t rows, int heads, float scale, float *y) {
    inner->attention(b, cache, layer, block_table, at, q, rows, heads, scale, y);
    if (layer == 0 && cache->blocks >= CONTEXT / KV_BLOCK) {
        const bool thinks = cache->layers == thinker_layers && cache->kv_heads == thinker_heads;
        wait_for((thinks ? pass_seconds : talker_seconds) + (rows > 2 * STREAMS ? (double)rows * row_seconds : 0));
    }
}

static double start;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec - start;
}

static void die(const char *what, const char *why) {
    fprintf(stderr, "listeners: %s: %s\n", what, why);
    exit(1);
}

typedef struct listener {
    omni_engine *engine;
    omni_model *model;
    int number;
    double begun; /* when its first samples came, later by what it has waited since */
    double heard; /* seconds of sound that have come */
    double least; /* that it had left since the prompt was asked; INFINITY: nothing came */
    double early; /* seconds without sound before that, between the first chunks */
    FILE *out;
} listener;

static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int speaking;
static _Atomic bool asked; /* the prompt, or it would have been */

static const uint64_t seeds[STREAMS] = {40, 31, 32, 53}; /* with which the talker does not end early */

static void *listen_to(void *arg) {
    listener *l = arg;
    omni_error err;
    omni_request *r;
    omni_event event;
    omni_generate_params p = omni_generate_params_default();
    p.ignore_eos = p.speak = true;
    p.seed = seeds[l->number];
    p.max_tokens = 4 * FRAMES;
    p.max_frames = FRAMES;
    wait_for(0.3 * l->number);
    mixed_ask ask = {.question = mixed_text((uint64_t)l->number, 20), .params = p};
    if (mixed_submit(l->engine, l->model, &ask, &r, &err) != OMNI_OK) {
        die("a speaker", err.text);
    }
    bool first = true;
    while (!omni_request_next(r, -1, &event) || event.kind != OMNI_EVENT_DONE) {
        if (event.kind != OMNI_EVENT_AUDIO) {
            continue;
        }
        const double t = now();
        speaking += first;
        l->begun = first ? t : l->begun;
        const double left = l->heard - (t - l->begun);
        if (asked && !first) {
            l->least = fmin(l->least, left);
        }
        if (left < 0) { /* the player has waited and goes on now */
            l->early -= asked ? 0 : left;
            l->begun -= left;
        }
        first = false;
        l->heard += (double)event.count / omni_model_sample_rate(l->model);
        pthread_mutex_lock(&writing);
        fprintf(l->out, "%d,%.4f,%.4f\n%d,%.4f,%.4f\n", l->number, t, left, l->number, t, l->heard - (t - l->begun));
        pthread_mutex_unlock(&writing);
    }
    if (event.status != OMNI_OK) {
        die("a speaker", event.error->text);
    }
    omni_request_free(r);
    mixed_free(&ask);
    return NULL;
}

static omni_model *open_model(void) {
    omni_model *m;
    omni_error err;
    backend *b;
    omni_model_params p = omni_model_params_default();
    p.model = MIXED_MODELS "/tiny/qwen3-omni-f16.gguf";
    p.mmproj = MIXED_MODELS "/tiny/mmproj-qwen3-omni-f16.gguf";
    p.talker = MIXED_MODELS "/tiny/talker-qwen3-omni-f16.gguf";
    if (cpu_backend_create(0, &b, &err) != OMNI_OK || model_open_on(b, &p, &m, &err) != OMNI_OK) {
        die("opening the model", err.text);
    }
    inner = b->ops;
    waiting = *inner;
    waiting.attention = slow_attention;
    b->ops = &waiting;
    thinker_layers = m->thinker->config.layers;
    thinker_heads = m->thinker->config.kv_heads;
    return m;
}

int main(int argc, char **argv) {
    bool asks = true;
    if (argc < 2) {
        fprintf(stderr, "usage: listeners OUT.csv [--seconds-a-row X] [--no-prompt]\n");
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        asks = asks && strcmp(argv[i], "--no-prompt") != 0;
        if (strcmp(argv[i], "--seconds-a-row") == 0 && i + 1 < argc) {
            row_seconds = atof(argv[++i]);
        }
    }
    omni_error err;
    omni_engine *e;
    omni_model *m = open_model();
    omni_engine_params p = omni_engine_params_default();
    p.parallel = STREAMS + 1;
    p.context = m->thinker->context < CONTEXT ? m->thinker->context : CONTEXT;
    FILE *out = fopen(argv[1], "w");
    if (!out) {
        die(argv[1], "cannot be written");
    }
    if (omni_engine_create(m, &p, &e, &err) != OMNI_OK || omni_engine_start(e, &err) != OMNI_OK) {
        die("the engine", err.text);
    }
    start = now();
    pthread_t threads[STREAMS];
    listener all[STREAMS];
    for (int i = 0; i < STREAMS; i++) {
        all[i] = (listener){.engine = e, .model = m, .number = i, .least = INFINITY, .out = out};
        if (pthread_create(&threads[i], NULL, listen_to, &all[i]) != 0) {
            die("a thread", "cannot be started");
        }
    }
    while (speaking < STREAMS) {
        wait_for(0.01);
    }
    wait_for(2);
    asked = true;
    if (asks) {
        mixed_ask ask = {.question = mixed_text(77, WORDS), .params = omni_generate_params_default()};
        omni_request *r;
        ask.params.ignore_eos = true;
        ask.params.max_tokens = 8;
        const double begun = now();
        if (mixed_submit(e, m, &ask, &r, &err) != OMNI_OK) {
            die("the prompt", err.text);
        }
        mixed_answer a = mixed_read(r);
        if (a.status != OMNI_OK) {
            die("the prompt", a.err.text);
        }
        const double answered = begun + a.result.seconds_first_text;
        fprintf(out, "prompt,%.4f,%.4f\n", begun, answered);
        printf("a prompt of %lld tokens: first text after %.2f s\n", (long long)a.result.prompt_tokens, a.result.seconds_first_text);
        mixed_answer_free(&a);
        omni_request_free(r);
        mixed_free(&ask);
    }
    bool holds = true;
    for (int i = 0; i < STREAMS; i++) {
        pthread_join(threads[i], NULL);
        printf("listener %d: %.2f s of sound, %.3f s ahead or more since the prompt came; waited %.3f s before\n", i, all[i].heard, all[i].least,
               all[i].early);
        holds &= all[i].least >= 0;
    }
    printf(holds ? "no listener ran out of sound\n" : "DOES NOT HOLD: a listener ran out of sound\n");
    fclose(out);
    omni_engine_destroy(e);
    omni_model_close(m);
    return holds ? 0 : 1;
}
