/* GGUF: a mapped reader (versions 2 and 3) that checks every count, length, offset and alignment before it is used, and a
 * writer (version 3).
 *
 * Reader: gguf_open maps the file and validates all of it up front, so that later look-ups cannot run outside the map.
 * Strings handed out point into the map and are not NUL-terminated (gguf_str carries the length). */
#ifndef OMNI_GGUF_GGUF_H
#define OMNI_GGUF_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "tensor/tensor.h"

typedef enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
} gguf_type;

typedef struct gguf_str {
    const char *data;
    size_t size; /* bytes */
} gguf_str;

static inline bool gguf_name_begins(gguf_str name, const char *prefix) {
    size_t n = strlen(prefix);
    return name.size >= n && memcmp(name.data, prefix, n) == 0;
}

typedef struct gguf gguf;

/* ---- reading ---- */

/* Of a model in parts, as llama.cpp splits them (NAME-00001-of-00003.gguf, keys split.no, split.count, split.tensors.count), any part's path opens
 * all: keys are those of the first, tensors those of every part in their order. A part that is missing, of another model or there twice is an error
 * that names its file. */
omni_status gguf_open(const char *path, gguf **out, omni_error *err);
/* The same over memory, aligned to 8 bytes, that outlives the reader (tests, fuzzing); name stands for the path in errors. */
omni_status gguf_open_memory(const void *data, size_t size, const char *name, gguf **out, omni_error *err);
void gguf_close(gguf *g);
const char *gguf_path(const gguf *g);
uint32_t gguf_version(const gguf *g);
/* Files, 1 but for a model in parts, and their paths. */
size_t gguf_part_count(const gguf *g);
const char *gguf_part_path(const gguf *g, size_t i);
/* An error when a file of this path is one that g is read from: what is written must not take its place. */
omni_status gguf_check_output(const gguf *g, const char *path, omni_error *err);
/* Bytes of the whole file, of all parts, and where in the first the tensor data starts. */
size_t gguf_file_size(const gguf *g);
size_t gguf_data_offset(const gguf *g);
/* Tells the system that a tensor's mapped pages are not needed any more (they are read again when touched). */
void gguf_forget(const gguf *g, const tensor *t);
/* Has a tensor's pages read now (file_map_want). */
void gguf_want(const gguf *g, const tensor *t);

size_t gguf_key_count(const gguf *g);
gguf_str gguf_key_name(const gguf *g, size_t i);
gguf_type gguf_key_type(const gguf *g, size_t i);
/* Index of a key, or -1. */
int64_t gguf_find(const gguf *g, const char *key);

/* Required values: an error names the file, the key and what was found instead. Integers of any width and sign are accepted
 * where the value fits; F32 and F64 alike for floats, and integers for floats; a float that is NaN or infinite is an error.
 * Strings from gguf_need_str are copied NUL-terminated into memory owned by the reader; one with a NUL inside is an error. */
omni_status gguf_need_u32(const gguf *g, const char *key, uint32_t *out, omni_error *err);
omni_status gguf_need_f32(const gguf *g, const char *key, float *out, omni_error *err);
omni_status gguf_need_str(gguf *g, const char *key, const char **out, omni_error *err);
/* An integer of [low, high], within int32_t. */
omni_status gguf_need_int(const gguf *g, const char *key, int64_t low, int64_t high, int *out, omni_error *err);
/* Optional values: the fallback when the key is absent; wrong type is still an error. */
omni_status gguf_maybe_u32(const gguf *g, const char *key, uint32_t fallback, uint32_t *out, omni_error *err);
omni_status gguf_maybe_int(const gguf *g, const char *key, int fallback, int64_t low, int64_t high, int *out, omni_error *err);
omni_status gguf_maybe_f32(const gguf *g, const char *key, float fallback, float *out, omni_error *err);
omni_status gguf_maybe_bool(const gguf *g, const char *key, bool fallback, bool *out, omni_error *err);
omni_status gguf_maybe_str(gguf *g, const char *key, const char *fallback, const char **out, omni_error *err);

/* Arrays: element count and type; -1 when the key is absent or no array (element is then left alone; it may be NULL). */
int64_t gguf_array_count(const gguf *g, const char *key, gguf_type *element);
/* Fills out[0 .. count) from numbers of any type; an error when absent, of another length, or of values that do not fit. */
omni_status gguf_need_i32s(const gguf *g, const char *key, size_t count, int32_t *out, omni_error *err);
omni_status gguf_need_f32s(const gguf *g, const char *key, size_t count, float *out, omni_error *err);
omni_status gguf_need_bools(const gguf *g, const char *key, size_t count, bool *out, omni_error *err);
/* All strings of an array at once; *out is the caller's to free(), the strings lie in the map. */
omni_status gguf_need_strs(const gguf *g, const char *key, gguf_str **out, size_t *count, omni_error *err);

size_t gguf_tensor_count(const gguf *g);
const tensor *gguf_tensor_at(const gguf *g, size_t i);
/* Which file holds a tensor, and where in it its data begins. */
size_t gguf_tensor_part(const gguf *g, const tensor *t);
size_t gguf_tensor_offset(const gguf *g, const tensor *t);
/* NULL when absent. */
const tensor *gguf_tensor(const gguf *g, const char *name);
/* A tensor that must exist with this shape (ne order; trailing 1s may be left off, -1 takes any size) and hold a computable
 * type. The error gives file, name, the shape found and the shape wanted, or the type. */
omni_status gguf_need_tensor(const gguf *g, const tensor **out, omni_error *err, int n_dims, const int64_t *ne, const char *name_format, ...)
    __attribute__((format(printf, 6, 7)));

/* One value as text for people: strings quoted and cut after 16 * limit bytes, arrays after limit elements ("... (n in all)").
 * A valid JSON string or number comes out when nothing was cut. The caller frees it. NULL when out of memory. */
char *gguf_value_text(const gguf *g, size_t i, size_t limit);

/* ---- writing ----
 * Declare keys and tensors, then gguf_writer_begin writes the header, then tensor data goes in any order and from any
 * thread with gguf_writer_data. gguf_writer_finish checks that every byte of every tensor was written, syncs and renames. */
typedef struct gguf_writer gguf_writer;

omni_status gguf_writer_create(const char *path, gguf_writer **out, omni_error *err);

/* A model in parts, as gguf_open reads them: PREFIX-00001-of-00003.gguf and so on. gguf_writer_begin lays tensors into files in their order,
 * opens them, and adds the keys split.no, split.count and split.tensors.count; the model's own keys go into the first. gguf_writer_finish
 * gives the first its name last; after an error none of them is there, and older files of these names are as they were. */
enum { GGUF_MOST_PARTS = 9999 };
typedef struct gguf_split {
    uint64_t max_bytes;        /* of a file, header included, unless one tensor alone takes more; 0: any */
    size_t max_tensors;        /* of a file; 0: any */
    bool whole_without_number; /* what fits into one file is PREFIX.gguf, without the three keys */
    const gguf *input;         /* files that no part may replace; NULL: none. Outlives gguf_writer_begin. */
} gguf_split;
omni_status gguf_writer_create_split(const char *prefix, const gguf_split *split, gguf_writer **out, omni_error *err);
/* Files, from gguf_writer_begin on, and their paths, links followed. */
size_t gguf_writer_part_count(const gguf_writer *w);
const char *gguf_writer_part_path(const gguf_writer *w, size_t part);
/* Of all files, from gguf_writer_begin on. */
uint64_t gguf_writer_bytes(const gguf_writer *w);

/* Setters keep a first error and report it from gguf_writer_begin, so they need no checks one by one. */
void gguf_put_u32(gguf_writer *w, const char *key, uint32_t v);
void gguf_put_f32(gguf_writer *w, const char *key, float v);
void gguf_put_bool(gguf_writer *w, const char *key, bool v);
void gguf_put_str(gguf_writer *w, const char *key, const char *v);
void gguf_put_strn(gguf_writer *w, const char *key, const char *v, size_t n);
void gguf_put_i32s(gguf_writer *w, const char *key, const int32_t *v, size_t n);
void gguf_put_u32s(gguf_writer *w, const char *key, const uint32_t *v, size_t n);
void gguf_put_f32s(gguf_writer *w, const char *key, const float *v, size_t n);
void gguf_put_bools(gguf_writer *w, const char *key, const bool *v, size_t n);
void gguf_put_strs(gguf_writer *w, const char *key, const gguf_str *v, size_t n);
/* Copies a key with its value, whatever its type, from another file. */
void gguf_put_copy(gguf_writer *w, const gguf *from, size_t i);
/* Declares a tensor; returns its index for gguf_writer_data. Names of at most 63 bytes, as other readers of GGUF demand. */
size_t gguf_put_tensor(gguf_writer *w, const char *name, dtype type, int n_dims, const int64_t *ne);
omni_status gguf_writer_begin(gguf_writer *w, omni_error *err);
/* Bytes of a declared tensor's data. */
size_t gguf_writer_tensor_bytes(const gguf_writer *w, size_t tensor);
/* Bytes [offset, offset + size) of a tensor's data, each byte once. Safe from several threads at once. */
omni_status gguf_writer_data(gguf_writer *w, size_t tensor, size_t offset, const void *data, size_t size, omni_error *err);
/* Frees the writer, whatever the outcome. */
omni_status gguf_writer_finish(gguf_writer *w, omni_error *err);
/* Several that belong together: all get their names, or none. Frees them, whatever the outcome. */
omni_status gguf_writer_finish_all(gguf_writer *const writers[], size_t count, omni_error *err);
void gguf_writer_abandon(gguf_writer *w);

#endif
