#define _GNU_SOURCE
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "gguf/safetensors.h"

typedef struct kept_tensor {
    json_t *entry;
    void *data;
    size_t size; /* bytes */
    bool wide;   /* I64 */
} kept_tensor;

struct st_writer {
    file_out file;
    char *path;
    omni_error first; /* code OMNI_OK while there is no error */
    json_t *header;
    kept_tensor *tensors;
    size_t count, capacity;
};

omni_status st_writer_create(const char *path, st_writer **out, omni_error *err) {
    *out = NULL;
    st_writer *w = calloc(1, sizeof *w);
    if (!w) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    w->path = strdup(path);
    w->header = json_object();
    omni_status status = w->path && w->header ? file_out_open(path, &w->file, err) : fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    if (status != OMNI_OK) {
        st_writer_abandon(w);
        return status;
    }
    *out = w;
    return OMNI_OK;
}

static void no_memory(st_writer *w) {
    fail(&w->first, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
}

static void keep(st_writer *w, const char *name, const char *type, size_t item, int n_dims, const int64_t *shape, const void *data) {
    size_t bytes = item;
    if (w->first.code != OMNI_OK) {
        return;
    }
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] < 0 || __builtin_mul_overflow(bytes, (size_t)shape[i], &bytes)) {
            fail(&w->first, OMNI_ERR_ARGUMENT, "%s: tensor '%s': dimension %d is no possible size", w->path, name, i);
            return;
        }
    }
    const bool text = utf8_valid(name, strlen(name));
    if (n_dims < 0 || n_dims > 8 || !text || json_object_get(w->header, name)) {
        fail(&w->first, OMNI_ERR_ARGUMENT, "%s: tensor '%s': %s", w->path, name,
             n_dims < 0 || n_dims > 8 ? "more than 8 dimensions"
             : text                   ? "written twice"
                                      : "its name is not UTF-8");
        return;
    }
    if (w->count == w->capacity) {
        size_t capacity = w->capacity ? 2 * w->capacity : 64;
        kept_tensor *larger = realloc(w->tensors, capacity * sizeof *larger);
        if (!larger) {
            no_memory(w);
            return;
        }
        w->tensors = larger;
        w->capacity = capacity;
    }
    kept_tensor t = {.entry = json_object(), .data = malloc(bytes + 1), .size = bytes, .wide = item == 8};
    json_t *dims = json_array();
    bool fine = t.entry && t.data && dims;
    for (int i = 0; i < n_dims && fine; i++) {
        fine = json_array_append_new(dims, json_integer(shape[i])) == 0;
    }
    fine = fine && json_object_set_new(t.entry, "dtype", json_string(type)) == 0 && json_object_set(t.entry, "shape", dims) == 0;
    json_decref(dims);
    if (!fine || json_object_set(w->header, name, t.entry) != 0) {
        no_memory(w);
        json_decref(t.entry);
        free(t.data);
        return;
    }
    if (bytes) {
        memcpy(t.data, data, bytes);
    }
    w->tensors[w->count++] = t;
}

void st_writer_f32(st_writer *w, const char *name, int n_dims, const int64_t *shape, const float *data) {
    keep(w, name, "F32", sizeof *data, n_dims, shape, data);
}

void st_writer_i64(st_writer *w, const char *name, int n_dims, const int64_t *shape, const int64_t *data) {
    keep(w, name, "I64", sizeof *data, n_dims, shape, data);
}

/* The I64 tensors come first, so that every tensor is aligned to its type, which readers other than ours count on. */
static omni_status write_file(st_writer *w, omni_error *err) {
    if (w->first.code != OMNI_OK) {
        if (err) {
            *err = w->first;
        }
        return w->first.code;
    }
    size_t at = 0;
    for (int wide = 1; wide >= 0; wide--) {
        for (size_t i = 0; i < w->count; i++) {
            kept_tensor *t = &w->tensors[i];
            if (t->wide == (wide == 1)) {
                json_t *offsets = json_pack("[I, I]", (json_int_t)at, (json_int_t)(at + t->size));
                if (!offsets || json_object_set_new(t->entry, "data_offsets", offsets) != 0) {
                    return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
                }
                at += t->size;
            }
        }
    }
    char *text = json_print(w->header, JSON_COMPACT);
    size_t length = text ? strlen(text) : 0;
    uint64_t padded = (length + 7) / 8 * 8;
    omni_status status = text ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
    if (status == OMNI_OK) {
        status = file_out_write_at(&w->file, 0, &padded, sizeof padded, err);
    }
    if (status == OMNI_OK) {
        status = file_out_write_at(&w->file, 8, text, length, err);
    }
    if (status == OMNI_OK) {
        status = file_out_write_at(&w->file, 8 + length, "        ", padded - length, err);
    }
    free(text);
    for (size_t i = 0; i < w->count && status == OMNI_OK; i++) {
        const kept_tensor *t = &w->tensors[i];
        json_int_t offset = json_integer_value(json_array_get(json_object_get(t->entry, "data_offsets"), 0));
        status = file_out_write_at(&w->file, 8 + padded + (uint64_t)offset, t->data, t->size, err);
    }
    return status == OMNI_OK ? file_out_commit(&w->file, err) : status;
}

omni_status st_writer_finish(st_writer *w, omni_error *err) {
    omni_status status = write_file(w, err);
    st_writer_abandon(w);
    return status;
}

void st_writer_abandon(st_writer *w) {
    if (!w) {
        return;
    }
    if (w->file.path) {
        file_out_abandon(&w->file);
    }
    for (size_t i = 0; i < w->count; i++) {
        json_decref(w->tensors[i].entry);
        free(w->tensors[i].data);
    }
    json_decref(w->header);
    free(w->tensors);
    free(w->path);
    free(w);
}
