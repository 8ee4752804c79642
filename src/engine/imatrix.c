/* Importance matrices: the model reads a corpus piece by piece while the backend shows what goes into its matrices. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "convert/imatrix_collect.h"
#include "engine/engine.h"

enum { PIECE_BYTES = 2048, CONTEXT = 8192, ANSWER_TOKENS = 32, ANSWER_FRAMES = 48, CHUNK_SIZE = 512 };
static const size_t TEXT_LIMIT = 256u << 20;

omni_imatrix_params omni_imatrix_params_default(void) {
    return (omni_imatrix_params){.model = omni_model_params_default()};
}

/* Bytes of the next piece: up to a line's end if there is one in the second half, else a space, else a whole character. */
static size_t piece_size(const char *text, size_t left, size_t most) {
    if (left <= most) {
        return left;
    }
    const char breaks[] = {'\n', ' '};
    for (int i = 0; i < 2; i++) {
        for (size_t n = most; n > most / 2; n--) {
            if (text[n - 1] == breaks[i]) {
                return n;
            }
        }
    }
    size_t n = most;
    while (n > most / 2 && ((unsigned char)text[n] & 0xc0) == 0x80) {
        n--;
    }
    return n;
}

typedef struct reading {
    const omni_imatrix_params *p;
    omni_engine *engine;
    omni_conversation *conversation;
    omni_imatrix_result result;
    size_t total; /* pieces */
} reading;

static omni_status tell(const reading *r, omni_error *err) {
    const omni_imatrix_params *p = r->p;
    const bool go_on = !p->progress || p->progress(p->progress_arg, "reading", r->result.pieces, r->total);
    return go_on ? OMNI_OK : fail(err, OMNI_CANCELLED, "stopped; nothing was written");
}

static omni_status read_piece(reading *r, const omni_part *parts, size_t count, omni_error *err) {
    const omni_imatrix_params *p = r->p;
    if (r->result.pieces == 0) {
        TRY(tell(r, err));
    }
    omni_conversation_reset(r->conversation);
    omni_engine_forget(r->engine); /* every row of the corpus is to be seen */
    const omni_message message = {OMNI_USER, parts, count};
    TRY(omni_conversation_add(r->conversation, &message, err));
    omni_generate_params g = omni_generate_params_default();
    g.text.greedy = g.ignore_eos = true;
    g.speak = p->model.talker != NULL;
    g.max_tokens = g.speak ? ANSWER_TOKENS : 1;
    g.max_frames = ANSWER_FRAMES;
    omni_result done = {0};
    TRY(omni_generate(r->engine, r->conversation, &g, &done, err));
    r->result.pieces++;
    r->result.tokens += done.prompt_tokens + done.answer_tokens;
    return tell(r, err);
}

static omni_status read_corpus(reading *r, const char *text, size_t size, size_t piece, omni_error *err) {
    const omni_imatrix_params *p = r->p;
    size_t limit = p->max_pieces > 0 ? (size_t)p->max_pieces : SIZE_MAX, pieces = 0;
    for (size_t at = 0; at < size && pieces < limit; at += piece_size(text + at, size - at, piece)) {
        pieces++;
    }
    r->total = pieces + p->media_count;
    for (size_t at = 0; at < size && pieces > 0; pieces--) {
        size_t n = piece_size(text + at, size - at, piece);
        const omni_part part = {.kind = OMNI_TEXT, .text = text + at, .size = n};
        TRY(read_piece(r, &part, 1, err));
        at += n;
    }
    for (size_t i = 0; i < p->media_count; i++) {
        const omni_part parts[] = {p->media[i], {.kind = OMNI_TEXT, .text = "Describe this in every detail."}};
        TRY(read_piece(r, parts, 2, err));
    }
    return OMNI_OK;
}

static const char *base_name(const char *path) {
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path ? path : "media";
}

omni_status omni_imatrix(const omni_imatrix_params *p, omni_imatrix_result *out, omni_error *err) {
    if (!p || !p->model.model || !p->output || (!p->text && p->media_count == 0)) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_imatrix needs a model, an output and a text or media to read");
    }
    size_t piece = p->piece_bytes ? p->piece_bytes : PIECE_BYTES;
    if (piece < 16 || piece > 1 << 20 || p->model.embeddings_only) {
        return fail(err, OMNI_ERR_ARGUMENT, "pieces of %zu bytes: 16 to 1048576 are possible, and the whole model is needed", piece);
    }
    if ((p->media_count > 0 && !p->media) || p->max_pieces < 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_imatrix: media_count without media, or fewer than 0 pieces");
    }
    char *text = NULL;
    size_t size = 0;
    omni_model *model = NULL;
    reading r = {.p = p};
    imatrix_collector *collector = imatrix_collector_create();
    omni_status status = collector ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory");
    if (status == OMNI_OK && p->text) {
        status = file_read(p->text, TEXT_LIMIT, &text, &size, err);
    }
    if (status == OMNI_OK && size == 0 && p->media_count == 0) {
        status = fail(err, OMNI_ERR_ARGUMENT, "%s: is empty: there is nothing to read", p->text);
    }
    if (status == OMNI_OK) {
        status = file_out_check(p->output, err); /* reading a corpus takes hours */
    }
    if (status == OMNI_OK) {
        status = omni_model_open(&p->model, &model, err);
    }
    if (status == OMNI_OK && !model->b->collect_inputs) {
        status = fail(err, OMNI_ERR_UNSUPPORTED, "importance matrices cannot be made with the backend %s: use the CPU's", model->b->name);
    }
    const input_collector hook = {imatrix_collect, collector};
    if (status == OMNI_OK) {
        omni_conversation_params c = omni_conversation_params_default();
        omni_engine_params e = omni_engine_params_default();
        int64_t most = omni_model_context(model);
        c.context = e.context = most < CONTEXT ? most : CONTEXT;
        status = omni_engine_create(model, &e, &r.engine, err);
        status = status == OMNI_OK ? omni_conversation_create(model, &c, &r.conversation, err) : status;
    }
    if (status == OMNI_OK) {
        model->b->collect_inputs(model->b, &hook);
        status = read_corpus(&r, text, size, piece, err);
        model->b->collect_inputs(model->b, NULL);
    }
    if (status == OMNI_OK) {
        r.result.matrices = imatrix_collected(collector);
        status = imatrix_write(collector, p->output, base_name(p->text), (uint32_t)r.result.pieces, CHUNK_SIZE, err);
    }
    omni_conversation_free(r.conversation);
    omni_engine_destroy(r.engine);
    imatrix_collector_free(collector); /* before the model: its keys are the model's names */
    omni_model_close(model);
    free(text);
    if (out) {
        *out = r.result;
    }
    return status;
}
