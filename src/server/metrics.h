/* Counts and times for GET /metrics, in Prometheus' text format. */
#ifndef OMNI_SERVER_METRICS_H
#define OMNI_SERVER_METRICS_H

#include <pthread.h>
#include <stdint.h>

#include "omni.h"

enum { BOUNDS = 16, STATUSES = 5 };

typedef struct histogram {
    uint64_t counts[BOUNDS + 1]; /* the last one: above all bounds */
    uint64_t count;
    double sum;
} histogram;

typedef enum timing {
    TIMING_REQUEST,
    TIMING_FIRST_TOKEN,
    TIMING_FIRST_AUDIO,
    TIMING_ENGINE_FIRST_TOKEN,
    TIMING_ENGINE_FIRST_AUDIO,
    TIMING_REAL_TIME_FACTOR,
    TIMING_STUTTER,
    TIMINGS
} timing;

typedef struct metrics {
    pthread_mutex_t lock;
    uint64_t answered[STATUSES]; /* requests by the first digit of their status, 1 to 5 */
    uint64_t gone;               /* clients that left before the end */
    uint64_t prompt_tokens, cached_tokens, answer_tokens;
    double audio_seconds;
    int in_flight;
    histogram timings[TIMINGS];
} metrics;

void metrics_open(metrics *m);
void metrics_close(metrics *m);
void metrics_begin(metrics *m);
void metrics_end(metrics *m, int status, bool gone, double seconds);
void metrics_time(metrics *m, timing what, double value);
/* What the engine says of an answer that has ended: its tokens, and its own times to first text and sound. */
void metrics_result(metrics *m, const omni_result *r, double audio_seconds);
/* The caller's to free; NULL: no memory. */
char *metrics_text(metrics *m, const omni_engine_counters *e, int parallel);

#endif
