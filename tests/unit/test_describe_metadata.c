/* Descriptions of files whose keys nobody expects: every type and length of value, keys of another type than their name promises, and keys that
 * are left out. The files are laid out here, byte by byte, and what must come out is written beside. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "gguf/describe.h"

#include <cmocka.h> /* last: it defines a macro named fail */

static omni_error err;

/* ---- a file ---- */

typedef struct bytes {
    uint8_t data[1 << 18] __attribute__((aligned(8)));
    size_t size;
    uint64_t keys, tensors;
} bytes;

static bytes file;

static void put(const void *data, size_t size) {
    assert_true(file.size + size <= sizeof file.data);
    memcpy(file.data + file.size, data, size);
    file.size += size;
}

static void put_u32(uint32_t v) {
    put(&v, sizeof v);
}

static void put_u64(uint64_t v) {
    put(&v, sizeof v);
}

static void put_string(const char *s, size_t n) {
    put_u64(n);
    put(s, n);
}

static void start(void) {
    file = (bytes){0};
    put("GGUF", 4);
    put_u32(3);
    put_u64(0);
    put_u64(0);
}

static void key(const char *name, gguf_type type) {
    put_string(name, strlen(name));
    put_u32(type);
    file.keys++;
}

static void key_value(const char *name, gguf_type type, const void *value, size_t size) {
    key(name, type);
    put(value, size);
}

static void key_u32(const char *name, uint32_t v) {
    key_value(name, GGUF_U32, &v, sizeof v);
}

static void key_string(const char *name, const char *s, size_t n) {
    key(name, GGUF_STRING);
    put_string(s, n);
}

static void key_array(const char *name, gguf_type element, uint64_t count) {
    key(name, GGUF_ARRAY);
    put_u32(element);
    put_u64(count);
}

/* A vector of F32, of which a description knows what its name says. */
static void tensor_f32(const char *name, uint64_t values, uint64_t offset) {
    put_string(name, strlen(name));
    put_u32(1);
    put_u64(values);
    put_u32(DTYPE_F32);
    put_u64(offset);
    file.tensors++;
}

static gguf *open_file(size_t data_bytes) {
    memcpy(file.data + 8, &file.tensors, 8);
    memcpy(file.data + 16, &file.keys, 8);
    while (file.size % 32) {
        put("", 1);
    }
    assert_true(file.size + data_bytes <= sizeof file.data);
    file.size += data_bytes;
    gguf *g;
    if (gguf_open_memory(file.data, file.size, "odd.gguf", &g, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    return g;
}

static char *described(gguf *g, bool json) {
    description d;
    char *text;
    assert_int_equal(describe_gguf(g, &d, &err), OMNI_OK);
    assert_int_equal(describe_gguf_render(g, &d, json, &text, &err), OMNI_OK);
    for (size_t i = 0; text[i]; i++) { /* whatever is in the file, nothing of the text controls a terminal; JSON escapes C0 alone */
        const unsigned char c = (unsigned char)text[i];
        assert_true(c == '\n' || c >= 0x20);
        assert_false(!json && (c == 0x7f || (c == 0xc2 && (unsigned char)text[i + 1] < 0xa0)));
    }
    return text;
}

/* Both descriptions; the JSON's "metadata". */
static json_t *metadata(gguf *g, char **text, json_t **root) {
    *text = described(g, false);
    char *json = described(g, true);
    json_error_t where;
    *root = json_loads(json, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &where);
    if (!*root) {
        fail_msg("%s in\n%s", where.text, json);
    }
    free(json);
    gguf_close(g);
    json_t *m = json_object_get(*root, "metadata");
    assert_true(json_is_object(m));
    return m;
}

static void expect_line(const char *text, const char *line) {
    if (!strstr(text, line)) {
        fail_msg("'%s' is not in\n%s", line, text);
    }
}

/* ---- values ---- */

/* Arrays of every type, with as many elements as count; element i of numbers is the byte pattern of i + 1. */
static void arrays_of_every_type_and_length(void **state) {
    static const struct {
        gguf_type type;
        const char *name;
        size_t bytes;
    } types[] = {{GGUF_U8, "u8", 1},   {GGUF_I8, "i8", 1},   {GGUF_U16, "u16", 2}, {GGUF_I16, "i16", 2},
                 {GGUF_U32, "u32", 4}, {GGUF_I32, "i32", 4}, {GGUF_F32, "f32", 4}, {GGUF_BOOL, "bool", 1},
                 {GGUF_U64, "u64", 8}, {GGUF_I64, "i64", 8}, {GGUF_F64, "f64", 8}, {GGUF_STRING, "string", 0}};
    static const uint64_t counts[] = {0, 1, 6, 7, 16, 17, 300};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        start();
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            key_array(types[t].name, types[t].type, counts[c]);
            for (uint64_t i = 0; i < counts[c]; i++) {
                const uint64_t whole = i + 1;
                const float f = (float)whole / 2;
                const double d = (double)whole / 4;
                if (types[t].type == GGUF_STRING) {
                    char s[32];
                    put_string(s, (size_t)snprintf(s, sizeof s, "s%" PRIu64, whole));
                } else if (types[t].type == GGUF_F32) {
                    put(&f, 4);
                } else if (types[t].type == GGUF_F64) {
                    put(&d, 8);
                } else if (types[t].type == GGUF_BOOL) {
                    put(&(uint8_t){whole % 2}, 1);
                } else {
                    put(&whole, types[t].bytes); /* little-endian: the low bytes */
                }
            }
        }
        char *text;
        json_t *root, *m = metadata(open_file(0), &text, &root);
        assert_int_equal(json_object_size(m), sizeof types / sizeof *types);
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            const bool real = types[t].type == GGUF_F32 || types[t].type == GGUF_F64;
            char want[512] = "";
            json_t *value = json_object_get(m, types[t].name), *first = json_object_get(value, "first");
            assert_string_equal(json_string_value(json_object_get(value, "array_of")), types[t].name);
            assert_int_equal(json_integer_value(json_object_get(value, "count")), counts[c]);
            assert_int_equal(json_array_size(first), counts[c] < 16 ? counts[c] : 16);
            snprintf(want, sizeof want, "  %s = [", types[t].name);
            for (uint64_t i = 0; i < counts[c] && i < 16; i++) {
                const uint64_t whole = i + 1;
                json_t *e = json_array_get(first, i);
                char shown[40];
                if (types[t].type == GGUF_STRING) {
                    snprintf(shown, sizeof shown, "\"s%" PRIu64 "\"", whole);
                    assert_memory_equal(json_string_value(e), shown + 1, strlen(shown) - 2);
                    assert_int_equal(json_string_length(e), strlen(shown) - 2);
                } else if (types[t].type == GGUF_BOOL) {
                    snprintf(shown, sizeof shown, "%s", whole % 2 ? "true" : "false");
                    assert_true(json_is_boolean(e) && json_is_true(e) == (whole % 2 == 1));
                } else if (real) {
                    const double v = (double)whole / (types[t].type == GGUF_F32 ? 2 : 4);
                    snprintf(shown, sizeof shown, "%g", v);
                    assert_true(json_is_real(e) && json_real_value(e) == v);
                } else {
                    snprintf(shown, sizeof shown, "%" PRIu64, whole);
                    assert_true(json_is_integer(e) && json_integer_value(e) == (json_int_t)whole);
                }
                if (i < 6) {
                    snprintf(want + strlen(want), sizeof want - strlen(want), "%s%s", i ? ", " : "", shown);
                }
            }
            if (counts[c] > 6) {
                snprintf(want + strlen(want), sizeof want - strlen(want), ", ... (%" PRIu64 " in all)", counts[c]);
            }
            strcat(want, "]\n");
            expect_line(text, want);
        }
        json_decref(root);
        free(text);
    }
}

/* The ends of every type's range, and floats that JSON has no number for. */
static void ends_of_ranges(void **state) {
    static const struct {
        gguf_type type;
        const char *name;
        uint64_t bits;
        const char *text, *json; /* json: NULL, or a string in JSON */
    } values[] = {
        {GGUF_U8, "u8", 0xff, "255", NULL},
        {GGUF_I8, "i8", 0x80, "-128", NULL},
        {GGUF_U16, "u16", 0xffff, "65535", NULL},
        {GGUF_I16, "i16", 0x8000, "-32768", NULL},
        {GGUF_U32, "u32", 0xffffffff, "4294967295", NULL},
        {GGUF_I32, "i32", 0x80000000, "-2147483648", NULL},
        {GGUF_I64, "i64", 0x8000000000000000, "-9223372036854775808", NULL},
        {GGUF_I64, "i64 most", 0x7fffffffffffffff, "9223372036854775807", NULL},
        {GGUF_U64, "u64", 0x7fffffffffffffff, "9223372036854775807", NULL},
        {GGUF_U64, "u64 beyond", 0x8000000000000000, "9223372036854775808", "9223372036854775808"},
        {GGUF_U64, "u64 most", 0xffffffffffffffff, "18446744073709551615", "18446744073709551615"},
        {GGUF_F32, "f32 infinite", 0xff800000, "-inf", "-inf"},
        {GGUF_F32, "f32 nan", 0x7fc00000, "nan", "nan"},
        {GGUF_F64, "f64 infinite", 0x7ff0000000000000, "inf", "inf"},
    };
    start();
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        static const size_t size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
        key_value(values[i].name, values[i].type, &values[i].bits, size[values[i].type]);
    }
    char *text;
    json_t *root, *m = metadata(open_file(0), &text, &root);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char line[100];
        json_t *v = json_object_get(m, values[i].name);
        snprintf(line, sizeof line, "  %s = %s\n", values[i].name, values[i].text);
        expect_line(text, line);
        if (values[i].json) {
            assert_string_equal(json_string_value(v), values[i].json);
        } else {
            assert_true(json_is_integer(v));
            assert_int_equal(json_integer_value(v), strtoll(values[i].text, NULL, 10));
        }
    }
    json_decref(root);
    free(text);
}

/* Strings: nothing, long ones, cut inside a character, control characters of both kinds, bytes that are no text, keys without a plain name. */
static void strings_of_every_kind(void **state) {
    enum { LONG = 100000, SHOWN = 16 * 6, KEPT = 1 << 16 };
    static char long_text[LONG], wide[3 * 1000];
    memset(long_text, 'x', sizeof long_text);
    for (size_t i = 0; i < sizeof wide; i += 3) {
        memcpy(wide + i, "\xe4\xbd\xa0", 3); /* SHOWN is no multiple of 3 plus 1 */
    }
    start();
    key_string("empty", "", 0);
    key_string("long", long_text, LONG);
    key_string("fits", long_text, SHOWN);
    key_string("longer by one", long_text, SHOWN + 1);
    wide[0] = 'a'; /* shifts the characters against the cut, and leaves two bytes that are none */
    key_string("wide", wide + 2, sizeof wide - 2);
    key_string("escape", "a\x1b[31m\r\n\t\"\\\x7f\x01", 13);
    key_string("nul", "a\0b", 3);
    key_string("c1",
               "a\xc2\x9b"
               "31m",
               6);
    key_string("no text", "\xff\xc3(\xe4\xbd", 5);
    key_string("the key of somebody else: \xe4\xbd\xa0!", "v", 1);
    char *text;
    json_t *root, *m = metadata(open_file(0), &text, &root);
    expect_line(text, "  empty = \"\"\n");
    expect_line(text, "xxx\"... (100000 bytes in all)\n");
    expect_line(text, "xxx\"... (97 bytes in all)\n");
    char line[200];
    snprintf(line, sizeof line, "  fits = \"%.*s\"\n", SHOWN, long_text);
    expect_line(text, line);
    expect_line(text, "  escape = \"a\\u001b[31m\\u000d\\n\\t\\\"\\\\\\u007f\\u0001\"\n");
    expect_line(text, "  nul = \"a\\u0000b\"\n");
    expect_line(text, "  c1 = \"a\\u009b31m\"\n");
    expect_line(text, "  no text = \"\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd\"\n");
    expect_line(text, "  the key of somebody else: \xe4\xbd\xa0! = \"v\"\n");
    expect_line(text, "\xe4\xbd\xa0\"... (2998 bytes in all)\n"); /* the cut is between characters */
    assert_int_equal(json_string_length(json_object_get(m, "empty")), 0);
    assert_int_equal(json_string_length(json_object_get(m, "long")), KEPT);
    assert_string_equal(json_string_value(json_object_get(m, "escape")), "a\x1b[31m\r\n\t\"\\\x7f\x01");
    assert_int_equal(json_string_length(json_object_get(m, "nul")), 3);
    assert_string_equal(json_string_value(json_object_get(m, "no text")), "\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd");
    assert_string_equal(json_string_value(json_object_get(m, "the key of somebody else: \xe4\xbd\xa0!")), "v");
    json_decref(root);
    free(text);
}

/* general.architecture and general.name of every type: a description names what it can. */
static void names_of_the_wrong_type(void **state) {
    static const gguf_type types[] = {GGUF_U8, GGUF_F32, GGUF_BOOL, GGUF_ARRAY, GGUF_F64};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        start();
        for (int k = 0; k < 2; k++) {
            const char *name = k ? "general.name" : "general.architecture";
            if (types[i] == GGUF_ARRAY) {
                key_array(name, GGUF_STRING, 1);
                put_string("x", 1);
            } else {
                static const size_t size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
                key_value(name, types[i], &(uint64_t){0}, size[types[i]]);
            }
        }
        char *text;
        json_t *root;
        metadata(open_file(0), &text, &root);
        assert_string_equal(json_string_value(json_object_get(root, "kind")), "other");
        assert_string_equal(json_string_value(json_object_get(root, "name")), "");
        assert_string_equal(json_string_value(json_object_get(root, "architecture")), "");
        expect_line(text, types[i] == GGUF_ARRAY  ? "  name          [\"x\"]\n"
                          : types[i] == GGUF_BOOL ? "  name          false\n"
                                                  : "  name          0\n");
        json_decref(root);
        free(text);
    }
    start();
    key_string("general.architecture", "clip", 4);
    char *text;
    json_t *root;
    metadata(open_file(0), &text, &root);
    expect_line(text, "  name          (not given)\n");
    assert_string_equal(json_string_value(json_object_get(root, "name")), "");
    assert_string_equal(json_string_value(json_object_get(root, "kind")), "encoders");
    json_decref(root);
    free(text);
}

/* ---- what the keys say of memory ---- */

/* A thinker with some of these keys; -1: left out, -2: a string in its place. */
typedef struct thinker_case {
    int64_t layers, width, heads, kv_heads, key_length, value_length, context, experts, used;
    uint64_t per_position; /* values of keys and values together that a position takes; 0: not known */
    int contexts;
    uint64_t active; /* of 1000 values, 800 of them experts'; 0: not known */
} thinker_case;

static void every_key_of_a_thinker_may_be_missing(void **state) {
    static const char *const names[] = {"block_count",          "embedding_length",       "attention.head_count", "attention.head_count_kv",
                                        "attention.key_length", "attention.value_length", "context_length",       "expert_count",
                                        "expert_used_count"};
    static const thinker_case cases[] = {
        {2, 64, 4, 2, 32, 16, 20000, 8, 2, 2 * 2 * (32 + 16), 2, 400},
        {2, 64, 4, -1, 32, 16, 20000, 8, 2, 2 * 4 * (32 + 16), 2, 400}, /* as many heads of keys as of queries */
        {2, 64, 4, -2, 32, 16, 20000, 8, 2, 2 * 4 * (32 + 16), 2, 400},
        {2, 64, 4, 0, 32, 16, 20000, 8, 2, 2 * 4 * (32 + 16), 2, 400},
        {2, 64, 4, 2, -1, 16, 20000, 8, 2, 2 * 2 * (16 + 16), 2, 400}, /* width / heads */
        {2, 64, 4, 2, 32, -1, 20000, 8, 2, 2 * 2 * (32 + 16), 2, 400},
        {2, 96, 4, 2, -1, -1, 20000, 8, 2, 2 * 2 * (24 + 24), 2, 400},
        {2, 64, -1, 2, 32, 16, 20000, 8, 2, 2 * 2 * (32 + 16), 2, 400},
        {2, 64, 0, 2, -1, -1, 20000, 8, 2, 0, 0, 400}, /* no width of a head: nothing is divided by 0 */
        {2, -1, 4, 2, 32, 16, 20000, 8, 2, 2 * 2 * (32 + 16), 2, 400},
        {2, -1, 4, 2, -1, -1, 20000, 8, 2, 0, 0, 400},
        {-1, 64, 4, 2, 32, 16, 20000, 8, 2, 0, 0, 400},
        {2, 64, -1, -1, 32, 16, 20000, 8, 2, 0, 0, 400},
        {2, 64, 4, 2, 32, 16, -1, 8, 2, 2 * 2 * (32 + 16), 1, 400}, /* only what a session takes */
        {2, 64, 4, 2, 32, 16, -2, 8, 2, 2 * 2 * (32 + 16), 1, 400},
        {2, 64, 4, 2, 32, 16, 8192, 8, 2, 2 * 2 * (32 + 16), 1, 400},
        {2, 64, 4, 2, 32, 16, 8193, 8, 2, 2 * 2 * (32 + 16), 2, 400},
        {2, 64, 4, 2, 32, 16, 1, 8, 2, 2 * 2 * (32 + 16), 1, 400},
        {2, 64, 4, 2, 32, 16, 20000, -1, 2, 2 * 2 * (32 + 16), 2, 0}, /* no mixture */
        {2, 64, 4, 2, 32, 16, 20000, 8, -1, 2 * 2 * (32 + 16), 2, 0},
        {2, 64, 4, 2, 32, 16, 20000, 0, 0, 2 * 2 * (32 + 16), 2, 0},
        {2, 64, 4, 2, 32, 16, 20000, 8, 9, 2 * 2 * (32 + 16), 2, 0}, /* more than there are */
        {2, 64, 4, 2, 32, 16, 20000, 8, 8, 2 * 2 * (32 + 16), 2, 1000},
        {2, 64, 4, 2, 32, 16, 20000, -2, 8, 2 * 2 * (32 + 16), 2, 0},
        {2, 64, 4, 2, 32, 16, 20000, 3, 1, 2 * 2 * (32 + 16), 2, 467}, /* 200 + 800 / 3, rounded */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const thinker_case *c = &cases[i];
        const int64_t values[] = {c->layers, c->width, c->heads, c->kv_heads, c->key_length, c->value_length, c->context, c->experts, c->used};
        start();
        key_string("general.architecture", "qwen3omnimoe", 12);
        for (size_t k = 0; k < sizeof values / sizeof *values; k++) {
            char name[64];
            snprintf(name, sizeof name, "qwen3omnimoe.%s", names[k]);
            if (values[k] == -2) {
                key_string(name, "eight", 5);
            } else if (values[k] >= 0) {
                key_u32(name, (uint32_t)values[k]);
            }
        }
        tensor_f32("blk.0.ffn_up_exps.weight", 800, 0);
        tensor_f32("blk.0.attn_q.weight", 200, 3200);
        gguf *g = open_file(4000);
        description d;
        assert_int_equal(describe_gguf(g, &d, &err), OMNI_OK);
        assert_int_equal(d.all.values, 1000);
        assert_int_equal(d.active_values, c->active);
        assert_int_equal(d.context_count, c->contexts);
        for (size_t k = 0; k < d.context_count; k++) {
            const bool most = k > 0 || (c->context > 0 && c->context <= 8192);
            const uint64_t positions = most ? (uint64_t)c->context : 8192, whole = (positions + 63) / 64 * 64;
            assert_int_equal(d.contexts[k].positions, positions);
            assert_int_equal(d.contexts[k].f32_bytes, whole * c->per_position * 4);
            assert_int_equal(d.contexts[k].f16_bytes, whole * c->per_position * 2);
        }
        free(described(g, false));
        free(described(g, true));
        gguf_close(g);
    }
}

/* Of a talker, one key after the other left out. 2 * (window - 1) + 64 positions: as the decoder keeps them. */
static void every_key_of_a_talker_may_be_missing(void **state) {
    static const struct {
        const char *name;
        uint32_t value;
        bool context, predictor, wave; /* what cannot be told without it */
    } keys[] = {{"talker.block_count", 3, true, false, false},
                {"talker.head_count_kv", 1, true, false, false},
                {"talker.head_dim", 32, true, false, false},
                {"code_predictor.block_count", 2, false, true, false},
                {"code_predictor.head_count_kv", 2, false, true, false},
                {"code_predictor.head_dim", 16, false, true, false},
                {"code2wav.block_count", 2, false, false, true},
                {"code2wav.head_count_kv", 4, false, false, true},
                {"code2wav.head_dim", 8, false, false, true},
                {"code2wav.sliding_window", 72, false, false, true},
                {"code_predictor.num_code_groups", 16, false, false, false}};
    enum { KEYS = sizeof keys / sizeof *keys };
    const uint64_t predictor = 2 * 2 * 32 * 64 * 4, wave = 2 * 4 * 16 * (2 * 71 + 64) * 4;
    for (size_t without = 0; without <= KEYS; without++) {
        start();
        key_string("general.architecture", "qwen3omni_talker", 16);
        for (size_t k = 0; k < KEYS; k++) {
            if (k != without) {
                key_u32(keys[k].name, keys[k].value);
            }
        }
        gguf *g = open_file(0);
        description d;
        assert_int_equal(describe_gguf(g, &d, &err), OMNI_OK);
        const bool context = without == KEYS || !keys[without].context;
        assert_int_equal(d.context_count, context ? 1 : 0);
        assert_int_equal(d.context_length, 0);
        if (context) {
            assert_int_equal(d.contexts[0].f32_bytes, 8192ull * 3 * 1 * 64 * 4);
        }
        assert_int_equal(d.fixed_bytes,
                         (without < KEYS && keys[without].predictor ? 0 : predictor) + (without < KEYS && keys[without].wave ? 0 : wave));
        gguf_close(g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrays_of_every_type_and_length),
        cmocka_unit_test(ends_of_ranges),
        cmocka_unit_test(strings_of_every_kind),
        cmocka_unit_test(names_of_the_wrong_type),
        cmocka_unit_test(every_key_of_a_thinker_may_be_missing),
        cmocka_unit_test(every_key_of_a_talker_may_be_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
