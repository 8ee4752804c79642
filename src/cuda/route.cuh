/* The choice of a row's experts, by a warp. */
#ifndef OMNI_CUDA_ROUTE_CUH
#define OMNI_CUDA_ROUTE_CUH

#include "cuda/device.cuh"

/* A number that is larger for larger x and 0 for NaN, which is chosen only when nothing else is left. */
__device__ static inline unsigned order_of(float x) {
    const uint32_t bits = __float_as_uint(x + 0.0f); /* -0 as 0 */
    return isnan(x) ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* A lane has the experts lane, lane + 32, ...: LANE of them at most, in registers, or with LANE 0 any number, read again for every choice. */
template <int LANE>
__device__ static inline void route_lanes(const float *logits, int experts, int used, bool normalise, int32_t *ids, float *weights) {
    const int lane = threadIdx.x % WARP, each = LANE ? LANE : (experts + WARP - 1) / WARP;
    const auto read = [=](int i) { return lane + WARP * i < experts ? __ldcg(logits + lane + WARP * i) : nanf(""); };
    float kept[LANE ? LANE : 1], max = -INFINITY, total = 0, sum = 0;
    UNROLL
    for (int i = 0; i < LANE; i++) {
        kept[i] = read(i);
    }
    const auto x = [&](int i) { return LANE ? kept[LANE ? i : 0] : read(i); };
    UNROLL
    for (int i = 0; i < each; i++) {
        max = fmaxf(max, x(i));
    }
    max = warp_max(max);
    UNROLL
    for (int i = 0; i < each; i++) {
        total += lane + WARP * i < experts ? expf(x(i) - max) : 0;
    }
    total = warp_sum(total);
    unsigned last = ~0u, last_id = 0; /* the choice before: the next is the first one behind it */
    for (int n = 0; n < used; n++) {
        unsigned best = 0, id = ~0u;
        float value = 0;
        UNROLL
        for (int i = 0; i < each; i++) {
            const unsigned order = order_of(x(i)), e = (unsigned)(lane + WARP * i);
            if (order > best && (order < last || (order == last && e > last_id))) {
                best = order;
                id = e;
                value = x(i);
            }
        }
        last = __reduce_max_sync(0xffffffffu, best);
        last_id = __reduce_min_sync(0xffffffffu, best == last ? id : ~0u);
        value = __shfl_sync(0xffffffffu, value, (int)(last_id % WARP));
        /* With NaN among the logits there may be none left: the weight is NaN all the same, and any expert will do. */
        const float weight = last ? expf(value - max) / total : nanf("");
        sum += weight;
        if (lane == 0) {
            ids[n] = last ? (int32_t)last_id : n;
            weights[n] = weight;
        }
    }
    __syncwarp();
    for (int n = lane; normalise && n < used; n += WARP) {
        weights[n] /= sum;
    }
}

/* ids and weights [used] of a row of logits. All lanes of a warp call it. */
__device__ static inline void route_row(const float *logits, int experts, int used, bool normalise, int32_t *ids, float *weights) {
    if (experts <= 4 * WARP) {
        route_lanes<4>(logits, experts, used, normalise, ids, weights);
    } else {
        route_lanes<0>(logits, experts, used, normalise, ids, weights);
    }
}

#endif
