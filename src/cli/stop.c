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

/* What a signal stops, and the signal that did. A signal handler can only reach a global. */
static omni_engine *engine;
static omni_conversation *conversation;
static _Atomic bool running; /* set once the two above are, and until the first signal */
static volatile sig_atomic_t stop_number;
static struct sigaction before[STOP_SIGNALS];

static void stop_work(int number) {
    if (atomic_load(&running)) {
        stop_number = number; /* first: the handler may run on another thread than the one that asks */
    }
    if (!atomic_exchange(&running, false)) {
        signal(number, SIG_DFL);
        raise(number);
    } else if (conversation) {
        omni_conversation_cancel(conversation);
    } else {
        omni_speak_cancel(engine);
    }
}

void stop_work_begin(omni_engine *e, omni_conversation *c) {
    stop_number = 0;
    engine = e;
    conversation = c;
    atomic_store(&running, true);
    stop_install(stop_work, before);
}

int stop_work_end(void) {
    stop_restore(before); /* before "running" is taken back, or a late signal would count as the second */
    if (conversation) {   /* a signal after the work's end is not for the next one */
        omni_conversation_cancel_withdraw(conversation);
    } else {
        omni_speak_cancel_withdraw(engine);
    }
    return atomic_exchange(&running, false) ? 0 : (int)stop_number;
}
