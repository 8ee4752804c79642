/* A safetensors file: u64 length of the header, the header (JSON: name -> {dtype, shape, data_offsets}, and optionally
 * "__metadata__"), data. Offsets count from the start of the data, whose every byte belongs to exactly one tensor. */
#define _GNU_SOURCE
#include "gguf/safetensors.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "gguf/name_index.h"

enum { MAX_DIMS = 8, MAX_SHARDS = 4096 };

/* The largest checkpoints need about 6 MB; the parsed tree takes some ten times the text. */
static const size_t MAX_HEADER = 32u << 20;

typedef struct shard {
    file_map map;
    char *path;
    const uint8_t *data;
    size_t size; /* bytes */
} shard;

struct safetensors {
    bool checkpoint; /* only the types of weights are allowed, and no empty tensors */
    shard *shards;
    size_t shard_count;
    st_tensor *tensors;
    size_t tensor_capacity;
    char **names;
    size_t *shard_of;
    name_index index;
};

static const struct {
    const char *name;
    dtype type;
    bool weight;
} TYPES[] = {
    {"F32", DTYPE_F32, true},  {"F16", DTYPE_F16, true},  {"BF16", DTYPE_BF16, true}, {"I64", DTYPE_I64, false},
    {"I32", DTYPE_I32, false}, {"I16", DTYPE_I16, false}, {"I8", DTYPE_I8, false},    {"F64", DTYPE_F64, false},
};

static omni_status no_memory(const char *path, omni_error *err) {
    return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", path);
}

/* Room for one more tensor. */
static omni_status reserve(safetensors *s, const char *path, omni_error *err) {
    if (s->index.count < s->tensor_capacity) {
        return OMNI_OK;
    }
    size_t capacity = s->tensor_capacity ? 2 * s->tensor_capacity : 64;
    st_tensor *tensors = realloc(s->tensors, capacity * sizeof *tensors);
    s->tensors = tensors ? tensors : s->tensors;
    char **names = realloc(s->names, capacity * sizeof *names);
    s->names = names ? names : s->names;
    size_t *shard_of = realloc(s->shard_of, capacity * sizeof *shard_of);
    s->shard_of = shard_of ? shard_of : s->shard_of;
    if (!tensors || !names || !shard_of) {
        return no_memory(path, err);
    }
    s->tensor_capacity = capacity;
    return OMNI_OK;
}

/* Shape, type and place of one tensor from its header entry. Errors do not name the tensor yet. */
static omni_status parse_tensor(const safetensors *s, const json_t *entry, const uint8_t *data, size_t available, st_tensor *t, omni_error *err) {
    const json_t *type = json_object_get(entry, "dtype"), *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
    if (!json_is_string(type) || !json_is_array(shape) || !json_is_array(offsets) || json_array_size(offsets) != 2) {
        return fail(err, OMNI_ERR_FORMAT, "its entry lacks dtype, shape or data_offsets of two numbers");
    }
    const char *type_name = json_string_value(type);
    size_t i = 0, types = sizeof TYPES / sizeof *TYPES;
    while (i < types && strcmp(TYPES[i].name, type_name) != 0) {
        i++;
    }
    if (i == types || (s->checkpoint && !TYPES[i].weight)) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "stored as %.16s; only %s can be read", type_name,
                    s->checkpoint ? "F32, F16 and BF16" : "F64, F32, F16, BF16, I64, I32, I16 and I8");
    }
    t->type = TYPES[i].type;
    if (json_array_size(shape) > MAX_DIMS) {
        return fail(err, OMNI_ERR_FORMAT, "%zu dimensions (at most %d are possible)", json_array_size(shape), MAX_DIMS);
    }
    t->n_dims = (int)json_array_size(shape);
    int64_t values = 1;
    for (int d = 0; d < t->n_dims; d++) {
        const json_t *n = json_array_get(shape, (size_t)d);
        t->shape[d] = json_is_integer(n) ? (int64_t)json_integer_value(n) : -1;
        if (t->shape[d] < (s->checkpoint ? 1 : 0) || __builtin_mul_overflow(values, t->shape[d], &values)) {
            return fail(err, OMNI_ERR_FORMAT, "dimension %d is no possible size", d);
        }
    }
    size_t bytes;
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    int64_t begin = json_is_integer(first) ? (int64_t)json_integer_value(first) : -1;
    int64_t end = json_is_integer(last) ? (int64_t)json_integer_value(last) : -1;
    if (begin < 0 || end < begin || (uint64_t)end > available) {
        return fail(err, OMNI_ERR_FORMAT,
                    "data_offsets [%" PRId64 ", %" PRId64 "] do not lie in the file's %zu bytes of data; it is cut short or damaged", begin, end,
                    available);
    }
    if (__builtin_mul_overflow((size_t)values, dtype_find((uint32_t)t->type)->bytes, &bytes) || bytes != (size_t)(end - begin)) {
        return fail(err, OMNI_ERR_FORMAT, "%" PRId64 " values of type %s do not take the %" PRId64 " bytes of its data_offsets", values, type_name,
                    end - begin);
    }
    t->data = data + begin;
    t->size = bytes;
    return OMNI_OK;
}

static int by_data(const void *a, const void *b) {
    const st_tensor *x = *(const st_tensor *const *)a, *y = *(const st_tensor *const *)b;
    if (x->data != y->data) {
        return x->data < y->data ? -1 : 1;
    }
    return x->size < y->size ? -1 : x->size > y->size; /* empty ones first, so that they are no overlap */
}

/* The tensors from position first on must cover the data exactly. */
static omni_status check_cover(const safetensors *s, size_t first, const shard *f, const uint8_t *data, omni_error *err) {
    size_t count = s->index.count - first;
    const st_tensor **sorted = malloc((count + 1) * sizeof *sorted);
    if (!sorted) {
        return no_memory(f->path, err);
    }
    for (size_t i = 0; i < count; i++) {
        sorted[i] = &s->tensors[first + i];
    }
    qsort(sorted, count, sizeof *sorted, by_data);
    const uint8_t *at = data, *end = f->data + f->size;
    omni_status status = OMNI_OK;
    for (size_t i = 0; i < count && status == OMNI_OK; i++) {
        const uint8_t *begin = sorted[i]->data;
        if (begin < at) {
            status = fail(err, OMNI_ERR_FORMAT, "%s: tensors '%s' and '%s' overlap at data offset %zu", f->path, i ? sorted[i - 1]->name : "",
                          sorted[i]->name, (size_t)(begin - data));
        } else if (begin > at) {
            status = fail(err, OMNI_ERR_FORMAT, "%s: no tensor covers the bytes from data offset %zu to %zu, before tensor '%s'", f->path,
                          (size_t)(at - data), (size_t)(begin - data), sorted[i]->name);
        }
        at = begin + sorted[i]->size;
    }
    if (status == OMNI_OK && at != end) {
        status =
            fail(err, OMNI_ERR_FORMAT, "%s: %zu bytes of data, but the tensors take only %zu", f->path, (size_t)(end - data), (size_t)(at - data));
    }
    free(sorted);
    return status;
}

/* Adds all tensors of a parsed header. */
static omni_status add_tensors(safetensors *s, size_t shard_number, json_t *header, const uint8_t *data, omni_error *err) {
    const shard *f = &s->shards[shard_number];
    size_t available = (size_t)(f->data + f->size - data), first = s->index.count;
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0) {
            if (!json_is_object(entry)) {
                return fail(err, OMNI_ERR_FORMAT, "%s: __metadata__ in the header is not an object", f->path);
            }
            continue;
        }
        st_tensor t = {.file = f->path};
        size_t length = strlen(name), position, count = s->index.count;
        if (!utf8_plain(name, length)) {
            return fail(err, OMNI_ERR_FORMAT, "%s: tensor %zu of the header has a name with control characters", f->path, count - first);
        }
        if (length == 0 || length > 1024) {
            return fail(err, OMNI_ERR_FORMAT, "%s: a tensor has a name of %zu bytes (1 to 1024 are possible)", f->path, length);
        }
        if (!json_is_object(entry)) {
            return fail(err, OMNI_ERR_FORMAT, "%s: the header's entry for '%s' is not an object", f->path, name);
        }
        omni_status status = parse_tensor(s, entry, data, available, &t, err);
        if (status != OMNI_OK) {
            return fail_in(err, status, "%s: tensor '%s'", f->path, name);
        }
        TRY(reserve(s, f->path, err));
        char *copy = strdup(name);
        if (!copy) {
            return no_memory(f->path, err);
        }
        status = name_index_add(&s->index, copy, length, &position, err);
        if (status == OMNI_OK && position != count) {
            status = fail(err, OMNI_ERR_FORMAT, "%s: tensor '%s' is also in %s", f->path, name, s->tensors[position].file);
        }
        if (status != OMNI_OK) {
            free(copy);
            return status;
        }
        t.name = s->names[count] = copy;
        s->tensors[count] = t;
        s->shard_of[count] = shard_number;
    }
    return check_cover(s, first, f, data, err);
}

static omni_status parse_object(const char *text, size_t size, const char *path, const char *what, json_t **out, omni_error *err) {
    omni_status status = json_parse(text, size, JSON_MOST_VALUES, JSON_REJECT_DUPLICATES, out, err);
    if (status != OMNI_OK) {
        return fail_in(err, status, "%s: %s", path, what);
    }
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return fail(err, OMNI_ERR_FORMAT, "%s: %s is not a JSON object", path, what);
    }
    return OMNI_OK;
}

/* Reads the header of a shard whose data is in place. */
static omni_status read_shard(safetensors *s, size_t number, omni_error *err) {
    const shard *f = &s->shards[number];
    uint64_t length;
    if (f->size < sizeof length) {
        return fail(err, OMNI_ERR_FORMAT, "%s: %zu bytes are too few for a safetensors file", f->path, f->size);
    }
    memcpy(&length, f->data, sizeof length);
    if (length > f->size - sizeof length) {
        return fail(err, OMNI_ERR_FORMAT,
                    "%s: the header claims %" PRIu64 " bytes, but the file has %zu; it is cut short, damaged or no safetensors file", f->path, length,
                    f->size);
    }
    if (length > MAX_HEADER) {
        return fail(err, OMNI_ERR_LIMIT, "%s: a header of %" PRIu64 " bytes is over the limit of %zu", f->path, length, MAX_HEADER);
    }
    json_t *header = NULL;
    TRY(parse_object((const char *)f->data + sizeof length, (size_t)length, f->path, "the header", &header, err));
    omni_status status = add_tensors(s, number, header, f->data + sizeof length + length, err);
    json_decref(header);
    return status;
}

static omni_status create(bool checkpoint, size_t shards, const char *name, safetensors **out, omni_error *err) {
    safetensors *s = calloc(1, sizeof *s);
    shard *list = calloc(shards, sizeof *list);
    if (!s || !list) {
        free(s);
        free(list);
        return no_memory(name, err);
    }
    s->checkpoint = checkpoint;
    s->shards = list;
    s->shard_count = shards;
    *out = s;
    return OMNI_OK;
}

static omni_status open_shard(safetensors *s, size_t number, const char *path, omni_error *err) {
    shard *f = &s->shards[number];
    TRY(file_map_open(path, &f->map, err));
    f->path = f->map.path;
    f->data = f->map.data;
    f->size = f->map.size;
    return read_shard(s, number, err);
}

static omni_status finish_open(safetensors *s, omni_status status, safetensors **out) {
    if (status != OMNI_OK) {
        safetensors_close(s);
        return status;
    }
    *out = s;
    return OMNI_OK;
}

static omni_status open_single(const char *path, bool checkpoint, safetensors **out, omni_error *err) {
    safetensors *s = NULL;
    TRY(create(checkpoint, 1, path, &s, err));
    return finish_open(s, open_shard(s, 0, path, err), out);
}

omni_status safetensors_open_file(const char *path, safetensors **out, omni_error *err) {
    *out = NULL;
    return open_single(path, false, out, err);
}

omni_status safetensors_open_memory(const void *data, size_t size, const char *name, safetensors **out, omni_error *err) {
    safetensors *s = NULL;
    *out = NULL;
    TRY(create(false, 1, name, &s, err));
    shard *f = &s->shards[0];
    f->path = strdup(name);
    f->data = data;
    f->size = size;
    return finish_open(s, f->path ? read_shard(s, 0, err) : no_memory(name, err), out);
}

/* A shard's name must be that of a file in the folder itself. */
static bool plain_file_name(const char *name) {
    size_t n = strlen(name);
    const char *suffix = ".safetensors";
    if (n <= strlen(suffix) || n > 255 || name[0] == '.' || strcmp(name + n - strlen(suffix), suffix) != 0) {
        return false;
    }
    for (const char *p = name; *p; p++) {
        if (*p == '/' || *p == '\\' || (uint8_t)*p < 0x20 || *p == 0x7f) {
            return false;
        }
    }
    return true;
}

/* The distinct shard names of a weight map, in order of appearance. */
static omni_status list_shards(json_t *map, const char *path, name_index *names, omni_error *err) {
    const char *tensor_name;
    json_t *file;
    json_object_foreach(map, tensor_name, file) {
        const char *name = json_string_value(file);
        size_t position;
        if (!name || !plain_file_name(name)) {
            return fail(err, OMNI_ERR_FORMAT, "%s: tensor '%.200s' is placed in '%.200s', which is no name of a .safetensors file in the same folder",
                        path, tensor_name, name ? name : "(not a string)");
        }
        TRY(name_index_add(names, name, strlen(name), &position, err));
        if (names->count > MAX_SHARDS) {
            return fail(err, OMNI_ERR_LIMIT, "%s: more than %d shards", path, MAX_SHARDS);
        }
    }
    if (names->count == 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: weight_map is empty", path);
    }
    return OMNI_OK;
}

/* Every tensor is where the index says, and nowhere else. */
static omni_status check_map(const safetensors *s, json_t *map, const char *path, const name_index *names, omni_error *err) {
    const char *tensor_name;
    json_t *file;
    json_object_foreach(map, tensor_name, file) {
        int64_t i = name_index_find(&s->index, tensor_name, strlen(tensor_name));
        const char *wanted = json_string_value(file);
        if (i < 0) {
            return fail(err, OMNI_ERR_FORMAT, "%s: tensor '%.200s' should be in %s, but no shard holds it", path, tensor_name, wanted);
        }
        if ((int64_t)s->shard_of[i] != name_index_find(names, wanted, strlen(wanted))) {
            return fail(err, OMNI_ERR_FORMAT, "%s: tensor '%.200s' should be in %s, but is in %s", path, tensor_name, wanted, s->tensors[i].file);
        }
    }
    for (size_t i = 0; i < s->index.count; i++) {
        if (!json_object_get(map, s->tensors[i].name)) {
            return fail(err, OMNI_ERR_FORMAT, "%s: tensor '%.200s' of %s is not listed", path, s->tensors[i].name, s->tensors[i].file);
        }
    }
    return OMNI_OK;
}

static omni_status open_shards(const char *dir, const char *path, json_t *map, const name_index *names, safetensors **out, omni_error *err) {
    safetensors *s = NULL;
    TRY(create(true, names->count, path, &s, err));
    omni_status status = OMNI_OK;
    for (size_t i = 0; i < names->count && status == OMNI_OK; i++) {
        char *shard_path;
        if (asprintf(&shard_path, "%s/%.*s", dir, (int)names->entries[i].size, names->entries[i].name) < 0) {
            status = no_memory(path, err);
            break;
        }
        status = open_shard(s, i, shard_path, err);
        free(shard_path);
    }
    if (status == OMNI_OK) {
        status = check_map(s, map, path, names, err);
    }
    return finish_open(s, status, out);
}

static omni_status open_index(const char *dir, const char *path, safetensors **out, omni_error *err) {
    char *text = NULL;
    size_t size;
    TRY(file_read(path, MAX_HEADER, &text, &size, err));
    json_t *index = NULL;
    omni_status status = parse_object(text, size, path, "the index", &index, err);
    free(text);
    if (status != OMNI_OK) {
        return status;
    }
    json_t *map = json_object_get(index, "weight_map");
    name_index names = {0};
    if (!json_is_object(map)) {
        status = fail(err, OMNI_ERR_FORMAT, "%s: weight_map is missing or not an object", path);
    } else {
        status = list_shards(map, path, &names, err);
    }
    if (status == OMNI_OK) {
        status = open_shards(dir, path, map, &names, out, err);
    }
    name_index_free(&names);
    json_decref(index);
    return status;
}

omni_status safetensors_open(const char *dir, safetensors **out, omni_error *err) {
    *out = NULL;
    char *single, *index;
    if (asprintf(&single, "%s/model.safetensors", dir) < 0) {
        return no_memory(dir, err);
    }
    if (asprintf(&index, "%s/model.safetensors.index.json", dir) < 0) {
        free(single);
        return no_memory(dir, err);
    }
    omni_status status;
    if (access(single, F_OK) == 0) {
        status = open_single(single, true, out, err);
    } else if (access(index, F_OK) == 0) {
        status = open_index(dir, index, out, err);
    } else {
        status = fail(err, OMNI_ERR_IO, "%s: holds neither model.safetensors nor model.safetensors.index.json", dir);
    }
    free(single);
    free(index);
    return status;
}

void safetensors_close(safetensors *s) {
    if (!s) {
        return;
    }
    for (size_t i = 0; i < s->index.count; i++) {
        free(s->names[i]);
    }
    for (size_t i = 0; i < s->shard_count; i++) {
        if (s->shards[i].path != s->shards[i].map.path) {
            free(s->shards[i].path);
        }
        file_map_close(&s->shards[i].map);
    }
    free(s->shards);
    free(s->tensors);
    free(s->names);
    free(s->shard_of);
    name_index_free(&s->index);
    free(s);
}

size_t safetensors_count(const safetensors *s) {
    return s->index.count;
}

const st_tensor *safetensors_at(const safetensors *s, size_t i) {
    return &s->tensors[i];
}

const st_tensor *safetensors_find(const safetensors *s, const char *name) {
    int64_t i = name_index_find(&s->index, name, strlen(name));
    return i < 0 ? NULL : &s->tensors[i];
}

void safetensors_forget(const safetensors *s, const st_tensor *t) {
    const shard *f = &s->shards[s->shard_of[t - s->tensors]];
    if (f->map.data) {
        file_map_forget(&f->map, (size_t)((const uint8_t *)t->data - f->data), t->size);
    }
}
