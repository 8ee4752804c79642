/* Fuzzing JSON Schemas: what becomes a grammar is one that compiles, unless it is too large or no value can be right, and the grammar's texts are
 * JSON: a walk by bytes that the input chooses ends in a value that jansson reads. The input is the schema, up to a NUL, and the choices. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "check.h"
#include "text/grammar_states.h"
#include "text/json_schema.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const grammar *g, const uint8_t *choices, size_t count) {
    enum { LONGEST = 300 };
    char text[LONGEST];
    grammar_states *s = grammar_states_create(g, 8 << 20);
    check(s != NULL);
    int32_t state = grammar_states_start(s);
    for (size_t n = 0; n < LONGEST && state > 0; n++) {
        if (grammar_states_ends(s, state)) {
            json_t *value = json_loadb(text, n, JSON_DECODE_ANY, NULL);
            check(value != NULL);
            json_decref(value);
        }
        int32_t next = GRAMMAR_DEAD;
        const int first = n < count ? choices[n] : 0;
        for (int k = 0; k < 256 && next == GRAMMAR_DEAD; k++) {
            text[n] = (char)(first + k);
            next = grammar_states_step(s, state, (uint8_t)(first + k));
        }
        check(next != GRAMMAR_DEAD || grammar_states_ends(s, state)); /* every beginning has an end */
        state = next;
    }
    grammar_states_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = memchr(data, 0, size);
    const size_t length = end ? (size_t)(end - data) : size;
    char *text = NULL;
    omni_error err = {0};
    const omni_status status = json_schema_to_grammar((const char *)data, length, &text, &err);
    check((status == OMNI_OK) == (text != NULL) && (status == OMNI_OK || err.text[0]));
    if (text) {
        grammar *g = NULL;
        const omni_status parsed = grammar_parse(text, strlen(text), NULL, NULL, &g, &err);
        check(parsed == OMNI_OK || parsed == OMNI_ERR_LIMIT || strstr(err.text, "has no end"));
        if (g) {
            walk(g, data + length + (end != NULL), size - length - (end != NULL));
        }
        grammar_free(g);
        free(text);
    }
    return 0;
}
