/* The emulation's coroutines and its runtime (cuda_runtime.h). */
#include <stdio.h>
#include <sys/mman.h>
#include <vector>

#include "cuda_fp16.h"
#include "cuda_runtime.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

emulated_place emulated_now;

float emulated_half(uint16_t bits) {
    return f16_to_f32(bits);
}

/* ---- coroutines ---- */

enum { MOST_THREADS = 1024, LANES = 32, STACK = 256 << 10 };
enum state { READY, AT_WARP, AT_BLOCK, ENDED };

struct context {
    void *sp;
};

#if defined(__x86_64__)
/* Saves the registers that a call must keep and the stack in *from, and goes on where `to` was left. */
extern "C" void emulated_switch(void **from, void *to);
__asm__(".text\n"
        ".globl emulated_switch\n"
        ".type emulated_switch, @function\n"
        "emulated_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size emulated_switch, .-emulated_switch\n");

static void *first_frame(char *top, void (*entry)()) {
    void **sp = (void **)(void *)(top - 64) - 1; /* as after a call: 8 bytes off 16 */
    *--sp = (void *)entry;
    for (int i = 0; i < 6; i++) {
        *--sp = NULL;
    }
    return sp;
}
#else
#include <ucontext.h>
static void emulated_switch(void **from, void *to) {
    ucontext_t here;
    *from = &here;
    swapcontext(&here, (ucontext_t *)to);
}

static void *first_frame(char *top, void (*entry)()) {
    ucontext_t *c = (ucontext_t *)(void *)(top - sizeof *c - 64);
    getcontext(c);
    c->uc_stack.ss_sp = top - STACK;
    c->uc_stack.ss_size = STACK - sizeof *c - 128;
    c->uc_link = NULL;
    makecontext(c, entry, 0);
    return c;
}
#endif

static struct {
    char *stacks;
    void *sp[MOST_THREADS];
    state states[MOST_THREADS];
    uint64_t given[MOST_THREADS];
    void *scheduler;
    unsigned running, count;
    bool any;
    void (*body)(void *argument);
    void *argument;
} all;

/* To a thread's stack (mine: where this one's is remembered by the sanitizer). */
static void go(void **from, void *to, void **mine, const void *stack, size_t size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(mine, stack, size);
    emulated_switch(from, to);
    __sanitizer_finish_switch_fiber(mine ? *mine : NULL, NULL, NULL);
#else
    (void)mine, (void)stack, (void)size;
    emulated_switch(from, to);
#endif
}

static const void *main_stack;
static size_t main_stack_size;

static void back_to_scheduler(state s) {
    const unsigned me = all.running;
    void *fake = NULL;
    all.states[me] = s;
    go(&all.sp[me], all.scheduler, s == ENDED ? NULL : &fake, main_stack, main_stack_size);
}

static void thread_entry() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(NULL, &main_stack, &main_stack_size);
#endif
    all.body(all.argument);
    back_to_scheduler(ENDED);
    abort();
}

static void resume(unsigned thread) {
    void *fake = NULL;
    all.running = thread;
    emulated_now.threadIdx = dim3(thread % emulated_now.blockDim.x, thread / emulated_now.blockDim.x % emulated_now.blockDim.y,
                                  thread / emulated_now.blockDim.x / emulated_now.blockDim.y);
    go(&all.scheduler, all.sp[thread], &fake, all.stacks + (size_t)thread * STACK, STACK);
}

/* Runs a warp until all its threads wait for the block or have ended. */
static void run_warp(unsigned first) {
    const unsigned end = first + LANES < all.count ? first + LANES : all.count;
    for (bool again = true; again;) {
        unsigned waiting = 0, live = 0;
        for (unsigned t = first; t < end; t++) {
            if (all.states[t] == READY) {
                resume(t);
            }
        }
        for (unsigned t = first; t < end; t++) {
            live += all.states[t] != ENDED;
            waiting += all.states[t] == AT_WARP;
        }
        if (waiting > 0 && waiting < live) {
            fprintf(stderr, "emulated CUDA: %u of a warp's %u threads exchange values, the others are elsewhere\n", waiting, live);
            abort();
        }
        again = waiting > 0;
        for (unsigned t = first; again && t < end; t++) {
            all.states[t] = all.states[t] == AT_WARP ? READY : all.states[t];
        }
    }
}

static void run_block() {
    for (unsigned t = 0; t < all.count; t++) {
        all.states[t] = READY;
        all.sp[t] = first_frame(all.stacks + (size_t)(t + 1) * STACK, thread_entry);
    }
    all.any = false;
    for (bool live = true; live;) {
        unsigned ended = 0;
        for (unsigned t = 0; t < all.count; t += LANES) {
            run_warp(t);
        }
        for (unsigned t = 0; t < all.count; t++) {
            ended += all.states[t] == ENDED;
        }
        live = ended < all.count;
        if (live && ended % LANES != 0) { /* whole warps may leave; the others' barrier counts those that are left */
            fprintf(stderr, "emulated CUDA: a part of a warp has ended before a barrier\n");
            abort();
        }
        for (unsigned t = 0; live && t < all.count; t++) {
            all.states[t] = all.states[t] == AT_BLOCK ? READY : all.states[t];
        }
    }
}

void emulated_block_barrier() {
    back_to_scheduler(AT_BLOCK);
}

bool emulated_block_any(bool mine) {
    all.any = all.any || mine;
    emulated_block_barrier();
    const bool any = all.any;
    emulated_block_barrier();
    all.any = false;
    return any;
}

void emulated_warp_exchange(uint64_t mine, uint64_t out[32]) {
    const unsigned me = all.running, first = me / LANES * LANES;
    all.given[me] = mine;
    back_to_scheduler(AT_WARP);
    for (unsigned i = 0; i < LANES; i++) {
        out[i] = first + i < all.count ? all.given[first + i] : 0;
    }
    back_to_scheduler(AT_WARP); /* nobody gives anew before all have read */
}

char *emulated_shared;

void emulated_launch(dim3 grid, dim3 threads, size_t shared, void (*body)(void *argument), void *argument) {
    all.count = threads.x * threads.y * threads.z;
    if (all.count == 0 || all.count > MOST_THREADS || grid.y > 65535 || grid.z > 65535 || shared > 48 << 10) {
        fprintf(stderr, "emulated CUDA: a launch that no card takes\n");
        abort();
    }
    if (!all.stacks) {
        all.stacks = (char *)mmap(NULL, (size_t)MOST_THREADS * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (all.stacks == MAP_FAILED) {
            abort();
        }
    }
    emulated_shared = (char *)aligned_alloc(16, (shared + 15) / 16 * 16);
    if (!emulated_shared) {
        abort();
    }
    all.body = body;
    all.argument = argument;
    emulated_now.gridDim = grid;
    emulated_now.blockDim = threads;
    for (unsigned z = 0; z < grid.z; z++) {
        for (unsigned y = 0; y < grid.y; y++) {
            for (unsigned x = 0; x < grid.x; x++) {
                emulated_now.blockIdx = dim3(x, y, z);
                run_block();
            }
        }
    }
    free(emulated_shared);
}

/* ---- the runtime ---- */

long emulated_fail_in = -1;
static cudaError_t last = cudaSuccess;

cudaError_t emulated_call(cudaError_t failure) {
    if (emulated_fail_in < 0 || emulated_fail_in-- > 0) {
        return cudaSuccess;
    }
    last = failure;
    return failure;
}

const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaSuccess ? "no error" : e == cudaErrorMemoryAllocation ? "out of memory" : "unspecified launch failure";
}

cudaError_t cudaGetLastError() {
    const cudaError_t e = last;
    last = cudaSuccess;
    return e;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    *p = {"emulated", 9, 0, 2};
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int) {
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *available = *total = (size_t)8 << 30;
    return cudaSuccess;
}

/* What a card's memory holds at first is anything but zeros. */
cudaError_t cudaMalloc(void **p, size_t bytes) {
    const cudaError_t e = emulated_call(cudaErrorMemoryAllocation);
    *p = e == cudaSuccess ? aligned_alloc(256, (bytes + 255) / 256 * 256) : NULL;
    if (*p) {
        memset(*p, 0xa5, bytes);
    }
    return e == cudaSuccess && !*p ? cudaErrorMemoryAllocation : e;
}

cudaError_t cudaFree(void *p) {
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t) {
    return cudaMalloc(p, bytes);
}

cudaError_t cudaFreeAsync(void *p, cudaStream_t) {
    return cudaFree(p);
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    return cudaMalloc(p, bytes);
}

cudaError_t cudaFreeHost(void *p) {
    return cudaFree(p);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    const cudaError_t e = emulated_call(cudaErrorLaunchFailure);
    if (e == cudaSuccess) {
        memcpy(to, from, bytes);
    }
    return e;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t) {
    memset(p, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = NULL;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t) {
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = NULL;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t) {
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t) {
    return cudaSuccess;
}
