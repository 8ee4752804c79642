#define _GNU_SOURCE
#include "cli/stop.h"

#include <stddef.h>

static const int numbers[STOP_SIGNALS] = {SIGINT, SIGTERM, SIGHUP};
static volatile sig_atomic_t noted;

static void note(int number) {
    noted = number;
}

void stop_install(void (*handler)(int number), struct sigaction former[STOP_SIGNALS]) {
    struct sigaction act = {.sa_handler = handler, .sa_flags = SA_RESTART}, old;
    sigemptyset(&act.sa_mask);
    for (int i = 0; i < STOP_SIGNALS; i++) {
        sigaction(numbers[i], NULL, &old);
        if (numbers[i] != SIGHUP || old.sa_handler != SIG_IGN) {
            sigaction(numbers[i], &act, NULL);
        }
        if (former) {
            former[i] = old;
        }
    }
}

void stop_restore(const struct sigaction former[STOP_SIGNALS]) {
    for (int i = 0; i < STOP_SIGNALS; i++) {
        sigaction(numbers[i], &former[i], NULL);
    }
}

void stop_watch(void) {
    stop_install(note, NULL);
}

int stopped_by(void) {
    return noted;
}
