#define _GNU_SOURCE
#include "server/metrics.h"

#include <stdio.h>
#include <stdlib.h>

static const double bounds[BOUNDS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120};

static const struct {
    const char *name, *help;
} described[TIMINGS] = {
    [TIMING_REQUEST] = {"omni_request_seconds", "From a request's head to the end of its answer."},
    [TIMING_FIRST_TOKEN] = {"omni_time_to_first_token_seconds", "From a request's head to the first text of its answer."},
    [TIMING_FIRST_AUDIO] = {"omni_time_to_first_audio_seconds", "From a request's head to the first sound of its answer."},
    [TIMING_ENGINE_FIRST_TOKEN] = {"omni_engine_first_token_seconds", "From when the engine was asked to its first text."},
    [TIMING_ENGINE_FIRST_AUDIO] = {"omni_engine_first_audio_seconds", "From when the engine was asked to its first sound."},
    [TIMING_REAL_TIME_FACTOR] = {"omni_real_time_factor", "Seconds of computing for a second of speech, from an answer's start to its end."},
    [TIMING_STUTTER] = {"omni_stutter_seconds", "How long a listener who plays sound as it comes heard nothing, of an answer."},
};

void metrics_open(metrics *m) {
    *m = (metrics){0};
    pthread_mutex_init(&m->lock, NULL);
}

void metrics_close(metrics *m) {
    pthread_mutex_destroy(&m->lock);
}

void metrics_begin(metrics *m) {
    pthread_mutex_lock(&m->lock);
    m->in_flight++;
    pthread_mutex_unlock(&m->lock);
}

static void add(histogram *h, double value) {
    int i = 0;
    while (i < BOUNDS && value > bounds[i]) {
        i++;
    }
    h->counts[i]++;
    h->count++;
    h->sum += value;
}

void metrics_end(metrics *m, int status, bool gone, double seconds) {
    pthread_mutex_lock(&m->lock);
    m->in_flight--;
    m->gone += gone;
    if (status >= 100 && status < 600) {
        m->answered[status / 100 - 1]++;
    }
    add(&m->timings[TIMING_REQUEST], seconds);
    pthread_mutex_unlock(&m->lock);
}

void metrics_time(metrics *m, timing what, double value) {
    pthread_mutex_lock(&m->lock);
    add(&m->timings[what], value);
    pthread_mutex_unlock(&m->lock);
}

void metrics_result(metrics *m, const omni_result *r, double audio_seconds) {
    pthread_mutex_lock(&m->lock);
    m->prompt_tokens += (uint64_t)r->prompt_tokens;
    m->cached_tokens += (uint64_t)r->cached_tokens;
    m->answer_tokens += (uint64_t)r->answer_tokens;
    m->audio_seconds += audio_seconds;
    if (r->seconds_first_text > 0) {
        add(&m->timings[TIMING_ENGINE_FIRST_TOKEN], r->seconds_first_text);
    }
    if (r->seconds_first_audio > 0) {
        add(&m->timings[TIMING_ENGINE_FIRST_AUDIO], r->seconds_first_audio);
    }
    pthread_mutex_unlock(&m->lock);
}

static void print_value(FILE *f, const char *kind, const char *name, const char *help, double value) {
    fprintf(f, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", name, help, name, kind, name, value);
}

static void print_histogram(FILE *f, const histogram *h, const char *name, const char *help) {
    uint64_t below = 0;
    fprintf(f, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
    for (int i = 0; i < BOUNDS; i++) {
        below += h->counts[i];
        fprintf(f, "%s_bucket{le=\"%g\"} %llu\n", name, bounds[i], (unsigned long long)below);
    }
    fprintf(f, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.17g\n%s_count %llu\n", name, (unsigned long long)h->count, name, h->sum, name,
            (unsigned long long)h->count);
}

char *metrics_text(metrics *m, const omni_engine_counters *e, int parallel) {
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    if (!f) {
        return NULL;
    }
    pthread_mutex_lock(&m->lock);
    const metrics now = *m;
    pthread_mutex_unlock(&m->lock);
    fprintf(f, "# HELP omni_requests_total HTTP requests that were answered, by status.\n# TYPE omni_requests_total counter\n");
    for (int i = 0; i < STATUSES; i++) {
        fprintf(f, "omni_requests_total{status=\"%dxx\"} %llu\n", i + 1, (unsigned long long)now.answered[i]);
    }
    print_value(f, "counter", "omni_clients_gone_total", "Clients that left before their answer's end.", (double)now.gone);
    print_value(f, "gauge", "omni_requests_in_flight", "HTTP requests that are being answered.", now.in_flight);
    print_value(f, "counter", "omni_prompt_tokens_total", "Tokens of prompts.", (double)now.prompt_tokens);
    print_value(f, "counter", "omni_cached_tokens_total", "Tokens of prompts that were not computed again.", (double)now.cached_tokens);
    print_value(f, "counter", "omni_answer_tokens_total", "Tokens of answers.", (double)now.answer_tokens);
    print_value(f, "counter", "omni_audio_seconds_total", "Seconds of speech.", now.audio_seconds);
    print_value(f, "gauge", "omni_engine_requests", "Requests that wait for the engine or run in it.", e->waiting_or_running);
    /* What the model-server protocol of Kubernetes' Gateway API Inference Extension asks for; docs/operations.md maps its names to these. */
    print_value(f, "gauge", "omni_requests_waiting", "Requests that wait for a place in the engine.", e->waiting_or_running - e->running);
    print_value(f, "gauge", "omni_requests_running", "Requests that are being answered by the engine.", e->running);
    print_value(f, "gauge", "omni_cache_usage_ratio", "Share of the blocks of keys and values that running requests hold, 0 to 1.",
                e->blocks > 0 ? (double)e->blocks_in_use / (double)e->blocks : 0);
    fprintf(f,
            "# HELP omni_cache_config_info The cache of keys and values: tokens in a block, and blocks.\n# TYPE omni_cache_config_info gauge\n"
            "omni_cache_config_info{block_size=\"%d\",num_gpu_blocks=\"%lld\"} 1\n",
            e->block_tokens, (long long)e->blocks);
    print_value(f, "gauge", "omni_engine_parallel", "Requests that the engine runs at once.", parallel);
    print_value(f, "counter", "omni_engine_submitted_total", "Requests given to the engine.", (double)e->submitted);
    print_value(f, "counter", "omni_engine_refused_total", "Requests that its queue had no room for.", (double)e->refused);
    print_value(f, "counter", "omni_engine_cancelled_total", "Requests that were cancelled.", (double)e->cancelled);
    print_value(f, "counter", "omni_engine_failed_total", "Requests that ended in an error.", (double)e->failed);
    print_value(f, "counter", "omni_engine_steps_total", "Passes of the thinker.", (double)e->steps);
    print_value(f, "counter", "omni_engine_rows_total", "Rows in those passes.", (double)e->rows);
    print_value(f, "counter", "omni_engine_prompt_rows_total", "Rows of prompts that were admitted.", (double)e->prompt_rows);
    print_value(f, "counter", "omni_engine_cached_rows_total", "Rows of prompts that were found computed.", (double)e->cached_rows);
    print_value(f, "counter", "omni_engine_preempted_total", "Times that a request gave its cache blocks back.", (double)e->preempted);
    for (int i = 0; i < TIMINGS; i++) {
        print_histogram(f, &now.timings[i], described[i].name, described[i].help);
    }
    const bool good = !ferror(f);
    if (fclose(f) != 0 || !good) {
        free(text);
        return NULL;
    }
    return text;
}
