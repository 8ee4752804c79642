/* The stored cases of tests/reference/make_talker_vectors.py, shared by the tests of the speech models. */
#ifndef OMNI_TESTS_TALKER_VECTORS_H
#define OMNI_TESTS_TALKER_VECTORS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "cpu/cpu.h"
#include "gguf/gguf.h"

#include <cmocka.h> /* last of all: its macro fail() would spoil our declaration */

/* Folder of talker.gguf and talker_vectors.gguf; a test's first argument replaces it. */
static const char *vectors_dir = TEST_DATA;

static inline gguf *vectors_open(const char *file) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", vectors_dir, file);
    gguf *g = NULL;
    omni_error err = {0};
    if (gguf_open(path, &g, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    return g;
}

static inline uint32_t vectors_u32(const gguf *g, const char *key) {
    uint32_t v = 0;
    omni_error err = {0};
    if (gguf_need_u32(g, key, &v, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    return v;
}

/* A tensor of case i, or NULL. */
static inline const tensor *vectors_case(const gguf *g, uint32_t i, const char *what) {
    char name[64];
    snprintf(name, sizeof name, "case.%u.%s", i, what);
    return gguf_tensor(g, name);
}

static inline void must(omni_status s, const omni_error *err) {
    if (s != OMNI_OK) {
        fail_msg("%s", err->text);
    }
}

#endif
