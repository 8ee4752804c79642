/* The cache as kernels see it: [layer][block][kv head][KV_BLOCK][head_dim]. */
#ifndef OMNI_CUDA_CACHE_CUH
#define OMNI_CUDA_CACHE_CUH

#include "cuda/device.cuh"

/* One half of a cache as kernels see it. */
struct cache_half {
    dtype type;
    char *data;
    int64_t row_bytes, layer_rows; /* of head_dim values; rows before this layer's first */
    int kv_heads, head_dim;
    __host__ __device__ char *row(int64_t block, int head, int64_t position) const {
        return data + (layer_rows + (block * kv_heads + head) * KV_BLOCK + position) * row_bytes;
    }
};

static cache_half half_of(const kv_cache *cache, int layer, bool keys) {
    const dtype type = keys ? cache->k_type : cache->v_type;
    return {type,
            (char *)(keys ? cache->k : cache->v),
            (int64_t)dtype_row_bytes(type, cache->head_dim),
            (int64_t)layer * cache->blocks * cache->kv_heads * KV_BLOCK,
            cache->kv_heads,
            cache->head_dim};
}

/* A warp writes one head of one row, a block of 32 values at a time where the type has such. */
__device__ static void write_head(const cache_half h, const float *x, int32_t slot, int head) {
    char *to = h.row(slot / KV_BLOCK, head, slot % KV_BLOCK);
    for (int i = threadIdx.x % WARP, first = 0; first < h.head_dim; i += WARP, first += WARP) {
        const float v = i < h.head_dim ? x[i] : 0;
        if (h.type == DTYPE_Q8_0) {
            const float d = warp_max(fabsf(v)) / 127.0f, inverse = d > 0 ? 1.0f / d : 0;
            block_q8_0 *block = (block_q8_0 *)to + first / QK;
            block->qs[i % QK] = (int8_t)rintf(v * inverse);
            if (i == first) { /* as one value: of the two byte stores that a packed member takes, nvcc 13.0 gets the lower wrong */
                *(uint16_t *)(void *)block = float_to_half_bits(d);
            }
        } else if (i < h.head_dim) {
            if (h.type == DTYPE_F16) {
                ((uint16_t *)(void *)to)[i] = float_to_half_bits(v);
            } else {
                ((float *)(void *)to)[i] = v;
            }
        }
    }
}

#endif
