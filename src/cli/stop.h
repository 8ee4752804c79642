/* Work that a signal stops cleanly: Ctrl+C, SIGTERM, and SIGHUP (a closed terminal), unless that is ignored (nohup). */
#ifndef OMNI_CLI_STOP_H
#define OMNI_CLI_STOP_H

#include <signal.h>
#include <stdbool.h>

#include "omni.h"

enum { STOP_SIGNALS = 3 };

/* Installs the handler for those signals; former: what was there, for stop_restore; may be NULL. */
void stop_install(void (*handler)(int number), struct sigaction former[STOP_SIGNALS]);
void stop_restore(const struct sigaction former[STOP_SIGNALS]);

/* For commands that ask now and then: from stop_watch on, a signal is noted. */
void stop_watch(void);
/* The signal's number, or 0. A command that it ended exits with 128 + this. */
int stopped_by(void);

/* From stop_work_begin on, a signal cancels the conversation's call, or with conversation NULL the engine's omni_speak; a second one ends the
 * program. */
void stop_work_begin(omni_engine *engine, omni_conversation *conversation);
/* Ends that; the signal's number, or 0. */
int stop_work_end(void);

#endif
