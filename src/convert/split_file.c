#include "convert/split_file.h"

#include <stdio.h>

#include "gguf/gguf.h"

/* Bytes written at once: what is mapped of the input at a time, and how often progress is told. */
enum { PIECE = 4 << 20, ORDINARY_TENSORS = 128 };

static omni_status copy_tensor(const gguf *g, const tensor *t, size_t target, gguf_writer *w, const split_options *o, uint64_t *done, uint64_t total,
                               omni_error *err) {
    for (size_t at = 0; at < t->size;) {
        tensor piece = *t;
        piece.data = (const uint8_t *)t->data + at;
        piece.size = t->size - at < PIECE ? t->size - at : PIECE;
        TRY(gguf_writer_data(w, target, at, piece.data, piece.size, err));
        gguf_forget(g, &piece);
        at += piece.size;
        *done += piece.size;
        if (o->progress && !o->progress(o->arg, *done, total)) {
            return fail(err, OMNI_CANCELLED, "stopped; nothing was written");
        }
    }
    return OMNI_OK;
}

/* Declares everything, then copies it. */
static omni_status copy(const gguf *g, gguf_writer *w, const split_options *o, omni_error *err) {
    const size_t n = gguf_tensor_count(g);
    uint64_t total = 0, done = 0;
    for (size_t i = 0; i < gguf_key_count(g); i++) {
        if (!gguf_name_begins(gguf_key_name(g, i), "split.")) {
            gguf_put_copy(w, g, i);
        }
    }
    for (size_t i = 0; i < n; i++) {
        const tensor *t = gguf_tensor_at(g, i);
        gguf_put_tensor(w, t->name, t->type, t->n_dims, t->ne);
        total += t->size;
    }
    TRY(gguf_writer_begin(w, err));
    for (size_t i = 0; i < n; i++) {
        TRY(copy_tensor(g, gguf_tensor_at(g, i), i, w, o, &done, total, err));
    }
    return OMNI_OK;
}

static omni_status copy_and_finish(const gguf *g, gguf_writer *w, const split_options *o, split_result *result, omni_error *err) {
    omni_status status = copy(g, w, o, err);
    if (status != OMNI_OK) {
        gguf_writer_abandon(w);
        return status;
    }
    const split_result written = {.parts = gguf_writer_part_count(w), .tensors = gguf_tensor_count(g), .bytes = gguf_writer_bytes(w)};
    *result = written;
    snprintf(result->first, sizeof result->first, "%s", gguf_writer_part_path(w, 0));
    status = gguf_writer_finish(w, err);
    if (status != OMNI_OK) {
        *result = (split_result){0};
    }
    return status;
}

omni_status split_file(const split_options *o, split_result *result, omni_error *err) {
    split_result unused;
    result = result ? result : &unused;
    *result = (split_result){0};
    if (!o->input || !o->output || !*o->output) {
        return fail(err, OMNI_ERR_ARGUMENT, "an input file and what the names of the parts begin with are needed");
    }
    gguf *g;
    gguf_writer *w;
    TRY(gguf_open(o->input, &g, err));
    const gguf_split split = {
        .max_bytes = o->max_bytes, .max_tensors = o->max_bytes || o->max_tensors ? o->max_tensors : ORDINARY_TENSORS, .input = g};
    omni_status status = gguf_writer_create_split(o->output, &split, &w, err);
    if (status == OMNI_OK) {
        status = copy_and_finish(g, w, o, result, err);
    }
    gguf_close(g);
    return status;
}

static omni_status check_merge(const gguf *g, const char *output, omni_error *err) {
    if (gguf_find(g, "split.count") < 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: is no part of a model (it has no key split.count): there is nothing to merge", gguf_path(g));
    }
    return gguf_check_output(g, output, err);
}

omni_status merge_file(const split_options *o, split_result *result, omni_error *err) {
    split_result unused;
    result = result ? result : &unused;
    *result = (split_result){0};
    if (!o->input || !o->output) {
        return fail(err, OMNI_ERR_ARGUMENT, "an input file and an output file are needed");
    }
    gguf *g;
    gguf_writer *w;
    TRY(gguf_open(o->input, &g, err));
    omni_status status = check_merge(g, o->output, err);
    if (status == OMNI_OK) {
        status = gguf_writer_create(o->output, &w, err);
    }
    if (status == OMNI_OK) {
        status = copy_and_finish(g, w, o, result, err);
    }
    gguf_close(g);
    return status;
}
