#include "server/log.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DIGITS = 15 }; /* of numbers: as many as survive a double, so that 0.25 is not 0.25000000000000001 */

void log_open(server_log *l, bool json, bool content) {
    *l = (server_log){.json = json, .content = content};
    pthread_mutex_init(&l->lock, NULL);
}

void log_close(server_log *l) {
    pthread_mutex_destroy(&l->lock);
}

static void time_now(char text[40]) {
    struct timespec t;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &utc);
    const size_t n = strftime(text, 32, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + n, 40 - n, ".%03ldZ", t.tv_nsec / 1000000);
}

/* Takes the object. A full disk or a closed terminal loses the line and nothing else. */
static void print(server_log *l, json_t *line, const char *text) {
    char *json = l->json ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS)) : NULL;
    pthread_mutex_lock(&l->lock);
    fprintf(stderr, "%s\n", json ? json : text);
    fflush(stderr);
    pthread_mutex_unlock(&l->lock);
    free(json);
    json_decref(line);
}

void log_event(server_log *l, const char *level, const char *format, ...) {
    char text[1400], at[40], line[1600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c; c++) { /* one line, whatever was quoted */
        *c = (unsigned char)*c < ' ' || *c == 127 ? '?' : *c;
    }
    time_now(at);
    snprintf(line, sizeof line, "%s %s%s%s", at, strcmp(level, "info") == 0 ? "" : level, strcmp(level, "info") == 0 ? "" : ": ", text);
    print(l, json_pack("{s:s, s:s, s:o*}", "time", at, "level", level, "message", json_stringn(text, strlen(text))), line);
}

void log_request(server_log *l, const exchange *x, double seconds) {
    char at[40], line[600], path[256], tokens[96] = "";
    time_now(at);
    snprintf(path, sizeof path, "%s", x->path);
    for (char *c = path; *c; c++) {
        *c = (unsigned char)*c <= ' ' || (unsigned char)*c > 126 ? '?' : *c;
    }
    if (x->prompt_tokens > 0) {
        snprintf(tokens, sizeof tokens, ", %lld + %lld tokens, %lld of them known", (long long)x->prompt_tokens, (long long)x->answer_tokens,
                 (long long)x->cached_tokens);
    }
    const bool cut = x->gone && !(x->ended && x->out_sent == x->out_size);
    snprintf(line, sizeof line, "%s %s %s %d%s %llu bytes %.3f s%s%s%.8s", at, x->method, path, x->status, cut ? " (client gone)" : "",
             (unsigned long long)x->written, seconds, tokens, x->owner[0] ? ", key " : "", x->owner);
    print(l,
          json_pack("{s:s, s:s, s:s, s:s, s:i, s:I, s:f, s:b, s:I, s:I, s:I, s:s}", "time", at, "level", "info", "method", x->method, "path", path,
                    "status", x->status, "bytes", (json_int_t)x->written, "seconds", round(1000 * seconds) / 1000, "client_gone", cut,
                    "prompt_tokens", (json_int_t)x->prompt_tokens, "cached_tokens", (json_int_t)x->cached_tokens, "answer_tokens",
                    (json_int_t)x->answer_tokens, "key", x->owner),
          line);
}
