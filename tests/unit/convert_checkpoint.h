/* A checkpoint for tests of the conversion: tensors as transformers lists them (tests/data/convert/NAME_tensors.txt), with made-up
 * values, experts fused or one by one. Include after scratch.h. */
#ifndef OMNI_TESTS_CONVERT_CHECKPOINT_H
#define OMNI_TESTS_CONVERT_CHECKPOINT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "gguf/safetensors.h"

typedef struct listed {
    char name[128];
    int n_dims;
    int64_t shape[5];
} listed;

typedef struct tensor_list {
    listed *items;
    size_t count, capacity;
} tensor_list;

static void list_add(tensor_list *l, const char *name, int n_dims, const int64_t *shape) {
    if (l->count == l->capacity) {
        l->capacity = l->capacity ? 2 * l->capacity : 1024;
        l->items = realloc(l->items, l->capacity * sizeof *l->items);
    }
    listed *t = &l->items[l->count++];
    *t = (listed){.n_dims = n_dims};
    snprintf(t->name, sizeof t->name, "%s", name);
    memcpy(t->shape, shape, (size_t)n_dims * sizeof *shape);
}

/* Adds the name once for every combination of its {a-b} ranges. */
static void list_expand(tensor_list *l, const char *name, int n_dims, const int64_t *shape) {
    const char *open = strchr(name, '{');
    if (!open) {
        list_add(l, name, n_dims, shape);
        return;
    }
    int first = 0, last = 0, length = 0;
    sscanf(open, "{%d-%d}%n", &first, &last, &length);
    for (int i = first; i <= last; i++) {
        char one[160];
        snprintf(one, sizeof one, "%.*s%d%s", (int)(open - name), name, i, open + length);
        list_expand(l, one, n_dims, shape);
    }
}

/* The tensors of NAME_tensors.txt; with split, fused experts are listed one by one as in the released files. */
static tensor_list list_read(const char *name, bool split) {
    char path[512], line[512];
    snprintf(path, sizeof path, TEST_DATA "/convert/%s_tensors.txt", name);
    FILE *f = fopen(path, "r");
    tensor_list l = {0};
    while (f && fgets(line, sizeof line, f)) {
        char *shape_text = strchr(line, '[');
        shape_text[-1] = '\0';
        int64_t shape[5];
        int n = 0;
        for (char *at = shape_text + 1; *at && n < 5; at++) {
            shape[n++] = strtoll(at, &at, 10);
            if (*at == ']') {
                break;
            }
        }
        char *fused = strstr(line, "experts.gate_up_proj"), *down = strstr(line, "experts.down_proj");
        if (split && (fused || down)) {
            char one[160];
            static const char *const gate_and_up[] = {"gate_proj", "up_proj"}, *const only_down[] = {"down_proj"};
            for (int i = 0; i < (fused ? 2 : 1); i++) {
                snprintf(one, sizeof one, "%.*sexperts.{0-%d}.%s.weight", (int)((fused ? fused : down) - line), line, (int)shape[0] - 1,
                         fused ? gate_and_up[i] : only_down[i]);
                list_expand(&l, one, 2, (const int64_t[]){fused ? shape[1] / 2 : shape[1], shape[2]});
            }
        } else {
            list_expand(&l, line, n, shape);
        }
    }
    if (f) {
        fclose(f);
    }
    return l;
}

static int64_t listed_values(const listed *t) {
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) {
        n *= t->shape[i];
    }
    return n;
}

/* Value i of a tensor, in (-1, 1), known by the tensor's name alone. Experts have the values of the fused tensor. */
static float made_value(const char *name, int64_t i) {
    uint64_t h = 1469598103934665603ull;
    for (const char *c = name; *c; c++) {
        h = (h ^ (uint8_t)*c) * 1099511628211ull;
    }
    h ^= (uint64_t)i * 0x9E3779B97F4A7C15ull;
    h ^= h >> 31;
    h *= 0xD6E8FEB86659FD93ull;
    h ^= h >> 32;
    return (float)(int32_t)(h & 0xFFFFFF) / 8388608.0F - 1.0F;
}

static float listed_value(const listed *t, int64_t i) {
    const char *experts = strstr(t->name, ".mlp.experts.");
    if (!experts || t->n_dims == 3) {
        return made_value(t->name, i);
    }
    int expert = atoi(experts + strlen(".mlp.experts."));
    bool down = strstr(t->name, "down_proj") != NULL, up = strstr(t->name, ".up_proj") != NULL;
    int64_t half = listed_values(t);
    char fused[160];
    snprintf(fused, sizeof fused, "%.*s.mlp.experts.%s", (int)(experts - t->name), t->name, down ? "down_proj" : "gate_up_proj");
    return made_value(fused, down ? expert * half + i : (expert * 2 + up) * half + i);
}

/* What a test may change before the checkpoint is written; NULL or 0: nothing. */
typedef struct checkpoint_change {
    const char *leave_out, *extra; /* names */
    const char *misshape;          /* gets one row more */
    const char *large;             /* gets one value that no F16 can hold */
    const char *damaged;           /* gets the value `damage` */
    float damage;
    bool no_talker, old_spelling;
    bool thinker_alone; /* as the thinker saves itself: its tensors and its part of config.json, without "thinker" */
} checkpoint_change;

static void put_file(const char *name, const char *text, size_t size) {
    FILE *f = fopen(in_folder(name), "wb");
    fwrite(text, 1, size, f);
    fclose(f);
}

static void copy_data(const char *from, const char *to) {
    char path[512], *text;
    size_t size;
    snprintf(path, sizeof path, TEST_DATA "/convert/%s", from);
    if (file_read(path, 1 << 20, &text, &size, NULL) == OMNI_OK) {
        put_file(to, text, size);
        free(text);
    }
}

/* The very small model, into the scratch folder. */
static void write_checkpoint(bool split, const checkpoint_change *change) {
    static const checkpoint_change nothing;
    change = change ? change : &nothing;
    tensor_list l = list_read("micro", split);
    if (change->extra) {
        list_add(&l, change->extra, 1, (const int64_t[]){3});
    }
    st_writer *w;
    if (st_writer_create(in_folder("model.safetensors"), &w, NULL) != OMNI_OK) {
        abort();
    }
    for (size_t i = 0; i < l.count; i++) {
        listed t = l.items[i];
        bool talker = strncmp(t.name, "thinker.", 8) != 0;
        if ((change->leave_out && strcmp(t.name, change->leave_out) == 0) || (talker && (change->no_talker || change->thinker_alone))) {
            continue;
        }
        if (change->misshape && strcmp(t.name, change->misshape) == 0) {
            t.shape[0]++;
        }
        int64_t n = listed_values(&t);
        float *values = malloc((size_t)n * sizeof *values);
        for (int64_t k = 0; k < n; k++) {
            values[k] = listed_value(&t, k);
        }
        if (change->large && strcmp(t.name, change->large) == 0) {
            values[n / 2] = -70000.0F;
        }
        if (change->damaged && strcmp(t.name, change->damaged) == 0) {
            values[n - 1] = change->damage;
        }
        st_writer_f32(w, change->thinker_alone ? t.name + strlen("thinker.") : t.name, t.n_dims, t.shape, values);
        free(values);
    }
    if (st_writer_finish(w, NULL) != OMNI_OK) {
        abort();
    }
    free(l.items);
    copy_data(change->old_spelling ? "micro_config_old.json" : "micro_config.json", "config.json");
    if (change->thinker_alone) {
        json_t *whole = json_load_file(in_folder("config.json"), 0, NULL);
        if (json_dump_file(json_object_get(whole, "thinker_config"), in_folder("config.json"), 0) != 0) {
            abort();
        }
        json_decref(whole);
    }
    copy_data("micro_tokenizer.json", "tokenizer.json");
    static const char preprocessor[] = "{\"image_mean\": [0.5, 0.25, 0.125], \"image_std\": [0.5, 0.5, 1], \"min_pixels\": 64, \"max_pixels\": 4096,"
                                       " \"patch_size\": 4, \"sampling_rate\": 16000, \"n_fft\": 400, \"hop_length\": 160, \"feature_size\": 20}";
    put_file("preprocessor_config.json", preprocessor, strlen(preprocessor));
}

#endif
