/* The writer's files: laying tensors into one or several, headers, data, and giving them their names. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/gguf_writer.h"

enum {
    HEADER_BYTES = 24,    /* magic, version, and the counts of tensors and keys */
    SPLIT_KEY_BYTES = 82, /* split.no and split.count (u16), split.tensors.count (i32), as llama.cpp writes them */
};

static omni_status writer_new(const char *path, gguf_writer **out, omni_error *err) {
    *out = NULL;
    gguf_writer *w = calloc(1, sizeof *w);
    char *copy = strdup(path);
    if (!w || !copy) {
        free(w);
        free(copy);
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    }
    w->path = copy;
    w->alignment = GGUF_ALIGNMENT;
    pthread_mutex_init(&w->mutex, NULL);
    *out = w;
    return OMNI_OK;
}

/* One more file, whose tensors begin with first; NULL when out of memory. */
static out_part *add_part(gguf_writer *w, size_t first) {
    if (w->part_count == w->part_capacity) {
        size_t capacity = w->part_capacity ? 2 * w->part_capacity : 1;
        out_part *larger = realloc(w->parts, capacity * sizeof *larger);
        if (!larger) {
            fail(&w->first, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
            return NULL;
        }
        w->parts = larger;
        w->part_capacity = capacity;
    }
    out_part *p = &w->parts[w->part_count++];
    *p = (out_part){.file = {.fd = -1}, .first = first};
    return p;
}

static omni_status open_file(out_part *p, const char *path, omni_error *err) {
    TRY(file_out_open(path, &p->file, err));
    p->path = strdup(p->file.path);
    return p->path ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
}

omni_status gguf_writer_create(const char *path, gguf_writer **out, omni_error *err) {
    gguf_writer *w;
    TRY(writer_new(path, &w, err));
    out_part *p = add_part(w, 0);
    omni_status status = p ? open_file(p, path, err) : fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
    if (status != OMNI_OK) {
        gguf_writer_abandon(w);
        *out = NULL;
        return status;
    }
    *out = w;
    return OMNI_OK;
}

omni_status gguf_writer_create_split(const char *prefix, const gguf_split *split, gguf_writer **out, omni_error *err) {
    TRY(writer_new(prefix, out, err));
    (*out)->split = *split;
    (*out)->splits = true;
    return OMNI_OK;
}

static uint64_t aligned(uint64_t bytes, uint32_t alignment) {
    return (bytes + alignment - 1) / alignment * alignment;
}

/* Bytes of a tensor in the header. */
static uint64_t info_bytes(const out_tensor *t) {
    return 8 + strlen(t->name) + 4 + 8 * (uint64_t)t->n_dims + 4 + 8;
}

/* Only the first part has the model's keys, and with them its alignment. */
static uint32_t part_alignment(const gguf_writer *w, size_t part) {
    return part == 0 ? w->alignment : GGUF_ALIGNMENT;
}

/* Gives every tensor its file, and its place there in order of declaration as other readers demand. False: the sum is larger than any file. */
static bool place(gguf_writer *w) {
    uint64_t total = 0, header = 0, data = 0; /* data: of the part so far */
    out_part *p = w->splits ? NULL : &w->parts[0];
    for (size_t i = 0; i < w->tensor_index.count; i++) {
        out_tensor *t = &w->tensors[i];
        const uint32_t a = part_alignment(w, p ? w->part_count - 1 : 0);
        if (__builtin_add_overflow(total, t->size + (a - 1), &total) || total > INT64_MAX / 2) {
            return false;
        }
        const uint64_t after = aligned(header + info_bytes(t), a) + data + aligned(t->size, a);
        if (!p || (w->splits && p->count &&
                   ((w->split.max_bytes && after > w->split.max_bytes) || (w->split.max_tensors && p->count >= w->split.max_tensors)))) {
            p = add_part(w, i);
            if (!p) {
                return true; /* the error is kept */
            }
            header = HEADER_BYTES + SPLIT_KEY_BYTES + (w->part_count == 1 ? w->keys.size : 0);
            data = 0;
        }
        t->part = w->part_count - 1;
        t->offset = data;
        data += aligned(t->size, part_alignment(w, t->part));
        header += info_bytes(t);
        p->count++;
    }
    if (!p) {
        add_part(w, 0);
    }
    return true;
}

static void append_split_value(gguf_writer *w, const char *key, gguf_type type, uint32_t v) {
    writer_append_string(w, key, strlen(key));
    writer_append_u32(w, (uint32_t)type);
    writer_append(w, &v, gguf_type_bytes(type));
}

static bool has_split_keys(const gguf_writer *w) {
    return w->splits && !(w->split.whole_without_number && w->part_count == 1);
}

/* Leaves the header of a part in w->keys. keys: of the model. */
static void make_header(gguf_writer *w, size_t part, const buffer *keys) {
    const out_part *p = &w->parts[part];
    w->keys = (buffer){0};
    writer_append(w, "GGUF", 4);
    writer_append_u32(w, 3);
    writer_append_u64(w, p->count);
    writer_append_u64(w, (part == 0 ? w->key_index.count : 0) + (has_split_keys(w) ? 3 : 0));
    if (part == 0) {
        writer_append(w, keys->data, keys->size);
    }
    if (has_split_keys(w)) {
        append_split_value(w, "split.no", GGUF_U16, (uint32_t)part);
        append_split_value(w, "split.count", GGUF_U16, (uint32_t)w->part_count);
        append_split_value(w, "split.tensors.count", GGUF_I32, (uint32_t)w->tensor_index.count);
    }
    for (size_t i = p->first; i < p->first + p->count; i++) {
        const out_tensor *t = &w->tensors[i];
        writer_append_string(w, t->name, strlen(t->name));
        writer_append_u32(w, (uint32_t)t->n_dims);
        writer_append(w, t->ne, (size_t)t->n_dims * sizeof *t->ne);
        writer_append_u32(w, (uint32_t)t->type);
        writer_append_u64(w, t->offset);
    }
    static const uint8_t zeros[256] = {0};
    while (writer_healthy(w) && w->keys.size % part_alignment(w, part) != 0) {
        size_t n = part_alignment(w, part) - w->keys.size % part_alignment(w, part);
        writer_append(w, zeros, n < sizeof zeros ? n : sizeof zeros);
    }
}

static omni_status open_part(gguf_writer *w, size_t part, omni_error *err) {
    char *path;
    const int n =
        has_split_keys(w) ? asprintf(&path, "%s-%05zu-of-%05zu.gguf", w->path, part + 1, w->part_count) : asprintf(&path, "%s.gguf", w->path);
    if (n < 0) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
    }
    omni_status status = w->split.input ? gguf_check_output(w->split.input, path, err) : OMNI_OK;
    if (status == OMNI_OK) {
        status = open_file(&w->parts[part], path, err);
    }
    free(path);
    return status;
}

static omni_status begin_part(gguf_writer *w, size_t part, const buffer *keys, omni_error *err) {
    out_part *p = &w->parts[part];
    if (w->splits) {
        TRY(open_part(w, part, err));
    }
    make_header(w, part, keys);
    if (!writer_healthy(w)) {
        return OMNI_OK; /* kept */
    }
    uint64_t total = 0;
    for (size_t i = p->first; i < p->first + p->count; i++) {
        total += aligned(w->tensors[i].size, part_alignment(w, part));
    }
    /* Better to learn now than after an hour that the disk is too small. File systems that cannot reserve say so at once. */
    if (total && fallocate(p->file.fd, 0, 0, (off_t)(w->keys.size + total)) != 0 && errno == ENOSPC) {
        return fail(err, OMNI_ERR_IO, "%s: %" PRIu64 " bytes are needed, but the disk is full", p->path, w->keys.size + total);
    }
    TRY(file_out_write_at(&p->file, 0, w->keys.data, w->keys.size, err));
    if (total) {
        /* The padding behind the last tensor belongs to the file, too. */
        TRY(file_out_write_at(&p->file, w->keys.size + total - 1, "", 1, err));
    }
    p->data_offset = w->keys.size;
    p->bytes = p->data_offset + total;
    return OMNI_OK;
}

omni_status gguf_writer_begin(gguf_writer *w, omni_error *err) {
    if (writer_healthy(w) && w->begun) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: the header was written already", w->path);
    }
    if (writer_healthy(w) && !place(w)) {
        fail(&w->first, OMNI_ERR_ARGUMENT, "%s: the tensors together are larger than any file", w->path);
    }
    static const char *const own[] = {"split.no", "split.count", "split.tensors.count"};
    for (int i = 0; has_split_keys(w) && i < 3; i++) {
        if (name_index_find(&w->key_index, own[i], strlen(own[i])) >= 0 && writer_healthy(w)) {
            fail(&w->first, OMNI_ERR_ARGUMENT, "%s: key '%s' is the writer's own", w->path, own[i]);
        }
    }
    if (writer_healthy(w) && w->part_count > GGUF_MOST_PARTS) {
        fail(&w->first, OMNI_ERR_ARGUMENT, "%s: the limits make %zu parts of %zu tensors; at most %d are possible: take larger ones", w->path,
             w->part_count, w->tensor_index.count, GGUF_MOST_PARTS);
    }
    buffer keys = w->keys; /* make_header writes to w->keys, as the setters did */
    w->keys = (buffer){0};
    omni_status status = OMNI_OK;
    for (size_t i = 0; i < w->part_count && writer_healthy(w) && status == OMNI_OK; i++) {
        status = begin_part(w, i, &keys, err);
        free(w->keys.data);
        w->keys = (buffer){0};
    }
    free(keys.data);
    if (!writer_healthy(w)) {
        if (err) {
            *err = w->first;
        }
        return w->first.code;
    }
    w->begun = status == OMNI_OK;
    return status;
}

uint64_t gguf_writer_bytes(const gguf_writer *w) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < w->part_count; i++) {
        bytes += w->parts[i].bytes;
    }
    return bytes;
}

size_t gguf_writer_part_count(const gguf_writer *w) {
    return w->part_count;
}

const char *gguf_writer_part_path(const gguf_writer *w, size_t part) {
    return w->parts[part].path;
}

/* Adds [begin, end) to what has been written of a tensor; joins it with its neighbours. */
static omni_status mark(gguf_writer *w, out_tensor *t, size_t begin, size_t end, omni_error *err) {
    size_t i = t->span_count; /* the first span behind begin */
    while (i > 0 && t->spans[i - 1].begin > begin) {
        i--;
    }
    if ((i > 0 && t->spans[i - 1].end > begin) || (i < t->span_count && t->spans[i].begin < end)) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: tensor '%s': bytes %zu to %zu were written before, at least in part", w->path, t->name, begin, end);
    }
    bool joins_left = i > 0 && t->spans[i - 1].end == begin, joins_right = i < t->span_count && t->spans[i].begin == end;
    if (joins_left && joins_right) {
        t->spans[i - 1].end = t->spans[i].end;
        memmove(t->spans + i, t->spans + i + 1, (t->span_count - i - 1) * sizeof *t->spans);
        t->span_count--;
    } else if (joins_left) {
        t->spans[i - 1].end = end;
    } else if (joins_right) {
        t->spans[i].begin = begin;
    } else {
        if (t->span_count == t->span_capacity) {
            size_t capacity = t->span_capacity ? 2 * t->span_capacity : 4;
            span *larger = realloc(t->spans, capacity * sizeof *larger);
            if (!larger) {
                return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", w->path);
            }
            t->spans = larger;
            t->span_capacity = capacity;
        }
        memmove(t->spans + i + 1, t->spans + i, (t->span_count - i) * sizeof *t->spans);
        t->spans[i] = (span){begin, end};
        t->span_count++;
    }
    return OMNI_OK;
}

omni_status gguf_writer_data(gguf_writer *w, size_t index, size_t offset, const void *data, size_t size, omni_error *err) {
    if (!w->begun || index >= w->tensor_index.count) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: data for tensor %zu, but %s", w->path, index,
                    w->begun ? "no such tensor was declared" : "the header has not been written");
    }
    out_tensor *t = &w->tensors[index];
    if (offset > t->size || size > t->size - offset) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: tensor '%s': %zu bytes at %zu do not fit into its %zu", w->path, t->name, size, offset, t->size);
    }
    if (size == 0) {
        return OMNI_OK;
    }
    pthread_mutex_lock(&w->mutex);
    omni_status status = mark(w, t, offset, offset + size, err);
    pthread_mutex_unlock(&w->mutex);
    if (status != OMNI_OK) {
        return status;
    }
    out_part *p = &w->parts[t->part];
    return file_out_write_at(&p->file, p->data_offset + t->offset + offset, data, size, err);
}

static omni_status check_complete(const gguf_writer *w, omni_error *err) {
    if (!w->begun) {
        return fail(err, OMNI_ERR_ARGUMENT, "%s: finished before its header was written", w->path);
    }
    for (size_t i = 0; i < w->tensor_index.count; i++) {
        const out_tensor *t = &w->tensors[i];
        if (t->span_count != 1 || t->spans[0].begin != 0 || t->spans[0].end != t->size) {
            size_t gap = t->span_count && t->spans[0].begin == 0 ? t->spans[0].end : 0;
            return fail(err, OMNI_ERR_ARGUMENT, "%s: tensor '%s': data from byte %zu of %zu was never written", w->path, t->name, gap, t->size);
        }
    }
    return OMNI_OK;
}

/* Gives all files their names; of each model the first, without which the others are no model, last. */
static omni_status commit(gguf_writer *const writers[], size_t count, omni_error *err) {
    size_t n = 0, total = 0;
    for (size_t i = 0; i < count; i++) {
        total += writers[i]->part_count;
    }
    file_out **files = malloc((total + 1) * sizeof *files);
    if (!files) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for %zu files", total);
    }
    for (size_t i = 0; i < count; i++) {
        for (size_t k = writers[i]->part_count; k-- > 0;) {
            files[n++] = &writers[i]->parts[k].file;
        }
    }
    omni_status status = file_out_commit_all(files, n, err);
    free(files);
    return status;
}

omni_status gguf_writer_finish_all(gguf_writer *const writers[], size_t count, omni_error *err) {
    omni_status status = OMNI_OK;
    for (size_t i = 0; i < count && status == OMNI_OK; i++) {
        status = check_complete(writers[i], err);
    }
    if (status == OMNI_OK) {
        status = commit(writers, count, err);
    }
    for (size_t i = 0; i < count; i++) {
        gguf_writer_abandon(writers[i]);
    }
    return status;
}

omni_status gguf_writer_finish(gguf_writer *w, omni_error *err) {
    return gguf_writer_finish_all(&w, 1, err);
}

void gguf_writer_abandon(gguf_writer *w) {
    if (!w) {
        return;
    }
    for (size_t i = 0; i < w->part_count; i++) {
        file_out_abandon(&w->parts[i].file);
        free(w->parts[i].path);
    }
    free(w->parts);
    for (size_t i = 0; i < w->tensor_index.count; i++) {
        free(w->tensors[i].name);
        free(w->tensors[i].spans);
    }
    for (size_t i = 0; i < w->key_index.count; i++) {
        free(w->key_names[i]);
    }
    free(w->tensors);
    free(w->key_names);
    free(w->keys.data);
    name_index_free(&w->key_index);
    name_index_free(&w->tensor_index);
    pthread_mutex_destroy(&w->mutex);
    free(w->path);
    free(w);
}
