/* Inside omni_bench: what its parts share. bench.c opens the files and measures; bench_thinker.c, bench_engine.c, bench_encoders.c and bench_speech.c
 * say what. */
#ifndef OMNI_BENCH_BENCH_H
#define OMNI_BENCH_BENCH_H

#include "bench/limits.h"
#include "engine/engine.h"

typedef struct bench {
    const omni_bench_params *params;
    backend *b; /* the model's, or its own when there is no thinker */
    omni_model *model;
    gguf *mmproj;
    encoders encoders;
    int repetitions, generate;
    int rows;    /* reported so far */
    limits last; /* the latest test of the machine, and when it was */
    double last_at;
    double max_seconds;
} bench;

/* One repetition. prepare (may be NULL) runs before each, outside the measured time. */
typedef struct bench_work {
    omni_status (*prepare)(void *arg, omni_error *err);
    omni_status (*run)(void *arg, omni_error *err);
    void *arg;
    double amount; /* units of one repetition */
} bench_work;

/* Whether the row is asked for. */
bool bench_wants(const bench *x, const char *name);
/* A first repetition warms up and counts bytes and operations; the timed ones follow. */
omni_status bench_rate(bench *x, const char *name, const char *unit, const bench_work *w, omni_error *err);
/* A row of values measured elsewhere, n of them; sorted in place. */
omni_status bench_values(bench *x, const char *name, const char *unit, double *values, int n, omni_error *err);
/* OMNI_CANCELLED when the caller said so. */
omni_status bench_progress(const bench *x, const char *name, int done, int total, omni_error *err);

/* From here on counts the peak memory of the next row. */
void bench_forget_peak(void);

/* The same sequence of numbers in every run. */
uint32_t bench_random(uint32_t *state);
/* n values, about uniform in [-1.7, 1.7]: variance 1. */
void bench_noise(float *out, int64_t n, uint32_t seed);

omni_status bench_thinker(bench *x, omni_error *err);
/* A row of so many conversations, each answered for so many tokens by an engine. */
omni_status bench_engine(bench *x, const char *name, int conversations, int steps, omni_error *err);
/* Text in, text and speech out. */
omni_status bench_answer(bench *x, omni_error *err);
omni_status bench_audio(bench *x, omni_error *err);
omni_status bench_vision(bench *x, omni_error *err);
omni_status bench_talker(bench *x, omni_error *err);
omni_status bench_code2wav(bench *x, omni_error *err);

#endif
