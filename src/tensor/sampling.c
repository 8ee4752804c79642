#include "tensor/sampling.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "tensor/finite.h"
#include "tensor/sample_token.h"

float random_uniform(uint64_t seed, uint64_t sequence, uint64_t step) {
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t c[4] = {(uint32_t)step, (uint32_t)(step >> 32), (uint32_t)sequence, (uint32_t)(sequence >> 32)};
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ key[0], (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ key[1], (uint32_t)a};
        memcpy(c, next, sizeof c);
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return (float)(c[0] >> 8) * 0x1p-24f;
}

float sample_uniform(const sample_row *s) {
    return random_uniform(s->seed, s->sequence, (uint64_t)s->stage << 48 | (uint64_t)s->code << 32 | s->step);
}

enum { LANES = 8 };

/* The largest of n values, none of them NaN; eight lanes, which compilers turn into vector instructions. Inlined by order: gcc would call it for each
 * block of argmax, since there are several callers, which makes greedy choice a fifth slower. */
__attribute__((always_inline)) static inline float largest_of(const float *x, int64_t n) {
    float m[LANES];
    for (int j = 0; j < LANES; j++) {
        m[j] = -INFINITY;
    }
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            m[j] = x[i + j] > m[j] ? x[i + j] : m[j];
        }
    }
    for (; i < n; i++) {
        m[0] = x[i] > m[0] ? x[i] : m[0];
    }
    for (int j = 1; j < LANES; j++) {
        m[0] = m[j] > m[0] ? m[j] : m[0];
    }
    return m[0];
}

/* Every block's largest value; the lowest index of the largest of all. */
static int64_t argmax(const float *x, int64_t n, int64_t block, float *largest) {
    int64_t best = 0;
    for (int64_t b = 0; b * block < n; b++) {
        largest[b] = largest_of(x + b * block, n - b * block < block ? n - b * block : block);
        best = largest[b] > largest[best] ? b : best;
    }
    int64_t i = best * block;
    while (x[i] != largest[best]) {
        i++;
    }
    return i;
}

/* A number whose unsigned order is the float's order. */
static inline uint32_t order_key(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static inline float from_order_key(uint32_t u) {
    u = u & 0x80000000u ? u & 0x7fffffffu : ~u;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

enum { RADIX_BITS = 11, RADIX = 1 << RADIX_BITS };
static const int radix_shift[3] = {21, 10, 0};
static const int radix_bits[3] = {11, 11, 10};

/* The k-th largest value, 1 <= k <= n: three passes over digits of the key, so no sort and no memory. */
static float kth_largest(const float *x, int64_t n, int64_t k) {
    uint32_t prefix = 0, mask = 0;
    for (int pass = 0; pass < 3; pass++) {
        int64_t count[RADIX] = {0};
        uint32_t digit_mask = (1u << radix_bits[pass]) - 1;
        for (int64_t i = 0; i < n; i++) {
            uint32_t key = order_key(x[i]);
            if ((key & mask) == prefix) {
                count[(key >> radix_shift[pass]) & digit_mask]++;
            }
        }
        uint32_t d = digit_mask;
        while (count[d] < k) {
            k -= count[d--];
        }
        prefix |= d << radix_shift[pass];
        mask |= digit_mask << radix_shift[pass];
    }
    return from_order_key(prefix);
}

/* Zeroes the probabilities outside the nucleus: ordered by size (lower index first on ties), an entry stays while the mass before it
 * is below limit. */
static void keep_nucleus(float *p, int64_t n, double limit) {
    uint32_t prefix = 0, mask = 0;
    double before = 0; /* mass of all entries whose key lies above the digits found so far */
    for (int pass = 0; pass < 3; pass++) {
        double mass[RADIX] = {0};
        uint32_t digit_mask = (1u << radix_bits[pass]) - 1;
        for (int64_t i = 0; i < n; i++) {
            uint32_t key = order_key(p[i]);
            if (p[i] > 0 && (key & mask) == prefix) {
                mass[(key >> radix_shift[pass]) & digit_mask] += p[i];
            }
        }
        /* The last digit with mass whose entries begin before the limit. */
        uint32_t found = digit_mask;
        double at = before;
        for (int64_t d = digit_mask; d >= 0 && (at < limit || before == at); d--) {
            if (mass[d] > 0) {
                found = (uint32_t)d;
                before = at;
                at += mass[d];
            }
        }
        prefix |= found << radix_shift[pass];
        mask |= digit_mask << radix_shift[pass];
    }
    float threshold = from_order_key(prefix);
    for (int64_t i = 0; i < n; i++) {
        if (p[i] == threshold) {
            if (before < limit || before == 0) {
                before += p[i];
            } else {
                p[i] = 0;
            }
        } else if (p[i] < threshold) {
            p[i] = 0;
        }
    }
}

enum { MAX_BLOCKS = 4096, MAX_CANDIDATES = 4096 };

static int64_t block_of(int64_t n) {
    return n <= 64 * MAX_BLOCKS ? 64 : (n + MAX_BLOCKS - 1) / MAX_BLOCKS;
}

/* The count largest of n values, count <= n. */
static void find_largest(const float *x, int64_t n, int32_t count, float *value, int32_t *id) {
    enum { BLOCK = 64 };
    int32_t held = 0;
    for (int64_t b = 0; count > 0 && b < n; b += BLOCK) {
        const int64_t end = n - b < BLOCK ? n : b + BLOCK;
        if (held == count && largest_of(x + b, end - b) <= value[held - 1]) {
            continue;
        }
        for (int64_t i = b; i < end; i++) {
            if (held == count && x[i] <= value[held - 1]) {
                continue;
            }
            int32_t at = held < count ? held++ : held - 1;
            for (; at > 0 && value[at - 1] < x[i]; at--) {
                value[at] = value[at - 1];
                id[at] = id[at - 1];
            }
            value[at] = x[i];
            id[at] = (int32_t)i;
        }
    }
}

/* Of a row of logits as they came: the sum of all exponentials is e^(largest + log_sum). */
typedef struct normaliser {
    double largest, log_sum;
} normaliser;

static float log_probability(float logit, normaliser of) {
    return (float)fmax((double)logit - of.largest - of.log_sum, -(double)FLT_MAX);
}

/* Keeps the logits as they are and tells the likeliest. */
static normaliser note_logprobs(const float *x, int64_t n, const sample_row *s) {
    sample_logprobs *p = s->logprobs;
    const float max = largest_of(x, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)expf(x[i] - max);
    }
    const normaliser all = {(double)max, log(sum)};
    memcpy(s->raw, x, (size_t)n * sizeof *x);
    find_largest(x, n, s->top_logprobs, p->top, p->ids);
    for (int32_t i = 0; i < s->top_logprobs; i++) {
        p->top[i] = log_probability(p->top[i], all);
    }
    return all;
}

static void add_bias(float *x, int64_t n, const sample_row *s) {
    for (int32_t i = 0; s->bias && i < s->bias_count; i++) {
        if (s->bias[i].id >= 0 && s->bias[i].id < n) {
            x[s->bias[i].id] += s->bias[i].bias;
        }
    }
}

static void apply_mask(float *x, int64_t n, const uint32_t *allowed) {
    for (int64_t i = 0; i < n; i += 32) {
        const uint32_t word = allowed[i / 32];
        for (int64_t j = 0; word != UINT32_MAX && j < 32 && i + j < n; j++) {
            x[i + j] = word >> j & 1 ? x[i + j] : -INFINITY;
        }
    }
}

/* Sizes that make NaN of logits count as 0. */
static float sane(float penalty) {
    return fabsf(penalty) < 1e30f ? penalty : 0;
}

static void apply_penalties(float *x, int64_t n, const sample_row *s) {
    const float repeat = s->repeat_penalty > 0 && s->repeat_penalty < INFINITY ? s->repeat_penalty : 1;
    const float frequency = sane(s->frequency_penalty), presence = sane(s->presence_penalty);
    if (!s->history || (repeat == 1 && frequency == 0 && presence == 0)) {
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint64_t four;
        if (i % 4 == 0 && i + 4 <= n && (memcpy(&four, s->history + i, sizeof four), four == 0)) {
            i += 3; /* few are set */
        } else if (s->history[i]) {
            const int count = s->history[i] & SAMPLE_COUNT;
            x[i] = x[i] > 0 ? x[i] / repeat : x[i] * repeat;
            x[i] -= (float)count * frequency + (count > 0 ? presence : 0);
        }
    }
}

/* Everything before the temperature. *all: what note_logprobs returns, with s->logprobs. Returns the largest entry, and every block's largest value;
 * SAMPLE_DAMAGED, SAMPLE_NONE. */
static int64_t process(float *x, int64_t n, const sample_row *s, float *largest, normaliser *all) {
    if (find_not_finite(DTYPE_F32, x, n) >= 0) {
        return SAMPLE_DAMAGED;
    }
    if (s->logprobs) {
        *all = note_logprobs(x, n, s);
    }
    add_bias(x, n, s);
    if (s->allowed) {
        apply_mask(x, n, s->allowed);
    }
    apply_penalties(x, n, s);
    for (int64_t i = s->suppress_from < 0 ? 0 : s->suppress_from; i < n; i++) {
        if (i != s->suppress_keep) {
            x[i] = -INFINITY;
        }
    }
    const int64_t best = argmax(x, n, block_of(n), largest);
    return x[best] == -INFINITY ? SAMPLE_NONE : best;
}

static bool warm(const sample_row *s) {
    return !s->greedy && s->temperature > 0;
}

static void filter(float *x, int64_t n, int64_t largest, const sample_row *s) {
    const float max = x[largest];
    if (s->top_k > 0 && s->top_k < n) {
        float threshold = kth_largest(x, n, s->top_k);
        for (int64_t i = 0; i < n; i++) {
            x[i] = x[i] < threshold ? -INFINITY : x[i];
        }
    }
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        /* The largest may be infinite, and minus infinity may be divided by infinity: neither may come out as NaN. */
        x[i] = x[i] == max ? 1.0f : x[i] == -INFINITY || max == INFINITY ? 0.0f : expf((x[i] - max) / s->temperature);
        total += x[i];
    }
    if (s->top_p < 1) {
        keep_nucleus(x, n, (double)(s->top_p > 0 ? s->top_p : 0) * total);
    }
    if (s->min_p > 0) {
        float least = s->min_p < 1 ? s->min_p : 1.0f;
        for (int64_t i = 0; i < n; i++) {
            x[i] = x[i] < least ? 0.0f : x[i];
        }
    }
}

int64_t sample_weights(float *x, int64_t n, const sample_row *s) {
    float largest[MAX_BLOCKS];
    normaliser all = {0};
    int64_t id = process(x, n, s, largest, &all);
    if (id >= 0) {
        filter(x, n, id, s);
    }
    return id;
}

static int64_t draw(const float *x, int64_t n, float uniform) {
    double total = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        total += x[i];
    }
    int64_t last = 0;
    for (int64_t i = 0; i < n; i++) {
        if (x[i] > 0) {
            last = i;
            sum += x[i];
            if (sum > uniform * total) {
                break;
            }
        }
    }
    return last;
}

/* The few entries that a top-k can keep, in index order: the k-th largest of the blocks' largest values is no more than the k-th largest
 * value, so what lies below it is out. Returns how many, or 0 when there are too many or too few to tell. */
static int64_t candidates(const float *x, int64_t n, int64_t k, const float *largest, float *value, int32_t *index) {
    int64_t block = block_of(n), blocks = (n + block - 1) / block, m = 0;
    if (k <= 0 || k > blocks) {
        return 0;
    }
    float bound = kth_largest(largest, blocks, k);
    if (bound == -INFINITY) {
        return 0;
    }
    for (int64_t b = 0; b < blocks; b++) {
        for (int64_t i = b * block; largest[b] >= bound && i < n && i < (b + 1) * block; i++) {
            if (x[i] >= bound) {
                if (m == MAX_CANDIDATES) {
                    return 0;
                }
                value[m] = x[i];
                index[m++] = (int32_t)i;
            }
        }
    }
    return m;
}

int32_t sample_token(float *x, int64_t n, const sample_row *s) {
    float largest[MAX_BLOCKS];
    normaliser all = {0};
    int64_t id = process(x, n, s, largest, &all);
    if (id < 0) {
        return (int32_t)id;
    }
    if (warm(s)) {
        float value[MAX_CANDIDATES], uniform = sample_uniform(s);
        int32_t index[MAX_CANDIDATES];
        int64_t m = candidates(x, n, s->top_k, largest, value, index), at = 0;
        if (m > 0) {
            while (index[at] != id) {
                at++;
            }
            filter(value, m, at, s);
            id = index[draw(value, m, uniform)];
        } else {
            filter(x, n, id, s);
            id = draw(x, n, uniform);
        }
    }
    if (s->history && (s->history[id] & SAMPLE_COUNT) < SAMPLE_COUNT) {
        s->history[id]++;
    }
    if (s->logprobs) {
        s->logprobs->chosen = log_probability(s->raw[id], all);
    }
    return (int32_t)id;
}
