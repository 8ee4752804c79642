#include "convert/imatrix.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* An entry of an older file. */
typedef struct old_entry {
    const char *name; /* in the map, not NUL-terminated */
    size_t name_size;
    int32_t count, values;
    const uint8_t *data; /* F32 at any address */
} old_entry;

struct imatrix {
    gguf *g; /* NULL: an older file */
    file_map map;
    old_entry *old;
    size_t entries;
    uint32_t chunks;
    char *file; /* the name without folders */
};

static omni_status open_gguf(imatrix *m, const char *path, omni_error *err) {
    const char *type = "";
    TRY(gguf_open(path, &m->g, err));
    TRY(gguf_maybe_str(m->g, "general.type", "", &type, err));
    TRY(gguf_maybe_u32(m->g, "imatrix.chunk_count", 0, &m->chunks, err));
    for (size_t i = 0; i < gguf_tensor_count(m->g); i++) {
        const char *name = gguf_tensor_at(m->g, i)->name;
        size_t n = strlen(name);
        m->entries += n > 8 && strcmp(name + n - 8, ".in_sum2") == 0;
    }
    if (strcmp(type, "imatrix") != 0 || m->entries == 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: no importance matrix (general.type is \"%.40s\", and %zu tensors end in .in_sum2)", path, type,
                    m->entries);
    }
    return OMNI_OK;
}

/* The next int32 of an older file; false at its end. */
static bool take(const file_map *f, size_t *at, int32_t *out) {
    if (f->size - *at < sizeof *out) {
        return false;
    }
    memcpy(out, f->data + *at, sizeof *out);
    *at += sizeof *out;
    return true;
}

static omni_status open_old(imatrix *m, const char *path, omni_error *err) {
    enum { MOST_ENTRIES = 1 << 16 };
    const file_map *f = &m->map;
    int32_t n = 0, chunks = 0;
    size_t at = 0;
    if (!take(f, &at, &n) || n < 1 || n > MOST_ENTRIES) {
        return fail(err, OMNI_ERR_FORMAT,
                    "%s: neither a GGUF file nor an older importance matrix of llama.cpp, which begins with the number of entries", path);
    }
    m->old = calloc((size_t)n, sizeof *m->old);
    if (!m->old) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    for (; m->entries < (size_t)n; m->entries++) {
        old_entry *e = &m->old[m->entries];
        int32_t length;
        bool good = take(f, &at, &length) && length > 0 && (size_t)length <= f->size - at;
        if (good) {
            e->name = (const char *)f->data + at;
            e->name_size = (size_t)length;
            at += e->name_size;
            good = take(f, &at, &e->count) && take(f, &at, &e->values) && e->values > 0 && (size_t)e->values <= (f->size - at) / sizeof(float);
        }
        if (!good) {
            return fail(err, OMNI_ERR_FORMAT, "%s: not an importance matrix, or cut off: entry %zu of %d does not fit the file, at byte %zu", path,
                        m->entries + 1, n, at);
        }
        e->data = f->data + at;
        at += (size_t)e->values * sizeof(float);
    }
    m->chunks = take(f, &at, &chunks) && chunks > 0 ? (uint32_t)chunks : 0;
    return OMNI_OK;
}

omni_status imatrix_open(const char *path, imatrix **out, omni_error *err) {
    *out = NULL;
    imatrix *m = calloc(1, sizeof *m);
    const char *slash = strrchr(path, '/');
    if (!m || !(m->file = strdup(slash ? slash + 1 : path))) {
        free(m);
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    omni_status status = file_map_open(path, &m->map, err);
    if (status == OMNI_OK) {
        bool old = m->map.size < 4 || memcmp(m->map.data, "GGUF", 4) != 0;
        status = old ? open_old(m, path, err) : open_gguf(m, path, err);
    }
    if (status != OMNI_OK) {
        imatrix_close(m);
        return status;
    }
    *out = m;
    return OMNI_OK;
}

void imatrix_close(imatrix *m) {
    if (m) {
        gguf_close(m->g);
        file_map_close(&m->map);
        free(m->old);
        free(m->file);
        free(m);
    }
}

size_t imatrix_entries(const imatrix *m) {
    return m->entries;
}

uint32_t imatrix_chunks(const imatrix *m) {
    return m->chunks;
}

/* What either kind of file has for a tensor: sums of squares, and how many rows each is of. */
typedef struct sums {
    const uint8_t *values, *counts; /* F32 at any address; counts NULL: `count` for all */
    int64_t n, counted;
    float count;
} sums;

static bool find_gguf(const imatrix *m, const char *name, int64_t columns, sums *out) {
    char full[160];
    snprintf(full, sizeof full, "%s.in_sum2", name);
    const tensor *s = gguf_tensor(m->g, full);
    snprintf(full, sizeof full, "%s.counts", name);
    const tensor *c = gguf_tensor(m->g, full);
    if (!s || !c) {
        return false;
    }
    *out = (sums){.values = s->data, .counts = c->data, .n = s->ne[0] * tensor_rows(s), .counted = c->ne[0] * tensor_rows(c)};
    if (s->type != DTYPE_F32 || c->type != DTYPE_F32 || s->ne[0] != columns) {
        out->n = -1;
    }
    return true;
}

static bool find_old(const imatrix *m, const char *name, sums *out) {
    for (size_t i = 0; i < m->entries; i++) {
        const old_entry *e = &m->old[i];
        if (e->name_size == strlen(name) && memcmp(e->name, name, e->name_size) == 0) {
            *out = (sums){.values = e->data, .n = e->values, .count = (float)e->count, .counted = 1};
            return true;
        }
    }
    return false;
}

static float f32_at(const uint8_t *p, int64_t i) {
    float v;
    memcpy(&v, p + (size_t)i * sizeof v, sizeof v);
    return v;
}

/* Sums of squares and counts are numbers from 0 on: any other was computed from a broken model, or is damage. */
static omni_status check_value(const imatrix *m, const tensor *t, const char *what, float v, int64_t i, omni_error *err) {
    return v >= 0 && v <= FLT_MAX ? OMNI_OK
                                  : fail(err, OMNI_ERR_FORMAT, "%s: the importance of %s: %s %lld is %g; it must be a number from 0 on", m->map.path,
                                         t->name, what, (long long)i, (double)v);
}

omni_status imatrix_find(const imatrix *m, const tensor *t, float **out, omni_error *err) {
    *out = NULL;
    int64_t columns = t->ne[0], experts = t->ne[2] * t->ne[3];
    sums s;
    if (m->g ? !find_gguf(m, t->name, columns, &s) : !find_old(m, t->name, &s)) {
        return OMNI_OK;
    }
    int64_t matrices = s.n / columns;
    if (s.n != matrices * columns || (matrices != experts && matrices != 1) || (s.counted != matrices && s.counted != 1)) {
        return fail(err, OMNI_ERR_FORMAT,
                    "%s: the importance of %s does not fit: %lld columns and %lld matrices in F32 are needed (%lld values and %lld counts found)",
                    m->map.path, t->name, (long long)columns, (long long)experts, (long long)s.n, (long long)s.counted);
    }
    float *means = calloc((size_t)(columns * experts), sizeof *means);
    if (!means) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the importance of %s", t->name);
    }
    omni_status status = OMNI_OK;
    for (int64_t e = 0; status == OMNI_OK && e < experts; e++) {
        float count = s.counts ? f32_at(s.counts, s.counted == 1 ? 0 : e) : s.count;
        status = check_value(m, t, "count", count, e, err);
        for (int64_t i = 0; status == OMNI_OK && i < columns; i++) {
            float sum = f32_at(s.values, (matrices == 1 ? 0 : e * columns) + i);
            status = check_value(m, t, "sum of squares", sum, e * columns + i, err);
            means[e * columns + i] = count > 0 ? sum / count : 0; /* 0: an expert that nothing came to */
        }
    }
    if (status != OMNI_OK) {
        free(means);
        return status;
    }
    *out = means;
    return OMNI_OK;
}

void imatrix_put_keys(const imatrix *m, gguf_writer *w) {
    gguf_put_str(w, "quantize.imatrix.file", m->file);
    gguf_put_u32(w, "quantize.imatrix.entries_count", (uint32_t)m->entries);
    gguf_put_u32(w, "quantize.imatrix.chunks_count", m->chunks);
}
