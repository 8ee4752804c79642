#include "convert/imatrix_collect.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/recipe.h"
#include "gguf/gguf.h"
#include "tensor/finite.h"

typedef struct entry {
    const char *key; /* the tensor's name where the model keeps it: looked up by address */
    bool wanted;
    int64_t columns, experts;
    float *sums;      /* [experts, columns] */
    uint64_t *counts; /* [experts] */
} entry;

struct imatrix_collector {
    entry *entries; /* a hash table with open addresses */
    size_t count, room, seen;
    bool out_of_memory;
};

imatrix_collector *imatrix_collector_create(void) {
    return calloc(1, sizeof(imatrix_collector));
}

void imatrix_collector_free(imatrix_collector *c) {
    if (!c) {
        return;
    }
    for (size_t i = 0; i < c->room; i++) {
        free(c->entries[i].sums);
        free(c->entries[i].counts);
    }
    free(c->entries);
    free(c);
}

static entry *slot_of(entry *entries, size_t room, const char *key) {
    size_t at = (size_t)(((uintptr_t)key >> 3) * 0x9e3779b97f4a7c15u) & (room - 1);
    while (entries[at].key && entries[at].key != key) {
        at = (at + 1) & (room - 1);
    }
    return &entries[at];
}

static bool grow(imatrix_collector *c) {
    size_t room = c->room ? 2 * c->room : 1024;
    entry *entries = calloc(room, sizeof *entries);
    if (!entries) {
        return false;
    }
    for (size_t i = 0; i < c->room; i++) {
        if (c->entries[i].key) {
            *slot_of(entries, room, c->entries[i].key) = c->entries[i];
        }
    }
    free(c->entries);
    c->entries = entries;
    c->room = room;
    return true;
}

static bool starts_with(const char *s, const char *prefix) {
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool is_wanted(const tensor *w) {
    const char *n = w->name;
    unsigned part = starts_with(n, "v.") || starts_with(n, "a.") || starts_with(n, "mm.")                           ? PART_MMPROJ
                    : starts_with(n, "talker.") || starts_with(n, "code_predictor.") || starts_with(n, "code2wav.") ? PART_TALKER
                                                                                                                    : PART_THINKER;
    return strcmp(n, "output.weight") != 0 && recipe_class(part, n, w->n_dims) == WEIGHT_MATRIX;
}

/* NULL when it is not wanted or memory ran out. */
static entry *entry_of(imatrix_collector *c, const tensor *w) {
    if (!w->name || c->out_of_memory || (2 * c->count >= c->room && !grow(c))) {
        c->out_of_memory = c->out_of_memory || w->name;
        return NULL;
    }
    entry *e = slot_of(c->entries, c->room, w->name);
    if (!e->key) {
        *e = (entry){.key = w->name, .wanted = is_wanted(w), .columns = w->ne[0], .experts = w->ne[2] * w->ne[3]};
        c->count++;
        if (e->wanted) {
            e->sums = calloc((size_t)(e->columns * e->experts), sizeof *e->sums);
            e->counts = calloc((size_t)e->experts, sizeof *e->counts);
            c->out_of_memory = !e->sums || !e->counts;
            c->seen++;
        }
    }
    return e->wanted && !c->out_of_memory && e->columns == w->ne[0] ? e : NULL;
}

void imatrix_collect(void *collector, const tensor *w, const float *x, int64_t slots, int64_t x_stride, int repeat, const int32_t *index,
                     const int32_t *experts) {
    entry *e = entry_of(collector, w);
    for (int64_t s = 0; e && s < slots; s++) {
        int64_t expert = experts ? experts[s] : 0;
        if (expert >= e->experts) {
            continue;
        }
        const float *row = x + (index ? index[s] : s / repeat) * x_stride;
        float *sums = e->sums + expert * e->columns;
        for (int64_t i = 0; i < e->columns; i++) {
            sums[i] += row[i] * row[i];
        }
        e->counts[expert]++;
    }
}

size_t imatrix_collected(const imatrix_collector *c) {
    return c->seen;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const entry *const *)a)->key, (*(const entry *const *)b)->key);
}

static omni_status write_entries(entry *const *list, size_t n, gguf_writer *w, omni_error *err) {
    TRY(gguf_writer_begin(w, err));
    for (size_t i = 0; i < n; i++) {
        const entry *e = list[i];
        if (find_not_finite(DTYPE_F32, e->sums, e->columns * e->experts) >= 0) {
            return fail(err, OMNI_ERR_FORMAT, "the inputs of %s are NaN or infinite, or too large to be squared: the model's weights are damaged",
                        e->key);
        }
        TRY(gguf_writer_data(w, 2 * i, 0, e->sums, (size_t)(e->columns * e->experts) * sizeof *e->sums, err));
        for (int64_t k = 0; k < e->experts; k++) {
            float count = (float)e->counts[k];
            TRY(gguf_writer_data(w, 2 * i + 1, (size_t)k * sizeof count, &count, sizeof count, err));
        }
    }
    return OMNI_OK;
}

omni_status imatrix_write(const imatrix_collector *c, const char *path, const char *dataset, uint32_t chunks, uint32_t chunk_size, omni_error *err) {
    if (c->out_of_memory) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the importance of %zu matrices", c->seen);
    }
    entry **list = calloc(c->seen + 1, sizeof(*list));
    if (!list) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    size_t n = 0;
    for (size_t i = 0; i < c->room; i++) {
        if (c->entries[i].key && c->entries[i].wanted) {
            list[n++] = &c->entries[i];
        }
    }
    qsort(list, n, sizeof(*list), by_name);
    gguf_writer *w;
    omni_status status = gguf_writer_create(path, &w, err);
    if (status != OMNI_OK) {
        free(list);
        return status;
    }
    gguf_put_str(w, "general.type", "imatrix");
    gguf_put_strs(w, "imatrix.datasets", &(gguf_str){dataset, strlen(dataset)}, 1);
    gguf_put_u32(w, "imatrix.chunk_count", chunks);
    gguf_put_u32(w, "imatrix.chunk_size", chunk_size);
    for (size_t i = 0; i < n; i++) {
        char name[128];
        snprintf(name, sizeof name, "%.100s.in_sum2", list[i]->key);
        gguf_put_tensor(w, name, DTYPE_F32, 2, (int64_t[]){list[i]->columns, list[i]->experts});
        snprintf(name, sizeof name, "%.100s.counts", list[i]->key);
        gguf_put_tensor(w, name, DTYPE_F32, 2, (int64_t[]){1, list[i]->experts});
    }
    status = write_entries(list, n, w, err);
    free(list);
    if (status != OMNI_OK) {
        gguf_writer_abandon(w);
        return status;
    }
    return gguf_writer_finish(w, err);
}
