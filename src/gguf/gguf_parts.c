/* Models in parts, as llama.cpp's gguf-split writes them: every part is a GGUF file of its own with the keys split.no, split.count and
 * split.tensors.count (tensors of all parts); the first has the model's keys. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "gguf/gguf_internal.h"

/* What a part says of itself; count 0: it is none. */
typedef struct split {
    uint32_t number, count, tensors;
} split;

static omni_status read_split(const gguf *g, split *out, omni_error *err) {
    *out = (split){0};
    TRY(gguf_maybe_u32(g, "split.count", 0, &out->count, err));
    if (out->count <= 1) {
        out->count = 0; /* merged, or alone */
        return OMNI_OK;
    }
    TRY(gguf_need_u32(g, "split.no", &out->number, err));
    TRY(gguf_need_u32(g, "split.tensors.count", &out->tensors, err));
    if (out->count > GGUF_MOST_PARTS || out->number >= out->count) {
        return fail(err, OMNI_ERR_FORMAT, "%s: says that it is part %" PRIu32 " (split.no, from 0) of %" PRIu32 " (split.count)", g->path,
                    out->number, out->count);
    }
    return OMNI_OK;
}

enum { SUFFIX = 24 };

static int suffix(char out[SUFFIX], uint32_t number, uint32_t count) {
    return snprintf(out, SUFFIX, "-%05" PRIu32 "-of-%05" PRIu32 ".gguf", (number + 1) % 100000, count % 100000);
}

/* The path of another part, from that of the one that was given. The caller frees it; NULL after an error. */
static char *part_path(const gguf *given, const split *s, uint32_t number, omni_error *err) {
    char own[SUFFIX], wanted[SUFFIX], *path = NULL;
    const size_t n = (size_t)suffix(own, s->number, s->count), length = strlen(given->path);
    suffix(wanted, number, s->count);
    if (length < n || strcmp(given->path + length - n, own) != 0) {
        fail(err, OMNI_ERR_FORMAT, "%s: is part %" PRIu32 " of %" PRIu32 " of a model; its name must end in %s for the others to be found",
             given->path, s->number + 1, s->count, own);
    } else if (asprintf(&path, "%.*s%s", (int)(length - n), given->path, wanted) < 0) {
        path = NULL;
        fail(err, OMNI_ERR_MEMORY, "%s: out of memory", given->path);
    }
    return path;
}

/* Opens part number, which must be of the same split. */
static omni_status open_part(const gguf *given, const split *s, uint32_t number, gguf **out, omni_error *err) {
    omni_error why = {0};
    char *path = part_path(given, s, number, &why);
    omni_status status = path ? gguf_open_one(path, out, &why) : why.code;
    free(path);
    if (status != OMNI_OK) {
        return fail(err, status, "part %" PRIu32 " of %" PRIu32 ": %s", number + 1, s->count, why.text);
    }
    split own;
    status = read_split(*out, &own, err);
    if (status == OMNI_OK && (own.number != number || own.count != s->count || own.tensors != s->tensors)) {
        status = fail(err, OMNI_ERR_FORMAT,
                      "%s: is part %" PRIu32 " of %" PRIu32 " of a model of %" PRIu32 " tensors, by its keys; part %" PRIu32 " of %" PRIu32
                      " of one of %" PRIu32 " belongs here",
                      (*out)->path, own.number + 1, own.count, own.tensors, number + 1, s->count, s->tensors);
    }
    if (status != OMNI_OK) {
        gguf_close(*out);
        *out = NULL;
    }
    return status;
}

/* Adds the tensors of a part, which g owns already, to those of g. */
static omni_status add_tensors(gguf *g, const gguf *part, omni_error *err) {
    const size_t before = g->tensor_index.count, n = part->tensor_index.count;
    tensor *larger = realloc(g->tensors, (before + n + 1) * sizeof *larger);
    if (!larger) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for its tensors", part->path);
    }
    g->tensors = larger;
    for (size_t i = 0; i < n; i++) {
        const tensor *t = &part->tensors[i];
        size_t position;
        TRY(name_index_add(&g->tensor_index, t->name, strlen(t->name), &position, err));
        if (position != before + i) {
            return fail(err, OMNI_ERR_FORMAT, "%s: tensor '%s' is in an earlier part, too", part->path, t->name);
        }
        g->tensors[position] = *t;
    }
    return OMNI_OK;
}

static omni_status open_others(gguf *g, const split *s, omni_error *err) {
    g->others = calloc(s->count, sizeof *g->others);
    if (!g->others) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for %" PRIu32 " parts", g->path, s->count);
    }
    for (uint32_t i = 1; i < s->count; i++) {
        gguf *part;
        TRY(open_part(g, s, i, &part, err));
        g->others[g->other_count++] = part;
        TRY(add_tensors(g, part, err));
    }
    if (g->tensor_index.count != s->tensors) {
        return fail(err, OMNI_ERR_FORMAT, "%s: %zu tensors in %" PRIu32 " parts, but split.tensors.count is %" PRIu32, g->path, g->tensor_index.count,
                    s->count, s->tensors);
    }
    return OMNI_OK;
}

omni_status gguf_check_output(const gguf *g, const char *path, omni_error *err) {
    struct stat in, out;
    for (size_t i = 0; stat(path, &out) == 0 && i < gguf_part_count(g); i++) {
        if (stat(gguf_part_path(g, i), &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino) {
            return fail(err, OMNI_ERR_ARGUMENT, "%s: input and output are the same file", gguf_part_path(g, i));
        }
    }
    return OMNI_OK;
}

omni_status gguf_open(const char *path, gguf **out, omni_error *err) {
    *out = NULL;
    gguf *g;
    split s;
    TRY(gguf_open_one(path, &g, err));
    omni_status status = read_split(g, &s, err);
    if (status == OMNI_OK && s.count && s.number != 0) { /* any part stands for the whole */
        gguf *first;
        status = open_part(g, &s, 0, &first, err);
        if (status == OMNI_OK) {
            gguf_close(g);
            g = first;
            s.number = 0;
        }
    }
    if (status == OMNI_OK && s.count) {
        status = open_others(g, &s, err);
    }
    if (status != OMNI_OK) {
        gguf_close(g);
        return status;
    }
    *out = g;
    return OMNI_OK;
}
