/* Two files that say they are parts of one model: two bytes tell where the first ends. What opens has every tensor's bytes where it says they are, is
 * the same after it was merged, and the same after that was split anew. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "convert/split_file.h"
#include "gguf/describe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[] = "/dev/shm/fuzz-parts-XXXXXX";

static void remove_folder(void) {
    static const char *const names[] = {"p-00001-of-00002.gguf", "p-00002-of-00002.gguf"};
    for (int i = 0; i < 2; i++) {
        char path[100];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static const char *path_of(const char *name) {
    static char path[4][100];
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static void write_file(const char *path, const uint8_t *data, size_t size) {
    FILE *f = fopen(path, "wb");
    check(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
}

/* The bytes at a tensor's place in its file are the tensor's. */
static void check_places(const gguf *g) {
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const tensor *t = gguf_tensor_at(g, i);
        FILE *f = fopen(gguf_part_path(g, gguf_tensor_part(g, t)), "rb");
        check(f && fseek(f, (long)gguf_tensor_offset(g, t), SEEK_SET) == 0);
        for (size_t k = 0; k < t->size; k++) {
            check(fgetc(f) == ((const uint8_t *)t->data)[k]);
        }
        fclose(f);
        check(gguf_tensor(g, t->name) == t);
    }
}

static void check_same(const gguf *a, const gguf *b) {
    size_t keys = 0;
    for (size_t i = 0; i < gguf_key_count(a); i++) {
        const gguf_str name = gguf_key_name(a, i);
        if (!gguf_name_begins(name, "split.")) {
            const gguf_str other = gguf_key_name(b, keys++);
            check(name.size == other.size && memcmp(name.data, other.data, name.size) == 0);
        }
    }
    check(gguf_tensor_count(a) == gguf_tensor_count(b));
    for (size_t i = 0; i < gguf_tensor_count(a); i++) {
        const tensor *x = gguf_tensor_at(a, i), *y = gguf_tensor_at(b, i);
        check(strcmp(x->name, y->name) == 0 && x->type == y->type && x->size == y->size && memcmp(x->ne, y->ne, sizeof x->ne) == 0);
        check(memcmp(x->data, y->data, x->size) == 0);
    }
}

static void merge_and_split(const gguf *g, const char *part, size_t most) {
    gguf *merged, *again;
    split_result r;
    const split_options m = {.input = part, .output = path_of("merged.gguf")};
    if (gguf_find(g, "split.count") < 0 || merge_file(&m, &r, NULL) != OMNI_OK) {
        return; /* names that cannot be written, say */
    }
    check(gguf_open(m.output, &merged, NULL) == OMNI_OK && gguf_part_count(merged) == 1);
    check_same(g, merged);
    const split_options s = {.input = m.output, .output = path_of("again"), .max_tensors = most};
    check(split_file(&s, &r, NULL) == OMNI_OK);
    check(gguf_open(r.first, &again, NULL) == OMNI_OK && gguf_part_count(again) == r.parts);
    check_same(merged, again);
    check_places(again);
    for (size_t i = 0; i < gguf_part_count(again); i++) {
        unlink(gguf_part_path(again, i));
    }
    gguf_close(again);
    gguf_close(merged);
    unlink(m.output);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool made;
    if (!made) {
        check(mkdtemp(folder) != NULL);
        atexit(remove_folder);
        made = true;
    }
    if (size < 3) {
        return 0;
    }
    size_t cut = data[0] | (size_t)data[1] << 8;
    const size_t rest = size - 3;
    cut = cut < rest ? cut : rest;
    const char *first = path_of("p-00001-of-00002.gguf"), *second = path_of("p-00002-of-00002.gguf"), *given = data[2] % 2 ? second : first;
    write_file(first, data + 3, cut);
    write_file(second, data + 3 + cut, rest - cut);
    gguf *g;
    omni_error err = {0};
    if (gguf_open(given, &g, &err) != OMNI_OK) {
        check(err.text[0] != 0);
        return 0;
    }
    check_places(g);
    for (int json = 0; json < 2; json++) {
        char *text;
        check(gguf_describe(given, json, &text, &err) == OMNI_OK);
        free(text);
    }
    merge_and_split(g, given, 1 + data[2] / 2 % 8);
    gguf_close(g);
    return 0;
}
