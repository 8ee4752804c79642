/* The parts of omni.h that need no model: conversion, description, tokenizer. Sound: api_sound.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "convert/convert.h"
#include "convert/quantize_file.h"
#include "convert/split_file.h"
#include "convert/synth.h"
#include "gguf/describe.h"
#include "gguf/gguf.h"
#include "omni.h"
#include "text/tokenizer.h"

const char *omni_version(void) {
    return OMNI_VERSION;
}

void omni_free(void *memory) {
    free(memory);
}

omni_status omni_describe(const char *path, bool json, char **text, omni_error *err) {
    if (text) {
        *text = NULL;
    }
    if (!path || !text) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_describe needs a path and a place for the text");
    }
    return gguf_describe(path, json, text, err);
}

/* ---- conversion ---- */

omni_convert_params omni_convert_params_default(void) {
    return (omni_convert_params){0};
}

typedef struct conversion {
    const omni_convert_params *params;
    bool cancelled;
} conversion;

static void show_conversion(void *arg, uint64_t done, uint64_t total) {
    conversion *c = arg;
    if (c->params->progress && !c->params->progress(c->params->progress_arg, "converting", done, total)) {
        c->cancelled = true;
    }
}

static bool conversion_cancelled(void *arg) {
    return ((const conversion *)arg)->cancelled;
}

omni_status omni_convert(const omni_convert_params *p, omni_converted *out, omni_error *err) {
    if (!p || !p->checkpoint || !p->out_dir) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_convert needs checkpoint and out_dir");
    }
    if (p->parts & ~(unsigned)OMNI_PART_ALL) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_convert: parts 0x%x: the known ones are 0x%x", p->parts, OMNI_PART_ALL);
    }
    conversion c = {p, false};
    convert_options options = {.checkpoint_dir = p->checkpoint,
                               .out_dir = p->out_dir,
                               .name = p->name,
                               .type = p->type,
                               .imatrix = p->imatrix,
                               .split_max_size = p->split_max_size,
                               .parts = p->parts,
                               .threads = p->threads,
                               .progress = show_conversion,
                               .cancelled = conversion_cancelled,
                               .arg = &c};
    convert_result result = {0};
    omni_status status = convert_checkpoint(&options, &result, err);
    if (out) {
        *out = (omni_converted){.count = result.count, .has_talker = !result.no_talker, .important = result.important};
        for (size_t i = 0; i < result.count; i++) {
            snprintf(out->path[i], sizeof out->path[i], "%s", result.path[i]);
            out->bytes[i] = result.bytes[i];
            out->split[i] = result.split[i];
        }
    }
    return status;
}

/* ---- quantisation ---- */

omni_quantize_params omni_quantize_params_default(void) {
    return (omni_quantize_params){0};
}

static bool show_quantization(void *arg, uint64_t done, uint64_t total) {
    const omni_quantize_params *p = arg;
    return !p->progress || p->progress(p->progress_arg, "quantising", done, total);
}

omni_status omni_quantize(const omni_quantize_params *p, omni_quantized *out, omni_error *err) {
    if (!p || !p->input || !p->output || !p->type) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_quantize needs input, output and type");
    }
    omni_quantize_params copy = *p;
    const quantize_options options = {.input = p->input,
                                      .output = p->output,
                                      .type = p->type,
                                      .imatrix = p->imatrix,
                                      .allow_requantize = p->allow_requantize,
                                      .threads = p->threads,
                                      .progress = show_quantization,
                                      .arg = &copy};
    quantize_result result;
    omni_status status = quantize_file(&options, &result, err);
    if (out) {
        *out = (omni_quantized){result.bytes_before, result.bytes_after, result.tensors, result.changed, result.important};
    }
    return status;
}

/* ---- models in parts ---- */

omni_split_params omni_split_params_default(void) {
    return (omni_split_params){0};
}

static bool show_split(void *arg, uint64_t done, uint64_t total) {
    const omni_split_params *p = arg;
    return !p->progress || p->progress(p->progress_arg, "copying", done, total);
}

static omni_status split_or_merge(omni_status (*run)(const split_options *, split_result *, omni_error *), const omni_split_params *p,
                                  omni_split_result *out, omni_error *err) {
    omni_split_params copy = *p;
    const split_options options = {
        .input = p->input, .output = p->output, .max_bytes = p->max_size, .max_tensors = p->max_tensors, .progress = show_split, .arg = &copy};
    split_result result;
    omni_status status = run(&options, &result, err);
    if (out) {
        *out = (omni_split_result){.parts = result.parts, .tensors = result.tensors, .bytes = result.bytes};
        snprintf(out->first, sizeof out->first, "%s", result.first);
    }
    return status;
}

omni_status omni_split(const omni_split_params *p, omni_split_result *out, omni_error *err) {
    if (!p || !p->input || !p->output) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_split needs input and output");
    }
    return split_or_merge(split_file, p, out, err);
}

omni_status omni_merge(const omni_split_params *p, omni_split_result *out, omni_error *err) {
    if (!p || !p->input || !p->output) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_merge needs input and output");
    }
    return split_or_merge(merge_file, p, out, err);
}

/* ---- random files ---- */

omni_synth_params omni_synth_params_default(void) {
    return (omni_synth_params){0};
}

static bool show_synth(void *arg, uint64_t done, uint64_t total) {
    const omni_synth_params *p = arg;
    return !p->progress || p->progress(p->progress_arg, "writing", done, total);
}

omni_status omni_synth(const omni_synth_params *p, uint64_t *bytes, omni_error *err) {
    if (!p || !p->path) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_synth needs a path");
    }
    if (p->part != 0 && p->part != OMNI_PART_THINKER && p->part != OMNI_PART_MMPROJ && p->part != OMNI_PART_TALKER) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_synth: part 0x%x: one of OMNI_PART_THINKER, _MMPROJ and _TALKER is possible", p->part);
    }
    omni_synth_params copy = *p;
    synth_options options = {.path = p->path,
                             .type = p->type,
                             .part = p->part ? p->part : MAPPING_THINKER,
                             .layers = p->layers,
                             .seed = p->seed,
                             .threads = p->threads,
                             .progress = show_synth,
                             .arg = &copy};
    return synth_file(&options, bytes, err);
}

/* ---- tokenizer ---- */

struct omni_tokenizer {
    tokenizer *t;
};

omni_status omni_tokenizer_open(const char *model_path, omni_tokenizer **out, omni_error *err) {
    if (out) {
        *out = NULL;
    }
    if (!model_path || !out) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_tokenizer_open needs the path of a model and a place for the tokenizer");
    }
    gguf *g = NULL;
    TRY(gguf_open(model_path, &g, err));
    omni_tokenizer *t = calloc(1, sizeof *t);
    omni_status status = t ? tokenizer_open(g, &t->t, err) : fail(err, OMNI_ERR_MEMORY, "out of memory");
    gguf_close(g);
    if (status != OMNI_OK) {
        free(t);
        return status;
    }
    *out = t;
    return OMNI_OK;
}

void omni_tokenizer_close(omni_tokenizer *t) {
    if (t) {
        tokenizer_close(t->t);
        free(t);
    }
}

omni_status omni_tokenize(const omni_tokenizer *t, const char *text, size_t size, bool markup, int32_t **ids, size_t *count, omni_error *err) {
    token_list list = {0};
    if (!t || !ids || !count || (size > 0 && !text)) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_tokenize needs a tokenizer, a text, and places for ids and their count");
    }
    *ids = NULL;
    *count = 0;
    omni_status status = tokenizer_encode(t->t, markup ? TOKENIZE_MARKUP : TOKENIZE_PLAIN, text, size, &list, err);
    if (status != OMNI_OK) {
        token_list_free(&list);
        return status;
    }
    *ids = list.ids;
    *count = list.count;
    return OMNI_OK;
}

const char *omni_token_bytes(const omni_tokenizer *t, int32_t id, size_t *size) {
    size_t own;
    size = size ? size : &own;
    *size = 0;
    return t ? tokenizer_piece(t->t, id, size) : NULL;
}
