/* A talker sequence before its first step: the answer's text that waits, and the rows that the prompt becomes. */
#include <stdlib.h>
#include <string.h>

#include "model/talker_model.h"

enum { ANSWER_HEAD = 3 }; /* <|im_start|> assistant newline */

/* ------------------------------------------------------------------------------------------------ a sequence's text */

omni_status talker_push_text(talker_seq *s, const int32_t *ids, int64_t n, omni_error *err) {
    const int64_t vocab = s->r->t->thinker_embd.ne[1];
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab) {
            return fail(err, OMNI_ERR_ARGUMENT, "talker: token %d is outside the thinker's vocabulary of %lld", ids[i], (long long)vocab);
        }
    }
    if (s->text_finished) {
        return fail(err, OMNI_ERR_ARGUMENT, "talker: text after the text was finished");
    }
    if (n > s->text_room - s->text_end && s->text_head > 0) {
        s->text_end -= s->text_head;
        memmove(s->text, s->text + s->text_head, (size_t)s->text_end * sizeof *s->text);
        s->text_head = 0;
    }
    if (n > s->text_room - s->text_end) {
        const int64_t room = 2 * (s->text_end + n) + 64;
        int32_t *text = realloc(s->text, (size_t)room * sizeof *text);
        if (!text) {
            return fail(err, OMNI_ERR_MEMORY, "talker: out of memory for %lld tokens of text", (long long)room);
        }
        s->text = text;
        s->text_room = room;
    }
    if (n > 0) {
        memcpy(s->text + s->text_end, ids, (size_t)n * sizeof *ids);
        s->text_end += n;
    }
    return OMNI_OK;
}

void talker_finish_text(talker_seq *s) {
    s->text_finished = true;
}

void talker_end(talker_seq *s) {
    s->state = SEQ_IDLE;
    kv_seq_truncate(&s->kv, 0);
    free(s->plan);
    s->plan = NULL;
    s->planned = 0;
}

int64_t talker_pending_text(const talker_seq *s) {
    return s->text_end - s->text_head;
}

/* ------------------------------------------------------------------------------------------------ prompt */

omni_status talker_seq_create(talker_runner *r, talker_seq **out, omni_error *err) {
    *out = NULL;
    backend *b = r->t->b;
    talker_seq *s = calloc(1, sizeof *s);
    if (!s) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for an utterance");
    }
    s->r = r;
    void *sum = NULL, *history = NULL;
    omni_status status = kv_seq_init(r->pool, r->max_positions, &s->kv, err);
    if (status == OMNI_OK) {
        status = b->ops->alloc(b, (size_t)r->t->c.decoder.width * sizeof(float), &sum, err);
        s->sum = sum;
    }
    if (status == OMNI_OK) {
        status = b->ops->alloc(b, (size_t)r->t->c.decoder.vocab * sizeof *s->history, &history, err);
        s->history = history;
    }
    if (status != OMNI_OK) {
        talker_seq_destroy(s);
        return status;
    }
    *out = s;
    return OMNI_OK;
}

void talker_seq_destroy(talker_seq *s) {
    if (s) {
        backend *b = s->r->t->b;
        kv_seq_release(&s->kv);
        if (s->sum) {
            b->ops->release(b, s->sum);
        }
        if (s->history) {
            b->ops->release(b, s->history);
        }
        free(s->text);
        free(s->positions);
        free(s->plan);
        free(s);
    }
}

static bool is_media(const prompt_row *row) {
    return row->class == ROW_IMAGE || row->class == ROW_VIDEO || row->class == ROW_AUDIO;
}

/* The talker's rows of a prompt, the last row of the opening without its text; media numbers of the rows that were kept, in the
 * order of their first appearance. */
typedef struct prompt_plan {
    talker_row *rows; /* [users + TALKER_OPENING] */
    uint8_t *classes; /* the same */
    int32_t *order;   /* [media_count] */
    int32_t media;    /* kept */
    int64_t users;
    int64_t answer; /* index of the answer's <|im_start|> in the prompt */
} prompt_plan;

static void plan_free(prompt_plan *p) {
    free(p->rows);
    free(p->classes);
    free(p->order);
}

static omni_status check_prompt(const talker *t, const talker_prompt *in, prompt_plan *p, omni_error *err) {
    const talker_config *c = &t->c;
    p->answer = -1;
    for (int64_t i = 0; i < in->n; i++) {
        const prompt_row *row = &in->rows[i];
        if (row->id < 0 || row->id >= t->thinker_embd.ne[1]) {
            return fail(err, OMNI_ERR_ARGUMENT, "talker: token %d of the prompt (row %lld) is outside the thinker's vocabulary of %lld", row->id,
                        (long long)i, (long long)t->thinker_embd.ne[1]);
        }
        if (is_media(row) && (!in->media_hidden || row->media < 0 || row->media >= in->media_count)) {
            return fail(err, OMNI_ERR_ARGUMENT, "talker: row %lld of the prompt is of media %d, but %d media%s are given", (long long)i, row->media,
                        in->media_count, in->media_hidden ? "" : " without hidden states");
        }
        if (row->id == c->im_start && i + 1 < in->n && in->rows[i + 1].id == c->assistant) {
            p->answer = i;
        }
    }
    if (p->answer < 0 || in->n - p->answer < ANSWER_HEAD) {
        return fail(err, OMNI_ERR_ARGUMENT, "talker: the prompt does not end with the opening of an answer (tokens %d %d and a newline)", c->im_start,
                    c->assistant);
    }
    return OMNI_OK;
}

/* Keeps the rows of user turns. A row belongs to the turn that the last <|im_start|> before it opens. */
static omni_status plan_make(const talker *t, const talker_prompt *in, size_t voice, prompt_plan *p, omni_error *err) {
    const talker_config *c = &t->c;
    TRY(check_prompt(t, in, p, err));
    p->rows = malloc((size_t)(in->n + TALKER_OPENING) * sizeof *p->rows);
    p->classes = malloc((size_t)(in->n + TALKER_OPENING));
    p->order = malloc((size_t)(in->media_count + 1) * sizeof *p->order);
    if (!p->rows || !p->classes || !p->order) {
        return fail(err, OMNI_ERR_MEMORY, "talker: out of memory for a prompt of %lld rows", (long long)in->n);
    }
    int32_t hidden_row = 0, last_media = -1;
    int64_t opened = 0, n = 0;
    for (int64_t i = 0; i < in->n; i++) {
        const prompt_row *row = &in->rows[i];
        const bool media = is_media(row);
        if (row->id == c->im_start) {
            opened = i;
        }
        const int64_t role = opened + 1 < in->n ? opened + 1 : in->n - 1;
        if (in->rows[role].id == c->user) {
            const int32_t hidden = in->media_hidden_row && media ? in->media_hidden_row[hidden_row] : hidden_row;
            p->rows[n] = media ? (talker_row){.text = -1, .media = hidden, .codec = -1} : (talker_row){.text = row->id, .codec = -1};
            p->classes[n++] = row->class;
            if (media && row->media != last_media) { /* a media's rows lie together, so a change is a new one */
                last_media = row->media;
                if (p->media == in->media_count) {
                    return fail(err, OMNI_ERR_ARGUMENT, "talker: row %lld of the prompt returns to media %d", (long long)i, row->media);
                }
                p->order[p->media++] = row->media;
            }
        }
        hidden_row += media;
    }
    p->users = n;
    const prompt_row *head = &in->rows[p->answer];
    const int32_t text[TALKER_OPENING] = {head[0].id, head[1].id, head[2].id, c->tts_pad, c->tts_pad, c->tts_pad, c->tts_pad, c->tts_bos, c->tts_pad};
    const int32_t codec[TALKER_OPENING] = {
        -1, -1, -1, c->codec_nothink, c->codec_think_bos, c->codec_think_eos, t->voice_ids[voice], c->codec_pad, c->codec_bos};
    for (int i = 0; i < TALKER_OPENING; i++) {
        p->rows[n] = (talker_row){.text = text[i], .codec = codec[i]};
        p->classes[n++] = ROW_TEXT;
    }
    return OMNI_OK;
}

/* As the reference's talker calls get_rope_index: on its own rows, without word of sound inside videos. */
static omni_status plan_positions(talker_seq *s, const talker_prompt *in, const prompt_plan *p, omni_error *err) {
    const int64_t n = p->users + TALKER_OPENING;
    float(*positions)[3] = realloc(s->positions, (size_t)n * sizeof *positions);
    if (!positions) {
        return fail(err, OMNI_ERR_MEMORY, "talker: out of memory for a prompt of %lld rows", (long long)n);
    }
    s->positions = positions;
    s->prompt_rows = n;
    position_lists lists;
    TRY(position_lists_make(in->media, p->order, p->media, &lists, err));
    lists.media.audio_in_video = false;
    omni_status status = positions_compute(&s->r->t->c.markup, p->classes, n, &lists.media, s->positions, &s->delta, err);
    position_lists_free(&lists);
    return status == OMNI_OK ? status : fail_in(err, status, "talker");
}

/* A pass over n rows of one sequence that only fills the cache. */
static omni_status prompt_pass(talker_seq *s, int64_t first, int64_t n, omni_error *err) {
    talker_runner *r = s->r;
    TRY(kv_seq_extend(&s->kv, n, r->slots, err));
    for (int64_t i = 0; i < n; i++) {
        const float *position = s->positions[first + i];
        r->rows[i] = (decoder_row){
            .token = -1,
            .embedding = r->x + i * r->t->c.decoder.width,
            .position = {position[0], position[1], position[2]},
            .slot = r->slots[i],
            .at = {.table = 0, .first = 0, .end = (int32_t)(first + i + 1)},
        };
    }
    const decoder_batch batch = {.rows = r->rows, .n = n, .block_table = s->kv.blocks, .table_size = s->kv.block_count};
    return decoder_forward(r->d, kv_pool_cache(r->pool), &batch, err);
}

static omni_status begin(talker_seq *s, const talker_prompt *in, size_t voice, prompt_plan *p, omni_error *err) {
    talker_runner *r = s->r;
    TRY(plan_make(r->t, in, voice, p, err));
    TRY(plan_positions(s, in, p, err));
    const int64_t rows = p->users + TALKER_OPENING - 1;
    if (rows >= r->max_positions) {
        return fail(err, OMNI_ERR_LIMIT, "talker: the user's turns need %lld positions, the talker's context has %lld", (long long)rows + 1,
                    (long long)r->max_positions);
    }
    s->plan = p->rows;
    p->rows = NULL;
    s->planned = rows;
    s->media_hidden = in->media_hidden;
    const int64_t head = p->answer + ANSWER_HEAD;
    for (int64_t i = head; i < in->n; i++) {
        TRY(talker_push_text(s, &in->rows[i].id, 1, err));
    }
    return OMNI_OK;
}

omni_status talker_begin(talker_seq *s, const talker_prompt *in, size_t voice, const talker_sampling *sampling, omni_error *err) {
    const talker *t = s->r->t;
    talker_end(s);
    s->sampling = *sampling;
    s->frames = 0;
    s->text_head = s->text_end = 0;
    s->text_finished = s->eos_sent = false;
    if (voice >= t->voice_count) {
        return fail(err, OMNI_ERR_ARGUMENT, "talker: voice number %zu of %zu", voice, t->voice_count);
    }
    uint16_t *none = calloc((size_t)t->c.decoder.vocab, sizeof *none);
    if (!none) {
        return fail(err, OMNI_ERR_MEMORY, "talker: out of memory");
    }
    t->b->ops->upload(t->b, s->history, none, (size_t)t->c.decoder.vocab * sizeof *none);
    free(none);
    prompt_plan plan = {0};
    omni_status status = begin(s, in, voice, &plan, err);
    plan_free(&plan);
    if (status == OMNI_OK) {
        s->state = SEQ_OPENING;
    }
    return status;
}

int64_t talker_unread(const talker_seq *s) {
    return s->state == SEQ_OPENING && s->frames == 0 && s->kv.length < s->planned ? s->planned - s->kv.length : 0;
}

omni_status talker_read(talker_seq *s, int64_t most, omni_error *err) {
    talker_runner *r = s->r;
    for (int64_t left = talker_unread(s) < most ? talker_unread(s) : most, n; left > 0; left -= n) {
        n = left < r->max_rows ? left : r->max_rows;
        talker_make_rows(r, s->plan + s->kv.length, n, s->media_hidden);
        TRY(prompt_pass(s, s->kv.length, n, err));
    }
    return OMNI_OK;
}

const float (*talker_prompt_positions(const talker_seq *s, int64_t *n))[3] {
    *n = s->prompt_rows;
    return (const float(*)[3])s->positions;
}
