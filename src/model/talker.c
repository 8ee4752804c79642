#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "model/talker_model.h"

enum {
    SUPPRESSED = 1024, /* the reference never samples the last 1024 ids of the talker's vocabulary but codec_eos */
    DEFAULT_PROMPT_ROWS = 256,
    DEFAULT_POSITIONS = 8192,
};

talker_sampling talker_sampling_default(void) {
    return (talker_sampling){.temperature = 0.9f, .top_k = 50, .top_p = 1, .repeat_penalty = 1.05f, .residual_top_k = 50, .residual_top_p = 0.8f};
}

/* ------------------------------------------------------------------------------------------------ runner */

static void lay_out(talker_runner *r, arena *a) {
    const talker_config *c = &r->t->c;
    const int64_t rows = r->max_rows, width = c->decoder.width;
    r->in = arena_take(a, rows, c->thinker_width, 4);
    r->mid = arena_take(a, rows, r->t->text.inner > r->t->hidden.inner ? r->t->text.inner : r->t->hidden.inner, 4);
    r->packed = arena_take(a, rows, width, 4);
    r->codec = arena_take(a, rows, width, 4);
    r->sum = arena_take(a, r->max_sequences, width, 4);
    r->ids = arena_take(a, ROW_IDS * rows, 1, 4);
    r->codes = arena_take(a, r->max_sequences, c->groups, 4);
}

static omni_status runner_fill(talker_runner *r, const talker_runner_params *params, int64_t positions, omni_error *err) {
    const talker *t = r->t;
    const decoder_config *d = &t->c.decoder;
    const size_t rows = (size_t)r->max_rows, sequences = (size_t)r->max_sequences;
    TRY(kv_pool_create(t->b, params->kv_type, params->kv_type, d->layers, d->kv_heads, d->head_dim, positions, &r->pool, err));
    r->table_room = kv_pool_cache(r->pool)->blocks;
    r->host_ids = malloc(ROW_IDS * rows * sizeof *r->host_ids);
    r->host_codes = malloc(sequences * (size_t)t->c.groups * sizeof *r->host_codes);
    r->rows = malloc(rows * sizeof *r->rows);
    r->made = malloc(rows * sizeof *r->made);
    r->outputs = malloc(rows * sizeof *r->outputs);
    r->slots = malloc(rows * sizeof *r->slots);
    r->active = malloc(sequences * sizeof *r->active);
    r->table = malloc((size_t)r->table_room * sizeof *r->table);
    r->samples = malloc(sequences * sizeof *r->samples);
    if (!r->host_ids || !r->host_codes || !r->rows || !r->made || !r->outputs || !r->slots || !r->active || !r->table || !r->samples) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu rows of the talker", rows);
    }
    arena count = {0};
    lay_out(r, &count);
    TRY(t->b->ops->alloc(t->b, count.used, &r->memory, err));
    lay_out(r, &(arena){.base = r->memory});
    TRY(decoder_create(t->b, d, &t->weights, r->max_rows, r->max_sequences, r->table_room, &r->d, err));
    r->x = decoder_input(r->d);
    return predictor_runner_create(&t->predictor, r->max_sequences, &r->predictor, err);
}

omni_status talker_runner_create(const talker *t, const talker_runner_params *params, talker_runner **out, omni_error *err) {
    *out = NULL;
    const int64_t positions = params->positions                         ? params->positions
                              : t->c.context_length < DEFAULT_POSITIONS ? t->c.context_length
                                                                        : DEFAULT_POSITIONS;
    const int64_t prompt_rows = params->prompt_rows ? params->prompt_rows : DEFAULT_PROMPT_ROWS;
    if (params->max_sequences < 1 || params->max_sequences > 4096 || positions < 2 * TALKER_OPENING || params->each < 0 ||
        positions > INT32_MAX / 2 || prompt_rows < 1 || prompt_rows > 1 << 16) {
        return fail(err, OMNI_ERR_ARGUMENT, "talker: %d sequences, %lld positions, %lld prompt rows at once; out of range", params->max_sequences,
                    (long long)positions, (long long)prompt_rows);
    }
    talker_runner *r = calloc(1, sizeof *r);
    if (!r) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for a talker");
    }
    r->t = t;
    r->max_sequences = params->max_sequences;
    r->max_rows = prompt_rows > params->max_sequences ? prompt_rows : params->max_sequences;
    const int64_t each = params->each && params->each < positions ? params->each : positions;
    r->max_positions = each < t->c.context_length ? each : t->c.context_length;
    omni_status s = runner_fill(r, params, positions, err);
    if (s != OMNI_OK) {
        talker_runner_destroy(r);
        return s;
    }
    *out = r;
    return OMNI_OK;
}

void talker_runner_destroy(talker_runner *r) {
    if (r) {
        predictor_runner_destroy(r->predictor);
        decoder_destroy(r->d);
        kv_pool_destroy(r->pool);
        if (r->memory) {
            r->t->b->ops->release(r->t->b, r->memory);
        }
        free(r->host_ids);
        free(r->host_codes);
        free(r->rows);
        free(r->made);
        free(r->outputs);
        free(r->slots);
        free(r->active);
        free(r->table);
        free(r->samples);
        free(r);
    }
}

/* ------------------------------------------------------------------------------------------------ rows */

static void project(const talker_runner *r, const talker_projection *p, const float *in, int64_t rows, float *out) {
    backend *b = r->t->b;
    const ops *o = b->ops;
    if (rows > 0) {
        o->linear(b, &p->fc1, p->bias1, in, rows, r->t->c.thinker_width, r->mid, p->inner);
        o->activate(b, ACT_SILU, r->mid, rows * p->inner, r->mid);
        o->linear(b, &p->fc2, p->bias2, r->mid, rows, p->inner, out, r->t->c.decoder.width);
    }
}

void talker_make_rows(talker_runner *r, const talker_row *rows, int64_t n, const float *media_hidden) {
    const talker *t = r->t;
    backend *b = t->b;
    const ops *o = b->ops;
    const int64_t in_width = t->c.thinker_width, width = t->c.decoder.width;
    int64_t texts = 0, media = 0, codecs = 0;
    for (int64_t i = 0; i < n; i++) {
        texts += rows[i].text >= 0;
        codecs += rows[i].codec >= 0;
    }
    /* Ids of texts, rows of media, where each row is among those two, ids of codecs and their rows: one list, one upload. */
    const int64_t place = n, codec_id = place + n, codec_row = codec_id + codecs;
    int32_t *host = r->host_ids;
    for (int64_t i = 0, text = 0, codec = 0; i < n; i++) {
        const bool is_text = rows[i].text >= 0;
        const int64_t at = is_text ? text++ : texts + media++;
        host[at] = is_text ? rows[i].text : rows[i].media;
        host[place + i] = (int32_t)at;
        if (rows[i].codec >= 0) {
            host[codec_id + codec] = rows[i].codec;
            host[codec_row + codec++] = (int32_t)i;
        }
    }
    o->upload(b, r->ids, host, (size_t)(codec_row + codecs) * sizeof *host);
    o->embed(b, &t->thinker_embd, r->ids, texts, r->in);
    if (media == 0) {
        project(r, &t->text, r->in, texts, r->x);
    } else {
        o->gather_rows(b, media_hidden, r->ids + texts, media, in_width, r->in + texts * in_width);
        project(r, &t->text, r->in, texts, r->packed);
        project(r, &t->hidden, r->in + texts * in_width, media, r->packed + texts * width);
        o->gather_rows(b, r->packed, r->ids + place, n, width, r->x);
    }
    if (codecs > 0) {
        o->embed(b, &t->weights.token_embd, r->ids + codec_id, codecs, r->codec);
        o->add_to_rows(b, r->codec, r->ids + codec_row, codecs, width, r->x);
    }
}

/* ------------------------------------------------------------------------------------------------ steps */

/* The text of the sequence's next row and whether there is one; what is taken is only marked by take_text. */
static bool next_text(const talker_seq *s, int32_t *id) {
    const talker_config *c = &s->r->t->c;
    if (s->text_head < s->text_end) {
        *id = s->text[s->text_head];
        return true;
    }
    *id = s->eos_sent ? c->tts_pad : c->tts_eos;
    return s->text_finished && s->state == SEQ_SPEAKING;
}

static void take_text(talker_seq *s) {
    if (s->text_head < s->text_end) {
        s->text_head++;
    } else {
        s->eos_sent = true;
    }
}

/* Gives a sequence its row number k of the pass, or says why it has none. */
static talker_event prepare(talker_runner *r, talker_seq *s, int64_t k, int64_t *table_size) {
    int32_t text;
    if (s->state == SEQ_ENDED) {
        return TALKER_END;
    }
    if (!next_text(s, &text)) {
        if (!s->text_finished) {
            return TALKER_NEEDS_TEXT;
        }
        s->state = SEQ_ENDED; /* not a single token: nothing to say */
        return TALKER_END;
    }
    if (s->kv.length >= r->max_positions) {
        return TALKER_FULL;
    }
    if (kv_seq_extend(&s->kv, 1, &r->slots[k], NULL) != OMNI_OK) {
        return TALKER_NO_MEMORY;
    }
    take_text(s);
    const int32_t codec = s->state == SEQ_OPENING ? r->t->c.codec_bos : -1;
    r->made[k] = (talker_row){.text = text, .codec = codec};
    const int64_t at = s->kv.length - 1;
    const float position = (float)at + s->delta;
    r->rows[k] = (decoder_row){
        .token = -1,
        .embedding = r->x + k * r->t->c.decoder.width,
        .position = {position, position, position},
        .slot = r->slots[k],
        .at = {.table = (int32_t)*table_size, .first = 0, .end = (int32_t)(at + 1)},
    };
    memcpy(r->table + *table_size, s->kv.blocks, (size_t)s->kv.block_count * sizeof *r->table);
    *table_size += s->kv.block_count;
    r->outputs[k] = (int32_t)k;
    return TALKER_FRAME;
}

static sample_row code0_sampling(const talker_seq *s) {
    const talker_config *c = &s->r->t->c;
    const int64_t from = c->decoder.vocab - SUPPRESSED;
    return (sample_row){
        .greedy = s->sampling.greedy,
        .temperature = s->sampling.temperature,
        .top_k = s->sampling.top_k,
        .top_p = s->sampling.top_p,
        .min_p = s->sampling.min_p,
        .repeat_penalty = s->sampling.repeat_penalty,
        .frequency_penalty = s->sampling.frequency_penalty,
        .presence_penalty = s->sampling.presence_penalty,
        .history = s->history,
        .suppress_from = from > 0 ? (int32_t)from : 0,
        .suppress_keep = c->codec_eos,
        .seed = s->sampling.seed,
        .stage = SAMPLE_TALKER,
        .sequence = s->sampling.sequence,
        .step = (uint32_t)s->frames,
    };
}

static sample_row residual_sampling(const talker_seq *s) {
    return (sample_row){
        .greedy = s->sampling.greedy,
        .temperature = 1,
        .top_k = s->sampling.residual_top_k,
        .top_p = s->sampling.residual_top_p,
        .repeat_penalty = 1,
        .suppress_from = INT32_MAX,
        .suppress_keep = -1,
        .seed = s->sampling.seed,
        .stage = SAMPLE_PREDICTOR,
        .sequence = s->sampling.sequence,
        .step = (uint32_t)s->frames,
        .code = 1,
    };
}

/* One row for each of the k sequences in active, then a frame of codes in r->codes; no host round trip but the last read. */
static omni_status run_step(talker_runner *r, talker_seq *const *seqs, int64_t k, int64_t table_size, omni_error *err) {
    const talker *t = r->t;
    backend *b = t->b;
    const ops *o = b->ops;
    const int64_t width = t->c.decoder.width;
    talker_make_rows(r, r->made, k, NULL);
    for (int64_t i = 0; i < k; i++) {
        const talker_seq *s = seqs[r->active[i]];
        if (s->state == SEQ_SPEAKING) {
            o->add(b, s->sum, width, r->x + i * width);
        }
    }
    const decoder_batch batch = {
        .rows = r->rows,
        .n = k,
        .block_table = r->table,
        .table_size = table_size,
        .outputs = r->outputs,
        .output_count = k,
        .logits = true,
    };
    TRY(decoder_forward(r->d, kv_pool_cache(r->pool), &batch, err));
    for (int64_t i = 0; i < k; i++) {
        r->samples[i] = code0_sampling(seqs[r->active[i]]);
    }
    o->sample(b, decoder_logits(r->d), k, t->c.decoder.vocab, r->samples, r->codes);
    for (int64_t i = 0; i < k; i++) {
        r->samples[i] = residual_sampling(seqs[r->active[i]]);
    }
    TRY(predictor_run(r->predictor, k, decoder_hidden(r->d), &t->weights.token_embd, r->codes, r->sum, r->samples, err));
    for (int64_t i = 0; i < k; i++) {
        o->copy(b, seqs[r->active[i]]->sum, r->sum + i * width, (size_t)width * sizeof(float));
    }
    o->download(b, r->host_codes, r->codes, (size_t)(k * t->c.groups) * sizeof *r->host_codes);
    return OMNI_OK;
}

omni_status talker_step(talker_runner *r, talker_seq *const *seqs, int n, talker_event *events, int32_t *codes, omni_error *err) {
    const talker_config *c = &r->t->c;
    if (n < 1 || n > r->max_sequences) {
        return fail(err, OMNI_ERR_LIMIT, "talker: %d sequences in a step; the runner was made for %d", n, r->max_sequences);
    }
    for (int i = 0; i < n; i++) {
        if (seqs[i]->r != r || seqs[i]->state == SEQ_IDLE || talker_unread(seqs[i]) > 0) {
            return fail(err, OMNI_ERR_ARGUMENT, "talker: sequence %d of the step was not begun with this runner, or its prompt has not been read", i);
        }
        for (int k = 0; k < i; k++) {
            if (seqs[k] == seqs[i]) {
                return fail(err, OMNI_ERR_ARGUMENT, "talker: sequences %d and %d of the step are the same one", k, i);
            }
        }
    }
    int64_t k = 0, table_size = 0;
    for (int i = 0; i < n; i++) {
        events[i] = prepare(r, seqs[i], k, &table_size);
        if (events[i] == TALKER_FRAME) {
            r->active[k++] = i;
        }
    }
    if (k == 0) {
        return OMNI_OK;
    }
    TRY(run_step(r, seqs, k, table_size, err));
    for (int64_t i = 0; i < k; i++) {
        const int at = r->active[i];
        talker_seq *s = seqs[at];
        for (int32_t g = 0; g < c->groups; g++) {
            if (r->host_codes[g * k + i] < 0) {
                return fail(err, OMNI_ERR_FORMAT, "the %s computed NaN or infinite values (frame %lld): its weights are damaged",
                            g == 0 ? "talker" : "code predictor", (long long)s->frames);
            }
        }
        /* The residual codes sampled after codec_eos are of no use, but finding it out earlier would cost a read in every frame. */
        if (r->host_codes[i] == c->codec_eos) {
            s->state = SEQ_ENDED;
            events[at] = TALKER_END;
            continue;
        }
        for (int32_t g = 0; g < c->groups; g++) {
            codes[(int64_t)at * c->groups + g] = r->host_codes[g * k + i];
        }
        s->state = SEQ_SPEAKING;
        s->frames++;
    }
    return OMNI_OK;
}
