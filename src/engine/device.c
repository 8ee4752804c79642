#define _GNU_SOURCE
#include "engine/device.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "engine/engine.h"

static const char LIBRARY[] = "libomni-cuda.so";

/* "/usr/lib/x/" of the file that this code was loaded from. */
static bool own_folder(char folder[PATH_MAX]) {
    Dl_info info;
    char resolved[PATH_MAX];
    if (!dladdr((const void *)LIBRARY, &info) || !info.dli_fname || !realpath(info.dli_fname, resolved)) {
        return false;
    }
    char *slash = strrchr(resolved, '/');
    if (slash) {
        slash[1] = 0;
    }
    return slash && snprintf(folder, PATH_MAX, "%s", resolved) < PATH_MAX;
}

static void *open_from(const char *folder, const char *below) {
    char path[PATH_MAX];
    struct stat s;
    if (snprintf(path, sizeof path, "%s%s%s", folder, below, LIBRARY) >= (int)sizeof path || stat(path, &s) != 0) {
        return NULL;
    }
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

/* The library stays open as long as the process: its threads and the driver's outlive a backend. */
static omni_status open_library(const cuda_library **out, omni_error *err) {
    char folder[PATH_MAX];
    void *library = NULL;
    *out = NULL;
    (void)dlerror();
    if (own_folder(folder)) { /* beside libomni.so; in a build folder; beside bin/omni */
        static const char *const below[] = {"", "src/cuda/", "../lib/", "../lib/x86_64-linux-gnu/", "../lib/aarch64-linux-gnu/"};
        for (size_t i = 0; !library && i < sizeof below / sizeof *below; i++) {
            library = open_from(folder, below[i]);
        }
    }
    library = library ? library : dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        return fail(err, OMNI_ERR_UNSUPPORTED, "no CUDA backend: %s; it is built with cmake -DOMNI_CUDA=ON", why ? why : LIBRARY);
    }
    const cuda_library *l = dlsym(library, "omni_cuda_library");
    const size_t sizes[] = CUDA_LIBRARY_SIZES;
    if (!l || strcmp(l->version, OMNI_VERSION) != 0 || memcmp(l->sizes, sizes, sizeof sizes) != 0) {
        dlclose(library);
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s is of another version of omni than this one, %s", LIBRARY, OMNI_VERSION);
    }
    *out = l;
    return OMNI_OK;
}

static omni_status open_cpu(const omni_model_params *p, backend **out, omni_error *err) {
    pool *threads;
    TRY(engine_pool_create(p->threads, &p->scheduling, &threads, err));
    TRY(cpu_backend_create_on(threads, out, err));
    cpu_backend_keep_rows(*out, p->no_repack);
    return OMNI_OK;
}

static uint64_t file_bytes(const char *path) {
    struct stat s;
    return path && stat(path, &s) == 0 ? (uint64_t)s.st_size : 0;
}

/* What is certain before anything is read: weights take what the files have. */
static omni_status check_room(const omni_model_params *p, const cuda_library *l, int device, omni_error *err) {
    cuda_card card;
    TRY(l->card_describe(device, &card, err));
    const uint64_t needed = file_bytes(p->model) + file_bytes(p->mmproj) + file_bytes(p->talker);
    if (needed > card.memory_free) {
        return fail(err, OMNI_ERR_MEMORY,
                    "cuda:%d, %s: the model's files are %.1f GB, %.1f of %.1f GB are free; use a smaller type (omni quantize), leave a file out, or "
                    "--device cpu",
                    device, card.name, (double)needed / 1e9, (double)card.memory_free / 1e9, (double)card.memory / 1e9);
    }
    return OMNI_OK;
}

/* "cuda" or "cuda:N". */
static bool parse_card(const char *text, int *device) {
    char end;
    *device = 0;
    if (strcmp(text, "cuda") == 0) {
        return true;
    }
    return strncmp(text, "cuda:", 5) == 0 && text[5] >= '0' && text[5] <= '9' && strlen(text) <= 8 && sscanf(text + 5, "%d%c", device, &end) == 1;
}

omni_status device_open(const omni_model_params *p, backend **out, omni_error *err) {
    const cuda_library *l;
    int device, cards;
    *out = NULL;
    if (!p->device || strcmp(p->device, "cpu") == 0) {
        return open_cpu(p, out, err);
    }
    if (strcmp(p->device, "auto") == 0) {
        if (open_library(&l, NULL) != OMNI_OK || l->cards(&cards, NULL) != OMNI_OK) {
            return open_cpu(p, out, err);
        }
        device = 0;
    } else if (!parse_card(p->device, &device)) {
        return fail(err, OMNI_ERR_ARGUMENT, "device \"%s\": it is cpu, cuda, cuda:N or auto", p->device);
    } else {
        TRY(open_library(&l, err));
        TRY(l->cards(&cards, err));
    }
    TRY(check_room(p, l, device, err));
    return l->backend_create(device, out, err);
}
