/* engine_soak ROUNDS SEED: in every round eight threads ask one engine 64 requests of all kinds on the tiny model, with prompts of up to 3,000
 * tokens, some cancelled, some read slowly, some left unread, and compare each answer with the one that an engine gave that had nothing else to do.
 * Says every ten rounds how much memory there is in use. Fails at the first difference, when something is not given back, and when memory grows. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "../unit/mixed.h"

enum { ASKS = 96, WORDS = 1550, CONTEXT = 4096, THREADS = 8, EACH = 8, PARALLEL = 6, WARM = 20, EVERY = 10 };
/* Since round WARM, what is still no leak: bytes and blocks in use, of caches and of what utterances work with, which lengths differ a little;
 * and resident bytes, of which the allocator keeps ever more free pieces for its many threads for some hundred rounds. */
static const double USED_GROWTH = 256 << 10, BLOCKS_GROWTH = 16, RESIDENT_GROWTH = 1.25;

/* ---- bytes in use ----
 *
 * mallinfo2 counts free pieces that the allocator keeps for a thread, and the heads of its arenas, as in use: they grow by kilobytes a round for some
 * hundred rounds. So the program's own allocator counts, for all libraries, what was given out and not given back. A sanitizer has its own. */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define COUNTS false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define COUNTS false
#endif
#endif
#ifndef COUNTS
#define COUNTS true
#endif

static _Atomic int64_t used_bytes, used_blocks;

#if COUNTS
#define PREEMPTS __attribute__((visibility("default"))) /* also for the libraries */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *p);

static void *given(void *p) {
    if (p) {
        used_bytes += (int64_t)malloc_usable_size(p);
        used_blocks++;
    }
    return p;
}

PREEMPTS void *malloc(size_t size) {
    return given(__libc_malloc(size));
}

PREEMPTS void *calloc(size_t count, size_t size) {
    return given(__libc_calloc(count, size));
}

PREEMPTS void *realloc(void *p, size_t size) {
    const int64_t before = p ? (int64_t)malloc_usable_size(p) : 0;
    void *q = __libc_realloc(p, size);
    if (p && (q || size == 0)) {
        used_bytes -= before;
        used_blocks--;
    }
    return given(q);
}

PREEMPTS void *memalign(size_t alignment, size_t size) {
    return given(__libc_memalign(alignment, size));
}

PREEMPTS void *aligned_alloc(size_t alignment, size_t size) {
    return given(__libc_memalign(alignment, size));
}

PREEMPTS int posix_memalign(void **p, size_t alignment, size_t size) {
    *p = given(__libc_memalign(alignment, size));
    return *p ? 0 : ENOMEM;
}

PREEMPTS void free(void *p) {
    if (p) {
        used_bytes -= (int64_t)malloc_usable_size(p);
        used_blocks--;
        __libc_free(p);
    }
}
#endif

/* ---- requests ---- */

static omni_model *model;
static omni_engine *engine;
static mixed_ask asks[ASKS];
static mixed_answer alone[ASKS];
static _Atomic uint64_t compared, cancelled, unread;

static void die(const char *what, const char *why) {
    fprintf(stderr, "engine_soak: %s: %s\n", what, why);
    exit(1);
}

static void pause_for(uint64_t microseconds) {
    const struct timespec t = {.tv_nsec = (long)microseconds * 1000};
    nanosleep(&t, NULL);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double resident_bytes(void) {
    FILE *f = fopen("/proc/self/statm", "r");
    long all = 0, resident = 0;
    if (!f || fscanf(f, "%ld %ld", &all, &resident) != 2) {
        die("/proc/self/statm", "cannot be read");
    }
    fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

/* Threads of this process, or open files. */
static int count_entries(const char *folder) {
    DIR *d = opendir(folder);
    if (!d) {
        die(folder, "cannot be read");
    }
    int n = 0;
    for (const struct dirent *e; (e = readdir(d));) {
        n += e->d_name[0] != '.';
    }
    closedir(d);
    return n;
}

static void wrong(int i, const char *what) {
    char text[64];
    snprintf(text, sizeof text, "request %d of the list", i);
    die(text, what);
}

static void ask(int i, uint64_t *random) {
    omni_request *r;
    omni_error err;
    if (mixed_submit(engine, model, &asks[i], &r, &err) != OMNI_OK) {
        wrong(i, err.text);
    }
    const uint64_t way = mixed_below(random, 10);
    omni_event event;
    mixed_answer a = {0};
    if (way == 0) { /* left unread, before or while it is answered */
        pause_for(mixed_below(random, 100000));
        unread++;
    } else if (way == 1) {
        bool more = true;
        for (uint64_t left = mixed_below(random, 8); more && left > 0; left--) {
            more = !omni_request_next(r, 0.05, &event) || mixed_take(&a, r, &event);
        }
        omni_request_cancel(r);
        while (more && omni_request_next(r, -1, &event) && event.kind != OMNI_EVENT_DONE) {
            wrong(i, "something came after a cancel");
        }
        cancelled++;
    } else {
        const bool slowly = way == 2;
        while (!omni_request_next(r, slowly ? 0 : -1, &event) || mixed_take(&a, r, &event)) {
            if (slowly) {
                pause_for(5000);
            }
        }
        const char *what = a.status != OMNI_OK ? a.err.text : mixed_difference(&a, &alone[i]);
        if (what) {
            wrong(i, what);
        }
        compared++;
    }
    mixed_answer_free(&a);
    omni_request_free(r);
}

static void *work(void *arg) {
    uint64_t *random = arg;
    for (int i = 0; i < EACH; i++) {
        ask((int)mixed_below(random, ASKS), random);
    }
    return NULL;
}

static void *nothing(void *arg) {
    return arg;
}

static void round_of_requests(uint64_t *random) {
    pthread_t threads[THREADS];
    uint64_t seeds[THREADS];
    for (int i = 0; i < THREADS; i++) {
        seeds[i] = mixed_random(random) | 1;
        if (pthread_create(&threads[i], NULL, work, &seeds[i]) != 0) {
            die("a thread", "cannot be started");
        }
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void check_empty(void) {
    while (omni_engine_count(engine).waiting_or_running > 0) {
        pause_for(1000);
    }
    pthread_mutex_lock(&model->computing); /* the step that ended the last one is over */
    if (kv_pool_free(engine->pool) + prefix_cache_idle(engine->prefixes) != kv_pool_cache(engine->pool)->blocks) {
        die("cache blocks", "some were not given back");
    }
    for (const embeddings *x = model->media_cache.oldest; x; x = x->newer) {
        if (x->holders != 0) {
            die("embeddings", "some were not given back");
        }
    }
    pthread_mutex_unlock(&model->computing);
    const omni_engine_counters n = omni_engine_count(engine);
    if (n.failed + n.refused > 0 || n.submitted != n.ended) {
        die("counters", "requests were refused, failed or were lost");
    }
}

/* As many utterances at once as there can be: what each works with is made when for the first time so many speak, and stays. */
static void speak_together(void) {
    omni_request *r[PARALLEL];
    omni_error err;
    omni_generate_params p = omni_generate_params_default();
    p.max_frames = 60;
    for (int i = 0; i < PARALLEL; i++) {
        if (omni_request_speak(engine, "The ships and the sea, and the wind over the seven seas.", &p, &r[i], &err) != OMNI_OK) {
            die("speaking", err.text);
        }
    }
    for (int i = 0; i < PARALLEL; i++) {
        mixed_answer a = mixed_read(r[i]);
        if (a.status != OMNI_OK) {
            die("speaking", a.err.text);
        }
        mixed_answer_free(&a);
        omni_request_free(r[i]);
    }
}

static void open_all(void) {
    omni_error err;
    omni_model_params p = omni_model_params_default();
    p.model = MIXED_MODELS "/tiny/qwen3-omni-f16.gguf";
    p.mmproj = MIXED_MODELS "/tiny/mmproj-qwen3-omni-f16.gguf";
    p.talker = MIXED_MODELS "/tiny/talker-qwen3-omni-f16.gguf";
    omni_engine_params e = omni_engine_params_default();
    e.parallel = PARALLEL;
    e.context = CONTEXT;
    e.cache_tokens = 2 * CONTEXT;
    e.held_text = 16;
    e.held_seconds = 0.5;
    if (omni_model_open(&p, &model, &err) != OMNI_OK || omni_engine_create(model, &e, &engine, &err) != OMNI_OK) {
        die("opening the model", err.text);
    }
    for (int i = 0; i < ASKS; i++) {
        asks[i] = mixed_make((uint64_t)i, WORDS);
        if (mixed_alone(model, &asks[i], CONTEXT, &alone[i], &err) != OMNI_OK) {
            wrong(i, err.text);
        }
    }
    if (omni_engine_start(engine, &err) != OMNI_OK) {
        die("starting the engine", err.text);
    }
    speak_together();
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: engine_soak ROUNDS SEED\n");
        return 2;
    }
    const int rounds = atoi(argv[1]);
    uint64_t random = strtoull(argv[2], NULL, 10) * 0x9e3779b97f4a7c15 + 1;
    pthread_t first; /* a thread sanitizer starts one of its own with the first of a program, and keeps it */
    if (pthread_create(&first, NULL, nothing, NULL) != 0) {
        die("a thread", "cannot be started");
    }
    pthread_join(first, NULL);
    usleep(100000); /* until it is listed no more */
    const int files = count_entries("/proc/self/fd"), tasks = count_entries("/proc/self/task");
    open_all();
    int64_t longest = 0;
    for (int i = 0; i < ASKS; i++) {
        longest = alone[i].result.prompt_tokens > longest ? alone[i].result.prompt_tokens : longest;
    }
    printf("%d requests known, prompts of up to %" PRId64 " tokens\n", ASKS, longest);
    double warm_resident = 0, warm_used = 0, warm_blocks = 0;
    const double start = now();
    for (int i = 1; i <= rounds; i++) {
        round_of_requests(&random);
        check_empty();
        if (i % EVERY == 0 || i == rounds) {
            const omni_engine_counters n = omni_engine_count(engine);
            const double resident = resident_bytes(), used = (double)used_bytes, blocks = (double)used_blocks;
            printf("round %d, %.0f s: %" PRIu64 " answers compared, %" PRIu64 " cancelled, %" PRIu64 " left; %" PRIu64 " of %" PRIu64
                   " prompt rows cached, %" PRIu64 " times gave way; %.0f bytes in %.0f blocks, %.1f MiB resident\n",
                   i, now() - start, compared, cancelled, unread, n.cached_rows, n.prompt_rows, n.preempted, used, blocks, resident / (1 << 20));
            fflush(stdout);
            if (i == WARM) {
                warm_resident = resident;
                warm_used = used;
                warm_blocks = blocks;
            } else if (i > WARM &&
                       (used > warm_used + USED_GROWTH || blocks > warm_blocks + BLOCKS_GROWTH || resident > warm_resident * RESIDENT_GROWTH)) {
                die("memory", "grows");
            }
        }
    }
    omni_engine_destroy(engine);
    for (int i = 0; i < ASKS; i++) {
        mixed_free(&asks[i]);
        mixed_answer_free(&alone[i]);
    }
    omni_model_close(model);
    /* A thread that has been joined is listed for a moment longer. */
    for (int i = 0; i < 1000 && count_entries("/proc/self/task") > tasks; i++) {
        usleep(10000);
    }
    const int more_files = count_entries("/proc/self/fd") - files, more_tasks = count_entries("/proc/self/task") - tasks;
    if (more_files > 0 || more_tasks > 0) { /* bytes: a leak sanitizer sees more */
        fprintf(stderr, "engine_soak: closing: %d threads and %d open files are left\n", more_tasks, more_files);
        exit(1);
    }
    printf("all equal, nothing left\n");
    return 0;
}
