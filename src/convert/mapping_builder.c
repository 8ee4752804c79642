#include "convert/mapping_builder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* the prefixes are literals of the mapping's own files */

void builder_scope_to(builder *b, const char *to, uint32_t layer) {
    snprintf(b->to, sizeof b->to, to, layer);
}

void builder_scope(builder *b, const char *to, const char *from, uint32_t layer) {
    builder_scope_to(b, to, layer);
    snprintf(b->from, sizeof b->from, from, layer);
}

static int by_name(const void *key, const void *entry) {
    return strcmp(key, ((const source_entry *)entry)->t->name);
}

static source_entry *lookup(const builder *b, const char *from) {
    char name[256];
    snprintf(name, sizeof name, "%s%s", b->from, from);
    return b->n_sources == 0 ? NULL : bsearch(name, b->sources, b->n_sources, sizeof *b->sources, by_name);
}

const st_tensor *builder_find(const builder *b, const char *from) {
    const source_entry *e = lookup(b, from);
    return e ? e->t : NULL;
}

static void shape_text(char *out, size_t size, int n, const int64_t *shape) {
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; i < n && used < size; i++) {
        int wrote = snprintf(out + used, size - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
        used += wrote > 0 ? (size_t)wrote : 0;
    }
}

/* The source of that name with that shape, marked as used; NULL after an error, and when only shapes are wanted. */
static const st_tensor *take(builder *b, const char *from, int n_dims, const int64_t *shape) {
    if (b->status != OMNI_OK || b->shapes_only) {
        return NULL;
    }
    char wanted[120];
    shape_text(wanted, sizeof wanted, n_dims, shape);
    source_entry *e = lookup(b, from);
    if (!e) {
        b->status =
            fail(b->err, OMNI_ERR_FORMAT, "%s: tensor %s%s is missing; config.json asks for it with the shape [%s]", b->where, b->from, from, wanted);
        return NULL;
    }
    if (e->t->n_dims != n_dims || memcmp(e->t->shape, shape, (size_t)n_dims * sizeof *shape) != 0) {
        char found[200];
        shape_text(found, sizeof found, e->t->n_dims, e->t->shape);
        b->status =
            fail(b->err, OMNI_ERR_FORMAT, "%s: tensor %s has the shape [%s]; config.json asks for [%s]", e->t->file, e->t->name, found, wanted);
        return NULL;
    }
    e->used = true;
    return e->t;
}

/* A new entry with one source slot per source; NULL after an error. */
static mapped_tensor *append(builder *b, weight_class c, const char *to, int n_dims, const int64_t *ne, size_t n_sources) {
    if (b->status != OMNI_OK) {
        return NULL;
    }
    n_sources = b->shapes_only ? 0 : n_sources;
    mapping *m = b->out;
    if (m->count == m->capacity) {
        size_t capacity = m->capacity ? 2 * m->capacity : 256;
        mapped_tensor *grown = realloc(m->tensors, capacity * sizeof *grown);
        if (!grown) {
            b->status = fail(b->err, OMNI_ERR_MEMORY, "out of memory for the list of %zu tensors", capacity);
            return NULL;
        }
        m->tensors = grown;
        m->capacity = capacity;
    }
    mapped_tensor *t = &m->tensors[m->count];
    *t = (mapped_tensor){.part = b->part, .n_dims = n_dims, .ne = {1, 1, 1, 1}, .n_sources = n_sources};
    snprintf(t->name, sizeof t->name, "%s%s", b->to, to);
    int64_t stride = 1;
    for (int i = 0; i < n_dims; i++) {
        t->ne[i] = ne[i];
        t->stride[i] = stride;
        stride *= ne[i];
    }
    t->source_values = stride;
    t->weight = c;
    t->type = recipe_type(b->type, &b->model, c, t->name, ne[0]);
    if (n_sources && !(t->sources = calloc(n_sources, sizeof(*t->sources)))) {
        b->status = fail(b->err, OMNI_ERR_MEMORY, "out of memory for %zu sources of %s", n_sources, t->name);
        return NULL;
    }
    m->count++;
    return t;
}

void builder_strided(builder *b, weight_class c, const char *to, const char *from, int shape_dims, const int64_t *shape, int n_dims,
                     const int64_t *ne, int64_t base, const int64_t *stride) {
    const st_tensor *source = take(b, from, shape_dims, shape);
    mapped_tensor *t = append(b, c, to, n_dims, ne, 1);
    if (t && t->sources) {
        t->sources[0] = source;
        t->base = base;
        for (int i = 0; stride && i < n_dims; i++) {
            t->stride[i] = stride[i];
        }
    }
}

void builder_matrix(builder *b, weight_class c, const char *to, const char *from, int64_t in, int64_t out) {
    builder_strided(b, c, to, from, 2, (const int64_t[]){out, in}, 2, (const int64_t[]){in, out}, 0, NULL);
}

void builder_vector(builder *b, const char *to, const char *from, int64_t n) {
    builder_strided(b, WEIGHT_F32, to, from, 1, &n, 1, &n, 0, NULL);
}

/* Suffixed copies of the two names. */
typedef struct names {
    char to[64], from[96];
} names;

static names with_suffix(const char *to, const char *from, const char *suffix) {
    names n;
    snprintf(n.to, sizeof n.to, "%s.%s", to, suffix);
    snprintf(n.from, sizeof n.from, "%s.%s", from, suffix);
    return n;
}

void builder_linear(builder *b, const char *to, const char *from, int64_t in, int64_t out) {
    names weight = with_suffix(to, from, "weight"), bias = with_suffix(to, from, "bias");
    builder_matrix(b, WEIGHT_MATRIX, weight.to, weight.from, in, out);
    builder_vector(b, bias.to, bias.from, out);
}

void builder_layer_norm(builder *b, const char *to, const char *from, int64_t n) {
    names weight = with_suffix(to, from, "weight"), bias = with_suffix(to, from, "bias");
    builder_vector(b, weight.to, weight.from, n);
    builder_vector(b, bias.to, bias.from, n);
}

/* The tensor added last has only this many values from its source. */
static void only_first(builder *b, int64_t values) {
    if (b->status == OMNI_OK) {
        b->out->tensors[b->out->count - 1].source_values = values;
    }
}

void builder_padded_linear(builder *b, const char *to, const char *from, int64_t in, int64_t out, int64_t extra) {
    names weight = with_suffix(to, from, "weight"), bias = with_suffix(to, from, "bias");
    const int64_t all = out + extra;
    builder_strided(b, WEIGHT_MATRIX, weight.to, weight.from, 2, (const int64_t[]){out, in}, 2, (const int64_t[]){in, all}, 0, NULL);
    only_first(b, in * out);
    builder_strided(b, WEIGHT_F32, bias.to, bias.from, 1, &out, 1, &all, 0, NULL);
    only_first(b, out);
}

void builder_generated(builder *b, const char *to, int64_t width, int64_t rows) {
    append(b, WEIGHT_F32, to, 2, (const int64_t[]){width, rows}, 0);
}

static void one_by_one(builder *b, const char *to, const char *projection, int64_t in, int64_t out, int64_t experts) {
    mapped_tensor *t = append(b, WEIGHT_MATRIX, to, 3, (const int64_t[]){in, out, experts}, (size_t)experts);
    for (int64_t i = 0; t && t->sources && i < experts && b->status == OMNI_OK; i++) {
        char from[64];
        snprintf(from, sizeof from, "mlp.experts.%lld.%s.weight", (long long)i, projection);
        t->sources[i] = take(b, from, 2, (const int64_t[]){out, in});
    }
}

void builder_experts(builder *b, int64_t hidden, int64_t width, int64_t experts) {
    if (builder_find(b, "mlp.experts.gate_up_proj") || builder_find(b, "mlp.experts.down_proj")) {
        const int64_t shape[] = {experts, 2 * width, hidden}, ne[] = {hidden, width, experts}, stride[] = {1, hidden, 2 * width * hidden};
        builder_strided(b, WEIGHT_MATRIX, "ffn_gate_exps.weight", "mlp.experts.gate_up_proj", 3, shape, 3, ne, 0, stride);
        builder_strided(b, WEIGHT_MATRIX, "ffn_up_exps.weight", "mlp.experts.gate_up_proj", 3, shape, 3, ne, width * hidden, stride);
        builder_strided(b, WEIGHT_MATRIX, "ffn_down_exps.weight", "mlp.experts.down_proj", 3, (const int64_t[]){experts, hidden, width}, 3,
                        (const int64_t[]){width, hidden, experts}, 0, NULL);
        return;
    }
    one_by_one(b, "ffn_gate_exps.weight", "gate_proj", hidden, width, experts);
    one_by_one(b, "ffn_up_exps.weight", "up_proj", hidden, width, experts);
    one_by_one(b, "ffn_down_exps.weight", "down_proj", width, hidden, experts);
}
