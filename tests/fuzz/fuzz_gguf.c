/* Any bytes as a GGUF file: opened, every value printed and fetched in every way, every byte of every tensor read. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "gguf/describe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fetch(gguf *g, const char *key) {
    uint32_t u;
    float f;
    bool b;
    const char *s;
    gguf_str *strings;
    size_t n;
    gguf_need_u32(g, key, &u, NULL);
    gguf_need_f32(g, key, &f, NULL);
    gguf_maybe_bool(g, key, false, &b, NULL);
    gguf_need_str(g, key, &s, NULL);
    if (gguf_need_strs(g, key, &strings, &n, NULL) == OMNI_OK) {
        free(strings);
    }
    int64_t count = gguf_array_count(g, key, NULL);
    if (count > 0 && count < 4096) {
        int32_t *values = malloc((size_t)count * 4);
        gguf_need_i32s(g, key, (size_t)count, values, NULL);
        gguf_need_f32s(g, key, (size_t)count, (float *)values, NULL);
        gguf_need_bools(g, key, (size_t)count, (bool *)values, NULL);
        free(values);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size + 1); /* aligned, which the fuzzer's own memory need not be */
    memcpy(copy, data, size);
    gguf *g;
    omni_error err;
    if (gguf_open_memory(copy, size, "input", &g, &err) == OMNI_OK) {
        for (size_t i = 0; i < gguf_key_count(g); i++) {
            gguf_str name = gguf_key_name(g, i);
            char *key = strndup(name.data, name.size);
            check(gguf_find(g, key) == (int64_t)i);
            fetch(g, key);
            free(key);
            free(gguf_value_text(g, i, i % 50));
        }
        uint8_t sum = 0;
        for (size_t i = 0; i < gguf_tensor_count(g); i++) {
            const tensor *t = gguf_tensor_at(g, i), *found;
            check(gguf_tensor(g, t->name) == t);
            for (size_t j = 0; j < t->size; j++) {
                sum = (uint8_t)(sum + ((const uint8_t *)t->data)[j]);
            }
            if (gguf_need_tensor(g, &found, &err, 4, t->ne, "%s", t->name) == OMNI_OK && t->ne[0] <= 4096) {
                float row[4096];
                dtype_to_f32(t->type, tensor_row(t, tensor_rows(t) - 1), row, t->ne[0]);
            }
        }
        description d;
        describe_gguf(g, &d, NULL);
        for (int json = 0; json < 2; json++) {
            char *text;
            if (describe_gguf_render(g, &d, json, &text, &err) == OMNI_OK) {
                free(text);
            }
        }
        *(volatile uint8_t *)copy = sum;
        gguf_close(g);
    }
    free(copy);
    return 0;
}
