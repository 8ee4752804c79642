/* Rows, normalisation and elementwise operations. */
#include <math.h>
#include <string.h>

#include "cpu/backend.h"

typedef struct row_job {
    const cpu_backend *c;
    const float *x, *a, *b;
    const int32_t *index;
    float value;
    int64_t width;
    activation act;
    float *y;
} row_job;

/* One job type for all: what a field means is up to the body. */
static void run(row_job *j, int64_t rows, int64_t cost, pool_body body) {
    pool_for(j->c->pool, rows, cpu_grain(j->width * cost), body, j);
}

static void gather_body(void *arg, int64_t begin, int64_t end, int thread) {
    row_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        memcpy(j->y + r * j->width, j->x + j->index[r] * j->width, (size_t)j->width * sizeof *j->y);
    }
}

static void cpu_gather_rows(backend *b, const float *x, const int32_t *index, int64_t rows, int64_t width, float *y) {
    row_job j = {.c = cpu_of(b), .x = x, .index = index, .width = width, .y = y};
    run(&j, rows, 1, gather_body);
}

static void add_to_rows_body(void *arg, int64_t begin, int64_t end, int thread) {
    row_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        j->c->k.add(j->x + r * j->width, j->width, j->y + j->index[r] * j->width);
    }
}

static void cpu_add_to_rows(backend *b, const float *x, const int32_t *index, int64_t rows, int64_t width, float *y) {
    row_job j = {.c = cpu_of(b), .x = x, .index = index, .width = width, .y = y};
    run(&j, rows, 1, add_to_rows_body);
}

typedef struct angle_job {
    const float *positions, *inv_freq;
    const int32_t *axis;
    int half;
    float *cosine, *sine;
} angle_job;

static void angles_body(void *arg, int64_t begin, int64_t end, int thread) {
    angle_job *j = arg;
    const size_t bytes = (size_t)j->half * sizeof(float);
    for (int64_t r = begin; r < end; r++) {
        const float *position = j->positions + r * 3;
        float *cosine = j->cosine + r * j->half, *sine = j->sine + r * j->half;
        if (r > begin && memcmp(position, position - 3, 3 * sizeof *position) == 0) {
            memcpy(cosine, cosine - j->half, bytes); /* sequences in step often stand at the same position */
            memcpy(sine, sine - j->half, bytes);
            continue;
        }
        for (int i = 0; i < j->half; i++) {
            const float angle = j->inv_freq[i] * position[j->axis[i]];
            cosine[i] = cosf(angle);
            sine[i] = sinf(angle);
        }
    }
}

static void cpu_angles(backend *b, const float *positions, const float *inv_freq, const int32_t *axis, int64_t rows, int half, float *cosine,
                       float *sine) {
    angle_job j = {positions, inv_freq, axis, half, cosine, sine};
    pool_for(cpu_of(b)->pool, rows, cpu_grain((int64_t)half * 32), angles_body, &j);
}

static void rms_norm_body(void *arg, int64_t begin, int64_t end, int thread) {
    row_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        j->c->k.rms_norm(j->x + r * j->width, j->a, j->value, j->width, j->y + r * j->width);
    }
}

static void cpu_rms_norm(backend *b, const float *x, const float *w, float eps, int64_t rows, int64_t width, float *y) {
    row_job j = {.c = cpu_of(b), .x = x, .a = w, .value = eps, .width = width, .y = y};
    run(&j, rows, 1, rms_norm_body);
}

static void layer_norm_body(void *arg, int64_t begin, int64_t end, int thread) {
    row_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        j->c->k.layer_norm(j->x + r * j->width, j->a, j->b, j->value, j->width, j->y + r * j->width);
    }
}

static void cpu_layer_norm(backend *b, const float *x, const float *w, const float *bias, float eps, int64_t rows, int64_t width, float *y) {
    row_job j = {.c = cpu_of(b), .x = x, .a = w, .b = bias, .value = eps, .width = width, .y = y};
    run(&j, rows, 1, layer_norm_body);
}

/* Flat arrays are cut into chunks of 1,024 values, so that a value's place in its vector does not depend on the threads. */
enum { CHUNK = 1024 };

static int64_t chunks(int64_t n) {
    return (n + CHUNK - 1) / CHUNK;
}

static void activate_body(void *arg, int64_t begin, int64_t end, int thread) {
    row_job *j = arg;
    int64_t at = begin * CHUNK, to = end * CHUNK < j->width ? end * CHUNK : j->width;
    j->c->k.activate(j->act, j->x + at, to - at, j->y + at);
}

static void cpu_activate(backend *b, activation a, const float *x, int64_t n, float *y) {
    row_job j = {.c = cpu_of(b), .x = x, .act = a, .width = n, .y = y};
    pool_for(j.c->pool, chunks(n), 8, activate_body, &j);
}

static void add_body(void *arg, int64_t begin, int64_t end, int thread) {
    row_job *j = arg;
    int64_t at = begin * CHUNK, to = end * CHUNK < j->width ? end * CHUNK : j->width;
    j->c->k.add(j->x + at, to - at, j->y + at);
}

static void cpu_add(backend *b, const float *x, int64_t n, float *y) {
    row_job j = {.c = cpu_of(b), .x = x, .width = n, .y = y};
    pool_for(j.c->pool, chunks(n), 32, add_body, &j);
}

static void silu_mul_body(void *arg, int64_t begin, int64_t end, int thread) {
    row_job *j = arg;
    int64_t at = begin * CHUNK, to = end * CHUNK < j->width ? end * CHUNK : j->width;
    j->c->k.silu_mul(j->a + at, j->b + at, to - at, j->y + at);
}

static void cpu_silu_mul(backend *b, const float *gate, const float *up, int64_t n, float *y) {
    row_job j = {.c = cpu_of(b), .a = gate, .b = up, .width = n, .y = y};
    pool_for(j.c->pool, chunks(n), 8, silu_mul_body, &j);
}

static void add_scaled_body(void *arg, int64_t begin, int64_t end, int thread) {
    row_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        j->c->k.add_product(j->x + r * j->width, j->a, j->width, j->y + r * j->width);
    }
}

static void cpu_add_scaled(backend *b, const float *x, const float *scale, int64_t rows, int64_t width, float *y) {
    row_job j = {.c = cpu_of(b), .x = x, .a = scale, .width = width, .y = y};
    run(&j, rows, 1, add_scaled_body);
}

static void add_gated_body(void *arg, int64_t begin, int64_t end, int thread) {
    row_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        j->c->k.add_multiple(j->x + r * j->width, 1.0f / (1.0f + expf(-j->a[r])), j->width, j->y + r * j->width);
    }
}

static void cpu_add_gated(backend *b, const float *x, const float *gate, int64_t rows, int64_t width, float *y) {
    row_job j = {.c = cpu_of(b), .x = x, .a = gate, .width = width, .y = y};
    run(&j, rows, 1, add_gated_body);
}

static void snake_beta_body(void *arg, int64_t begin, int64_t end, int thread) {
    row_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        j->c->k.snake_beta(j->x + r * j->width, j->a, j->b, j->width, j->y + r * j->width);
    }
}

static void cpu_snake_beta(backend *b, const float *x, const float *a, const float *inv_b, int64_t rows, int64_t width, float *y) {
    row_job j = {.c = cpu_of(b), .x = x, .a = a, .b = inv_b, .width = width, .y = y};
    run(&j, rows, 4, snake_beta_body);
}

void cpu_elementwise_ops(ops *o) {
    o->gather_rows = cpu_gather_rows;
    o->add_to_rows = cpu_add_to_rows;
    o->angles = cpu_angles;
    o->rms_norm = cpu_rms_norm;
    o->layer_norm = cpu_layer_norm;
    o->activate = cpu_activate;
    o->add = cpu_add;
    o->add_scaled = cpu_add_scaled;
    o->add_gated = cpu_add_gated;
    o->silu_mul = cpu_silu_mul;
    o->snake_beta = cpu_snake_beta;
}
