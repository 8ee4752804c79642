#define _GNU_SOURCE
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double progress_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void progress_init(progress *p, bool bytes) {
    *p = (progress){.terminal = isatty(STDERR_FILENO) == 1, .bytes = bytes, .started = progress_now()};
}

bool progress_show(void *arg, const char *what, uint64_t done, uint64_t total) {
    progress *p = arg;
    double t = progress_now();
    if (!p->what || strcmp(p->what, what) != 0) {
        p->what = what;
        p->started = t;
        p->printed = 0;
    }
    if (!p->terminal || total == 0 || (t - p->printed < 0.1 && done < total) || t - p->started < 0.3) {
        return true;
    }
    enum { WIDTH = 30 };
    double share = (double)done / (double)total, seconds = t - p->started, left = done ? seconds / share - seconds : 0;
    int full = (int)(share * WIDTH);
    char bar[WIDTH + 1];
    memset(bar, '.', WIDTH);
    memset(bar, '#', (size_t)(full > WIDTH ? WIDTH : full));
    bar[WIDTH] = 0;
    fprintf(stderr, "\r%s [%s] %3.0f%%", what, bar, 100 * share);
    if (p->bytes) {
        fprintf(stderr, "  %.0f MB/s", (double)done / seconds / 1e6);
    }
    fprintf(stderr, "  %d:%02d left\033[K", (int)left / 60, (int)left % 60);
    fflush(stderr);
    p->shown = true;
    p->printed = t;
    return true;
}

void progress_clear(progress *p) {
    if (p->shown) {
        fprintf(stderr, "\r\033[K");
        p->shown = false;
    }
}
