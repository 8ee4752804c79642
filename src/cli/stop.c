#define _GNU_SOURCE
#include "cli/stop.h"

#include <stdatomic.h>
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

/* The session that a signal stops, and the signal that did. A signal handler can only reach a global. */
static _Atomic(omni_session *) running;
static omni_session *watched; /* the same, until stop_session_end */
static volatile sig_atomic_t stop_number;
static struct sigaction before[STOP_SIGNALS];

static void stop_session(int number) {
    if (atomic_load(&running)) {
        stop_number = number; /* first: the handler may run on another thread than the one that asks */
    }
    omni_session *s = atomic_exchange(&running, NULL);
    if (s) {
        omni_cancel(s);
    } else {
        signal(number, SIG_DFL);
        raise(number);
    }
}

void stop_session_begin(omni_session *session) {
    stop_number = 0;
    watched = session;
    atomic_store(&running, session);
    stop_install(stop_session, before);
}

int stop_session_end(void) {
    stop_restore(before); /* before "running" is taken back, or a late signal would count as the second */
    omni_cancel_withdraw(watched); /* a signal after the work's end is not for the next one */
    return atomic_exchange(&running, NULL) ? 0 : (int)stop_number;
}
