/* Reads the vectors of tests/reference/make_op_vectors.py, and checks; for tests that must also run where cmocka is missing. */
#ifndef OMNI_TESTS_VECTORS_H
#define OMNI_TESTS_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct vectors {
    char *data;
    size_t size;
    void **held; /* what vectors_close frees */
    size_t n_held;
} vectors;

/* Aligned memory until vectors_close. */
static inline void *vectors_room(vectors *v, size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    v->held = realloc(v->held, (v->n_held + 1) * sizeof *v->held);
    if (!p || !v->held) {
        fprintf(stderr, "out of memory\n");
        exit(2);
    }
    v->held[v->n_held++] = p;
    return p;
}

static inline void vectors_close(vectors *v) {
    for (size_t i = 0; i < v->n_held; i++) {
        free(v->held[i]);
    }
    free(v->held);
    free(v->data);
    *v = (vectors){0};
}

static inline vectors vectors_open(const char *path) {
    vectors v = {0};
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        fprintf(stderr, "cannot open %s\n", path);
        exit(2);
    }
    v.size = (size_t)ftell(f);
    v.data = malloc(v.size);
    rewind(f);
    if (!v.data || fread(v.data, 1, v.size, f) != v.size) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(2);
    }
    fclose(f);
    return v;
}

/* A fresh copy of the values, aligned, until vectors_close; ends the test when the name is missing. */
static inline void *vectors_get(vectors *v, const char *name, int64_t *count) {
    for (size_t at = 0; at < v->size;) {
        uint32_t length, head[2];
        memcpy(&length, v->data + at, 4);
        const char *found = v->data + at + 4;
        memcpy(head, found + length, 8);
        size_t bytes = (size_t)head[1] * (head[0] == 2 ? 1 : 4);
        if (length == strlen(name) && memcmp(found, name, length) == 0) {
            void *copy = vectors_room(v, bytes);
            memcpy(copy, found + length + 8, bytes);
            if (count) {
                *count = head[1];
            }
            return copy;
        }
        at += 4 + length + 8 + bytes;
    }
    fprintf(stderr, "no vector %s\n", name);
    exit(2);
}

/* The largest difference over the largest wanted value; infinite when a value is not a number. */
static inline double relative_error(const float *got, const float *want, int64_t n) {
    double worst = 0, largest = 1e-30;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        worst = d <= worst ? worst : isnan(d) ? INFINITY : d;
        largest = fabs((double)want[i]) > largest ? fabs((double)want[i]) : largest;
    }
    return worst / largest;
}

#endif
