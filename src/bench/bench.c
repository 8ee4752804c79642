/* omni_bench: opens or makes the files, and measures row by row. */
#define _GNU_SOURCE
#include "bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "convert/synth.h"
#include "cpu/cpu.h"
#include "engine/device.h"
#include "tensor/profile.h"

enum { DEFAULT_REPETITIONS = 5, DEFAULT_GENERATE = 32, MAX_SAMPLES = 1000 };

omni_bench_params omni_bench_params_default(void) {
    return (omni_bench_params){.scheduling = omni_model_params_default().scheduling};
}

/* ---- numbers ---- */

uint32_t bench_random(uint32_t *state) {
    *state = *state * 1664525U + 1013904223U;
    return *state >> 8;
}

void bench_noise(float *out, int64_t n, uint32_t seed) {
    uint32_t state = seed;
    for (int64_t i = 0; i < n; i++) {
        out[i] = ((float)bench_random(&state) / (float)(1 << 23) - 1) * 1.7320508F;
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median_of(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* ---- peak memory, as Linux counts it ---- */

void bench_forget_peak(void) {
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (f) {
        fputs("5", f);
        fclose(f);
    }
}

static double peak_memory(void) {
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long long kib = 0;
    while (f && fgets(line, sizeof line, f) && sscanf(line, "VmHWM: %lld", &kib) != 1) {
    }
    if (f) {
        fclose(f);
    }
    return 1024.0 * (double)kib;
}

/* ---- rows ---- */

/* An entry is a row's whole name, or the letters that it begins with: "tg" stands for every decode row, "tg32" for one. */
bool bench_wants(const bench *x, const char *name) {
    const char *only = x->params->only;
    if (!only || !*only) {
        return true;
    }
    while (*only) {
        size_t n = strcspn(only, ",");
        bool letters = n > 0 && strcspn(only, "0123456789") >= n;
        if (n > 0 && strncmp(name, only, n) == 0 && (letters || name[n] == '\0')) {
            return true;
        }
        only += n + (only[n] == ',');
    }
    return false;
}

omni_status bench_progress(const bench *x, const char *name, int done, int total, omni_error *err) {
    const omni_bench_params *p = x->params;
    bool go_on = !p->progress || p->progress(p->arg, name, (uint64_t)done, (uint64_t)total);
    return go_on ? OMNI_OK : fail(err, OMNI_CANCELLED, "cancelled");
}

static omni_status report(bench *x, const omni_bench_row *row, omni_error *err) {
    x->rows++;
    bool go_on = !x->params->on_row || x->params->on_row(x->params->arg, row);
    return go_on ? OMNI_OK : fail(err, OMNI_CANCELLED, "cancelled");
}

omni_status bench_values(bench *x, const char *name, const char *unit, double *values, int n, omni_error *err) {
    omni_bench_row row = {.name = name, .unit = unit, .samples = n, .median = median_of(values, n), .peak_memory = peak_memory()};
    row.min = values[0];
    row.max = values[n - 1];
    return report(x, &row, err);
}

static omni_status once(const bench *x, const bench_work *w, double *seconds, omni_error *err) {
    if (w->prepare) {
        TRY(w->prepare(w->arg, err));
    }
    backend_wait(x->b);
    double start = engine_now();
    TRY(w->run(w->arg, err));
    backend_wait(x->b);
    *seconds = engine_now() - start;
    return backend_failure(x->b, err);
}

/* The counting repetition. */
static omni_status count(bench *x, const bench_work *w, double *seconds, profile_entry *total, omni_error *err) {
    TRY(profile_install(x->b, err));
    if (w->prepare) {
        profile_pause(x->b);
        TRY(w->prepare(w->arg, err));
        profile_resume(x->b);
    }
    double start = engine_now();
    omni_status status = w->run(w->arg, err);
    *seconds = engine_now() - start;
    *total = profile_total(x->b->profile);
    profile_pause(x->b);
    return status == OMNI_OK && profile_starved(x->b->profile) ? fail(err, OMNI_ERR_MEMORY, "out of memory for counting") : status;
}

static omni_status test_machine(bench *x, limits *out, omni_error *err) {
    TRY(backend_queues(x->b) ? limits_measure_device(x->b, &x->last, err) : limits_measure(cpu_backend_pool(x->b), &x->last, err));
    x->last_at = engine_now();
    *out = x->last;
    return OMNI_OK;
}

omni_status bench_rate(bench *x, const char *name, const char *unit, const bench_work *w, omni_error *err) {
    if (!bench_wants(x, name)) {
        return OMNI_OK;
    }
    TRY(bench_progress(x, name, 0, x->repetitions, err));
    limits before = x->last, after;
    if (engine_now() - x->last_at > 1) { /* else what was measured behind the row before still holds */
        TRY(test_machine(x, &before, err));
    }
    bench_forget_peak();
    double rates[MAX_SAMPLES], started = engine_now(), seconds;
    int n = 0;
    profile_entry total;
    TRY(count(x, w, &seconds, &total, err));
    if (2 * seconds > x->max_seconds) {
        rates[n++] = w->amount / seconds; /* slow enough that the warm-up must do */
    }
    while (n < x->repetitions && (n == 0 || engine_now() - started + seconds < x->max_seconds)) {
        TRY(bench_progress(x, name, n, x->repetitions, err));
        TRY(once(x, w, &seconds, err));
        rates[n++] = w->amount / seconds;
    }
    omni_bench_row row = {.name = name, .unit = unit, .samples = n, .median = median_of(rates, n), .bytes = total.bytes, .flops = total.flops};
    row.min = rates[0];
    row.max = rates[n - 1];
    row.peak_memory = peak_memory();
    TRY(test_machine(x, &after, err));
    row.memory_limit = before.read > after.read ? before.read : after.read;
    row.compute_limit = before.fma > after.fma ? before.fma : after.fma;
    row.bytes_per_second = row.bytes * row.median / w->amount;
    row.flops_per_second = row.flops * row.median / w->amount;
    row.memory_share = row.bytes_per_second / row.memory_limit;
    row.compute_share = row.compute_limit > 0 ? row.flops_per_second / row.compute_limit : 0;
    char *text = x->params->profile ? profile_text(x->b->profile) : NULL;
    if (x->params->profile && !text) {
        return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for the profile", name);
    }
    row.profile = text;
    omni_status status = report(x, &row, err);
    free(text);
    return status;
}

static omni_status bench_limits(bench *x, omni_error *err) {
    enum { TIMES = 5 };
    double read[TIMES], fma[TIMES];
    for (int i = 0; i < TIMES; i++) {
        limits l;
        TRY(test_machine(x, &l, err));
        read[i] = l.read / 1e9;
        fma[i] = l.fma / 1e9;
    }
    if (backend_queues(x->b)) {
        return bench_values(x, "memory copy", "GB/s", read, TIMES, err);
    }
    TRY(bench_values(x, "memory read", "GB/s", read, TIMES, err));
    return bench_values(x, "float32 FMA", "GFLOP/s", fma, TIMES, err);
}

/* ---- files ---- */

typedef struct files {
    const char *model, *mmproj, *talker;
    bool embeddings_only;
    file_scratch scratch[3]; /* fd -1: none */
} files;

static bool show_writing(void *arg, uint64_t done, uint64_t total) {
    const omni_bench_params *p = arg;
    return !p->progress || p->progress(p->arg, "writing random weights", done, total);
}

static omni_status make_file(const bench *x, file_scratch *f, unsigned part, const char *type, int layers, omni_error *err) {
    const char *dir = x->params->scratch_dir ? x->params->scratch_dir : getenv("TMPDIR");
    TRY(file_scratch_open(dir && *dir ? dir : "/tmp", f, err));
    omni_bench_params params = *x->params;
    synth_options o = {
        .path = f->path, .type = type, .part = part, .layers = layers, .threads = x->params->threads, .progress = show_writing, .arg = &params};
    return synth_file(&o, NULL, err);
}

/* Encoders and talker suffer from few bits, and published files keep them at eight. */
static const char *type_of_others(const char *type) {
    static const char *const kept[] = {"f32", "f16", "bf16"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        if (strcasecmp(type, kept[i]) == 0) {
            return kept[i];
        }
    }
    return "q8_0";
}

/* What is wrong with the threads is said before random weights are written, not after. */
static omni_status check_threads(const omni_bench_params *p, omni_error *err) {
    pool *trial;
    TRY(engine_pool_create(p->threads, &p->scheduling, &trial, err));
    pool_destroy(trial);
    return OMNI_OK;
}

/* Parts asked for by name need their file. */
static omni_status check_parts(const omni_bench_params *p, omni_error *err) {
    const struct {
        unsigned parts;
        const char *file, *what;
    } needs[] = {{OMNI_BENCH_THINKER, p->model, "the thinker needs its file (model)"},
                 {OMNI_BENCH_AUDIO | OMNI_BENCH_VISION, p->mmproj, "audio and vision need the encoders' file (mmproj)"},
                 {OMNI_BENCH_TALKER | OMNI_BENCH_CODE2WAV, p->talker, "talker and code2wav need the talker's file (talker)"}};
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        if ((p->parts & needs[i].parts) && !needs[i].file) {
            return fail(err, OMNI_ERR_ARGUMENT, "%s", needs[i].what);
        }
    }
    return OMNI_OK;
}

static omni_status choose_files(bench *x, unsigned parts, files *f, omni_error *err) {
    const omni_bench_params *p = x->params;
    if (p->model || p->mmproj || (p->talker && !p->synthetic)) {
        TRY(check_parts(p, err));
        f->model = p->model;
        f->mmproj = p->mmproj;
        f->talker = p->talker;
        if (p->talker && !p->model) {
            return fail(err, OMNI_ERR_ARGUMENT, "the talker reads the thinker's token table: give the thinker's file too");
        }
        return OMNI_OK;
    }
    if (!p->synthetic) {
        return fail(err, OMNI_ERR_ARGUMENT, "nothing to measure: give a model file, or a type for random weights");
    }
    TRY(check_threads(p, err));
    const char *others = type_of_others(p->synthetic);
    bool speaks = parts & (OMNI_BENCH_TALKER | OMNI_BENCH_CODE2WAV);
    f->embeddings_only = !(parts & OMNI_BENCH_THINKER);
    int layers = f->embeddings_only ? 1 : p->layers;
    if (speaks || !f->embeddings_only) {
        TRY(make_file(x, &f->scratch[0], MAPPING_THINKER, p->synthetic, layers, err));
        f->model = f->scratch[0].path;
    }
    if (parts & (OMNI_BENCH_AUDIO | OMNI_BENCH_VISION)) {
        TRY(make_file(x, &f->scratch[1], MAPPING_MMPROJ, others, 0, err));
        f->mmproj = f->scratch[1].path;
    }
    if (speaks) {
        TRY(make_file(x, &f->scratch[2], MAPPING_TALKER, others, layers, err));
        f->talker = f->scratch[2].path;
    }
    return OMNI_OK;
}

/* What is open stays: a map keeps its file. */
static void close_scratch(files *f) {
    for (size_t i = 0; i < 3; i++) {
        file_scratch_close(&f->scratch[i]);
    }
}

static omni_status open_encoders(bench *x, const char *path, omni_error *err) {
    TRY(gguf_open(path, &x->mmproj, err));
    x->encoders.b = x->b;
    if (vision_encoder_present(x->mmproj)) {
        TRY(vision_encoder_open(x->b, x->mmproj, &x->encoders.vision, err));
    }
    omni_error why = {0};
    omni_status status = audio_encoder_open(x->b, x->mmproj, &x->encoders.audio, &why);
    if (status != OMNI_OK) {
        return status == OMNI_ERR_UNSUPPORTED ? OMNI_OK : fail(err, status, "%s", why.text);
    }
    return mel_create(audio_encoder_mel(x->encoders.audio), &x->encoders.mel, err);
}

/* From here to close_files the calling thread works for the backend. */
static void use_backend(bench *x, backend *b) {
    x->b = b;
    backend_enter(b);
}

static omni_status open_files(bench *x, const files *f, omni_error *err) {
    omni_model_params p = omni_model_params_default();
    p.device = x->params->device;
    p.threads = x->params->threads;
    p.scheduling = x->params->scheduling;
    p.no_repack = x->params->no_repack;
    if (f->model) {
        bench_forget_peak();
        double start = engine_now();
        p.model = f->model;
        p.talker = f->talker;
        p.embeddings_only = f->embeddings_only;
        TRY(omni_model_open(&p, &x->model, err));
        use_backend(x, x->model->b);
        double seconds = engine_now() - start;
        if (bench_wants(x, "load")) {
            TRY(bench_values(x, "load", "s", &seconds, 1, err));
        }
    } else {
        backend *b;
        TRY(device_open(&p, &b, err));
        use_backend(x, b);
    }
    return f->mmproj ? open_encoders(x, f->mmproj, err) : OMNI_OK;
}

static void close_files(bench *x) {
    mel_free(x->encoders.mel);
    audio_encoder_close(x->encoders.audio);
    vision_encoder_close(x->encoders.vision);
    gguf_close(x->mmproj);
    if (x->b) {
        backend_leave(x->b);
    }
    if (x->b && !getenv("OMNI_PROFILE")) {
        profile_remove(x->b);
    }
    if (x->model) {
        omni_model_close(x->model);
    } else {
        backend_destroy(x->b);
    }
}

static omni_status run(bench *x, files *f, omni_error *err) {
    const omni_bench_params *p = x->params;
    unsigned parts = p->parts ? p->parts : OMNI_BENCH_ALL;
    TRY(choose_files(x, parts, f, err));
    omni_status status = open_files(x, f, err);
    close_scratch(f);
    if (status != OMNI_OK) {
        return status;
    }
    const int before = x->rows;
    TRY(bench_limits(x, err));
    const int machine_rows = x->rows - before;
    bool answers = x->model && !x->model->thinker->embeddings_only, speaks = x->model && x->model->talker;
    if (answers && (parts & OMNI_BENCH_THINKER)) {
        TRY(bench_thinker(x, err));
    }
    if (x->encoders.audio && (parts & OMNI_BENCH_AUDIO)) {
        TRY(bench_audio(x, err));
    }
    if (x->encoders.vision && (parts & OMNI_BENCH_VISION)) {
        TRY(bench_vision(x, err));
    }
    if (speaks && (parts & OMNI_BENCH_TALKER)) {
        TRY(bench_talker(x, err));
    }
    if (speaks && (parts & OMNI_BENCH_CODE2WAV)) {
        TRY(bench_code2wav(x, err));
    }
    if (speaks) {
        TRY(bench_answer(x, err));
    }
    if (x->rows == machine_rows && !bench_wants(x, "memory read") && !bench_wants(x, "float32 FMA")) {
        return fail(err, OMNI_ERR_ARGUMENT, "no test of these files and parts is called \"%s\", or begins so", p->only);
    }
    return OMNI_OK;
}

omni_status omni_bench(const omni_bench_params *p, omni_error *err) {
    if (!p) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_bench needs parameters");
    }
    if (p->repetitions < 0 || p->repetitions > MAX_SAMPLES || p->generate < 0 || p->generate > 4096 || !(p->max_seconds >= 0) || p->layers < 0 ||
        p->batch < 0) {
        return fail(err, OMNI_ERR_ARGUMENT, "0 to %d repetitions and 0 to 4096 tokens are possible, and no negative times or layers", MAX_SAMPLES);
    }
    if (p->parts & ~(unsigned)OMNI_BENCH_ALL) {
        return fail(err, OMNI_ERR_ARGUMENT, "omni_bench: parts 0x%x: the known ones are 0x%x", p->parts, OMNI_BENCH_ALL);
    }
    if ((unsigned)p->cache_type_k > OMNI_CACHE_Q8_0 || (unsigned)p->cache_type_v > OMNI_CACHE_Q8_0) {
        return fail(err, OMNI_ERR_ARGUMENT, "cache types %d and %d: there are 0 to %d", (int)p->cache_type_k, (int)p->cache_type_v, OMNI_CACHE_Q8_0);
    }
    bench x = {
        .params = p,
        .repetitions = p->repetitions ? p->repetitions : DEFAULT_REPETITIONS,
        .generate = p->generate ? p->generate : DEFAULT_GENERATE,
        .max_seconds = p->max_seconds > 0 ? p->max_seconds : 60,
        .last_at = -1e9,
    };
    files f = {.scratch = {{.fd = -1}, {.fd = -1}, {.fd = -1}}};
    omni_status status = run(&x, &f, err);
    close_scratch(&f);
    close_files(&x);
    return status;
}
