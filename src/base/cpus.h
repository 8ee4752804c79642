/* Sets of CPUs, by the system's numbers: those that a user names, those that a thread may use. */
#ifndef OMNI_BASE_CPUS_H
#define OMNI_BASE_CPUS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

enum { CPUS_MOST = 8192 }; /* the largest number of CPUs that Linux is built for */

typedef struct cpus {
    unsigned long words[CPUS_MOST / (8 * sizeof(unsigned long))]; /* bit i stands for CPU i, as in the system's own sets */
} cpus;

void cpus_add(cpus *s, int cpu);
bool cpus_has(const cpus *s, int cpu);
int cpus_count(const cpus *s);
/* The CPU with i smaller ones in the set; -1 when there is none. */
int cpus_nth(const cpus *s, int i);
/* "0-3, 8"; what does not fit ends in "...". Returns out. */
char *cpus_text(const cpus *s, char *out, size_t size);

/* mask: hexadecimal digits, as many as it takes, with or without 0x before them. range: "LO-HI". *out has the CPUs of both; either may be NULL.
 * OMNI_ERR_ARGUMENT for anything else, a mask without a CPU in it, and ends in the wrong order. */
omni_status cpus_parse(const char *mask, const char *range, cpus *out, omni_error *err);

/* Those that the calling thread may use: the system's, less what taskset, a container or the program itself has taken away. */
void cpus_usable(cpus *out);
/* OMNI_ERR_ARGUMENT names the first CPU of s that the machine lacks or the calling thread may not use, and those that it may;
 * OMNI_ERR_UNSUPPORTED where the system cannot keep threads on chosen CPUs. */
omni_status cpus_check(const cpus *s, omni_error *err);
/* From now on the thread runs on these CPUs alone. 0, or the system's error number; the thread is then left as it was. */
int cpus_keep_thread(pthread_t thread, const cpus *s);

#endif
