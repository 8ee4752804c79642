#define _GNU_SOURCE
#include "convert/convert.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/pool.h"
#include "convert/config.h"
#include "convert/imatrix.h"
#include "convert/mapping.h"
#include "convert/metadata.h"
#include "convert/stream.h"
#include "convert/vocabulary.h"
#include "gguf/gguf.h"
#include "gguf/safetensors.h"

enum { N_PARTS = 3 };

/* JSON grows to some thirty times its size when parsed, so these bound memory. */
static const size_t CONFIG_LIMIT = 4u << 20, TOKENIZER_LIMIT = 32u << 20;

typedef enum text_file {
    TEXT_CONFIG,
    TEXT_PREPROCESSOR,
    TEXT_PROCESSOR,
    TEXT_VIDEO,
    TEXT_TOKENIZER,
    TEXT_VOCAB,
    TEXT_MERGES,
    TEXT_TOKENIZER_CONFIG,
    TEXT_CHAT_JINJA,
    TEXT_CHAT_JSON,
    TEXT_COUNT,
} text_file;

static const char *const TEXT_NAMES[TEXT_COUNT] = {
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
};

typedef struct output {
    unsigned part;
    gguf_writer *writer;
} output;

/* Everything a conversion holds, released as a whole. */
typedef struct job {
    const convert_options *options;
    const char *name;
    const recipe *type;
    char *text[TEXT_COUNT];
    size_t text_size[TEXT_COUNT];
    safetensors *checkpoint;
    const st_tensor **tensors;
    size_t n_tensors;
    st_tensor *renamed; /* of a thinker that was saved by itself, the tensors with "thinker." before their names; else NULL */
    bool talker;        /* the checkpoint has one */
    unsigned parts;
    model_config config;
    vocabulary vocabulary;
    mapping mapping;
    imatrix *imatrix;
    stream_target *targets;
    output outputs[N_PARTS];
    size_t n_outputs;
    pool *pool;
} job;

static omni_status check_options(job *j, omni_error *err) {
    const convert_options *o = j->options;
    if (!o->checkpoint_dir || !*o->checkpoint_dir || !o->out_dir || !*o->out_dir) {
        return fail(err, OMNI_ERR_ARGUMENT, "a checkpoint folder and an output folder are needed");
    }
    j->name = o->name ? o->name : "qwen3-omni";
    if (!*j->name || strchr(j->name, '/') || strlen(j->name) > 100) {
        return fail(err, OMNI_ERR_ARGUMENT, "the name \"%.120s\" must have 1 to 100 characters and no /", j->name);
    }
    const char *type = o->type ? o->type : "f16";
    TRY(recipe_find(type, &j->type, err));
    if (!dtype_writable((uint32_t)j->type->base)) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "the type %s can be read but not made", j->type->name);
    }
    if (o->parts & ~(unsigned)(CONVERT_THINKER | CONVERT_MMPROJ | CONVERT_TALKER)) {
        return fail(err, OMNI_ERR_ARGUMENT, "unknown parts %#x", o->parts);
    }
    if (o->threads < 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "%d threads are not possible", o->threads);
    }
    return OMNI_OK;
}

static omni_status read_texts(job *j, omni_error *err) {
    for (int i = 0; i < TEXT_COUNT; i++) {
        char path[4096];
        if ((size_t)snprintf(path, sizeof path, "%s/%s", j->options->checkpoint_dir, TEXT_NAMES[i]) >= sizeof path) {
            return fail(err, OMNI_ERR_ARGUMENT, "%s: the path is too long", j->options->checkpoint_dir);
        }
        if (i != TEXT_CONFIG && access(path, F_OK) != 0) {
            continue;
        }
        size_t limit = i == TEXT_TOKENIZER || i == TEXT_VOCAB || i == TEXT_MERGES ? TOKENIZER_LIMIT : CONFIG_LIMIT;
        TRY(file_read(path, limit, &j->text[i], &j->text_size[i], err));
    }
    return OMNI_OK;
}

/* The names that the thinker's tensors have in a whole checkpoint. */
static omni_status rename_tensors(job *j, omni_error *err) {
    j->renamed = calloc(j->n_tensors + 1, sizeof *j->renamed);
    if (!j->renamed) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu tensors", j->n_tensors);
    }
    for (size_t i = 0; i < j->n_tensors; i++) {
        char *name;
        if (asprintf(&name, "thinker.%s", j->tensors[i]->name) < 0) {
            return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu tensors", j->n_tensors);
        }
        j->renamed[i] = *j->tensors[i];
        j->renamed[i].name = name;
        j->tensors[i] = &j->renamed[i];
    }
    return OMNI_OK;
}

static omni_status open_checkpoint(job *j, omni_error *err) {
    TRY(safetensors_open(j->options->checkpoint_dir, &j->checkpoint, err));
    j->n_tensors = safetensors_count(j->checkpoint);
    j->tensors = calloc(j->n_tensors + 1, sizeof(*j->tensors));
    if (!j->tensors) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu tensors", j->n_tensors);
    }
    for (size_t i = 0; i < j->n_tensors; i++) {
        j->tensors[i] = safetensors_at(j->checkpoint, i);
    }
    if (!safetensors_find(j->checkpoint, "thinker.model.embed_tokens.weight") && safetensors_find(j->checkpoint, "model.embed_tokens.weight")) {
        TRY(rename_tensors(j, err));
    }
    j->talker = mapping_has_talker(j->tensors, j->n_tensors);
    j->parts = j->options->parts ? j->options->parts : (unsigned)(CONVERT_THINKER | CONVERT_MMPROJ | CONVERT_TALKER);
    if (!j->talker) {
        if (j->parts == CONVERT_TALKER) {
            return fail(err, OMNI_ERR_UNSUPPORTED, "%s: this checkpoint has no talker", j->options->checkpoint_dir);
        }
        j->parts &= ~(unsigned)CONVERT_TALKER;
    }
    return OMNI_OK;
}

static omni_status read_config(job *j, omni_error *err) {
    const char *dir = j->options->checkpoint_dir;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, TEXT_NAMES[TEXT_CONFIG]);
    TRY(config_parse(j->text[TEXT_CONFIG], j->text_size[TEXT_CONFIG], path, (j->parts & CONVERT_TALKER) != 0, &j->config, err));
    const preprocessor_texts pre = {j->text[TEXT_PREPROCESSOR],      j->text[TEXT_PROCESSOR],      j->text[TEXT_VIDEO],
                                    j->text_size[TEXT_PREPROCESSOR], j->text_size[TEXT_PROCESSOR], j->text_size[TEXT_VIDEO]};
    if (j->parts & CONVERT_MMPROJ) {
        TRY(config_parse_preprocessing(&pre, dir, &j->config, err));
    }
    const vocabulary_texts voc = {
        .tokenizer_json = j->text[TEXT_TOKENIZER],
        .vocab_json = j->text[TEXT_VOCAB],
        .merges_txt = j->text[TEXT_MERGES],
        .tokenizer_config = j->text[TEXT_TOKENIZER_CONFIG],
        .chat_jinja = j->text[TEXT_CHAT_JINJA],
        .chat_json = j->text[TEXT_CHAT_JSON],
        .tokenizer_json_size = j->text_size[TEXT_TOKENIZER],
        .vocab_json_size = j->text_size[TEXT_VOCAB],
        .merges_txt_size = j->text_size[TEXT_MERGES],
        .tokenizer_config_size = j->text_size[TEXT_TOKENIZER_CONFIG],
        .chat_jinja_size = j->text_size[TEXT_CHAT_JINJA],
        .chat_json_size = j->text_size[TEXT_CHAT_JSON],
    };
    TRY(vocabulary_parse(&voc, j->config.thinker.vocab_size, dir, &j->vocabulary, err));
    return metadata_resolve_ids(&j->config, &j->vocabulary, (j->parts & CONVERT_TALKER) != 0, dir, err);
}

/* The folder and its parents. */
static omni_status make_folder(const char *path, omni_error *err) {
    char part[4096];
    size_t n = strlen(path);
    if (n >= sizeof part) {
        return fail(err, OMNI_ERR_ARGUMENT, "%.200s...: the path is too long", path);
    }
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] == '/' || part[i] == '\0') {
            char kept = part[i];
            part[i] = '\0';
            if (mkdir(part, 0777) != 0 && errno != EEXIST) {
                return fail(err, OMNI_ERR_IO, "%s: cannot make the folder: %s", part, strerror(errno));
            }
            part[i] = kept;
        }
    }
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        return fail(err, OMNI_ERR_IO, "%s: not a folder", path);
    }
    return OMNI_OK;
}

static omni_status open_outputs(job *j, omni_error *err) {
    static const struct {
        unsigned part;
        const char *prefix;
    } PARTS[N_PARTS] = {{CONVERT_THINKER, ""}, {CONVERT_MMPROJ, "mmproj-"}, {CONVERT_TALKER, "talker-"}};
    TRY(make_folder(j->options->out_dir, err));
    for (int i = 0; i < N_PARTS; i++) {
        if (!(j->parts & PARTS[i].part)) {
            continue;
        }
        output *o = &j->outputs[j->n_outputs];
        o->part = PARTS[i].part;
        const uint64_t max_size = j->options->split_max_size;
        const gguf_split split = {.max_bytes = max_size, .whole_without_number = true};
        char path[4096];
        if ((size_t)snprintf(path, sizeof path, "%s/%s%s-%s%s", j->options->out_dir, PARTS[i].prefix, j->name, j->type->name,
                             max_size ? "" : ".gguf") >= sizeof path) {
            return fail(err, OMNI_ERR_ARGUMENT, "%.200s...: the path is too long", j->options->out_dir);
        }
        TRY(max_size ? gguf_writer_create_split(path, &split, &o->writer, err) : gguf_writer_create(path, &o->writer, err));
        j->n_outputs++;
        if (o->part == CONVERT_THINKER) {
            metadata_put_thinker(o->writer, &j->config, &j->vocabulary, j->name, j->type->file_type);
        } else if (o->part == CONVERT_MMPROJ) {
            metadata_put_mmproj(o->writer, &j->config, j->name, j->type->file_type);
        } else {
            metadata_put_talker(o->writer, &j->config, j->name, j->type->file_type);
        }
        if (j->imatrix) {
            imatrix_put_keys(j->imatrix, o->writer);
        }
        for (size_t k = 0; k < j->mapping.count; k++) {
            const mapped_tensor *t = &j->mapping.tensors[k];
            if (t->part == o->part) {
                j->targets[k].writer = o->writer;
                j->targets[k].tensor = gguf_put_tensor(o->writer, t->name, t->type, t->n_dims, t->ne);
            }
        }
    }
    /* All begin before any data is written: each reserves its space on the disk, so that a full one is known at once. */
    for (size_t i = 0; i < j->n_outputs; i++) {
        TRY(gguf_writer_begin(j->outputs[i].writer, err));
    }
    return OMNI_OK;
}

/* All files get their names, or none. */
static omni_status finish(job *j, convert_result *out, omni_error *err) {
    gguf_writer *writers[N_PARTS];
    convert_result made = *out;
    for (size_t i = 0; i < j->n_outputs; i++) {
        gguf_writer *w = writers[i] = j->outputs[i].writer;
        j->outputs[i].writer = NULL; /* freed by gguf_writer_finish_all, whatever the outcome */
        snprintf(made.path[i], sizeof made.path[0], "%s", gguf_writer_part_path(w, 0));
        made.bytes[i] = gguf_writer_bytes(w);
        made.split[i] = gguf_writer_part_count(w);
    }
    made.count = j->n_outputs;
    TRY(gguf_writer_finish_all(writers, j->n_outputs, err));
    *out = made;
    return OMNI_OK;
}

/* Looks up the matrices that become blocks. */
static omni_status find_importance(job *j, convert_result *out, omni_error *err) {
    TRY(imatrix_open(j->options->imatrix, &j->imatrix, err));
    for (size_t i = 0; i < j->mapping.count; i++) {
        const mapped_tensor *m = &j->mapping.tensors[i];
        if (dtype_find((uint32_t)m->type)->block > 1) {
            tensor t = {.name = m->name, .type = m->type, .n_dims = m->n_dims};
            memcpy(t.ne, m->ne, sizeof t.ne);
            TRY(imatrix_find(j->imatrix, &t, &j->targets[i].importance, err));
            out->important += j->targets[i].importance != NULL;
        }
    }
    return OMNI_OK;
}

static omni_status run(job *j, convert_result *out, omni_error *err) {
    TRY(check_options(j, err));
    TRY(read_texts(j, err));
    TRY(open_checkpoint(j, err));
    out->no_talker = !j->talker;
    TRY(read_config(j, err));
    TRY(mapping_build(&j->config, j->tensors, j->n_tensors, j->parts, j->type, j->options->checkpoint_dir, &j->mapping, err));
    j->targets = calloc(j->mapping.count + 1, sizeof *j->targets);
    if (!j->targets) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu tensors", j->mapping.count);
    }
    if (j->options->imatrix) {
        TRY(find_importance(j, out, err));
    }
    TRY(open_outputs(j, err));
    TRY(pool_create(j->options->threads, &j->pool, err));
    const stream_hooks hooks = {j->options->progress, j->options->cancelled, j->options->arg};
    TRY(stream_tensors(&j->mapping, j->targets, j->pool, &hooks, err));
    return finish(j, out, err);
}

omni_status convert_checkpoint(const convert_options *options, convert_result *out, omni_error *err) {
    convert_result unused;
    out = out ? out : &unused;
    *out = (convert_result){0};
    job *j = calloc(1, sizeof *j);
    if (!j) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    j->options = options;
    omni_status status = run(j, out, err);
    for (size_t i = 0; i < j->n_outputs; i++) {
        if (j->outputs[i].writer) {
            gguf_writer_abandon(j->outputs[i].writer);
        }
    }
    if (j->pool) {
        pool_destroy(j->pool);
    }
    for (size_t i = 0; j->targets && i < j->mapping.count; i++) {
        free(j->targets[i].importance);
    }
    imatrix_close(j->imatrix);
    mapping_free(&j->mapping);
    vocabulary_free(&j->vocabulary);
    if (j->checkpoint) {
        safetensors_close(j->checkpoint);
    }
    for (size_t i = 0; j->renamed && i < j->n_tensors; i++) {
        free((char *)(uintptr_t)j->renamed[i].name);
    }
    free(j->renamed);
    free(j->targets);
    free(j->tensors);
    for (int i = 0; i < TEXT_COUNT; i++) {
        free(j->text[i]);
    }
    free(j);
    return status;
}
