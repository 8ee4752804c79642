#include "convert/imatrix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct imatrix {
    gguf *g;
    size_t entries;
    uint32_t chunks;
};

omni_status imatrix_open(const char *path, imatrix **out, omni_error *err) {
    *out = NULL;
    imatrix *m = calloc(1, sizeof *m);
    if (!m) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    omni_status status = gguf_open(path, &m->g, err);
    const char *type = "";
    if (status == OMNI_OK) {
        status = gguf_maybe_str(m->g, "general.type", "", &type, err);
    }
    if (status == OMNI_OK) {
        status = gguf_maybe_u32(m->g, "imatrix.chunk_count", 0, &m->chunks, err);
    }
    for (size_t i = 0; status == OMNI_OK && i < gguf_tensor_count(m->g); i++) {
        const char *name = gguf_tensor_at(m->g, i)->name;
        size_t n = strlen(name);
        m->entries += n > 8 && strcmp(name + n - 8, ".in_sum2") == 0;
    }
    if (status == OMNI_OK && (strcmp(type, "imatrix") != 0 || m->entries == 0)) {
        status = fail(err, OMNI_ERR_FORMAT, "%s: no importance matrix (general.type is \"%.40s\", and %zu tensors end in .in_sum2)", path, type,
                      m->entries);
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
        free(m);
    }
}

size_t imatrix_entries(const imatrix *m) {
    return m->entries;
}

uint32_t imatrix_chunks(const imatrix *m) {
    return m->chunks;
}

omni_status imatrix_find(const imatrix *m, const tensor *t, float **out, omni_error *err) {
    char name[160];
    *out = NULL;
    snprintf(name, sizeof name, "%s.in_sum2", t->name);
    const tensor *sums = gguf_tensor(m->g, name);
    snprintf(name, sizeof name, "%s.counts", t->name);
    const tensor *counts = gguf_tensor(m->g, name);
    if (!sums || !counts) {
        return OMNI_OK;
    }
    int64_t columns = t->ne[0], experts = t->ne[2] * t->ne[3], matrices = tensor_rows(sums), counted = counts->ne[0] * tensor_rows(counts);
    if (sums->type != DTYPE_F32 || counts->type != DTYPE_F32 || sums->ne[0] != columns || (matrices != experts && matrices != 1) ||
        (counted != matrices && counted != 1)) {
        return fail(
            err, OMNI_ERR_FORMAT,
            "%s: the importance of %s is for %lld columns and %lld matrices (%lld counts), in F32; the tensor has %lld columns and %lld matrices",
            gguf_path(m->g), t->name, (long long)sums->ne[0], (long long)matrices, (long long)counted, (long long)columns, (long long)experts);
    }
    float *means = calloc((size_t)(columns * experts), sizeof *means);
    if (!means) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the importance of %s", t->name);
    }
    for (int64_t e = 0; e < experts; e++) {
        float count;
        memcpy(&count, (const float *)counts->data + (counted == 1 ? 0 : e), sizeof count);
        const float *from = (const float *)sums->data + (matrices == 1 ? 0 : e * columns);
        for (int64_t i = 0; count > 0 && i < columns; i++) {
            float v = from[i] / count;
            means[e * columns + i] = isfinite(v) && v > 0 ? v : 0;
        }
    }
    *out = means;
    return OMNI_OK;
}
