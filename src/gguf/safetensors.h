/* Safetensors checkpoints: one file, or shards joined by model.safetensors.index.json. Mapped; every header field is checked
 * against the file's size, tensors must not overlap and must have exactly the bytes that shape and type ask for. */
#ifndef OMNI_GGUF_SAFETENSORS_H
#define OMNI_GGUF_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "tensor/tensor.h"

typedef struct safetensors safetensors;

/* A stored tensor. shape is in PyTorch's order (slowest dimension first). The data may lie at any address, without alignment:
 * read it through dtype_to_f32 or memcpy. */
typedef struct st_tensor {
    const char *name;
    dtype type; /* F32, F16 or BF16; others are refused when opened, with the tensor's name. Single files: any plain type */
    int n_dims;
    int64_t shape[8];
    const void *data;
    size_t size;      /* bytes */
    const char *file; /* path of the shard */
} st_tensor;

/* dir: folder with model.safetensors, or the index and its shards. A tensor that the index names but no shard holds (or the
 * reverse) is an error that names both. */
omni_status safetensors_open(const char *dir, safetensors **out, omni_error *err);
/* A single file or memory (tests, traces, fuzzing). These may also hold I8 to I64, F64, and tensors without values. */
omni_status safetensors_open_file(const char *path, safetensors **out, omni_error *err);
omni_status safetensors_open_memory(const void *data, size_t size, const char *name, safetensors **out, omni_error *err);
void safetensors_close(safetensors *s);

size_t safetensors_count(const safetensors *s);
const st_tensor *safetensors_at(const safetensors *s, size_t i);
/* NULL when absent. */
const st_tensor *safetensors_find(const safetensors *s, const char *name);
/* Lets go of a tensor's mapped pages once they have been used. */
void safetensors_forget(const safetensors *s, const st_tensor *t);

/* Writer for traces: F32 and I64 tensors kept in memory until st_writer_finish writes the file (beside, sync, rename). */
typedef struct st_writer st_writer;
omni_status st_writer_create(const char *path, st_writer **out, omni_error *err);
/* Copies the values. shape in PyTorch's order. A first error is kept and reported by st_writer_finish. */
void st_writer_f32(st_writer *w, const char *name, int n_dims, const int64_t *shape, const float *data);
void st_writer_i64(st_writer *w, const char *name, int n_dims, const int64_t *shape, const int64_t *data);
omni_status st_writer_finish(st_writer *w, omni_error *err);
void st_writer_abandon(st_writer *w);

#endif
