/* Makes the n-th call of a kind fail: allocations, or what touches the disk. Only calls from this project's own code and from jansson count; the
 * linker gives them to the functions here (--wrap, see CMakeLists.txt). Include in one file of a program. */
#ifndef OMNI_TESTS_FAILING_H
#define OMNI_TESTS_FAILING_H

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum failing { FAIL_NOTHING, FAIL_ALLOCATION, FAIL_DISK, FAIL_THREAD } failing;

static atomic_int failing_kind;
static atomic_long failing_calls; /* of that kind, so far */
static atomic_long failing_at;    /* the call that fails, counted from 1 */
static int failing_errno;         /* what it says */

static void fail_call(failing kind, long n, int error) {
    failing_errno = error;
    atomic_store(&failing_calls, 0);
    atomic_store(&failing_at, n);
    atomic_store(&failing_kind, (int)kind);
}

/* Ends it; whether a call failed. */
static bool failed_call(void) {
    atomic_store(&failing_kind, FAIL_NOTHING);
    return atomic_load(&failing_calls) >= atomic_load(&failing_at);
}

/* Where a debugger finds out which call fails. */
static __attribute__((noinline)) void failing_here(void) {
    __asm__ volatile("");
}

static bool fails_now(failing kind) {
    if (atomic_load(&failing_kind) != (int)kind || atomic_fetch_add(&failing_calls, 1) + 1 != atomic_load(&failing_at)) {
        return false;
    }
    failing_here();
    errno = kind == FAIL_ALLOCATION ? ENOMEM : failing_errno;
    return true;
}

/* A function NAME becomes one that fails when it is its turn, with the value BAD. */
#define WRAP(kind, bad, type, name, parameters, ...)                                                                                                 \
    type __real_##name parameters;                                                                                                                   \
    type __wrap_##name parameters;                                                                                                                   \
    type __wrap_##name parameters {                                                                                                                  \
        return fails_now(kind) ? (bad) : __real_##name(__VA_ARGS__);                                                                                 \
    }

WRAP(FAIL_ALLOCATION, NULL, void *, malloc, (size_t size), size)
WRAP(FAIL_ALLOCATION, NULL, void *, calloc, (size_t count, size_t size), count, size)
WRAP(FAIL_ALLOCATION, NULL, void *, realloc, (void *p, size_t size), p, size)
WRAP(FAIL_ALLOCATION, NULL, void *, aligned_alloc, (size_t alignment, size_t size), alignment, size)
WRAP(FAIL_ALLOCATION, NULL, char *, strdup, (const char *s), s)
WRAP(FAIL_ALLOCATION, NULL, char *, strndup, (const char *s, size_t n), s, n)
WRAP(FAIL_ALLOCATION, NULL, char *, realpath, (const char *path, char *out), path, out)
WRAP(FAIL_ALLOCATION, NULL, FILE *, open_memstream, (char **text, size_t *size), text, size)
WRAP(FAIL_THREAD, EAGAIN, int, pthread_create, (pthread_t * t, const pthread_attr_t *a, void *(*f)(void *), void *arg), t, a, f, arg)
WRAP(FAIL_DISK, -1, ssize_t, pwrite, (int fd, const void *p, size_t n, off_t at), fd, p, n, at)
WRAP(FAIL_DISK, -1, int, fsync, (int fd), fd)
WRAP(FAIL_DISK, -1, int, rename, (const char *from, const char *to), from, to)
WRAP(FAIL_DISK, -1, int, linkat, (int a, const char *from, int b, const char *to, int flags), a, from, b, to, flags)
WRAP(FAIL_DISK, -1, int, ftruncate, (int fd, off_t size), fd, size)
WRAP(FAIL_DISK, -1, int, mkdir, (const char *path, mode_t mode), path, mode)

int __wrap_asprintf(char **text, const char *format, ...);
int __wrap_asprintf(char **text, const char *format, ...) {
    if (fails_now(FAIL_ALLOCATION)) {
        return -1;
    }
    va_list list;
    va_start(list, format);
    int n = vasprintf(text, format, list);
    va_end(list);
    return n;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) {
        va_list list;
        va_start(list, flags);
        mode = va_arg(list, mode_t);
        va_end(list);
        if (fails_now(FAIL_DISK)) {
            return -1;
        }
    }
    return __real_open(path, flags, mode);
}

/* Parsing counts as one allocation, which jansson is then refused at once: when a later one fails it may misread the text and say nothing. */
static _Thread_local enum { JSON_WORKS, JSON_PARSES, JSON_STARVES } json_state;

static void *json_malloc(size_t size) {
    return json_state == JSON_STARVES || (json_state == JSON_WORKS && fails_now(FAIL_ALLOCATION)) ? NULL : __real_malloc(size);
}

json_t *__real_json_loadb(const char *text, size_t size, size_t flags, json_error_t *error);
json_t *__wrap_json_loadb(const char *text, size_t size, size_t flags, json_error_t *error);
json_t *__wrap_json_loadb(const char *text, size_t size, size_t flags, json_error_t *error) {
    json_state = fails_now(FAIL_ALLOCATION) ? JSON_STARVES : JSON_PARSES;
    json_t *value = __real_json_loadb(text, size, flags, error);
    json_state = JSON_WORKS;
    return value;
}

/* Call first: jansson's allocations count too. */
static void failing_set_up(void) {
    json_set_alloc_funcs(json_malloc, free);
}

#endif
