/* Attention over a cache of blocks and over plain keys and values, and the cache itself.
 *
 * A block of threads has one row and one query head, or several that share a key head, of few rows a part of the positions. Its warps take
 * positions in turn, each with a softmax of its own that is rescaled as larger scores come (the online softmax), and their sums are joined at the
 * end. One head: a lane holds the values lane, lane + 32, ... of it. Several: four lanes have a position while scores are computed, and a lane four
 * values of every head afterwards; or, with a cache in half precision, the tensor cores take 16 positions at once. */
#include "cuda/cache.cuh"
#include "cuda/mma.cuh"

enum { WARPS = 4, MOST_A_LANE = KV_Q8_HEAD / WARP, MOST_GROUPED = 4 * WARP, MOST_PARTS = 64, MOST_TOGETHER = 8 /* query heads of a block */ };

/* ---- the cache: [layer][block][kv head][KV_BLOCK][head_dim] ---- */

__device__ static inline float read_f32(const void *row, int i) {
    return ((const float *)row)[i];
}

__device__ static inline float read_f16(const void *row, int i) {
    return half_bits_to_float(((const uint16_t *)row)[i]);
}

__device__ static inline float read_q8_0(const void *row, int i) {
    const block_q8_0 *b = (const block_q8_0 *)row + i / QK;
    return half_bits_to_float(*(const uint16_t *)(const void *)b) * (float)b->qs[i % QK];
}

/* Value i of a row of head_dim values. */
__device__ static inline float read_cached(dtype type, const void *row, int i) {
    return type == DTYPE_F16 ? read_f16(row, i) : type == DTYPE_Q8_0 ? read_q8_0(row, i) : read_f32(row, i);
}

/* Values i to i + 3 of a row of head_dim values; i and head_dim are multiples of 4. */
__device__ static inline float4 read_cached4(dtype type, const void *row, int i) {
    if (type == DTYPE_F16) {
        const uint2 two = *(const uint2 *)(const void *)((const uint16_t *)row + i);
        return {half_bits_to_float((uint16_t)two.x), half_bits_to_float((uint16_t)(two.x >> 16)), half_bits_to_float((uint16_t)two.y),
                half_bits_to_float((uint16_t)(two.y >> 16))};
    }
    if (type == DTYPE_Q8_0) {
        const uint16_t *b = (const uint16_t *)(const void *)((const block_q8_0 *)row + i / QK), *two = b + 1 + i % QK / 2;
        const float d = half_bits_to_float(b[0]);
        return {d * (float)(int8_t)two[0], d * (float)(int8_t)(two[0] >> 8), d * (float)(int8_t)two[1], d * (float)(int8_t)(two[1] >> 8)};
    }
    return *(const float4 *)(const void *)((const float *)row + i);
}

static size_t kv_bytes(backend *b, dtype type, int layers, int kv_heads, int head_dim, int64_t blocks) {
    size_t n = head_dim < 0 ? SIZE_MAX : dtype_row_bytes(type, head_dim);
    const int64_t factors[] = {layers, kv_heads, KV_BLOCK, blocks};
    for (const int64_t factor : factors) {
        if (factor < 0 || __builtin_mul_overflow(n, (size_t)factor, &n)) {
            return SIZE_MAX;
        }
    }
    return n;
}

static void kv_copy(backend *b, const kv_cache *cache, int32_t to, int32_t from) {
    for (int layer = 0; to != from && layer < cache->layers; layer++) {
        for (int keys = 0; keys < 2; keys++) {
            const cache_half h = half_of(cache, layer, keys);
            b->ops->copy(b, h.row(to, 0, 0), h.row(from, 0, 0), (size_t)(h.row_bytes * cache->kv_heads * KV_BLOCK));
        }
    }
}

__global__ static void kv_write_kernel(cache_half keys, cache_half values, const int32_t *slots, const float *k, const float *v, int64_t rows) {
    const int64_t unit = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (unit < rows * keys.kv_heads) {
        const int32_t slot = slots[unit / keys.kv_heads];
        const int head = (int)(unit % keys.kv_heads);
        write_head(keys, k + unit * keys.head_dim, slot, head);
        write_head(values, v + unit * keys.head_dim, slot, head);
    }
}

static void kv_write(backend *b, const kv_cache *cache, int layer, const int32_t *slots, const float *k, const float *v, int64_t rows) {
    launch(cuda_of(b), "kv_write", kv_write_kernel, blocks_for(rows * cache->kv_heads, WARPS), WARPS * WARP, 0, half_of(cache, layer, true),
           half_of(cache, layer, false), slots, k, v, rows);
}

/* ---- attention ---- */

/* Where the keys and values of a row's positions lie. */
struct paged_source {
    cache_half keys, values;
    const int32_t *block_table;
    const attention_row *at;
    __device__ int first(int64_t row) const {
        return at[row].first;
    }
    __device__ int end(int64_t row) const {
        return at[row].end;
    }
    __device__ const char *key(int64_t row, int head, int position) const {
        return keys.row(block_table[at[row].table + position / KV_BLOCK], head, position % KV_BLOCK);
    }
    __device__ const char *value(int64_t row, int head, int position) const {
        return values.row(block_table[at[row].table + position / KV_BLOCK], head, position % KV_BLOCK);
    }
    __device__ float read_key(const char *p, int i) const {
        return read_cached(keys.type, p, i);
    }
    __device__ float read_value(const char *p, int i) const {
        return read_cached(values.type, p, i);
    }
};

struct dense_source {
    const float *k, *v;
    int64_t stride;
    const int32_t *first_of, *end_of;
    int head_dim;
    __device__ int first(int64_t row) const {
        return first_of[row];
    }
    __device__ int end(int64_t row) const {
        return end_of[row];
    }
    __device__ const char *key(int64_t row, int head, int position) const {
        return (const char *)(k + position * stride + (int64_t)head * head_dim);
    }
    __device__ const char *value(int64_t row, int head, int position) const {
        return (const char *)(v + position * stride + (int64_t)head * head_dim);
    }
    __device__ float read_key(const char *p, int i) const {
        return read_f32(p, i);
    }
    __device__ float read_value(const char *p, int i) const {
        return read_f32(p, i);
    }
};

/* What a part of a row's positions gave: values relative to exp(largest), and their weights' sum. */
struct attention_part {
    float largest, total;
};

/* What a block's warps found for a query head: its result, or its part of it. stride: from a warp's sums to the next one's; step: likewise for
 * largest and total. */
__device__ static inline void join_warps(const float *largest, const float *total, const float *sums, int stride, int step, int64_t first_row,
                                         int head, int heads, int head_dim, float *y, float *values, attention_part *parts) {
    float all = -INFINITY, divisor = 0;
    for (int w = 0; w < WARPS; w++) {
        all = fmaxf(all, largest[w * step]);
    }
    for (int w = 0; w < WARPS; w++) {
        divisor += total[w * step] == 0 ? 0 : total[w * step] * expf(largest[w * step] - all);
    }
    const int64_t place = (first_row + blockIdx.y) * heads + head, part = ((int64_t)blockIdx.y * heads + head) * gridDim.z + blockIdx.z;
    for (int i = (int)threadIdx.x; i < head_dim; i += WARPS * WARP) {
        float v = 0;
        for (int w = 0; w < WARPS; w++) {
            v += total[w * step] == 0 ? 0 : sums[w * stride + i] * expf(largest[w * step] - all);
        }
        if (gridDim.z == 1) {
            y[place * head_dim + i] = v / divisor;
        } else {
            values[part * head_dim + i] = v;
        }
    }
    if (gridDim.z > 1 && threadIdx.x == 0) {
        parts[part] = attention_part{all, divisor};
    }
}

/* LANE: values of a head that a lane holds at most. grid: heads, rows of this launch, parts that a row's positions are cut into. One part: y is the
 * result. Several: values[row, head, part, head_dim] and parts[row, head, part] are, for join_kernel. */
template <class Source, int LANE>
__global__ static void attention_kernel(Source source, const float *q, int64_t q_stride, int64_t first_row, int kv_heads, int head_dim, float scale,
                                        float *y, float *values, attention_part *parts) {
    enum { AT_ONCE = 4 }; /* positions of a warp whose loads and sums overlap */
    __shared__ float largest[WARPS], total[WARPS], sums[WARPS][LANE * WARP];
    const int64_t row = first_row + blockIdx.y;
    const int heads = (int)gridDim.x, head = (int)blockIdx.x, kv_head = head / (heads / kv_heads);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, count = source.end(row) - source.first(row);
    const int each = (count + (int)gridDim.z - 1) / (int)gridDim.z, first = source.first(row) + (int)blockIdx.z * each;
    const int end = first + each < source.end(row) ? first + each : source.end(row);
    float query[LANE], sum[LANE], max = -INFINITY, weight = 0;
    for (int j = 0; j < LANE; j++) {
        const int i = lane + j * WARP;
        query[j] = i < head_dim ? q[row * q_stride + (int64_t)head * head_dim + i] : 0;
        sum[j] = 0;
    }
    for (int from = first + warp; from < end; from += AT_ONCE * WARPS) {
        float score[AT_ONCE], larger = max;
        for (int u = 0; u < AT_ONCE; u++) {
            const int p = from + u * WARPS;
            score[u] = 0;
            if (p < end) {
                const char *key = source.key(row, kv_head, p);
                for (int j = 0; j < LANE; j++) {
                    const int i = lane + j * WARP;
                    score[u] += i < head_dim ? query[j] * source.read_key(key, i) : 0;
                }
            }
        }
        for (int u = 0; u < AT_ONCE; u++) {
            score[u] = warp_sum(score[u]) * scale;
            larger = from + u * WARPS < end && score[u] > larger ? score[u] : larger; /* a NaN score stays out of it and makes its weight NaN */
        }
        const float keep = max == -INFINITY ? 0 : expf(max - larger);
        weight *= keep;
        for (int j = 0; j < LANE; j++) {
            sum[j] *= keep;
        }
        for (int u = 0; u < AT_ONCE; u++) {
            const int p = from + u * WARPS;
            if (p < end) {
                const char *value = source.value(row, kv_head, p);
                const float add = expf(score[u] - larger);
                for (int j = 0; j < LANE; j++) {
                    const int i = lane + j * WARP;
                    sum[j] += i < head_dim ? add * source.read_value(value, i) : 0;
                }
                weight += add;
            }
        }
        max = larger;
    }
    for (int j = 0; j < LANE; j++) {
        sums[warp][lane + j * WARP] = sum[j];
    }
    if (lane == 0) {
        largest[warp] = max;
        total[warp] = weight;
    }
    __syncthreads();
    join_warps(largest, total, sums[0], LANE * WARP, 1, first_row, head, heads, head_dim, y, values, parts);
}

/* y from parts, MOST_PARTS at most. grid: heads, rows. */
__global__ static void join_kernel(const float *values, const attention_part *parts, int count, int head_dim, float *y) {
    __shared__ attention_part told[MOST_PARTS];
    __shared__ float share[MOST_PARTS];
    const int64_t place = (int64_t)blockIdx.y * gridDim.x + blockIdx.x;
    const int thread = (int)threadIdx.x;
    float all = -INFINITY, divisor = 0;
    if (thread < count) {
        told[thread] = parts[place * count + thread];
    }
    __syncthreads();
    for (int k = 0; k < count; k++) {
        all = fmaxf(all, told[k].largest);
    }
    if (thread < count) {
        share[thread] = told[thread].total == 0 ? 0 : expf(told[thread].largest - all); /* values of nothing are 0 */
    }
    __syncthreads();
    for (int k = 0; k < count; k++) {
        divisor += told[k].total * share[k];
    }
    for (int i = thread; i < head_dim; i += (int)blockDim.x) {
        float v = 0;
        for (int k = 0; k < count; k++) {
            v += values[(place * count + k) * head_dim + i] * share[k];
        }
        y[place * head_dim + i] = v / divisor;
    }
}

/* What a block's warps found, head by head, of MOST values at most. */
template <int MOST> struct head_sums {
    float largest[WARPS][MOST_TOGETHER], total[WARPS][MOST_TOGETHER], sums[WARPS][MOST_TOGETHER][MOST];
    float share[MOST_TOGETHER][MOST_PARTS], divisor[MOST_TOGETHER]; /* of parts, when they are joined */
};

/* Where the heads lie that a block has: group of them, from `place` of all rows and `local` of this launch's on; and the parts that the row has. */
struct head_places {
    int64_t place, local;
    int group, head_dim, parts;
    __device__ int64_t part(int head, int64_t k) const {
        return (local + head) * gridDim.z + k;
    }
};

/* The row's parts joined into y, by all threads of its last block. */
template <int MOST>
__device__ static inline void join_parts(head_sums<MOST> *m, const head_places &at, const float *values, const attention_part *parts, float *y) {
    enum { A_HEAD = WARPS * WARP / MOST_TOGETHER };
    const int thread = (int)threadIdx.x, head = thread / A_HEAD, mine = thread % A_HEAD;
    float all = -INFINITY, divisor = 0;
    for (int k = mine; head < at.group && k < at.parts; k += A_HEAD) {
        all = fmaxf(all, __ldcg(&parts[at.part(head, k)].largest));
    }
    for (int distance = A_HEAD / 2; distance > 0; distance /= 2) {
        all = fmaxf(all, __shfl_xor_sync(0xffffffffu, all, distance));
    }
    for (int k = mine; head < at.group && k < at.parts; k += A_HEAD) {
        const attention_part *part = &parts[at.part(head, k)];
        const float total = __ldcg(&part->total), share = total == 0 ? 0 : expf(__ldcg(&part->largest) - all); /* values of nothing are 0 */
        m->share[head][k] = share;
        divisor += total * share;
    }
    for (int distance = A_HEAD / 2; distance > 0; distance /= 2) {
        divisor += __shfl_xor_sync(0xffffffffu, divisor, distance);
    }
    if (mine == 0) {
        m->divisor[head] = divisor;
    }
    __syncthreads();
    for (int i = thread; i < at.group * at.head_dim; i += WARPS * WARP) {
        const int h = i / at.head_dim;
        const float *from = values + at.part(h, 0) * at.head_dim + i % at.head_dim;
        float v = 0;
        for (int k = 0; k < at.parts; k++) {
            v += __ldcg(from + (int64_t)k * at.head_dim) * m->share[h][k];
        }
        y[at.place * at.head_dim + i] = v / m->divisor[h];
    }
}

/* What the warps found, which all threads have left in m, into y, or into this part's values and, in the row's last block, y. */
template <int MOST>
__device__ static inline void finish_heads(head_sums<MOST> *m, const head_places &at, float *y, float *values, attention_part *parts,
                                           unsigned *counters) {
    __syncthreads();
    for (int i = (int)threadIdx.x; i < at.group * at.head_dim; i += WARPS * WARP) {
        const int head = i / at.head_dim, value = i % at.head_dim;
        const int64_t part = at.part(head, blockIdx.z);
        float all = -INFINITY, divisor = 0, x = 0;
        for (int w = 0; w < WARPS; w++) {
            all = fmaxf(all, m->largest[w][head]);
        }
        for (int w = 0; w < WARPS; w++) {
            const float share = m->total[w][head] == 0 ? 0 : expf(m->largest[w][head] - all);
            divisor += m->total[w][head] * share;
            x += m->total[w][head] == 0 ? 0 : m->sums[w][head][value] * share;
        }
        if (at.parts == 1) {
            y[at.place * at.head_dim + i] = x / divisor;
        } else {
            values[part * at.head_dim + value] = x;
            if (value == 0) {
                parts[part] = attention_part{all, divisor};
            }
        }
    }
    if (at.parts > 1 && is_last(counters + blockIdx.y * gridDim.x + blockIdx.x, (unsigned)at.parts)) {
        join_parts(m, at, values, parts, y);
    }
}

/* Parts that a row is cut into, of those that the launch has, if a part should have that many positions at least. */
__device__ static inline int parts_worth(int positions, int least) {
    const int worth = (positions + least - 1) / least;
    return worth < 1 ? 1 : worth < (int)gridDim.z ? worth : (int)gridDim.z;
}

/* ---- several heads, any cache ---- */

/* GROUP query heads of one key head. A warp takes ACROSS positions at once: four lanes have a position while scores are computed, each every fourth
 * four of its values; afterwards a lane has four values of every head. grid: heads / GROUP, rows of this launch, parts. head_dim: a multiple of 4,
 * MOST_GROUPED at most; q aligned to float4. */
template <int GROUP>
__global__ static void __launch_bounds__(WARPS *WARP)
    grouped_attention_kernel(paged_source source, const float *q, int64_t first_row, int kv_heads, int head_dim, float scale, float *y, float *values,
                             attention_part *parts, unsigned *counters) {
    enum { ACROSS = 8, LOADS = MOST_GROUPED / 4 / 4 };
    __shared__ float4 query[GROUP][WARP];
    __shared__ float chance[WARPS][ACROSS][GROUP];
    __shared__ head_sums<MOST_GROUPED> m;
    const int64_t row = first_row + blockIdx.y;
    const int heads = (int)gridDim.x * GROUP, first_head = (int)blockIdx.x * GROUP, kv_head = first_head / (heads / kv_heads), quarter = head_dim / 4;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, own = lane / 4, sub = lane % 4;
    let_next_begin();
    wait_for_inputs();
    const int begin = source.first(row), end = source.end(row), used = parts_worth(end - begin, 2 * WARPS * ACROSS);
    if ((int)blockIdx.z >= used) {
        return; /* the whole block */
    }
    const int each = (end - begin + used - 1) / used, first = begin + (int)blockIdx.z * each, last = first + each < end ? first + each : end;
    for (int i = (int)threadIdx.x; i < GROUP * quarter; i += WARPS * WARP) {
        query[i / quarter][i % quarter] = ((const float4 *)(const void *)(q + (row * heads + first_head) * head_dim))[i];
    }
    __syncthreads();
    float4 sum[GROUP];
    float max[GROUP], weight[GROUP]; /* weight: of this lane's positions */
    UNROLL
    for (int g = 0; g < GROUP; g++) {
        sum[g] = float4{0, 0, 0, 0};
        max[g] = -INFINITY;
        weight[g] = 0;
    }
    for (int from = first + warp * ACROSS; from < last; from += WARPS * ACROSS) {
        const bool live = from + own < last;
        const char *key = source.key(row, kv_head, live ? from + own : last - 1);
        float4 k[LOADS], v[ACROSS];
        UNROLL
        for (int i = 0; i < LOADS; i++) {
            k[i] = 4 * i + sub < quarter ? read_cached4(source.keys.type, key, 4 * (4 * i + sub)) : float4{0, 0, 0, 0};
        }
        UNROLL
        for (int t = 0; t < ACROSS; t++) {
            const int position = from + t < last ? from + t : last - 1;
            v[t] = lane < quarter ? read_cached4(source.values.type, source.value(row, kv_head, position), 4 * lane) : float4{0, 0, 0, 0};
        }
        float score[GROUP];
        UNROLL
        for (int g = 0; g < GROUP; g++) {
            score[g] = 0;
            UNROLL
            for (int i = 0; i < LOADS; i++) {
                if (4 * i + sub < quarter) {
                    const float4 x = query[g][4 * i + sub];
                    score[g] += x.x * k[i].x + x.y * k[i].y + x.z * k[i].z + x.w * k[i].w;
                }
            }
        }
        UNROLL
        for (int g = 0; g < GROUP; g++) {
            score[g] += __shfl_xor_sync(0xffffffffu, score[g], 1);
            score[g] += __shfl_xor_sync(0xffffffffu, score[g], 2);
            const float s = live ? score[g] * scale : -INFINITY;
            float larger = s;
            for (int distance = 4; distance < WARP; distance *= 2) {
                larger = fmaxf(larger, __shfl_xor_sync(0xffffffffu, larger, distance));
            }
            larger = fmaxf(max[g], larger); /* a NaN score stays out of it and makes its weight NaN */
            const float keep = max[g] == -INFINITY ? 0 : expf(max[g] - larger), add = live ? expf(s - larger) : 0;
            weight[g] = weight[g] * keep + (sub == 0 ? add : 0);
            sum[g] = float4{sum[g].x * keep, sum[g].y * keep, sum[g].z * keep, sum[g].w * keep};
            max[g] = larger;
            if (sub == 0) {
                chance[warp][own][g] = add;
            }
        }
        __syncwarp();
        UNROLL
        for (int t = 0; t < ACROSS; t++) {
            UNROLL
            for (int g = 0; g < GROUP; g++) {
                const float a = from + t < last ? chance[warp][t][g] : 0;
                sum[g] = float4{sum[g].x + a * v[t].x, sum[g].y + a * v[t].y, sum[g].z + a * v[t].z, sum[g].w + a * v[t].w};
            }
        }
        __syncwarp();
    }
    UNROLL
    for (int g = 0; g < GROUP; g++) {
        *(float4 *)(void *)&m.sums[warp][g][4 * lane] = sum[g];
        weight[g] = warp_sum(weight[g]);
        if (lane == 0) {
            m.largest[warp][g] = max[g];
            m.total[warp][g] = weight[g];
        }
    }
    const int64_t local = ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * GROUP;
    finish_heads(&m, head_places{row * heads + first_head, local, GROUP, head_dim, used}, y, values, parts, counters);
}

/* ---- on the tensor cores ---- */

enum { TILE_POSITIONS = 16, TILES_A_WARP = 2 /* in a part, unless there are fewer */ };

/* a and b in half precision, and what that leaves of them. */
__device__ static inline void split(float a, float b, uint32_t *high, uint32_t *low) {
    const uint16_t x = float_to_half_bits(a), y = float_to_half_bits(b);
    *high = x | (uint32_t)y << 16;
    *low = float_to_half_bits(a - half_bits_to_float(x)) | (uint32_t)float_to_half_bits(b - half_bits_to_float(y)) << 16;
}

__device__ static inline uint32_t word_of(uint4 x, int i) {
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

/* Up to MOST_TOGETHER query heads of one key head, 16 positions of a cache in half precision at once. Rows 0 to 7 of the products' left side are the
 * queries, or weights, of the heads in half precision, rows 8 to 15 what that leaves of them: their sum is as exact as in float32. A lane loads 16
 * bytes at a time, so the order of a head's values within a product is another one, on both sides the same. With g = lane / 4 and t = lane % 4 a lane
 * has of keys the positions g and 8 + g, values 32 * p + 8 * t ..; of values the positions 2 t, 2 t + 1, 2 t + 8, 2 t + 9, values 64 * h + 8 * g ..
 *
 * grid: key heads, rows of this launch, parts. A row takes as many of the parts as its positions are worth; its last block to end joins them. */
template <int HEAD_DIM>
__global__ static void __launch_bounds__(WARPS *WARP)
    tile_attention_kernel(paged_source source, const float *q, int64_t first_row, int group, float scale, float *y, float *values,
                          attention_part *parts, unsigned *counters) {
    enum { PAIRS = HEAD_DIM / 32, SPANS = HEAD_DIM / 64 };
    __shared__ head_sums<HEAD_DIM> m;
    const int64_t row = first_row + blockIdx.y, place = row * gridDim.x * group + blockIdx.x * group; /* of the first head */
    const int64_t local = ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * group;
    const int kv_head = (int)blockIdx.x, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    let_next_begin();
    wait_for_inputs();
    const int begin = source.first(row), end = source.end(row), table = source.at[row].table;
    const int first_tile = begin / TILE_POSITIONS, end_tile = (end + TILE_POSITIONS - 1) / TILE_POSITIONS;
    const int used = parts_worth(end_tile - first_tile, WARPS * TILES_A_WARP);
    if ((int)blockIdx.z >= used) {
        return; /* the whole block */
    }
    uint32_t high[PAIRS][4], low[PAIRS][4];
    UNROLL
    for (int p = 0; p < PAIRS; p++) {
        float v[8] = {};
        if (g < group) {
            load_8(q + (place + g) * HEAD_DIM, 32 * p + 8 * t, HEAD_DIM, v);
        }
        UNROLL
        for (int i = 0; i < 4; i++) {
            split(v[2 * i] * scale, v[2 * i + 1] * scale, &high[p][i], &low[p][i]);
        }
    }
    float sum[SPANS][8][4] = {}, max = -INFINITY, weight = 0; /* of head g; weight: of this lane's positions */
    for (int tile = first_tile + (int)blockIdx.z * WARPS + warp; tile < end_tile; tile += used * WARPS) {
        const int base = tile * TILE_POSITIONS, block = source.block_table[table + base / KV_BLOCK];
        const auto place_of = [=](int position) { return (position < begin ? begin : position < end ? position : end - 1) % KV_BLOCK; };
        uint4 k[2][PAIRS], v[4][SPANS];
        UNROLL
        for (int j = 0; j < 2; j++) {
            const char *from = source.keys.row(block, kv_head, place_of(base + 8 * j + g)) + 16 * t;
            UNROLL
            for (int p = 0; p < PAIRS; p++) {
                k[j][p] = load_16(from + 64 * p);
            }
        }
        UNROLL
        for (int j = 0; j < 4; j++) {
            const char *from = source.values.row(block, kv_head, place_of(base + 2 * t + j % 2 + 8 * (j / 2))) + 16 * g;
            UNROLL
            for (int h = 0; h < SPANS; h++) {
                v[j][h] = load_16(from + 128 * h);
            }
        }
        float score[4], larger = max;
        UNROLL
        for (int j = 0; j < 2; j++) {
            float s[4] = {};
            UNROLL
            for (int p = 0; p < PAIRS; p++) {
                const uint32_t first[4] = {high[p][0], low[p][0], high[p][1], low[p][1]}, second[4] = {high[p][2], low[p][2], high[p][3], low[p][3]};
                const uint32_t xy[2] = {k[j][p].x, k[j][p].y}, zw[2] = {k[j][p].z, k[j][p].w};
                mma_half(s, first, xy);
                mma_half(s, second, zw);
            }
            UNROLL
            for (int i = 0; i < 2; i++) {
                const int position = base + 8 * j + 2 * t + i;
                score[2 * j + i] = position >= begin && position < end ? s[i] + s[2 + i] : -INFINITY;
                larger = fmaxf(larger, score[2 * j + i]); /* a NaN score stays out of it and makes its weight NaN */
            }
        }
        larger = fmaxf(larger, __shfl_xor_sync(0xffffffffu, larger, 1));
        larger = fmaxf(larger, __shfl_xor_sync(0xffffffffu, larger, 2));
        const float keep = max == -INFINITY ? 0 : expf(max - larger);
        weight *= keep;
        UNROLL
        for (int i = 0; i < 4; i++) {
            const int position = base + 8 * (i / 2) + 2 * t + i % 2;
            score[i] = position >= begin && position < end ? expf(score[i] - larger) : 0;
            weight += score[i];
        }
        uint32_t chance[4];
        split(score[0], score[1], &chance[0], &chance[1]);
        split(score[2], score[3], &chance[2], &chance[3]);
        UNROLL
        for (int h = 0; h < SPANS; h++) {
            UNROLL
            for (int i = 0; i < 8; i++) {
                const uint32_t which = i % 2 ? 0x7632 : 0x5410;
                const uint32_t b[2] = {__byte_perm(word_of(v[0][h], i / 2), word_of(v[1][h], i / 2), which),
                                       __byte_perm(word_of(v[2][h], i / 2), word_of(v[3][h], i / 2), which)};
                UNROLL
                for (int d = 0; d < 4; d++) {
                    sum[h][i][d] *= keep;
                }
                mma_half(sum[h][i], chance, b);
            }
        }
        max = larger;
    }
    weight += __shfl_xor_sync(0xffffffffu, weight, 1);
    weight += __shfl_xor_sync(0xffffffffu, weight, 2);
    if (t == 0) {
        m.largest[warp][g] = max;
        m.total[warp][g] = weight;
    }
    UNROLL
    for (int h = 0; h < SPANS; h++) {
        UNROLL
        for (int i = 0; i < 8; i++) {
            m.sums[warp][g][64 * h + 16 * t + i] = sum[h][i][0] + sum[h][i][2];
            m.sums[warp][g][64 * h + 16 * t + 8 + i] = sum[h][i][1] + sum[h][i][3];
        }
    }
    finish_heads(&m, head_places{place, local, group, HEAD_DIM, used}, y, values, parts, counters);
}

/* Few rows leave most of a card idle: their positions are cut into parts. */
static int parts_for(const cuda_backend *c, int64_t rows, int blocks) {
    enum { BLOCKS_EACH = 4 };
    const int64_t most = (int64_t)BLOCKS_EACH * c->multiprocessors < COUNTERS ? (int64_t)BLOCKS_EACH * c->multiprocessors : (int64_t)COUNTERS;
    const int64_t parts = most / (rows * blocks);
    return parts < 1 ? 1 : parts > MOST_PARTS ? (int)MOST_PARTS : (int)parts;
}

/* In launches of as many rows as a grid takes, cut into parts. blocks: of a row; queue(first row, grid, values, ends) queues the kernel, which joins
 * the parts itself if y is NULL. */
template <class Queue> static void attend_in_parts(backend *b, int64_t rows, int heads, int blocks, int head_dim, float *y, Queue queue) {
    enum { MOST = 65535 };
    cuda_backend *c = cuda_of(b);
    for (int64_t at = 0; at < rows; at += MOST) {
        const int64_t part = rows - at < MOST ? rows - at : (int64_t)MOST;
        int parts = parts_for(c, part, blocks);
        const size_t places = (size_t)part * (size_t)heads * (size_t)parts;
        float *values = parts > 1 ? (float *)cuda_scratch(c, places * (sizeof(attention_part) + (size_t)head_dim * sizeof(float))) : NULL;
        attention_part *ends = (attention_part *)(void *)(values + (values ? places * (size_t)head_dim : 0));
        parts = values ? parts : 1;
        queue(at, dim3((unsigned)blocks, (unsigned)part, (unsigned)parts), values, ends);
        if (parts > 1 && y) {
            launch(c, "attention", join_kernel, dim3((unsigned)heads, (unsigned)part), WARPS * WARP, 0, values, ends, parts, head_dim,
                   y + at * heads * head_dim);
        }
    }
}

template <class Source, int LANE>
static void attend_with(backend *b, Source source, const float *q, int64_t q_stride, int64_t rows, int heads, int kv_heads, int head_dim, float scale,
                        float *y) {
    attend_in_parts(b, rows, heads, heads, head_dim, y, [=](int64_t at, dim3 grid, float *values, attention_part *ends) {
        launch(cuda_of(b), "attention", attention_kernel<Source, LANE>, grid, WARPS * WARP, 0, source, q, q_stride, at, kv_heads, head_dim, scale, y,
               values, ends);
    });
}

/* The kernels of several heads join parts with the backend's counters: a row's blocks that are cut into parts are few (parts_for). */
template <int GROUP>
static void attend_grouped(backend *b, paged_source source, const float *q, int64_t rows, int heads, int kv_heads, int head_dim, float scale,
                           float *y) {
    attend_in_parts(b, rows, heads, heads / GROUP, head_dim, NULL, [=](int64_t at, dim3 grid, float *values, attention_part *ends) {
        launch_chained(cuda_of(b), "attention", grouped_attention_kernel<GROUP>, grid, WARPS * WARP, 0, source, q, at, kv_heads, head_dim, scale, y,
                       values, ends, cuda_of(b)->counters);
    });
}

template <int HEAD_DIM>
static void attend_in_tiles(backend *b, paged_source source, const float *q, int64_t rows, int heads, int kv_heads, float scale, float *y) {
    attend_in_parts(b, rows, heads, kv_heads, HEAD_DIM, NULL, [=](int64_t at, dim3 grid, float *values, attention_part *ends) {
        launch_chained(cuda_of(b), "attention", tile_attention_kernel<HEAD_DIM>, grid, WARPS * WARP, 0, source, q, at, heads / kv_heads, scale, y,
                       values, ends, cuda_of(b)->counters);
    });
}

template <class Source>
static void attend(backend *b, Source source, const float *q, int64_t q_stride, int64_t rows, int heads, int kv_heads, int head_dim, float scale,
                   float *y) {
    if (head_dim <= 2 * WARP) {
        attend_with<Source, 2>(b, source, q, q_stride, rows, heads, kv_heads, head_dim, scale, y);
    } else if (head_dim <= 4 * WARP) {
        attend_with<Source, 4>(b, source, q, q_stride, rows, heads, kv_heads, head_dim, scale, y);
    } else if (head_dim <= 8 * WARP) {
        attend_with<Source, 8>(b, source, q, q_stride, rows, heads, kv_heads, head_dim, scale, y);
    } else {
        attend_with<Source, MOST_A_LANE>(b, source, q, q_stride, rows, heads, kv_heads, head_dim, scale, y);
    }
}

static void attention(backend *b, const kv_cache *cache, int layer, const int32_t *block_table, const attention_row *at, const float *q, int64_t rows,
                      int heads, float scale, float *y) {
    const paged_source source = {half_of(cache, layer, true), half_of(cache, layer, false), block_table, at};
    const int group = heads / cache->kv_heads, n = cache->head_dim;
    const bool tiles = cache->k_type == DTYPE_F16 && cache->v_type == DTYPE_F16 && group <= MOST_TOGETHER;
    const bool grouped = n % 4 == 0 && n <= MOST_GROUPED && (uintptr_t)q % sizeof(float4) == 0;
    if (tiles && n == 64) {
        attend_in_tiles<64>(b, source, q, rows, heads, cache->kv_heads, scale, y);
    } else if (tiles && n == 128) {
        attend_in_tiles<128>(b, source, q, rows, heads, cache->kv_heads, scale, y);
    } else if (grouped && group % 8 == 0) {
        attend_grouped<8>(b, source, q, rows, heads, cache->kv_heads, n, scale, y);
    } else if (grouped && group % 4 == 0) {
        attend_grouped<4>(b, source, q, rows, heads, cache->kv_heads, n, scale, y);
    } else if (grouped && group % 2 == 0) {
        attend_grouped<2>(b, source, q, rows, heads, cache->kv_heads, n, scale, y);
    } else if (grouped) {
        attend_grouped<1>(b, source, q, rows, heads, cache->kv_heads, n, scale, y);
    } else {
        attend(b, source, q, (int64_t)heads * n, rows, heads, cache->kv_heads, n, scale, y);
    }
}

static void attention_dense(backend *b, const float *q, int64_t q_stride, const float *k, const float *v, int64_t kv_stride, const int32_t *first,
                            const int32_t *end, int64_t rows, int heads, int kv_heads, int head_dim, float scale, bool bf16, float *y) {
    const dense_source source = {k, v, kv_stride, first, end, head_dim};
    attend(b, source, q, q_stride, rows, heads, kv_heads, head_dim, scale, y);
}

void cuda_attention_ops(ops *o) {
    o->kv_bytes = kv_bytes;
    o->kv_copy = kv_copy;
    o->kv_write = kv_write;
    o->attention = attention;
    o->attention_dense = attention_dense;
}
