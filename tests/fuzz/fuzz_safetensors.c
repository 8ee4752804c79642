/* Any bytes as a safetensors file: opened, every byte of every tensor read. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "gguf/describe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    safetensors *s;
    omni_error err;
    if (safetensors_open_memory(data, size, "input", &s, &err) == OMNI_OK) {
        uint8_t sum = 0;
        size_t covered = 0;
        for (size_t i = 0; i < safetensors_count(s); i++) {
            const st_tensor *t = safetensors_at(s, i);
            check(safetensors_find(s, t->name) == t);
            for (size_t j = 0; j < t->size; j++) {
                sum = (uint8_t)(sum + ((const uint8_t *)t->data)[j]);
            }
            covered += t->size;
            if (dtype_computable((uint32_t)t->type) && t->size && t->size < 4096) {
                float values[4096];
                dtype_to_f32(t->type, t->data, values, (int64_t)(t->size / dtype_find((uint32_t)t->type)->bytes));
            }
        }
        uint64_t header;
        memcpy(&header, data, sizeof header);
        check(covered == size - 8 - header);
        description d;
        describe_checkpoint(s, &d);
        for (int json = 0; json < 2; json++) {
            char *text;
            if (describe_checkpoint_render(s, "input", &d, json, &text, &err) == OMNI_OK) {
                free(text);
            }
        }
        static volatile uint8_t sink;
        sink = sum;
        safetensors_close(s);
    }
    return 0;
}
