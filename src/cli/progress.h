/* A progress line on standard error, only when that is a terminal: what, a bar, the share, the rate and the time left. */
#ifndef OMNI_CLI_PROGRESS_H
#define OMNI_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct progress {
    bool terminal, shown;
    bool bytes;              /* amounts are bytes: the rate is MB/s */
    double started, printed; /* seconds of the monotonic clock */
    const char *what;
} progress;

/* Seconds of the monotonic clock. */
double progress_now(void);
void progress_init(progress *p, bool bytes);
/* Fits omni_progress; arg is the progress. Returns true. */
bool progress_show(void *arg, const char *what, uint64_t done, uint64_t total);
/* Wipes the line. */
void progress_clear(progress *p);

#endif
