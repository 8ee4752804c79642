/* The card itself: opening it, its memory, and what goes up and down. */
#include "cuda/cuda.h"
#include "cuda/device.cuh"
#include "cuda/repack.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "base/error.h"
}

enum { STAGING_BYTES = 16 << 20, ALIGNMENT = 64 };

/* ---- memory ---- */

static omni_status memory_alloc(backend *b, size_t bytes, void **out, omni_error *err) {
    cuda_backend *c = cuda_of(b);
    *out = NULL;
    if (c->error != cudaSuccess) {
        return c->base.failure(b, err);
    }
    void *p = NULL;
    const cudaError_t e = bytes > SIZE_MAX - ALIGNMENT ? cudaErrorMemoryAllocation : cudaMalloc(&p, bytes + ALIGNMENT);
    if (e != cudaSuccess) {
        size_t available = 0, total = 0;
        (void)cudaGetLastError();
        (void)cudaMemGetInfo(&available, &total);
        return fail(err, OMNI_ERR_MEMORY, "%s: no room for %zu bytes: %zu of %zu are free", c->description, bytes, available, total);
    }
    cuda_ok(c, cudaMemsetAsync(p, 0, bytes + ALIGNMENT, c->stream), "cudaMemsetAsync");
    *out = p;
    return OMNI_OK;
}

static void memory_release(backend *b, void *memory) {
    cuda_backend *c = cuda_of(b);
    if (memory) {
        cuda_ok(c, cudaStreamSynchronize(c->stream), "cudaStreamSynchronize");
        cuda_ok(c, cudaFree(memory), "cudaFree");
    }
}

void *cuda_tell(cuda_backend *c, const void *from, size_t bytes) {
    const size_t room = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (room > RING_BYTES) {
        return NULL;
    }
    if (room > RING_BYTES - c->ring_used) { /* what is still under way may be overwritten only once it has arrived */
        cuda_ok(c, cudaStreamSynchronize(c->stream), "cudaStreamSynchronize");
        c->ring_used = 0;
    }
    char *place = c->ring + c->ring_used, *twin = c->ring_twin + c->ring_used;
    c->ring_used += room;
    memcpy(place, from, bytes);
    cuda_ok(c, cudaMemcpyAsync(twin, place, bytes, cudaMemcpyHostToDevice, c->stream), "cudaMemcpyAsync");
    return twin;
}

void *cuda_scratch(cuda_backend *c, size_t bytes) {
    if (bytes > c->scratch_bytes) {
        const size_t more = bytes > 2 * c->scratch_bytes ? bytes : 2 * c->scratch_bytes;
        cuda_ok(c, cudaStreamSynchronize(c->stream), "cudaStreamSynchronize");
        (void)cudaFree(c->scratch);
        c->scratch_bytes = 0;
        if (!cuda_ok(c, cudaMalloc(&c->scratch, more), "cudaMalloc")) {
            c->scratch = NULL;
            return NULL;
        }
        c->scratch_bytes = more;
    }
    return c->scratch;
}

static void memory_copy(backend *b, void *to, const void *from, size_t bytes);

/* A large block goes up in parts, each from page-locked memory while the next is being filled. */
static void upload_large(cuda_backend *c, char *to, const char *from, size_t bytes, void (*done)(void *arg, size_t begin, size_t end), void *arg) {
    for (size_t at = 0, part = 0; at < bytes; part++) {
        const size_t n = bytes - at < STAGING_BYTES ? bytes - at : (size_t)STAGING_BYTES;
        const int half = part % 2;
        cuda_ok(c, cudaEventSynchronize(c->staged[half]), "cudaEventSynchronize");
        memcpy(c->staging[half], from + at, n);
        cuda_ok(c, cudaMemcpyAsync(to + at, c->staging[half], n, cudaMemcpyHostToDevice, c->stream), "cudaMemcpyAsync");
        cuda_ok(c, cudaEventRecord(c->staged[half], c->stream), "cudaEventRecord");
        if (done) {
            done(arg, at, at + n);
        }
        at += n;
    }
}

static void memory_upload(backend *b, void *to, const void *from, size_t bytes) {
    cuda_backend *c = cuda_of(b);
    if (bytes == 0) {
        return;
    }
    if (bytes > RING_BYTES / 4) {
        upload_large(c, (char *)to, (const char *)from, bytes, NULL, NULL);
        return;
    }
    memory_copy(b, to, cuda_tell(c, from, bytes), bytes);
}

static void memory_download(backend *b, void *to, const void *from, size_t bytes) {
    cuda_backend *c = cuda_of(b);
    if (bytes > 0) {
        cuda_ok(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, c->stream), "cudaMemcpyAsync");
    }
    cuda_ok(c, cudaStreamSynchronize(c->stream), "cudaStreamSynchronize");
    if (c->error != cudaSuccess && bytes > 0) {
        memset(to, 0, bytes); /* not whatever lay there */
    }
}

/* Ranges that overlap are copied through memory of their own: it happens to a few rows, and not in a step. */
static void memory_copy(backend *b, void *to, const void *from, size_t bytes) {
    cuda_backend *c = cuda_of(b);
    const char *first = (const char *)from, *second = (const char *)to;
    if (bytes == 0 || to == from) {
        return;
    }
    if (first + bytes <= second || second + bytes <= first) {
        cuda_ok(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, c->stream), "cudaMemcpyAsync");
        return;
    }
    void *between = NULL;
    if (cuda_ok(c, cudaMallocAsync(&between, bytes, c->stream), "cudaMallocAsync")) {
        cuda_ok(c, cudaMemcpyAsync(between, from, bytes, cudaMemcpyDeviceToDevice, c->stream), "cudaMemcpyAsync");
        cuda_ok(c, cudaMemcpyAsync(to, between, bytes, cudaMemcpyDeviceToDevice, c->stream), "cudaMemcpyAsync");
        cuda_ok(c, cudaFreeAsync(between, c->stream), "cudaFreeAsync");
    }
}

/* ---- weights ---- */

static size_t weights_size(backend *b, weight_use use, const tensor *t) {
    return repacked_row_bytes(t->type, t->ne[0]) * (size_t)tensor_rows(t);
}

static void weights_pack(backend *b, weight_use use, tensor *t, void *memory, void (*done)(void *arg, size_t begin, size_t end), void *arg) {
    cuda_backend *c = cuda_of(b);
    const size_t bytes = dtype_row_bytes(t->type, t->ne[0]) * (size_t)tensor_rows(t);
    const char *from = (const char *)t->data;
    void *stored = NULL;
    t->size = weights_size(b, use, t);
    if (!repacks(t->type)) {
        upload_large(c, (char *)memory, from, bytes, done, arg);
    } else if (cuda_ok(c, cudaMallocAsync(&stored, bytes, c->stream), "cudaMallocAsync")) {
        upload_large(c, (char *)stored, from, bytes, done, arg);
        repack(c, t->type, (const char *)stored, tensor_rows(t), t->ne[0], (char *)memory);
        cuda_ok(c, cudaFreeAsync(stored, c->stream), "cudaFreeAsync");
    }
    t->data = memory;
    t->packed = true;
}

void cuda_memory_ops(ops *o) {
    o->alloc = memory_alloc;
    o->release = memory_release;
    o->upload = memory_upload;
    o->download = memory_download;
    o->copy = memory_copy;
    o->packed_size = weights_size;
    o->pack = weights_pack;
}

/* ---- the backend ---- */

static omni_status card_failed(backend *b, omni_error *err) {
    const cuda_backend *c = cuda_of(b);
    return c->error == cudaSuccess ? OMNI_OK
                                   : fail(err, OMNI_ERR_IO, "%s: %s failed: %s", c->description, c->error_call, cudaGetErrorString(c->error));
}

static void enter(backend *b) {
    cuda_ok(cuda_of(b), cudaSetDevice(cuda_of(b)->device), "cudaSetDevice");
}

static void destroy(backend *b) {
    cuda_backend *c = cuda_of(b);
    (void)cudaSetDevice(c->device);
    if (c->stream) {
        (void)cudaStreamSynchronize(c->stream);
        (void)cudaStreamDestroy(c->stream);
    }
    for (int i = 0; i < 2; i++) {
        (void)cudaFreeHost(c->staging[i]);
        if (c->staged[i]) {
            (void)cudaEventDestroy(c->staged[i]);
        }
    }
    (void)cudaFreeHost(c->ring);
    (void)cudaFree(c->ring_twin);
    (void)cudaFree(c->counters);
    (void)cudaFree(c->scratch);
    free(c);
}

omni_status cuda_cards(int *count, omni_error *err) {
    *count = 0;
    const cudaError_t e = cudaGetDeviceCount(count);
    if (e == cudaSuccess && *count > 0) {
        return OMNI_OK;
    }
    (void)cudaGetLastError();
    *count = 0;
    if (e == cudaErrorInsufficientDriver) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "the NVIDIA driver is missing or older than this program needs (CUDA %d.%d)", CUDART_VERSION / 1000,
                    CUDART_VERSION % 1000 / 10);
    }
    return fail(err, OMNI_ERR_UNSUPPORTED, "no CUDA card: %s", cudaGetErrorString(e == cudaSuccess ? cudaErrorNoDevice : e));
}

omni_status cuda_card_describe(int device, cuda_card *out, omni_error *err) {
    struct cudaDeviceProp p;
    int count;
    TRY(cuda_cards(&count, err));
    if (device < 0 || device >= count) {
        return fail(err, OMNI_ERR_ARGUMENT, "cuda:%d: there %s", device, count == 1 ? "is one card, cuda:0" : "are fewer cards than that");
    }
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    *out = cuda_card{};
    if (e == cudaSuccess) {
        snprintf(out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, p.name);
        out->major = p.major;
        out->minor = p.minor;
        out->multiprocessors = p.multiProcessorCount;
        e = cudaSetDevice(device);
    }
    e = e == cudaSuccess ? cudaMemGetInfo(&out->memory_free, &out->memory) : e;
    if (e != cudaSuccess) {
        (void)cudaGetLastError();
        return fail(err, OMNI_ERR_UNSUPPORTED, "cuda:%d cannot be used: %s", device, cudaGetErrorString(e));
    }
    return OMNI_OK;
}

omni_status cuda_backend_create(int device, backend **out, omni_error *err) {
    cuda_card card;
    *out = NULL;
    TRY(cuda_card_describe(device, &card, err));
    cuda_backend *c = (cuda_backend *)calloc(1, sizeof *c);
    if (!c) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory");
    }
    c->device = device;
    c->multiprocessors = card.multiprocessors;
    c->chains = card.major >= 9;
    snprintf(c->description, sizeof c->description, "cuda:%d, %s", device, card.name);
    cuda_memory_ops(&c->table);
    cuda_row_ops(&c->table);
    cuda_norm_ops(&c->table);
    cuda_linear_ops(&c->table);
    cuda_conv_ops(&c->table);
    cuda_attention_ops(&c->table);
    cuda_moe_ops(&c->table);
    cuda_sample_ops(&c->table);
    c->base.ops = &c->table;
    c->base.fused = &cuda_fused;
    c->base.name = "cuda";
    c->base.description = c->description;
    c->base.prompt_rows = 2048; /* 128 rows for each of 128 experts, of which a row takes 8: whole tiles */
    c->base.enter = enter;
    c->base.failure = card_failed;
    c->base.destroy = destroy;
    cuda_ok(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "cudaStreamCreate");
    cuda_ok(c, cudaMallocHost((void **)&c->ring, RING_BYTES), "cudaMallocHost");
    cuda_ok(c, cudaMalloc((void **)&c->ring_twin, RING_BYTES), "cudaMalloc");
    if (cuda_ok(c, cudaMalloc((void **)&c->counters, COUNTERS * sizeof *c->counters), "cudaMalloc")) {
        cuda_ok(c, cudaMemsetAsync(c->counters, 0, COUNTERS * sizeof *c->counters, c->stream), "cudaMemsetAsync");
    }
    for (int i = 0; i < 2; i++) {
        cuda_ok(c, cudaMallocHost((void **)&c->staging[i], STAGING_BYTES), "cudaMallocHost");
        cuda_ok(c, cudaEventCreateWithFlags(&c->staged[i], cudaEventDisableTiming), "cudaEventCreate");
    }
    const omni_status status = card_failed(&c->base, err);
    if (status != OMNI_OK) {
        destroy(&c->base);
        return status;
    }
    *out = &c->base;
    return OMNI_OK;
}

extern "C" const cuda_library omni_cuda_library = {OMNI_VERSION, CUDA_LIBRARY_SIZES, cuda_cards, cuda_card_describe, cuda_backend_create};
