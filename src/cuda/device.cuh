/* What every kernel file shares: the backend's state, launches, loads and reductions.
 *
 * Kernels are float32 wherever a value is summed. A block is a block of threads; a quantised block is always called by its type. */
#ifndef OMNI_CUDA_DEVICE_CUH
#define OMNI_CUDA_DEVICE_CUH

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

extern "C" {
#include "tensor/blocks.h"
#include "tensor/fused.h"
#include "tensor/ops.h"
}

enum { WARP = 32 };

/* The shared memory that a launch asked for, as char *NAME. */
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) char name[]
#endif

/* Before a loop: all of its rounds are written out, so that arrays it indexes lie in registers. */
#ifndef UNROLL
#define UNROLL _Pragma("unroll")
#endif

/* Small things that the host tells kernels go through a ring in page-locked memory and its twin on the card. */
enum { RING_BYTES = 4 << 20, COUNTERS = 4096 };

typedef struct cuda_backend {
    backend base; /* first: a backend pointer is one to this */
    ops table;
    int device, multiprocessors;
    bool chains; /* a kernel may begin while the one before it ends (compute capability 9.0) */
    char description[192];
    cudaStream_t stream;
    cudaError_t error;      /* the first one that any call met; what follows it is not to be believed */
    const char *error_call; /* where */
    char *ring, *ring_twin;
    size_t ring_used;
    void *scratch; /* of one operation at a time: the stream keeps them in order */
    size_t scratch_bytes;
    unsigned *counters; /* [COUNTERS] all 0 between kernels: is_last counts with them */
    char *staging[2];   /* page-locked, through which weights go up */
    cudaEvent_t staged[2];
} cuda_backend;

static inline cuda_backend *cuda_of(backend *b) {
    return (cuda_backend *)(void *)b;
}

/* Remembers a failure. */
static inline bool cuda_ok(cuda_backend *c, cudaError_t e, const char *call) {
    if (e != cudaSuccess && c->error == cudaSuccess) {
        c->error = e;
        c->error_call = call;
    }
    return e == cudaSuccess;
}

/* Copies bytes to the card in the order of the stream and returns where they lie there until some 4 MB more have been told; NULL: more than fits. */
void *cuda_tell(cuda_backend *c, const void *from, size_t bytes);

/* Memory of the card for what an operation needs while it runs; the next one's overlaps it. NULL: there is no room (remembered as a failure). */
void *cuda_scratch(cuda_backend *c, size_t bytes);

/* Blocks of `threads` each that n things take. */
static inline unsigned blocks_for(int64_t n, int threads) {
    return (unsigned)((n + threads - 1) / threads);
}

/* Queues a kernel; what: its name, for the error. Nothing is done for an empty grid. chained: the kernel calls wait_for_inputs, and may begin before
 * what was queued before it has ended. */
template <typename... Parameters, typename... Arguments>
static void queue_kernel(cuda_backend *c, bool chained, const char *what, void (*kernel)(Parameters...), dim3 grid, dim3 threads, size_t shared,
                         Arguments... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) {
        return;
    }
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared;
    config.stream = c->stream;
    config.attrs = &early;
    config.numAttrs = chained && c->chains ? 1 : 0;
    cuda_ok(c, cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), what);
}

template <typename... Parameters, typename... Arguments>
static void launch(cuda_backend *c, const char *what, void (*kernel)(Parameters...), dim3 grid, dim3 threads, size_t shared, Arguments... arguments) {
    queue_kernel(c, false, what, kernel, grid, threads, shared, arguments...);
}

template <typename... Parameters, typename... Arguments>
static void launch_chained(cuda_backend *c, const char *what, void (*kernel)(Parameters...), dim3 grid, dim3 threads, size_t shared,
                           Arguments... arguments) {
    queue_kernel(c, true, what, kernel, grid, threads, shared, arguments...);
}

/* Operations of each file, entered into the table. */
void cuda_memory_ops(ops *o);
void cuda_row_ops(ops *o);
void cuda_norm_ops(ops *o);
void cuda_linear_ops(ops *o);
void cuda_conv_ops(ops *o);
void cuda_attention_ops(ops *o);
void cuda_moe_ops(ops *o);
void cuda_sample_ops(ops *o);
extern const fused_ops cuda_fused;

/* x[row] += the mixture's sum, for a few rows whose inputs can be rounded; false, and nothing done, otherwise. Arguments as of ops->moe. */
bool cuda_moe_add(backend *b, const tensor *gate, const tensor *up, const tensor *down, const float *n, int64_t rows, const int32_t *ids,
                  const float *weights, int used, float *scratch, float *x);

/* ---- device code ---- */

/* In a kernel that is launched with launch_chained, by every thread, before it reads what other kernels write and before it writes anything: what was
 * queued before it has ended. Weights may be read before. */
__device__ static inline void wait_for_inputs() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel, if it is chained, may take what room there is on the card, as soon as every block has come here or ended. */
__device__ static inline void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Asks for the line of memory that p points into. */
__device__ static inline void prefetch(const void *p) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

/* True in all threads of the last of `blocks` blocks that come here, which then sees what the others wrote. All threads call it.
 * counter: of these blocks alone, 0; it is 0 again afterwards. */
__device__ static inline bool is_last(unsigned *counter, unsigned blocks) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicInc(counter, blocks - 1) == blocks - 1;
        __threadfence();
    }
    __syncthreads();
    return last;
}

__device__ static inline float warp_sum(float x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    }
    return x;
}

__device__ static inline float warp_max(float x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    }
    return x;
}

/* The sum over the block's threads, in every thread. partial[blockDim.x / WARP] in shared memory; all threads must call it. */
__device__ static inline float block_sum(float x, float *partial) {
    x = warp_sum(x);
    __syncthreads(); /* partial may still be read from a call before */
    if (threadIdx.x % WARP == 0) {
        partial[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    float sum = 0;
    for (unsigned i = 0; i < blockDim.x / WARP; i++) {
        sum += partial[i];
    }
    return sum;
}

__device__ static inline uint4 load_16(const void *p) {
    return *(const uint4 *)p;
}

/* Values [at, at + 8) of a row of n, zeros behind its end. */
__device__ static inline void load_8(const float *x, int64_t at, int64_t n, float v[8]) {
    if (at + 8 <= n && (uintptr_t)(x + at) % sizeof(float4) == 0) {
        const float4 a = *(const float4 *)(const void *)(x + at), b = *(const float4 *)(const void *)(x + at + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        return;
    }
    UNROLL
    for (int i = 0; i < 8; i++) {
        v[i] = at + i < n ? x[at + i] : 0;
    }
}

__device__ static inline float half_bits_to_float(uint16_t bits) {
    return __half2float(__ushort_as_half(bits));
}

__device__ static inline uint16_t float_to_half_bits(float x) {
    return __half_as_ushort(__float2half_rn(x));
}

__device__ static inline float bf16_bits_to_float(uint16_t bits) {
    return __uint_as_float((uint32_t)bits << 16);
}

__device__ static inline float silu(float x) {
    return x / (1.0f + expf(-x));
}

#endif
