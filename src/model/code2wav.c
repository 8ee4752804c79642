#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "model/code2wav_model.h"
#include "tensor/finite.h"

enum { MAX_FRAMES = 4096 };

static const float CONVNEXT_EPS = 1e-6f; /* of the ConvNeXt blocks' LayerNorm: written in the reference's code, no config value */

typedef union c2w_word {
    int32_t i;
    float f;
} c2w_word;

struct code2wav_runner {
    const code2wav *m;
    backend *b; /* that computes: the model's, or another with the same memory */
    int64_t max_frames;

    void *memory;                 /* of the backend; everything below but what is marked host */
    float *x, *y, *z;             /* activations */
    float *cos, *sin;             /* [max_frames, head_dim / 2] */
    c2w_word *chunk, *host_chunk; /* [max_frames, groups + 5] what a chunk is given, and host: from where it is uploaded */
};

struct code2wav_stream {
    const code2wav *m;
    int64_t max_frames;
    int64_t frames; /* since the stream began: the rotation's position */
    int64_t filled; /* rows in the key/value windows */
    int64_t kv_capacity;

    void *memory;       /* of the model's backend; everything below but what is marked host */
    float *k, *v;       /* [layer, kv_capacity, kv_heads * head_dim]; keys are stored rotated */
    float *tails;       /* all tails in one range, zero at the start of a stream */
    int64_t tails_size; /* values */
    float *host_zeros;  /* host: [tails_size] */
    float *up_tail[CODE2WAV_MAX_STAGES], *dw_tail[CODE2WAV_MAX_STAGES], *block_tail[CODE2WAV_MAX_STAGES];
    float *unit_tail[CODE2WAV_MAX_STAGES][CODE2WAV_MAX_UNITS];
    float *in_tail, *out_tail;
    int64_t up_skip[CODE2WAV_MAX_STAGES], block_skip[CODE2WAV_MAX_STAGES]; /* rows of the trimmed left edge still to drop */
};

/* ---- memory ---- */

static int64_t largest(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t past_rows(const c2w_conv *c) {
    return (c->kernel - 1) * c->dilation;
}

/* Values that x, y and z hold at most, for chunks of so many frames. The walk mirrors run(). */
static void scratch_sizes(const code2wav *m, int64_t rows, int64_t *x, int64_t *y, int64_t *z) {
    const int64_t h = m->hidden, q = m->heads * m->head_dim;
    *x = rows * h;
    *y = rows * largest(h, q);
    *z = rows * largest(2 * m->ffn, largest(q, h));
    for (int i = 0; i < m->n_upsample; i++) {
        const c2w_upsample *u = &m->upsample[i];
        *z = largest(*z, rows * u->conv.kernel * h);
        rows *= u->conv.stride;
        *x = largest(*x, rows * h);
        *y = largest(*y, largest((rows + u->dw_kernel - 1) * h, rows * u->inner));
        *z = largest(*z, rows * h);
    }
    *y = largest(*y, (rows + past_rows(&m->conv_in)) * h);
    *x = largest(*x, rows * m->decoder_dim);
    for (int i = 0; i < m->n_blocks; i++) {
        const c2w_block *b = &m->block[i];
        *y = largest(*y, rows * b->conv.in);
        *z = largest(*z, rows * b->conv.kernel * b->conv.out);
        rows *= b->conv.stride;
        *x = largest(*x, rows * b->conv.out);
        *z = largest(*z, rows * b->conv.out);
        for (int u = 0; u < b->units; u++) {
            *y = largest(*y, (rows + past_rows(&b->unit[u].conv1)) * b->conv.out);
            *y = largest(*y, (rows + past_rows(&b->unit[u].conv2)) * b->conv.out);
        }
    }
    *y = largest(*y, (rows + past_rows(&m->conv_out)) * m->conv_out.in);
    *z = largest(*z, rows);
}

static void *take(arena *a, int64_t values) {
    return arena_take(a, values, 1, sizeof(float));
}

static void lay_out_runner(code2wav_runner *r, arena *a) {
    const code2wav *m = r->m;
    int64_t x, y, z;
    scratch_sizes(m, r->max_frames, &x, &y, &z);
    r->x = take(a, x);
    r->y = take(a, y);
    r->z = take(a, z);
    r->cos = take(a, r->max_frames * m->head_dim / 2);
    r->sin = take(a, r->max_frames * m->head_dim / 2);
    r->chunk = take(a, r->max_frames * (m->groups + 5));
}

static void lay_out_stream(code2wav_stream *s, arena *a) {
    const code2wav *m = s->m;
    s->k = take(a, m->layers * s->kv_capacity * m->kv_heads * m->head_dim);
    s->v = take(a, m->layers * s->kv_capacity * m->kv_heads * m->head_dim);
    const size_t begin = a->used;
    for (int i = 0; i < m->n_upsample; i++) {
        const c2w_upsample *u = &m->upsample[i];
        s->up_tail[i] = take(a, (u->conv.kernel - u->conv.stride) * u->conv.out);
        s->dw_tail[i] = take(a, (u->dw_kernel - 1) * m->hidden);
    }
    s->in_tail = take(a, past_rows(&m->conv_in) * m->conv_in.in);
    for (int i = 0; i < m->n_blocks; i++) {
        const c2w_block *b = &m->block[i];
        s->block_tail[i] = take(a, (b->conv.kernel - b->conv.stride) * b->conv.out);
        for (int u = 0; u < b->units; u++) {
            /* The second convolution's kernel is 1 in every known model; its tail is behind the first's in case it is not. */
            s->unit_tail[i][u] = take(a, (past_rows(&b->unit[u].conv1) + past_rows(&b->unit[u].conv2)) * b->conv.out);
        }
    }
    s->out_tail = take(a, past_rows(&m->conv_out) * m->conv_out.in);
    s->tails = a->base ? (float *)(void *)(a->base + begin) : NULL;
    s->tails_size = (int64_t)((a->used - begin) / sizeof *s->tails);
}

/* The window is moved to the front only when the buffer is full: seldom, even for chunks of one frame. */
static int64_t window_capacity(const code2wav *m, int64_t max_frames) {
    return m->window - 1 + KV_BLOCK + largest(max_frames, m->window - 1);
}

size_t code2wav_runner_memory(const code2wav *m, int64_t max_frames) {
    code2wav_runner r = {.m = m, .max_frames = max_frames};
    arena count = {0};
    lay_out_runner(&r, &count);
    return count.used;
}

size_t code2wav_stream_memory(const code2wav *m, int64_t max_frames) {
    code2wav_stream s = {.m = m, .max_frames = max_frames, .kv_capacity = window_capacity(m, max_frames)};
    arena count = {0};
    lay_out_stream(&s, &count);
    return count.used;
}

static omni_status check_chunk(int64_t max_frames, omni_error *err) {
    return max_frames >= 1 && max_frames <= MAX_FRAMES
               ? OMNI_OK
               : fail(err, OMNI_ERR_ARGUMENT, "code2wav: chunks of %lld frames; 1 to %d are possible", (long long)max_frames, MAX_FRAMES);
}

omni_status code2wav_runner_create(const code2wav *m, backend *b, int64_t max_frames, code2wav_runner **out, omni_error *err) {
    *out = NULL;
    TRY(check_chunk(max_frames, err));
    code2wav_runner *r = calloc(1, sizeof *r);
    if (!r) {
        return fail(err, OMNI_ERR_MEMORY, "code2wav: out of memory");
    }
    r->m = m;
    r->b = b ? b : m->b;
    r->max_frames = max_frames;
    r->host_chunk = malloc((size_t)(max_frames * (m->groups + 5)) * sizeof *r->host_chunk);
    omni_status status = r->host_chunk ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "code2wav: out of memory");
    if (status == OMNI_OK) {
        status = r->b->ops->alloc(r->b, code2wav_runner_memory(m, max_frames), &r->memory, err);
    }
    if (status != OMNI_OK) {
        code2wav_runner_destroy(r);
        return status;
    }
    lay_out_runner(r, &(arena){.base = r->memory});
    *out = r;
    return OMNI_OK;
}

void code2wav_runner_destroy(code2wav_runner *r) {
    if (r) {
        if (r->memory) {
            r->b->ops->release(r->b, r->memory);
        }
        free(r->host_chunk);
        free(r);
    }
}

omni_status code2wav_stream_create(const code2wav *m, int64_t max_frames, code2wav_stream **out, omni_error *err) {
    *out = NULL;
    TRY(check_chunk(max_frames, err));
    code2wav_stream *s = calloc(1, sizeof *s);
    if (!s) {
        return fail(err, OMNI_ERR_MEMORY, "code2wav: out of memory");
    }
    s->m = m;
    s->max_frames = max_frames;
    s->kv_capacity = window_capacity(m, max_frames);
    arena count = {0};
    lay_out_stream(s, &count);
    s->host_zeros = calloc((size_t)(s->tails_size + 1), sizeof *s->host_zeros);
    omni_status status = s->host_zeros ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "code2wav: out of memory");
    if (status == OMNI_OK) {
        status = m->b->ops->alloc(m->b, count.used, &s->memory, err);
    }
    if (status != OMNI_OK) {
        code2wav_stream_destroy(s);
        return status;
    }
    lay_out_stream(s, &(arena){.base = s->memory});
    code2wav_stream_reset(s);
    *out = s;
    return OMNI_OK;
}

void code2wav_stream_reset(code2wav_stream *s) {
    const code2wav *m = s->m;
    s->frames = 0;
    s->filled = 0;
    for (int i = 0; i < m->n_upsample; i++) {
        s->up_skip[i] = m->upsample[i].conv.kernel - m->upsample[i].conv.stride;
    }
    for (int i = 0; i < m->n_blocks; i++) {
        s->block_skip[i] = m->block[i].conv.kernel - m->block[i].conv.stride;
    }
    m->b->ops->upload(m->b, s->tails, s->host_zeros, (size_t)s->tails_size * sizeof(float));
}

void code2wav_stream_destroy(code2wav_stream *s) {
    if (s) {
        if (s->memory) {
            s->m->b->ops->release(s->m->b, s->memory);
        }
        free(s->host_zeros);
        free(s);
    }
}

/* ---- transformer ---- */

typedef struct chunk_rows {
    const int32_t *codes, *first, *end; /* in the backend's memory */
} chunk_rows;

/* All that the host says of a chunk, in one upload: its codes, which rows of the window each new row attends to (itself and the window - 1 before
 * it), and positions, of which angles are made. */
static chunk_rows place_rows(code2wav_runner *r, const code2wav_stream *s, const int32_t *codes, int64_t rows) {
    const code2wav *m = r->m;
    const int64_t past = m->window - 1, first = rows * m->groups, end = first + rows, positions = end + rows;
    c2w_word *host = r->host_chunk;
    for (int64_t i = 0; i < first; i++) {
        host[i].i = codes[i];
    }
    for (int64_t i = 0; i < rows; i++) {
        host[first + i].i = (int32_t)largest(0, s->filled + i - past);
        host[end + i].i = (int32_t)(s->filled + i + 1);
        for (int k = 0; k < 3; k++) {
            host[positions + 3 * i + k].f = (float)(s->frames + i);
        }
    }
    r->b->ops->upload(r->b, r->chunk, host, (size_t)(positions + 3 * rows) * sizeof *host);
    rotation_angles(&m->rope, r->b, &r->chunk[positions].f, rows, r->cos, r->sin);
    return (chunk_rows){&r->chunk->i, &r->chunk[first].i, &r->chunk[end].i};
}

/* Makes room behind the window when its buffer is full. Rows move by whole blocks, so that an attention that sums block by
 * block gives the same bits wherever the window lies. */
static void slide_window(code2wav_runner *r, code2wav_stream *s, int64_t rows) {
    const code2wav *m = r->m;
    if (s->filled + rows <= s->kv_capacity) {
        return;
    }
    const int64_t width = m->kv_heads * m->head_dim, drop = (s->filled - (m->window - 1)) / KV_BLOCK * KV_BLOCK, keep = s->filled - drop;
    for (int64_t l = 0; l < m->layers; l++) {
        float *k = s->k + l * s->kv_capacity * width, *v = s->v + l * s->kv_capacity * width;
        r->b->ops->copy(r->b, k, k + drop * width, (size_t)(keep * width) * sizeof *k);
        r->b->ops->copy(r->b, v, v + drop * width, (size_t)(keep * width) * sizeof *v);
    }
    s->filled = keep;
}

/* x[rows, hidden] through the layers and the final norm, in place. */
static void transform(code2wav_runner *r, code2wav_stream *s, const int32_t *first, const int32_t *end, int64_t rows) {
    const code2wav *m = r->m;
    backend *b = r->b;
    const ops *op = b->ops;
    const int64_t h = m->hidden, q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    const int heads = (int)m->heads, kv_heads = (int)m->kv_heads, d = (int)m->head_dim;
    float *x = r->x, *y = r->y, *z = r->z;
    for (int64_t l = 0; l < m->layers; l++) {
        const c2w_layer *w = &m->layer[l];
        float *k = s->k + l * s->kv_capacity * kv, *v = s->v + l * s->kv_capacity * kv;
        float *new_k = k + s->filled * kv, *new_v = v + s->filled * kv;
        op->rms_norm(b, x, w->attn_norm, m->eps, rows, h, y);
        op->linear(b, &w->q, NULL, y, rows, h, z, q);
        op->linear(b, &w->k, NULL, y, rows, h, new_k, kv);
        op->linear(b, &w->v, NULL, y, rows, h, new_v, kv);
        op->head_norm_rope(b, z, rows, q, heads, d, NULL, m->eps, r->cos, r->sin);
        op->head_norm_rope(b, new_k, rows, kv, kv_heads, d, NULL, m->eps, r->cos, r->sin);
        op->attention_dense(b, z, q, k, v, kv, first, end, rows, heads, kv_heads, d, 1.0f / sqrtf((float)d), false, y);
        op->linear(b, &w->o, NULL, y, rows, q, z, h);
        op->add_scaled(b, z, w->attn_scale, rows, h, x);

        float *up = z + rows * m->ffn;
        op->rms_norm(b, x, w->ffn_norm, m->eps, rows, h, y);
        op->linear(b, &w->gate, NULL, y, rows, h, z, m->ffn);
        op->linear(b, &w->up, NULL, y, rows, h, up, m->ffn);
        op->silu_mul(b, z, up, rows * m->ffn, z);
        op->linear(b, &w->down, NULL, z, rows, m->ffn, y, h);
        op->add_scaled(b, y, w->ffn_scale, rows, h, x);
    }
    op->rms_norm(b, x, m->output_norm, m->eps, rows, h, x);
}

/* ---- convolutions ---- */

/* window[past + rows, width] whose last rows are new: puts the past before them and keeps what the next chunk needs.
 * window must not be changed between this call and the convolution. */
static void join_past(backend *b, float *window, float *tail, int64_t past, int64_t rows, int64_t width) {
    if (past > 0) {
        const size_t bytes = (size_t)(past * width) * sizeof *window;
        b->ops->copy(b, window, tail, bytes);
        b->ops->copy(b, tail, window + rows * width, bytes);
    }
}

/* Transposed convolution of in[rows] by way of z to out; returns the first row that is not trimmed and counts them in *rows. */
static float *upsample(code2wav_runner *r, const c2w_transposed *c, const float *in, int64_t *rows, float *tail, int64_t *skip, float *out) {
    backend *b = r->b;
    b->ops->linear(b, &c->w, NULL, in, *rows, c->in, r->z, c->kernel * c->out);
    b->ops->overlap_add(b, r->z, c->bias, *rows, c->kernel, c->stride, c->out, tail, out);
    const int64_t made = *rows * c->stride, dropped = *skip < made ? *skip : made;
    *skip -= dropped;
    *rows = made - dropped;
    return out + dropped * c->out;
}

/* Depthwise convolution, LayerNorm, two linear maps with GELU between, LayerScale, residual; in place on x[rows, hidden]. */
static void convnext(code2wav_runner *r, const c2w_upsample *u, float *tail, float *x, int64_t rows) {
    backend *b = r->b;
    const ops *op = b->ops;
    const int64_t h = r->m->hidden, past = u->dw_kernel - 1;
    float *y = r->y, *z = r->z;
    op->copy(b, y + past * h, x, (size_t)(rows * h) * sizeof *x);
    join_past(b, y, tail, past, rows, h);
    op->conv1d_depthwise(b, &u->dw, u->dw_bias, y, rows, z);
    op->layer_norm(b, z, u->norm, u->norm_bias, CONVNEXT_EPS, rows, h, z);
    op->linear(b, &u->pw1, u->pw1_bias, z, rows, h, y, u->inner);
    op->activate(b, ACT_GELU, y, rows * u->inner, y);
    op->linear(b, &u->pw2, u->pw2_bias, y, rows, u->inner, z, h);
    op->add_scaled(b, z, u->gamma, rows, h, x);
}

/* x += conv2(snake2(conv1(snake1(x)))), x[rows, channels]. */
static void residual_unit(code2wav_runner *r, const c2w_unit *u, float *tail, float *x, int64_t rows) {
    backend *b = r->b;
    const ops *op = b->ops;
    const int64_t c = u->conv1.out, past1 = past_rows(&u->conv1), past2 = past_rows(&u->conv2);
    float *y = r->y, *z = r->z;
    op->snake_beta(b, x, u->snake1.a, u->snake1.inv_b, rows, c, y + past1 * c);
    join_past(b, y, tail, past1, rows, c);
    op->conv1d(b, &u->conv1.w, u->conv1.bias, y, rows, u->conv1.dilation, z);
    op->snake_beta(b, z, u->snake2.a, u->snake2.inv_b, rows, c, y + past2 * c);
    join_past(b, y, tail + past1 * c, past2, rows, c);
    op->conv1d(b, &u->conv2.w, u->conv2.bias, y, rows, 1, z);
    op->add(b, z, rows * c, x);
}

/* One chunk of at most max_frames frames; returns the number of samples, which are in z. */
static int64_t run(code2wav_runner *r, code2wav_stream *s, const int32_t *codes, int64_t rows) {
    const code2wav *m = r->m;
    backend *b = r->b;
    const ops *op = b->ops;
    slide_window(r, s, rows);
    const chunk_rows p = place_rows(r, s, codes, rows);
    op->embed_sum(b, &m->embd, p.codes, rows, m->groups, m->codebook, 1.0f / (float)m->groups, r->x);
    transform(r, s, p.first, p.end, rows); /* x[frames, hidden] */
    s->filled += rows;
    s->frames += rows;

    float *x = r->x;
    for (int i = 0; i < m->n_upsample && rows > 0; i++) { /* x[frames * ratio ..., hidden] */
        x = upsample(r, &m->upsample[i].conv, x, &rows, s->up_tail[i], &s->up_skip[i], r->x);
        if (rows > 0) {
            convnext(r, &m->upsample[i], s->dw_tail[i], x, rows);
        }
    }
    if (rows > 0) { /* x[rows, decoder_dim] */
        const int64_t past = past_rows(&m->conv_in), h = m->hidden;
        op->copy(b, r->y + past * h, x, (size_t)(rows * h) * sizeof *x);
        join_past(b, r->y, s->in_tail, past, rows, h);
        x = r->x;
        op->conv1d(b, &m->conv_in.w, m->conv_in.bias, r->y, rows, 1, x);
    }
    for (int i = 0; i < m->n_blocks && rows > 0; i++) { /* x[rows * rate, channels / 2] */
        const c2w_block *block = &m->block[i];
        op->snake_beta(b, x, block->snake.a, block->snake.inv_b, rows, block->conv.in, r->y);
        x = upsample(r, &block->conv, r->y, &rows, s->block_tail[i], &s->block_skip[i], r->x);
        for (int u = 0; u < block->units && rows > 0; u++) {
            residual_unit(r, &block->unit[u], s->unit_tail[i][u], x, rows);
        }
    }
    if (rows > 0) {
        const int64_t past = past_rows(&m->conv_out), c = m->conv_out.in;
        op->snake_beta(b, x, m->snake_out.a, m->snake_out.inv_b, rows, c, r->y + past * c);
        join_past(b, r->y, s->out_tail, past, rows, c);
        op->conv1d(b, &m->conv_out.w, m->conv_out.bias, r->y, rows, 1, r->z);
    }
    return rows;
}

omni_status code2wav_push(code2wav_runner *r, code2wav_stream *s, const int32_t *codes, int64_t frames, float *samples, int64_t *n, omni_error *err) {
    const code2wav *m = r->m;
    const int64_t most = r->max_frames < s->max_frames ? r->max_frames : s->max_frames;
    for (int64_t i = 0; i < frames * m->groups; i++) {
        if (codes[i] < 0 || codes[i] >= m->codebook) {
            return fail(err, OMNI_ERR_ARGUMENT, "code2wav: code %d at frame %lld, group %lld; codes lie in 0 to %lld", codes[i],
                        (long long)(i / m->groups), (long long)(i % m->groups), (long long)m->codebook - 1);
        }
    }
    *n = 0;
    for (int64_t i = 0; i < frames;) {
        const int64_t rows = frames - i < most ? frames - i : most;
        const int64_t made = run(r, s, codes + i * m->groups, rows);
        r->b->ops->download(r->b, samples + *n, r->z, (size_t)made * sizeof *samples);
        if (find_not_finite(DTYPE_F32, samples + *n, made) >= 0) {
            return fail(err, OMNI_ERR_FORMAT, "code2wav computed NaN or infinite samples: its weights are damaged");
        }
        for (int64_t k = *n; k < *n + made; k++) { /* only now: an infinite sample would become 1 */
            samples[k] = samples[k] < -1 ? -1 : samples[k] > 1 ? 1 : samples[k];
        }
        *n += made;
        i += rows;
    }
    return OMNI_OK;
}
