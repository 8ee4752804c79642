/* Rows into the key/value cache: what is there already of a prompt is not read again. */
#include <string.h>

#include "engine/generation.h"

static bool same_row(const prompt_row *a, const prompt_row *b) {
    return a->id == b->id && a->class == b->class && a->media == b->media && a->media_row == b->media_row &&
           memcmp(a->position, b->position, sizeof a->position) == 0;
}

/* Rows of the prompt that are in the cache already. The last row is always read: its logits are wanted. */
static int64_t known_rows(const omni_session *s, const prompt *p) {
    int64_t n = 0;
    while (n < s->cached_count && n + 1 < p->n && same_row(&s->cached[n], &p->rows[n])) {
        n++;
    }
    return n;
}

static int64_t count_media_rows(const prompt_row *rows, int64_t n) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        count += rows[i].media >= 0;
    }
    return count;
}

/* Room for the hidden states of all media rows of the prompt; those already read keep theirs. */
static omni_status reserve_media_hidden(generation *g, omni_error *err) {
    omni_session *s = g->s;
    int64_t need = count_media_rows(g->c.prompt.rows, g->c.prompt.n), width = g->m->thinker->config.width;
    if (!g->m->talker || need <= s->media_hidden_rows) {
        return OMNI_OK;
    }
    const ops *o = g->m->b->ops;
    float *larger;
    TRY(o->alloc(g->m->b, (size_t)(need * width) * sizeof *larger, (void **)&larger, err));
    if (s->media_hidden) {
        o->copy(g->m->b, larger, s->media_hidden, (size_t)(g->media_rows * width) * sizeof *larger);
        o->release(g->m->b, s->media_hidden);
    }
    s->media_hidden = larger;
    s->media_hidden_rows = need;
    return OMNI_OK;
}

static int capture_layer(const generation *g) {
    return g->m->talker ? talker_get_config(g->m->talker)->accept_hidden_layer : 0;
}

static omni_status run_rows(generation *g, const decoder_row *rows, int64_t n, bool logits, omni_error *err) {
    batch_input input = {&g->s->seq, rows, n, logits};
    batch_options options = {.logits = logits, .capture_layer = capture_layer(g), .deepstack_layers = g->m->thinker->deepstack_layers};
    TRY(batch_run(g->s->batch, &input, 1, &options, err));
    if (g->trace && g->m->talker) {
        int64_t width = g->m->thinker->config.width;
        g->m->b->ops->download(g->m->b, g->row, g->captured, (size_t)(n * width) * sizeof(float));
        trace_append(g->trace, "accept_hidden", g->row, n, width);
    }
    return OMNI_OK;
}

/* Prompt rows [first, first + n): into the cache, hidden states of media rows into media_hidden. */
static omni_status read_chunk(generation *g, int64_t first, int64_t n, omni_error *err) {
    omni_session *s = g->s;
    const prompt *p = &g->c.prompt;
    const int64_t width = g->m->thinker->config.width;
    float *captured = g->trace && g->m->talker ? g->captured : NULL;
    TRY(thinker_rows(g->m->thinker, p, first, n, g->c.inputs, g->c.media_count, captured, s->rows, err));
    for (int64_t i = 0, k = g->media_rows; !captured && g->m->talker && i < n; i++) {
        s->rows[i].captured = p->rows[first + i].media >= 0 ? s->media_hidden + k++ * width : NULL;
    }
    TRY(run_rows(g, s->rows, n, first + n == p->n, err));
    for (int64_t i = 0; i < n; i++) {
        if (p->rows[first + i].media >= 0) {
            if (captured) {
                g->m->b->ops->copy(g->m->b, s->media_hidden + g->media_rows * width, captured + i * width, (size_t)width * sizeof *captured);
            }
            g->media_rows++;
        }
    }
    memcpy(s->cached + first, p->rows + first, (size_t)n * sizeof *s->cached);
    s->cached_count = first + n;
    return OMNI_OK;
}

omni_status prefill(generation *g, omni_result *result, omni_error *err) {
    omni_session *s = g->s;
    const prompt *p = &g->c.prompt;
    int64_t known = g->trace ? 0 : known_rows(s, p); /* a trace holds every row */
    g->media_rows = count_media_rows(p->rows, known);
    TRY(reserve_media_hidden(g, err));
    s->cached_count = known;
    kv_seq_truncate(&s->seq, known);
    result->prompt_tokens = p->n;
    result->cached_tokens = known;
    for (int64_t first = known; first < p->n;) {
        int64_t n = p->n - first < s->params.batch ? p->n - first : s->params.batch;
        TRY(read_chunk(g, first, n, err));
        first += n;
        receiver_progress(&g->receiver, "reading", (uint64_t)(first - known), (uint64_t)(p->n - known));
        TRY(receiver_check(&g->receiver, err));
    }
    memcpy(g->position, p->rows[p->n - 1].position, sizeof g->position);
    return OMNI_OK;
}

omni_status decode_step(generation *g, int32_t id, omni_error *err) {
    omni_session *s = g->s;
    decoder_row row = thinker_next_row(id, g->position);
    row.captured = g->trace && g->m->talker ? g->captured : NULL;
    TRY(run_rows(g, &row, 1, true, err));
    s->cached[s->cached_count++] =
        (prompt_row){.id = id, .class = ROW_TEXT, .media = -1, .position = {g->position[0], g->position[1], g->position[2]}};
    return OMNI_OK;
}
