#include "engine/trace.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/safetensors.h"

enum { MAX_NAMES = 64, NAME_SIZE = 48 };

typedef struct growing {
    char name[NAME_SIZE];
    float *values;
    int64_t count, capacity, width;
} growing;

struct trace {
    st_writer *writer;
    char names[MAX_NAMES][NAME_SIZE]; /* already written */
    int name_count;
    growing grow[MAX_NAMES];
    int grow_count;
    int64_t *codes; /* [frames, groups] */
    int64_t code_count, code_capacity;
    int groups;
    bool failed; /* out of memory, or too many names */
};

omni_status trace_create(const char *path, trace **out, omni_error *err) {
    trace *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    omni_status status = st_writer_create(path, &t->writer, err);
    if (status != OMNI_OK) {
        free(t);
        return status;
    }
    *out = t;
    return OMNI_OK;
}

static bool take_name(trace *t, const char *name) {
    for (int i = 0; i < t->name_count; i++) {
        if (strcmp(t->names[i], name) == 0) {
            return false;
        }
    }
    if (t->name_count == MAX_NAMES || strlen(name) >= NAME_SIZE) {
        t->failed = true;
        return false;
    }
    strcpy(t->names[t->name_count++], name);
    return true;
}

void trace_f32(trace *t, const char *name, int n_dims, const int64_t *shape, const float *values) {
    if (t && take_name(t, name)) {
        st_writer_f32(t->writer, name, n_dims, shape, values);
    }
}

void trace_i64(trace *t, const char *name, int n_dims, const int64_t *shape, const int64_t *values) {
    if (t && take_name(t, name)) {
        st_writer_i64(t->writer, name, n_dims, shape, values);
    }
}

void trace_append(trace *t, const char *name, const float *values, int64_t count, int64_t width) {
    if (!t || t->failed) {
        return;
    }
    growing *g = NULL;
    for (int i = 0; i < t->grow_count && !g; i++) {
        g = strcmp(t->grow[i].name, name) == 0 ? &t->grow[i] : NULL;
    }
    if (!g) {
        if (t->grow_count == MAX_NAMES || strlen(name) >= NAME_SIZE) {
            t->failed = true;
            return;
        }
        g = &t->grow[t->grow_count++];
        strcpy(g->name, name);
        g->width = width;
    }
    int64_t n = count * (width ? width : 1);
    if (g->count + n > g->capacity) {
        int64_t capacity = 2 * (g->count + n);
        float *larger = realloc(g->values, (size_t)capacity * sizeof *larger);
        if (!larger) {
            t->failed = true;
            return;
        }
        g->values = larger;
        g->capacity = capacity;
    }
    if (n > 0) {
        memcpy(g->values + g->count, values, (size_t)n * sizeof *values);
    }
    g->count += n;
}

void trace_append_codes(trace *t, const int32_t *codes, int64_t frames, int groups) {
    if (!t || t->failed) {
        return;
    }
    int64_t n = frames * groups;
    t->groups = groups;
    if (t->code_count + n > t->code_capacity) {
        int64_t capacity = 2 * (t->code_count + n);
        int64_t *larger = realloc(t->codes, (size_t)capacity * sizeof *larger);
        if (!larger) {
            t->failed = true;
            return;
        }
        t->codes = larger;
        t->code_capacity = capacity;
    }
    for (int64_t i = 0; i < n; i++) {
        t->codes[t->code_count++] = codes[i];
    }
}

void trace_no_memory(trace *t) {
    if (t) {
        t->failed = true;
    }
}

static void write_codes(trace *t) {
    int64_t frames = t->code_count / t->groups, *by_group = malloc((size_t)(t->code_count + 1) * sizeof *by_group);
    if (!by_group) {
        t->failed = true;
        return;
    }
    for (int64_t f = 0; f < frames; f++) {
        for (int g = 0; g < t->groups; g++) {
            by_group[g * frames + f] = t->codes[f * t->groups + g];
        }
    }
    st_writer_i64(t->writer, "codes", 3, (int64_t[]){1, t->groups, frames}, by_group);
    free(by_group);
}

static void release(trace *t) {
    for (int i = 0; i < t->grow_count; i++) {
        free(t->grow[i].values);
    }
    free(t->codes);
    free(t);
}

omni_status trace_finish(trace *t, omni_error *err) {
    if (!t) {
        return OMNI_OK;
    }
    for (int i = 0; i < t->grow_count; i++) {
        growing *g = &t->grow[i];
        if (g->width) {
            st_writer_f32(t->writer, g->name, 3, (int64_t[]){1, g->count / g->width, g->width}, g->values);
        } else {
            st_writer_f32(t->writer, g->name, 1, (int64_t[]){g->count}, g->values);
        }
    }
    if (t->groups) {
        write_codes(t);
    }
    st_writer *w = t->writer;
    bool failed = t->failed;
    release(t);
    if (failed) {
        st_writer_abandon(w);
        return fail(err, OMNI_ERR_MEMORY, "the trace does not fit into memory; trace a shorter run");
    }
    return st_writer_finish(w, err);
}

void trace_abandon(trace *t) {
    if (t) {
        st_writer_abandon(t->writer);
        release(t);
    }
}
