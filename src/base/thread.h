/* Starting a thread of the library's own. */
#ifndef OMNI_BASE_THREAD_H
#define OMNI_BASE_THREAD_H

#include <pthread.h>

/* As pthread_create, with signals blocked: they stay with the program's own threads, whose handlers interrupt what those wait for. Faults
 * (SIGSEGV and the like) still reach the thread that made them. Returns 0 or an errno value. */
int thread_start(pthread_t *thread, void *(*work)(void *arg), void *arg);

#endif
