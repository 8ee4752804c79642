/* Rows and single values: embedding, gathering, sums, activations. All of them move memory and hardly compute. */
#include "cuda/device.cuh"
#include "cuda/formats.cuh"

enum { THREADS = 256 };

/* A table row a block of threads; of each, groups of values. */
template <class Format> __global__ static void embed_kernel(weight_rows table, const int32_t *ids, int64_t width, float *y) {
    const int64_t row = blockIdx.x;
    const int32_t id = ids[row];
    for (int64_t g = threadIdx.x; g * Format::GROUP < width; g += blockDim.x) {
        float v[Format::GROUP];
        if (id >= 0) {
            Format::load(table.data + (int64_t)id * table.stride, g, v, table.width);
        }
        for (int i = 0; i < Format::GROUP && g * Format::GROUP + i < width; i++) {
            y[row * width + g * Format::GROUP + i] = id >= 0 ? v[i] : nanf("");
        }
    }
}

template <class Format>
__global__ static void embed_sum_kernel(weight_rows table, const int32_t *ids, int64_t n, int64_t step, float scale, int64_t width, float *y) {
    const int64_t row = blockIdx.x;
    for (int64_t g = threadIdx.x; g * Format::GROUP < width; g += blockDim.x) {
        float sum[Format::GROUP] = {};
        for (int64_t j = 0; j < n; j++) {
            float v[Format::GROUP];
            const int32_t id = ids[row * n + j];
            Format::load(table.data + ((int64_t)(id < 0 ? 0 : id) + j * step) * table.stride, g, v, table.width);
            for (int i = 0; i < Format::GROUP; i++) {
                sum[i] += id < 0 ? nanf("") : v[i];
            }
        }
        for (int i = 0; i < Format::GROUP && g * Format::GROUP + i < width; i++) {
            y[row * width + g * Format::GROUP + i] = sum[i] * scale;
        }
    }
}

struct embed_call {
    cuda_backend *c;
    weight_rows table;
    const int32_t *ids;
    int64_t rows, n, step, width;
    float scale, *y;
    template <class Format> void run() const {
        if (n == 0) {
            launch(c, "embed", embed_kernel<Format>, (unsigned)rows, THREADS, 0, table, ids, width, y);
        } else {
            launch(c, "embed_sum", embed_sum_kernel<Format>, (unsigned)rows, THREADS, 0, table, ids, n, step, scale, width, y);
        }
    }
};

static void embed(backend *b, const tensor *table, const int32_t *ids, int64_t rows, float *y) {
    with_format(table->type, embed_call{cuda_of(b), rows_of(table), ids, rows, 0, 0, table->ne[0], 0, y});
}

static void embed_sum(backend *b, const tensor *table, const int32_t *ids, int64_t rows, int64_t n, int64_t step, float scale, float *y) {
    with_format(table->type, embed_call{cuda_of(b), rows_of(table), ids, rows, n, step, table->ne[0], scale, y});
}

/* ---- one thread a value ---- */

template <class Body> __global__ static void each_kernel(int64_t n, Body body) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        body(i);
    }
}

template <class Body> static void each(backend *b, const char *what, int64_t n, Body body) {
    launch(cuda_of(b), what, each_kernel<Body>, blocks_for(n, THREADS), THREADS, 0, n, body);
}

struct gather_body {
    const float *x;
    const int32_t *index;
    int64_t width;
    float *y;
    __device__ void operator()(int64_t i) const {
        y[i] = x[index[i / width] * width + i % width];
    }
};

struct scatter_add_body {
    const float *x;
    const int32_t *index;
    int64_t width;
    float *y;
    __device__ void operator()(int64_t i) const {
        y[index[i / width] * width + i % width] += x[i];
    }
};

struct add_body {
    const float *x;
    float *y;
    __device__ void operator()(int64_t i) const {
        y[i] += x[i];
    }
};

struct add_scaled_body {
    const float *x, *scale;
    int64_t width;
    float *y;
    __device__ void operator()(int64_t i) const {
        y[i] += scale[i % width] * x[i];
    }
};

struct add_gated_body {
    const float *x, *gate;
    int64_t width;
    float *y;
    __device__ void operator()(int64_t i) const {
        y[i] += x[i] / (1.0f + expf(-gate[i / width]));
    }
};

struct silu_mul_body {
    const float *gate, *up;
    float *y;
    __device__ void operator()(int64_t i) const {
        y[i] = silu(gate[i]) * up[i];
    }
};

struct activate_body {
    activation a;
    const float *x;
    float *y;
    __device__ void operator()(int64_t i) const {
        const float v = x[i];
        switch (a) {
        case ACT_SILU:
            y[i] = silu(v);
            break;
        case ACT_GELU:
            y[i] = v / 2 * (1 + erff(v * 0.70710678118654752f));
            break;
        case ACT_GELU_TANH:
            y[i] = v / 2 * (1 + tanhf(0.79788456080286536f * (v + 0.044715f * v * v * v)));
            break;
        default:
            y[i] = v;
        }
    }
};

struct snake_beta_body {
    const float *x, *a, *inv_b;
    int64_t width;
    float *y;
    __device__ void operator()(int64_t i) const {
        const float s = sinf(a[i % width] * x[i]);
        y[i] = x[i] + s * s * inv_b[i % width];
    }
};

struct angle_body {
    const float *positions, *inv_freq;
    const int32_t *axis;
    int half;
    float *cosine, *sine;
    __device__ void operator()(int64_t i) const {
        const int j = (int)(i % half);
        const float angle = inv_freq[j] * positions[i / half * 3 + axis[j]];
        cosine[i] = cosf(angle);
        sine[i] = sinf(angle);
    }
};

static void gather_rows(backend *b, const float *x, const int32_t *index, int64_t rows, int64_t width, float *y) {
    each(b, "gather_rows", rows * width, gather_body{x, index, width, y});
}

static void add_to_rows(backend *b, const float *x, const int32_t *index, int64_t rows, int64_t width, float *y) {
    each(b, "add_to_rows", rows * width, scatter_add_body{x, index, width, y});
}

static void activate(backend *b, activation a, const float *x, int64_t n, float *y) {
    each(b, "activate", n, activate_body{a, x, y});
}

static void add(backend *b, const float *x, int64_t n, float *y) {
    each(b, "add", n, add_body{x, y});
}

static void add_scaled(backend *b, const float *x, const float *scale, int64_t rows, int64_t width, float *y) {
    each(b, "add_scaled", rows * width, add_scaled_body{x, scale, width, y});
}

static void add_gated(backend *b, const float *x, const float *gate, int64_t rows, int64_t width, float *y) {
    each(b, "add_gated", rows * width, add_gated_body{x, gate, width, y});
}

static void silu_mul(backend *b, const float *gate, const float *up, int64_t n, float *y) {
    each(b, "silu_mul", n, silu_mul_body{gate, up, y});
}

static void snake_beta(backend *b, const float *x, const float *a, const float *inv_b, int64_t rows, int64_t width, float *y) {
    each(b, "snake_beta", rows * width, snake_beta_body{x, a, inv_b, width, y});
}

static void angles(backend *b, const float *positions, const float *inv_freq, const int32_t *axis, int64_t rows, int half, float *cosine,
                   float *sine) {
    each(b, "angles", rows * half, angle_body{positions, inv_freq, axis, half, cosine, sine});
}

void cuda_row_ops(ops *o) {
    o->embed = embed;
    o->embed_sum = embed_sum;
    o->gather_rows = gather_rows;
    o->add_to_rows = add_to_rows;
    o->activate = activate;
    o->add = add;
    o->add_scaled = add_scaled;
    o->add_gated = add_gated;
    o->silu_mul = silu_mul;
    o->snake_beta = snake_beta;
    o->angles = angles;
}
