/* Choosing tokens: a block of threads a row, the steps and their order those of tensor/sampling.h.
 *
 * Sums that decide something are made so that they come out the same every time: probabilities are added as whole numbers of 2^-40, in any order,
 * where the nucleus is looked for, and chunk by chunk in the order of the tokens for the draw. */
#include <float.h>

#include "cuda/device.cuh"

enum { THREADS = WARP * WARP, RADIX_BITS = 11, RADIX = 1 << RADIX_BITS };

/* A number whose unsigned order is the float's order. */
__device__ static inline uint32_t order_key(float x) {
    const uint32_t u = __float_as_uint(x);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

__device__ static inline float from_order_key(uint32_t u) {
    return __uint_as_float(u & 0x80000000u ? u & 0x7fffffffu : ~u);
}

/* What the threads of a block share. */
struct shared_state {
    unsigned long long bins[RADIX];
    float value[THREADS / WARP];
    int id[THREADS / WARP];
    unsigned long long totals[THREADS / WARP]; /* of block_scan: numbers of 8 bytes */
    int counts[THREADS];
    uint32_t prefix, mask;
    unsigned long long before;
    int chosen;
};

struct entry {
    float value;
    int id;
};

/* The larger value, the lower id on ties; an id below 0 is none. */
__device__ static inline entry better(entry a, entry b) {
    return a.id < 0 || (b.id >= 0 && (b.value > a.value || (b.value == a.value && b.id < a.id))) ? b : a;
}

/* The best entry of all threads, in every thread. */
__device__ static entry block_best(entry e, shared_state *s) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const entry other = {__shfl_xor_sync(0xffffffffu, e.value, distance), __shfl_xor_sync(0xffffffffu, e.id, distance)};
        e = better(e, other);
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0) {
        s->value[threadIdx.x / WARP] = e.value;
        s->id[threadIdx.x / WARP] = e.id;
    }
    __syncthreads();
    e = entry{0, -1};
    for (int w = 0; w < THREADS / WARP; w++) {
        e = better(e, entry{s->value[w], s->id[w]});
    }
    return e;
}

/* The largest entry behind `last` in the order of falling values, ids ascending; last.id < 0: the largest of all. */
__device__ static entry best_after(const float *x, int64_t n, entry last, shared_state *s) {
    entry e = {0, -1};
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        if (last.id < 0 || x[i] < last.value || (x[i] == last.value && i > last.id)) {
            e = better(e, entry{x[i], (int)i});
        }
    }
    return block_best(e, s);
}

/* The sum over threads, in every thread; *before: of the threads before this one. Always added in the same order. */
template <class Number> __device__ static Number block_scan(Number x, Number *before, shared_state *s) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    Number sum = x, *totals = (Number *)(void *)s->totals;
    for (int distance = 1; distance < WARP; distance *= 2) {
        const Number other = __shfl_up_sync(0xffffffffu, sum, distance);
        sum += lane >= distance ? other : 0;
    }
    __syncthreads(); /* totals may still be read from a call before */
    if (lane == WARP - 1) {
        totals[warp] = sum;
    }
    __syncthreads();
    Number all = totals[lane]; /* every warp adds up the warps */
    for (int distance = 1; distance < WARP; distance *= 2) {
        const Number other = __shfl_up_sync(0xffffffffu, all, distance);
        all += lane >= distance ? other : 0;
    }
    const Number own = __shfl_sync(0xffffffffu, all, warp) - totals[warp];
    *before = own + (sum - x);
    return __shfl_sync(0xffffffffu, all, WARP - 1);
}

/* ---- before the temperature ---- */

__device__ static float sane(float penalty) {
    return fabsf(penalty) < 1e30f ? penalty : 0;
}

__device__ static void adjust(float *x, int64_t n, const sample_row *r) {
    for (int32_t i = threadIdx.x; r->bias && i < r->bias_count; i += THREADS) {
        if (r->bias[i].id >= 0 && r->bias[i].id < n) {
            x[r->bias[i].id] += r->bias[i].bias; /* ids differ */
        }
    }
    __syncthreads();
    const float repeat = r->repeat_penalty > 0 && r->repeat_penalty < INFINITY ? r->repeat_penalty : 1;
    const float frequency = sane(r->frequency_penalty), presence = sane(r->presence_penalty);
    const bool penalised = r->history && (repeat != 1 || frequency != 0 || presence != 0);
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        float v = x[i];
        if (r->allowed && !(r->allowed[i / 32] >> i % 32 & 1)) {
            v = -INFINITY;
        }
        if (penalised && r->history[i]) {
            const int count = r->history[i] & SAMPLE_COUNT;
            v = v > 0 ? v / repeat : v * repeat;
            v -= (float)count * frequency + (count > 0 ? presence : 0);
        }
        if (i >= r->suppress_from && i != r->suppress_keep) {
            v = -INFINITY;
        }
        x[i] = v;
    }
    __syncthreads();
}

/* ---- filters ---- */

enum { BINS_A_THREAD = RADIX / THREADS };

/* A thread's bins, the highest first, and the mass in those above each. */
struct above_bins {
    unsigned long long mass[BINS_A_THREAD];
    __device__ int bin(int j) const {
        return RADIX - 1 - (int)threadIdx.x * BINS_A_THREAD - j;
    }
};

__device__ static above_bins mass_above(shared_state *s) {
    above_bins a;
    unsigned long long own = 0, before;
    for (int j = 0; j < BINS_A_THREAD; j++) {
        a.mass[j] = own;
        own += s->bins[a.bin(j)];
    }
    block_scan(own, &before, s);
    for (int j = 0; j < BINS_A_THREAD; j++) {
        a.mass[j] += before;
    }
    return a;
}

/* The k-th largest value, 1 <= k <= n: three passes over digits of the key. */
__device__ static float kth_largest(const float *x, int64_t n, unsigned long long k, shared_state *s) {
    const int shift[3] = {21, 10, 0}, bits[3] = {11, 11, 10};
    if (threadIdx.x == 0) {
        s->prefix = s->mask = 0;
        s->before = k;
    }
    for (int pass = 0; pass < 3; pass++) {
        const uint32_t digits = (1u << bits[pass]) - 1;
        __syncthreads();
        for (int i = threadIdx.x; i < RADIX; i += THREADS) {
            s->bins[i] = 0;
        }
        __syncthreads();
        const uint32_t prefix = s->prefix, mask = s->mask;
        for (int64_t i = threadIdx.x; i < n; i += THREADS) {
            const uint32_t key = order_key(x[i]);
            if ((key & mask) == prefix) {
                atomicAdd(&s->bins[key >> shift[pass] & digits], 1ull);
            }
        }
        __syncthreads();
        above_bins above = mass_above(s);
        const unsigned long long wanted = s->before;
        __syncthreads();
        for (int j = 0; j < BINS_A_THREAD; j++) { /* one of all */
            if (above.mass[j] < wanted && wanted <= above.mass[j] + s->bins[above.bin(j)]) {
                s->before = wanted - above.mass[j];
                s->prefix |= (uint32_t)above.bin(j) << shift[pass];
                s->mask |= digits << shift[pass];
            }
        }
    }
    __syncthreads();
    return from_order_key(s->prefix);
}

/* A weight in [0, 1] as a whole number. */
__device__ static inline unsigned long long fixed(float p) {
    return (unsigned long long)((double)p * 0x1p40);
}

/* Zeroes the weights outside the nucleus: ordered by size (the lower index first on ties), one stays while the mass before it is below the share
 * `top_p` of all. */
__device__ static void keep_nucleus(float *p, int64_t n, float top_p, shared_state *s) {
    const int shift[3] = {21, 10, 0}, bits[3] = {11, 11, 10};
    __shared__ double limit;
    if (threadIdx.x == 0) {
        s->prefix = s->mask = 0;
        s->before = 0;
    }
    for (int pass = 0; pass < 3; pass++) {
        const uint32_t digits = (1u << bits[pass]) - 1;
        __syncthreads();
        for (int i = threadIdx.x; i < RADIX; i += THREADS) {
            s->bins[i] = 0;
        }
        __syncthreads();
        const uint32_t prefix = s->prefix, mask = s->mask;
        for (int64_t i = threadIdx.x; i < n; i += THREADS) {
            const uint32_t key = order_key(p[i]);
            if (p[i] > 0 && (key & mask) == prefix) {
                atomicAdd(&s->bins[key >> shift[pass] & digits], fixed(p[i]));
            }
        }
        __syncthreads();
        above_bins above = mass_above(s);
        const unsigned long long start = s->before;
        if (pass == 0) { /* the mass of all */
            const unsigned last = THREADS - 1;
            if (threadIdx.x == last) {
                limit = (double)(top_p > 0 ? top_p : 0) * (double)(above.mass[BINS_A_THREAD - 1] + s->bins[above.bin(BINS_A_THREAD - 1)]);
            }
        }
        if (threadIdx.x == 0) {
            s->chosen = INT32_MAX;
        }
        __syncthreads();
        /* The last digit with mass whose entries begin before the limit, or the first with mass. */
        for (int j = 0; j < BINS_A_THREAD; j++) {
            if (s->bins[above.bin(j)] > 0 && ((double)(start + above.mass[j]) < limit || above.mass[j] == 0)) {
                atomicMin(&s->chosen, above.bin(j));
            }
        }
        __syncthreads();
        const int found = s->chosen == INT32_MAX ? (int)digits : s->chosen;
        for (int j = 0; j < BINS_A_THREAD; j++) {
            if (above.bin(j) == found) {
                s->before = start + (s->chosen == INT32_MAX ? 0 : above.mass[j]);
                s->prefix |= (uint32_t)found << shift[pass];
                s->mask |= digits << shift[pass];
            }
        }
    }
    __syncthreads();
    /* Of those that equal the last one, as many in the order of tokens as begin before the limit, and one at least if nothing came before. */
    const float threshold = from_order_key(s->prefix);
    const double each = (double)fixed(threshold), room = limit - (double)s->before;
    double most = each > 0 ? ceil(room / each) : 0;
    most = s->before == 0 && most < 1 ? 1 : most;
    const int64_t chunk = (n + THREADS - 1) / THREADS, begin = threadIdx.x * chunk, end = begin + chunk < n ? begin + chunk : n;
    double equal = 0, before;
    for (int64_t i = begin; i < end; i++) {
        equal += p[i] == threshold;
    }
    block_scan(equal, &before, s);
    for (int64_t i = begin; i < end; i++) {
        if (p[i] < threshold) {
            p[i] = 0;
        } else if (p[i] == threshold) {
            p[i] = before < most ? p[i] : 0;
            before += 1;
        }
    }
    __syncthreads();
}

/* Turns logits into weights e^((x - max) / temperature), 0 where filtered out. */
__device__ static void filter(float *x, int64_t n, float max, const sample_row *r, shared_state *s) {
    float threshold = -INFINITY;
    if (r->top_k > 0 && r->top_k < n) {
        threshold = kth_largest(x, n, (unsigned long long)r->top_k, s);
    }
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        const float v = x[i] < threshold ? -INFINITY : x[i];
        /* The largest may be infinite, and minus infinity may be divided by infinity: neither may come out as NaN. */
        x[i] = v == max ? 1.0f : v == -INFINITY || max == INFINITY ? 0.0f : expf((v - max) / r->temperature);
    }
    __syncthreads();
    if (r->top_p < 1) {
        keep_nucleus(x, n, r->top_p, s);
    }
    if (r->min_p > 0) {
        const float least = r->min_p < 1 ? r->min_p : 1.0f;
        for (int64_t i = threadIdx.x; i < n; i += THREADS) {
            x[i] = x[i] < least ? 0.0f : x[i];
        }
        __syncthreads();
    }
}

/* ---- the draw ---- */

/* random_uniform of tensor/sampling.h: Philox 4x32-10. */
__device__ static float uniform_of(const sample_row *r) {
    const uint64_t step = (uint64_t)r->stage << 48 | (uint64_t)r->code << 32 | r->step;
    uint32_t key[2] = {(uint32_t)r->seed, (uint32_t)(r->seed >> 32)};
    uint32_t c[4] = {(uint32_t)step, (uint32_t)(step >> 32), (uint32_t)r->sequence, (uint32_t)(r->sequence >> 32)};
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        const uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ key[0], (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ key[1], (uint32_t)a};
        for (int i = 0; i < 4; i++) {
            c[i] = next[i];
        }
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return (float)(c[0] >> 8) * 0x1p-24f;
}

__device__ static int draw(const float *x, int64_t n, float uniform, shared_state *s) {
    const int64_t chunk = (n + THREADS - 1) / THREADS, begin = threadIdx.x * chunk, end = begin + chunk < n ? begin + chunk : n;
    double sum = 0, before;
    int last = -1;
    for (int64_t i = begin; i < end; i++) {
        sum += x[i];
        last = x[i] > 0 ? (int)i : last;
    }
    const double total = block_scan(sum, &before, s), wanted = uniform * total;
    if (threadIdx.x == 0) {
        s->chosen = INT32_MAX;
    }
    __syncthreads();
    /* The first token at which the sum goes beyond what is wanted. */
    for (int64_t i = begin; last >= 0 && i < end; i++) {
        before += x[i];
        if (x[i] > 0 && before > wanted) {
            atomicMin(&s->chosen, (int)i);
            break;
        }
    }
    __syncthreads();
    if (s->chosen == INT32_MAX) {                           /* lost to rounding: the last one that may come */
        const entry e = block_best(entry{(float)0, -1}, s); /* keeps the threads together */
        (void)e;
        s->counts[threadIdx.x] = last;
        __syncthreads();
        if (threadIdx.x == 0) {
            int id = 0;
            for (int i = 0; i < THREADS; i++) {
                id = s->counts[i] >= 0 ? s->counts[i] : id;
            }
            s->chosen = id;
        }
        __syncthreads();
    }
    return s->chosen;
}

/* ---- one row ---- */

/* Keeps the logits as they came and tells the likeliest. Returns the logarithm of the sum of exponentials. */
__device__ static double note_logprobs(const float *x, int64_t n, const sample_row *r, entry best, shared_state *s) {
    double sum = 0, before;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        sum += (double)expf(x[i] - best.value);
        r->raw[i] = x[i];
    }
    const double all = (double)best.value + log(block_scan(sum, &before, s));
    entry e = best;
    for (int32_t i = 0; i < r->top_logprobs; i++) {
        if (threadIdx.x == 0) {
            r->logprobs->top[i] = (float)fmax((double)e.value - all, -(double)FLT_MAX);
            r->logprobs->ids[i] = e.id;
        }
        e = i + 1 < r->top_logprobs ? best_after(x, n, e, s) : e;
    }
    return all;
}

__global__ static void sample_kernel(float *logits, int64_t n, const sample_row *rows, int32_t *ids) {
    __shared__ shared_state s;
    const sample_row *r = rows + blockIdx.x;
    float *x = logits + blockIdx.x * n;
    int damaged = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        damaged |= !(fabsf(x[i]) <= FLT_MAX);
    }
    if (__syncthreads_or(damaged)) {
        if (threadIdx.x == 0) {
            ids[blockIdx.x] = SAMPLE_DAMAGED;
        }
        return;
    }
    entry best = {0, -1};
    double all = 0;
    if (r->logprobs) {
        best = best_after(x, n, best, &s);
        all = note_logprobs(x, n, r, best, &s);
    }
    __syncthreads();
    adjust(x, n, r);
    best = best_after(x, n, entry{0, -1}, &s);
    if (best.value == -INFINITY) {
        if (threadIdx.x == 0) {
            ids[blockIdx.x] = SAMPLE_NONE;
        }
        return;
    }
    int id = best.id;
    if (!r->greedy && r->temperature > 0) {
        filter(x, n, best.value, r, &s);
        id = draw(x, n, uniform_of(r), &s);
    }
    if (threadIdx.x == 0) {
        ids[blockIdx.x] = id;
        if (r->history && (r->history[id] & SAMPLE_COUNT) < SAMPLE_COUNT) {
            r->history[id]++;
        }
        if (r->logprobs) {
            r->logprobs->chosen = (float)fmax((double)r->raw[id] - all, -(double)FLT_MAX);
        }
    }
}

static void sample(backend *b, float *logits, int64_t rows, int64_t vocab, const sample_row *params, int32_t *ids) {
    enum { MOST = 1024 }; /* rows told at once */
    for (int64_t at = 0; at < rows; at += MOST) {
        const int64_t part = rows - at < MOST ? rows - at : (int64_t)MOST;
        const sample_row *told = (const sample_row *)cuda_tell(cuda_of(b), params + at, (size_t)part * sizeof *params);
        launch(cuda_of(b), "sample", sample_kernel, (unsigned)part, THREADS, 0, logits + at * vocab, vocab, told, ids + at);
    }
}

void cuda_sample_ops(ops *o) {
    o->sample = sample;
}
