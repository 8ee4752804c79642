/* Enough of CUDA to run src/cuda on a processor, so that machines without a card (CI) test it: every kernel, its indices, its barriers and the memory
 * it touches, under sanitizers as well. It stands in for CUDA's own header on the include path; the sources are compiled as C++ and do not know.
 *
 * A launch runs at once, block by block; the threads of a block are coroutines of the calling thread. A thread runs until a barrier or a warp's
 * exchange, and a barrier that not all threads reach ends the program. "Card memory" is the host's, allocated with the C library. One launch at a
 * time. */
#ifndef EMULATED_CUDA_RUNTIME_H
#define EMULATED_CUDA_RUNTIME_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static /* one block runs at a time */
#define DYNAMIC_SHARED(name) char *name = emulated_shared
#define UNROLL
#define CUDART_VERSION 13000

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {
    }
};

/* ---- where a thread stands ---- */

struct emulated_place {
    dim3 threadIdx, blockIdx, blockDim, gridDim;
};
extern emulated_place emulated_now;
extern char *emulated_shared; /* what the launch asked for: exactly so many bytes */
#define threadIdx emulated_now.threadIdx
#define blockIdx emulated_now.blockIdx
#define blockDim emulated_now.blockDim
#define gridDim emulated_now.gridDim

void emulated_block_barrier();
/* Every lane of a warp gives 8 bytes; afterwards all[lane] holds each lane's. */
void emulated_warp_exchange(uint64_t mine, uint64_t all[32]);
/* Whether any thread of the block gave true. */
bool emulated_block_any(bool mine);
/* Runs body(argument) as every thread of every block. */
void emulated_launch(dim3 grid, dim3 threads, size_t shared, void (*body)(void *argument), void *argument);

/* ---- device functions ---- */

static inline void __syncthreads() {
    emulated_block_barrier();
}

static inline int __syncthreads_or(int x) {
    return emulated_block_any(x != 0);
}

static inline void __syncwarp(unsigned = 0xffffffffu) {
    uint64_t all[32];
    emulated_warp_exchange(0, all);
}

template <class T> static inline T emulated_from(int lane, T x) {
    uint64_t mine = 0, all[32];
    memcpy(&mine, &x, sizeof x);
    emulated_warp_exchange(mine, all);
    memcpy(&x, &all[lane & 31], sizeof x);
    return x;
}

static inline int emulated_lane() {
    return (int)(threadIdx.x % 32);
}

template <class T> static inline T __shfl_xor_sync(unsigned, T x, int mask) {
    return emulated_from(emulated_lane() ^ mask, x);
}

template <class T> static inline T __shfl_up_sync(unsigned, T x, int distance) {
    const int lane = emulated_lane() - distance;
    return emulated_from(lane < 0 ? emulated_lane() : lane, x);
}

template <class T> static inline T __shfl_sync(unsigned, T x, int lane) {
    return emulated_from(lane, x);
}

static inline unsigned __ballot_sync(unsigned, int x) {
    uint64_t all[32];
    unsigned bits = 0;
    emulated_warp_exchange(x != 0, all);
    for (int i = 0; i < 32; i++) {
        bits |= (unsigned)(all[i] != 0) << i;
    }
    return bits;
}

static inline unsigned __reduce_max_sync(unsigned, unsigned x) {
    uint64_t all[32];
    emulated_warp_exchange(x, all);
    for (int i = 0; i < 32; i++) {
        x = all[i] > x ? (unsigned)all[i] : x;
    }
    return x;
}

static inline unsigned __reduce_min_sync(unsigned, unsigned x) {
    return ~__reduce_max_sync(0xffffffffu, ~x);
}

static inline int __float2int_rn(float x) {
    return (int)rintf(x);
}

static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}

template <class T> static inline T atomicAdd(T *p, T x) {
    const T before = *p;
    *p += x;
    return before;
}

static inline unsigned atomicInc(unsigned *p, unsigned most) {
    const unsigned before = *p;
    *p = before >= most ? 0 : before + 1;
    return before;
}

static inline void __threadfence() {
}

template <class T> static inline T __ldcg(const T *p) {
    return *p;
}

static inline int atomicMin(int *p, int x) {
    const int before = *p;
    *p = x < before ? x : before;
    return before;
}

template <class To, class From> static inline To emulated_bits(From x) {
    To y;
    static_assert(sizeof x == sizeof y, "as many bits");
    memcpy(&y, &x, sizeof y);
    return y;
}

static inline float __uint_as_float(uint32_t x) {
    return emulated_bits<float>(x);
}

static inline uint32_t __float_as_uint(float x) {
    return emulated_bits<uint32_t>(x);
}

static inline long long __double_as_longlong(double x) {
    return emulated_bits<long long>(x);
}

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

static inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 32; i += 8) {
        sum += (int8_t)(a >> i) * (int8_t)(b >> i);
    }
    return sum;
}

struct alignas(16) int4 {
    int x, y, z, w;
};

struct alignas(8) uint2 {
    unsigned x, y;
};

struct float2 {
    float x, y;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

#define EMULATED_CUDA /* src/cuda/mma.cuh leaves these to us */

/* d = a b over `depth` (16 or 32) int8, the words spread over the lanes as that file says. */
static inline void emulated_mma(int d[4], const int *a, const int *b, int depth) {
    const int words = depth / 16;
    uint64_t halves[4][32]; /* of every lane a[0..1], a[2..3], b[0..1] */
    for (int k = 0; k < words; k++) {
        emulated_warp_exchange((uint32_t)a[2 * k] | (uint64_t)(uint32_t)a[2 * k + 1] << 32, halves[k]);
    }
    emulated_warp_exchange((uint32_t)b[0] | (uint64_t)(uint32_t)(words > 1 ? b[1] : 0) << 32, halves[3]);
    for (int i = 0; i < 4; i++) {
        const int row = emulated_lane() / 4 + 8 * (i / 2), column = emulated_lane() % 4 * 2 + i % 2;
        d[i] = 0;
        for (int k = 0; k < depth; k++) {
            const int lane = k % 16 / 4, shift = 8 * (k % 4);
            const uint64_t from_a = halves[k / 16][row % 8 * 4 + lane], from_b = halves[3][column * 4 + lane];
            d[i] += (int8_t)(from_a >> (32 * (row / 8) + shift)) * (int8_t)(from_b >> (32 * (k / 16) + shift));
        }
    }
}

static inline void mma_k32(int d[4], const int a[4], const int b[2]) {
    emulated_mma(d, a, b, 32);
}

static inline void mma_k16(int d[4], const int a[2], const int b[1]) {
    emulated_mma(d, a, b, 16);
}

/* Half precision as cuda_fp16.h of this folder has it, which includes this file. */
float emulated_half(uint16_t bits);

static inline void mma_half(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    uint64_t pairs[3][32]; /* of every lane a[0..1], a[2..3], b[0..1] */
    for (int k = 0; k < 2; k++) {
        emulated_warp_exchange(a[2 * k] | (uint64_t)a[2 * k + 1] << 32, pairs[k]);
    }
    emulated_warp_exchange(b[0] | (uint64_t)b[1] << 32, pairs[2]);
    for (int i = 0; i < 4; i++) {
        const int row = emulated_lane() / 4 + 8 * (i / 2), column = emulated_lane() % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            const int lane = k % 8 / 2, shift = 16 * (k % 2);
            d[i] += emulated_half((uint16_t)(pairs[k / 8][row % 8 * 4 + lane] >> (32 * (row / 8) + shift))) *
                    emulated_half((uint16_t)(pairs[2][column * 4 + lane] >> (32 * (k / 8) + shift)));
        }
    }
}

/* Bytes of x (0 to 3) and y (4 to 7) that the four nibbles of `which` name, the lowest first. */
static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t which) {
    const uint64_t both = x | (uint64_t)y << 32;
    uint32_t z = 0;
    for (int i = 0; i < 4; i++) {
        z |= (uint32_t)(both >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
    }
    return z;
}

static inline double __longlong_as_double(long long x) {
    return emulated_bits<double>(x);
}

/* ---- the runtime ---- */

enum cudaError_t {
    cudaSuccess,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorLaunchFailure = 719
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
typedef struct emulated_stream *cudaStream_t;
typedef struct emulated_event *cudaEvent_t;

struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
};

enum { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
    int id;
    struct {
        int programmaticStreamSerializationAllowed;
    } val;
};

struct cudaLaunchConfig_t {
    emulated_place emulated_now; /* which holds what the macros above make of gridDim and blockDim */
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

/* For tests: the call after so many more that can fail does; below 0: none does. */
extern long emulated_fail_in;
cudaError_t emulated_call(cudaError_t failure);

const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void *p, cudaStream_t stream);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventDestroy(cudaEvent_t event);

template <class... Parameters> struct emulated_arguments {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> values;
    static void run(void *argument) {
        const emulated_arguments *a = (const emulated_arguments *)argument;
        std::apply(a->kernel, a->values);
    }
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...), Arguments... arguments) {
    const cudaError_t e = emulated_call(cudaErrorLaunchFailure);
    if (e == cudaSuccess) {
        emulated_arguments<Parameters...> a = {kernel, std::tuple<Parameters...>(Parameters(arguments)...)};
        emulated_launch(config->gridDim, config->blockDim, config->dynamicSmemBytes, emulated_arguments<Parameters...>::run, &a);
    }
    return e;
}

#endif
