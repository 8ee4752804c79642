#define _GNU_SOURCE
#include "tensor/profile.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_ENTRIES = 256, CACHE = 1024 };

/* Which entry an operation on a tensor of this name belongs to: labels are made once a name. */
typedef struct cached {
    const char *op, *name;
    int entry;
} cached;

struct profile {
    ops table;        /* what the backend's ops points to while this is on */
    const ops *inner; /* the backend's own */
    profile_entry entries[MAX_ENTRIES];
    int count;
    bool starved; /* what an operation would count could not be read */
    cached cache[CACHE];
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The tensor's name without the numbers of layers: "blk.17.attn_q.weight" to "blk.attn_q". */
static void make_label(const char *op, const char *name, char *out, size_t size) {
    size_t n = (size_t)snprintf(out, size, "%s", op);
    if (!name) {
        return;
    }
    if (n + 1 < size) {
        out[n++] = ' ';
    }
    for (const char *p = name; *p && n + 1 < size;) {
        const char *dot = strchr(p, '.');
        size_t length = dot ? (size_t)(dot - p) : strlen(p);
        bool number = length > 0;
        for (size_t i = 0; i < length; i++) {
            number = number && isdigit((unsigned char)p[i]);
        }
        bool last_word = !dot && strcmp(p, "weight") == 0;
        if (!number && !last_word) {
            if (out[n - 1] != ' ') {
                out[n++] = '.';
            }
            for (size_t i = 0; i < length && n + 1 < size; i++) {
                out[n++] = p[i];
            }
        }
        p += length + (dot != NULL);
    }
    out[n] = '\0';
}

static int find_entry(profile *p, const char *label) {
    for (int i = 0; i < p->count; i++) {
        if (strcmp(p->entries[i].label, label) == 0) {
            return i;
        }
    }
    if (p->count == MAX_ENTRIES) {
        return MAX_ENTRIES - 1; /* the rest share the last one */
    }
    p->entries[p->count] = (profile_entry){0};
    snprintf(p->entries[p->count].label, sizeof p->entries[p->count].label, "%s", label);
    return p->count++;
}

static profile_entry *entry_of(profile *p, const char *op, const char *name) {
    size_t h = (((size_t)op >> 3) * 31 + ((size_t)name >> 3) * 0x9E3779B1) % CACHE;
    cached *c = &p->cache[h];
    if (c->op != op || c->name != name || c->entry >= p->count) {
        char label[64];
        make_label(op, name, label, sizeof label);
        *c = (cached){op, name, find_entry(p, label)};
    }
    return &p->entries[c->entry];
}

static void note_for(profile *p, const char *op, const char *name, double seconds, double bytes, double flops) {
    profile_entry *e = entry_of(p, op, name);
    e->calls++;
    e->seconds += seconds;
    e->bytes += bytes;
    e->flops += flops;
}

static void note(profile *p, const char *op, const char *name, double started, double bytes, double flops) {
    note_for(p, op, name, now() - started, bytes, flops);
}

#define FLOAT 4.0

/* A copy of something small in the backend's memory, which the caller frees; NULL when there is no memory for it. */
static void *host_copy(backend *b, const void *from, size_t bytes) {
    void *to = malloc(bytes + 1);
    if (to) {
        b->profile->inner->download(b, to, from, bytes);
    }
    b->profile->starved = b->profile->starved || !to;
    return to;
}

/* Waits for a queued operation, so that its time is its own. */
static void settle(backend *b) {
    char nothing;
    if (backend_queues(b)) {
        b->profile->inner->download(b, &nothing, &nothing, 0);
    }
}

/* ---- the operations, in the order of ops.h ---- */

/* The wrapper of an operation whose costs follow from its arguments: bytes moved at least, and floating point operations. */
#define PROFILED(op, parameters, arguments, name, bytes, flops)                                                                                      \
    static void p_##op parameters {                                                                                                                  \
        const double started = now();                                                                                                                \
        b->profile->inner->op arguments;                                                                                                             \
        settle(b);                                                                                                                                   \
        note(b->profile, #op, name, started, bytes, flops);                                                                                          \
    }

/* Outputs of a linear map. */
static double outputs(const tensor *w) {
    return (double)(w->ne[1] * w->ne[2] * w->ne[3]);
}

/* Outputs of a channel of conv2d_3x3_s2. */
static double places(int64_t n, int64_t height, int64_t width) {
    return (double)(n * ((height + 1) / 2) * ((width + 1) / 2));
}

static double block_bytes(backend *b, const kv_cache *c, dtype type) {
    return (double)b->profile->inner->kv_bytes(b, type, c->layers, c->kv_heads, c->head_dim, 1);
}

PROFILED(upload, (backend * b, void *to, const void *from, size_t bytes), (b, to, from, bytes), NULL, 2 * (double)bytes, 0)
PROFILED(download, (backend * b, void *to, const void *from, size_t bytes), (b, to, from, bytes), NULL, 2 * (double)bytes, 0)
PROFILED(copy, (backend * b, void *to, const void *from, size_t bytes), (b, to, from, bytes), NULL, 2 * (double)bytes, 0)
PROFILED(embed, (backend * b, const tensor *table, const int32_t *ids, int64_t rows, float *y), (b, table, ids, rows, y), table->name,
         (double)rows *((double)dtype_row_bytes(table->type, table->ne[0]) + FLOAT * (double)table->ne[0]), 0)
PROFILED(embed_sum, (backend * b, const tensor *table, const int32_t *ids, int64_t rows, int64_t n, int64_t step, float scale, float *y),
         (b, table, ids, rows, n, step, scale, y), table->name, (double)(rows *n) * (double)dtype_row_bytes(table->type, table->ne[0]),
         (double)(rows *n * table->ne[0]))
PROFILED(gather_rows, (backend * b, const float *x, const int32_t *index, int64_t rows, int64_t width, float *y), (b, x, index, rows, width, y), NULL,
         2 * FLOAT * (double)(rows * width), 0)
PROFILED(add_to_rows, (backend * b, const float *x, const int32_t *index, int64_t rows, int64_t width, float *y), (b, x, index, rows, width, y), NULL,
         3 * FLOAT * (double)(rows * width), (double)(rows *width))
PROFILED(linear, (backend * b, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t x_stride, float *y, int64_t y_stride),
         (b, w, bias, x, rows, x_stride, y, y_stride), w->name, (double)w->size + FLOAT * (double)rows * ((double)w->ne[0] + outputs(w)),
         2 * (double)rows * (double)w->ne[0] * outputs(w))
PROFILED(conv1d, (backend * b, const tensor *w, const float *bias, const float *x, int64_t rows, int64_t dilation, float *y),
         (b, w, bias, x, rows, dilation, y), w->name, (double)w->size + FLOAT * (double)rows * (double)(w->ne[0] + w->ne[2]),
         2 * (double)rows * (double)(w->ne[0] * w->ne[1] * w->ne[2]))
PROFILED(conv1d_depthwise, (backend * b, const tensor *w, const float *bias, const float *x, int64_t rows, float *y), (b, w, bias, x, rows, y),
         w->name, (double)w->size + 2 * FLOAT * (double)(rows * w->ne[0]), 2 * (double)(rows * w->ne[0] * w->ne[1]))
PROFILED(overlap_add,
         (backend * b, const float *z, const float *bias, int64_t rows, int64_t kernel, int64_t stride, int64_t channels, float *tail, float *y),
         (b, z, bias, rows, kernel, stride, channels, tail, y), NULL, FLOAT *(double)(rows *channels) * (double)(kernel + stride),
         (double)(rows *channels *kernel))
PROFILED(conv2d_3x3_s2, (backend * b, const tensor *w, const float *bias, const float *x, int64_t n, int64_t height, int64_t width, float *y),
         (b, w, bias, x, n, height, width, y), w->name,
         (double)w->size + FLOAT * ((double)(n * height * width) * (double)w->ne[0] + places(n, height, width) * (double)w->ne[3]),
         18 * places(n, height, width) * (double)w->ne[0] * (double)w->ne[3])
PROFILED(rms_norm, (backend * b, const float *x, const float *w, float eps, int64_t rows, int64_t width, float *y), (b, x, w, eps, rows, width, y),
         NULL, 2 * FLOAT * (double)(rows * width), 4 * (double)(rows * width))
PROFILED(layer_norm, (backend * b, const float *x, const float *w, const float *bias, float eps, int64_t rows, int64_t width, float *y),
         (b, x, w, bias, eps, rows, width, y), NULL, 2 * FLOAT * (double)(rows * width), 6 * (double)(rows * width))
PROFILED(activate, (backend * b, activation a, const float *x, int64_t n, float *y), (b, a, x, n, y), NULL, 2 * FLOAT * (double)n, 0)
PROFILED(add, (backend * b, const float *x, int64_t n, float *y), (b, x, n, y), NULL, 3 * FLOAT * (double)n, (double)n)
PROFILED(add_scaled, (backend * b, const float *x, const float *scale, int64_t rows, int64_t width, float *y), (b, x, scale, rows, width, y), NULL,
         3 * FLOAT * (double)(rows * width), 2 * (double)(rows * width))
PROFILED(add_gated, (backend * b, const float *x, const float *gate, int64_t rows, int64_t width, float *y), (b, x, gate, rows, width, y), NULL,
         3 * FLOAT * (double)(rows * width), 2 * (double)(rows * width))
PROFILED(silu_mul, (backend * b, const float *gate, const float *up, int64_t n, float *y), (b, gate, up, n, y), NULL, 3 * FLOAT * (double)n, 0)
PROFILED(snake_beta, (backend * b, const float *x, const float *a, const float *inv_b, int64_t rows, int64_t width, float *y),
         (b, x, a, inv_b, rows, width, y), NULL, 2 * FLOAT * (double)(rows * width), 0)
PROFILED(angles, (backend * b, const float *positions, const float *inv_freq, const int32_t *axis, int64_t rows, int half, float *cos, float *sin),
         (b, positions, inv_freq, axis, rows, half, cos, sin), NULL, FLOAT *(double)rows *(3 + 2 * half), (double)rows *half)
PROFILED(head_norm_rope,
         (backend * b, float *x, int64_t rows, int64_t x_stride, int heads, int head_dim, const float *weight, float eps, const float *cos,
          const float *sin),
         (b, x, rows, x_stride, heads, head_dim, weight, eps, cos, sin), NULL, 2 * FLOAT * (double)(rows * heads * head_dim),
         8 * (double)(rows * heads * head_dim))
PROFILED(kv_copy, (backend * b, const kv_cache *cache, int32_t to, int32_t from), (b, cache, to, from), NULL,
         2 * (block_bytes(b, cache, cache->k_type) + block_bytes(b, cache, cache->v_type)), 0)
PROFILED(kv_write, (backend * b, const kv_cache *cache, int layer, const int32_t *slots, const float *k, const float *v, int64_t rows),
         (b, cache, layer, slots, k, v, rows), NULL,
         2 * (double)(rows * cache->kv_heads * cache->head_dim) *
             (FLOAT + (double)(dtype_row_bytes(cache->k_type, 32) + dtype_row_bytes(cache->v_type, 32)) / 64),
         0)
PROFILED(route, (backend * b, const float *logits, int64_t rows, int experts, int used, bool normalise, int32_t *ids, float *weights),
         (b, logits, rows, experts, used, normalise, ids, weights), NULL, FLOAT *(double)(rows *experts), 0)
PROFILED(sample, (backend * b, float *logits, int64_t rows, int64_t vocab, const sample_row *params, int32_t *ids),
         (b, logits, rows, vocab, params, ids), NULL, FLOAT *(double)(rows *vocab), 0)

/* Operations whose costs depend on what index arrays hold. */

static void p_attention(backend *b, const kv_cache *cache, int layer, const int32_t *block_table, const attention_row *at, const float *q,
                        int64_t rows, int heads, float scale, float *y) {
    double t = now();
    b->profile->inner->attention(b, cache, layer, block_table, at, q, rows, heads, scale, y);
    settle(b);
    double seconds = now() - t, pairs = 0, positions = 0;
    attention_row *ranges = host_copy(b, at, (size_t)rows * sizeof *at);
    for (int64_t i = 0; ranges && i < rows; i++) {
        pairs += ranges[i].end - ranges[i].first;
        bool last = i + 1 == rows || ranges[i + 1].table != ranges[i].table; /* rows of a sequence follow each other and share what they read */
        positions += last ? ranges[i].end - ranges[i].first : 0;
    }
    free(ranges);
    double row_bytes =
        (double)(dtype_row_bytes(cache->k_type, cache->head_dim) + dtype_row_bytes(cache->v_type, cache->head_dim)) / 2 * cache->kv_heads;
    note_for(b->profile, "attention", NULL, seconds, 2 * positions * row_bytes + 2 * FLOAT * (double)(rows * heads * cache->head_dim),
             4 * pairs * heads * cache->head_dim);
}

static void p_attention_dense(backend *b, const float *q, int64_t q_stride, const float *k, const float *v, int64_t kv_stride, const int32_t *first,
                              const int32_t *end, int64_t rows, int heads, int kv_heads, int head_dim, float scale, bool bf16, float *y) {
    double t = now();
    b->profile->inner->attention_dense(b, q, q_stride, k, v, kv_stride, first, end, rows, heads, kv_heads, head_dim, scale, bf16, y);
    settle(b);
    double seconds = now() - t, pairs = 0;
    int32_t *from = host_copy(b, first, (size_t)rows * sizeof *from), *to = host_copy(b, end, (size_t)rows * sizeof *to);
    for (int64_t i = 0; from && to && i < rows; i++) {
        pairs += to[i] - from[i];
    }
    free(from);
    free(to);
    note_for(b->profile, "attention_dense", NULL, seconds, FLOAT * (double)rows * head_dim * (2 * heads + 2 * kv_heads),
             4 * pairs * heads * head_dim);
}

/* How many different experts the rows use. */
static double distinct(const int32_t *ids, int64_t n, int64_t experts) {
    uint8_t seen[1 << 14] = {0};
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t e = ids[i];
        if (e >= 0 && e < experts && e < (int32_t)sizeof seen && !seen[e]) {
            seen[e] = 1;
            count++;
        }
    }
    return (double)count;
}

static void p_moe(backend *b, const tensor *gate, const tensor *up, const tensor *down, const float *x, int64_t rows, const int32_t *ids,
                  const float *weights, int used, float *scratch, float *y) {
    double t = now();
    b->profile->inner->moe(b, gate, up, down, x, rows, ids, weights, used, scratch, y);
    settle(b);
    double seconds = now() - t, experts = (double)gate->ne[2], width = (double)gate->ne[0], ffn = (double)gate->ne[1];
    int32_t *chosen = host_copy(b, ids, (size_t)(rows * used) * sizeof *ids);
    double share = chosen ? distinct(chosen, rows * used, gate->ne[2]) / experts : 0;
    free(chosen);
    note_for(b->profile, "moe", gate->name, seconds,
             share * ((double)gate->size + (double)up->size + (double)down->size) + 2 * FLOAT * (double)rows * width,
             6 * (double)(rows * used) * width * ffn);
}

/* ---- ---- */

static void fill_table(profile *p) {
    ops *o = &p->table;
    *o = *p->inner; /* an operation that is not named below runs unnoted */
    o->upload = p_upload;
    o->download = p_download;
    o->copy = p_copy;
    o->embed = p_embed;
    o->embed_sum = p_embed_sum;
    o->gather_rows = p_gather_rows;
    o->add_to_rows = p_add_to_rows;
    o->linear = p_linear;
    o->conv1d = p_conv1d;
    o->conv1d_depthwise = p_conv1d_depthwise;
    o->overlap_add = p_overlap_add;
    o->conv2d_3x3_s2 = p_conv2d_3x3_s2;
    o->rms_norm = p_rms_norm;
    o->layer_norm = p_layer_norm;
    o->activate = p_activate;
    o->add = p_add;
    o->add_scaled = p_add_scaled;
    o->add_gated = p_add_gated;
    o->silu_mul = p_silu_mul;
    o->snake_beta = p_snake_beta;
    o->angles = p_angles;
    o->head_norm_rope = p_head_norm_rope;
    o->kv_copy = p_kv_copy;
    o->kv_write = p_kv_write;
    o->attention = p_attention;
    o->attention_dense = p_attention_dense;
    o->route = p_route;
    o->moe = p_moe;
    o->sample = p_sample;
}

omni_status profile_install(backend *b, omni_error *err) {
    if (b->profile) {
        profile_clear(b->profile);
        profile_resume(b);
        return OMNI_OK;
    }
    profile *p = calloc(1, sizeof *p);
    if (!p) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    p->inner = b->ops;
    fill_table(p);
    b->profile = p;
    b->ops = &p->table;
    return OMNI_OK;
}

void profile_pause(backend *b) {
    if (b->profile) {
        b->ops = b->profile->inner;
    }
}

void profile_resume(backend *b) {
    if (b->profile) {
        b->ops = &b->profile->table;
    }
}

void profile_remove(backend *b) {
    if (b->profile) {
        b->ops = b->profile->inner;
        free(b->profile);
        b->profile = NULL;
    }
}

void profile_clear(profile *p) {
    p->count = 0;
    p->starved = false;
    memset(p->cache, 0, sizeof p->cache);
}

bool profile_starved(const profile *p) {
    return p->starved;
}

profile_entry profile_total(const profile *p) {
    profile_entry total = {.label = "all"};
    for (int i = 0; i < p->count; i++) {
        total.calls += p->entries[i].calls;
        total.seconds += p->entries[i].seconds;
        total.bytes += p->entries[i].bytes;
        total.flops += p->entries[i].flops;
    }
    return total;
}

static int by_seconds(const void *a, const void *b) {
    double x = ((const profile_entry *)a)->seconds, y = ((const profile_entry *)b)->seconds;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void print_entry(FILE *f, const profile_entry *e, double total) {
    double s = e->seconds > 0 ? e->seconds : 1e-12;
    fprintf(f, "%-48s %9lld %10.4f %5.1f%% %10.2f %8.2f %9.2f\n", e->label, (long long)e->calls, e->seconds, total > 0 ? 100 * e->seconds / total : 0,
            1e6 * e->seconds / (double)(e->calls ? e->calls : 1), e->bytes / s / 1e9, e->flops / s / 1e9);
}

char *profile_text(const profile *p) {
    profile_entry *sorted = malloc((size_t)(p->count + 1) * sizeof *sorted), total = profile_total(p);
    char *text = NULL;
    size_t size = 0;
    FILE *f = sorted ? open_memstream(&text, &size) : NULL;
    if (f) {
        memcpy(sorted, p->entries, (size_t)p->count * sizeof *sorted);
        qsort(sorted, (size_t)p->count, sizeof *sorted, by_seconds);
        fprintf(f, "%-48s %9s %10s %6s %10s %8s %9s\n", "operation", "calls", "seconds", "share", "us/call", "GB/s", "GFLOP/s");
        for (int i = 0; i < p->count; i++) {
            print_entry(f, &sorted[i], total.seconds);
        }
        print_entry(f, &total, total.seconds);
        if (p->starved) {
            fputs("out of memory now and then: bytes and operations are too few\n", f);
        }
        const bool failed = ferror(f) != 0;
        if (fclose(f) != 0 || failed) { /* no memory for all of it */
            free(text);
            text = NULL;
        }
    }
    free(sorted);
    return text;
}
