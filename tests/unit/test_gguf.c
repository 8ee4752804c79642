/* Reading GGUF: files of the PyPI package, and damage. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/gguf.h"
#include "scratch.h"

#include <cmocka.h> /* last: it defines a macro named fail */

static gguf *open_data(const char *name) {
    char path[512];
    gguf *g = NULL;
    omni_error err = {0};
    snprintf(path, sizeof path, TEST_DATA "/gguf/%s", name);
    if (gguf_open(path, &g, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    return g;
}

/* ---- files of the PyPI package ---- */

static void every_type_of_value_is_read(void **state) {
    gguf *g = open_data("keys.gguf");
    omni_error err;
    uint32_t u;
    float f;
    bool b;
    const char *s;
    assert_string_equal(gguf_path(g), TEST_DATA "/gguf/keys.gguf");
    assert_int_equal(gguf_version(g), 3);
    assert_int_equal(gguf_need_str(g, "general.architecture", &s, &err), OMNI_OK);
    assert_string_equal(s, "qwen3vlmoe");
    static const struct {
        const char *key;
        uint32_t value;
    } unsigned_keys[] = {{"t.u8", 200}, {"t.u16", 60000}, {"t.u32", 4000000000u}};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(gguf_need_u32(g, unsigned_keys[i].key, &u, &err), OMNI_OK);
        assert_int_equal(u, unsigned_keys[i].value);
    }
    static const struct {
        const char *key;
        float value;
    } float_keys[] = {{"t.f32", 0.1f}, {"t.i8", -100}, {"t.i16", -30000}, {"t.i32", -2e9f}, {"t.u64", 1.8e19f}, {"t.i64", -9e18f}, {"t.u8", 200}};
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(gguf_need_f32(g, float_keys[i].key, &f, &err), OMNI_OK);
        assert_true(f == float_keys[i].value);
    }
    assert_int_equal(gguf_maybe_bool(g, "t.yes", false, &b, &err), OMNI_OK);
    assert_true(b);
    assert_int_equal(gguf_maybe_bool(g, "t.no", true, &b, &err), OMNI_OK);
    assert_false(b);
    assert_int_equal(gguf_need_str(g, "t.str", &s, &err), OMNI_OK);
    assert_string_equal(s, "Größe \"x\"\n");
    assert_int_equal(gguf_need_str(g, "t.empty", &s, &err), OMNI_OK);
    assert_string_equal(s, "");
    gguf_close(g);
}

static void arrays_of_every_type_are_read(void **state) {
    gguf *g = open_data("keys.gguf");
    omni_error err;
    int32_t i32[3];
    float f32[2];
    bool bools[3];
    gguf_type element = GGUF_U8;
    static const struct {
        const char *key;
        gguf_type type;
        float values[2];
    } arrays[] = {
        {"a.u8", GGUF_U8, {1, 255}},
        {"a.i8", GGUF_I8, {-128, 127}},
        {"a.u16", GGUF_U16, {1, 65535}},
        {"a.i16", GGUF_I16, {-32768, 5}},
        {"a.u32", GGUF_U32, {7, 4294967295.0f}},
        {"a.i32", GGUF_I32, {-1, 2147483647.0f}},
        {"a.u64", GGUF_U64, {1, 18446744073709551615.0f}},
        {"a.i64", GGUF_I64, {-9223372036854775808.0f, 3}},
        {"a.f32", GGUF_F32, {0.5f, -2.25f}},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        assert_int_equal(gguf_array_count(g, arrays[i].key, &element), 2);
        assert_int_equal(element, arrays[i].type);
        assert_int_equal(gguf_need_f32s(g, arrays[i].key, 2, f32, &err), OMNI_OK);
        assert_true(f32[0] == arrays[i].values[0] && f32[1] == arrays[i].values[1]);
    }
    assert_int_equal(gguf_need_i32s(g, "a.i16", 2, i32, &err), OMNI_OK);
    assert_true(i32[0] == -32768 && i32[1] == 5);
    assert_int_equal(gguf_need_bools(g, "a.bool", 3, bools, &err), OMNI_OK);
    assert_true(bools[0] && !bools[1] && bools[2]);
    gguf_str *strings;
    size_t n;
    assert_int_equal(gguf_need_strs(g, "a.str", &strings, &n, &err), OMNI_OK);
    assert_int_equal(n, 4);
    assert_int_equal(strings[0].size, 0);
    assert_memory_equal(strings[1].data, "zwei", 4);
    assert_memory_equal(strings[2].data, "三", 3);
    assert_int_equal(strings[3].size, 300);
    free(strings);
    assert_int_equal(gguf_array_count(g, "t.u8", NULL), -1);
    assert_int_equal(gguf_array_count(g, "none", NULL), -1);
    gguf_close(g);
}

/* What the checked look-ups refuse, and how they say so. */
static void wrong_values_are_refused_with_key_and_reason(void **state) {
    gguf *g = open_data("keys.gguf");
    omni_error err;
    uint32_t u = 5;
    float f;
    bool b;
    const char *s;
    int32_t i32[4];
    float f32[4];
    bool bools[4];
    gguf_str *strings;
    size_t n;
#define REFUSED(call, words)                                                                                                                         \
    do {                                                                                                                                             \
        memset(&err, 0, sizeof err);                                                                                                                 \
        assert_int_equal(call, OMNI_ERR_FORMAT);                                                                                                     \
        assert_int_equal(err.code, OMNI_ERR_FORMAT);                                                                                                 \
        if (!strstr(err.text, words) || !strstr(err.text, "keys.gguf"))                                                                              \
            fail_msg("'%s' does not mention '%s'", err.text, words);                                                                                 \
    } while (0)
    REFUSED(gguf_need_u32(g, "none", &u, &err), "key 'none' is missing");
    REFUSED(gguf_need_u32(g, "t.i8", &u, &err), "key 't.i8' holds -100, outside of 0 to 4294967295");
    REFUSED(gguf_need_u32(g, "t.u64", &u, &err), "holds 18000000000000000000");
    REFUSED(gguf_need_u32(g, "t.f32", &u, &err), "of type f32, but an integer");
    REFUSED(gguf_need_u32(g, "t.yes", &u, &err), "of type bool");
    REFUSED(gguf_maybe_u32(g, "t.str", 1, &u, &err), "key 't.str' is of type string");
    REFUSED(gguf_need_u32(g, "a.u8", &u, &err), "of type array of u8");
    REFUSED(gguf_need_f32(g, "t.f64", &f, &err), "not a finite number");
    REFUSED(gguf_need_f32(g, "t.inf", &f, &err), "holds inf");
    REFUSED(gguf_need_f32(g, "t.str", &f, &err), "a number is needed");
    REFUSED(gguf_maybe_bool(g, "t.u8", false, &b, &err), "of type u8, but a truth value");
    REFUSED(gguf_need_str(g, "t.nul", &s, &err), "NUL byte inside");
    REFUSED(gguf_need_str(g, "t.u8", &s, &err), "but a string is needed");
    REFUSED(gguf_need_i32s(g, "a.u32", 2, i32, &err), "holds 4294967295, outside of");
    REFUSED(gguf_need_i32s(g, "a.i64", 2, i32, &err), "holds -9223372036854775808");
    REFUSED(gguf_need_i32s(g, "a.u8", 3, i32, &err), "has 2 elements, but 3 are needed");
    REFUSED(gguf_need_i32s(g, "a.f32", 2, i32, &err), "of type array of f32, but an array of integers");
    REFUSED(gguf_need_i32s(g, "a.str", 4, i32, &err), "array of string");
    REFUSED(gguf_need_i32s(g, "t.u8", 1, i32, &err), "but an array is needed");
    REFUSED(gguf_need_f32s(g, "a.f64", 2, f32, &err), "not a finite number");
    REFUSED(gguf_need_bools(g, "a.u8", 2, bools, &err), "an array of truth values");
    REFUSED(gguf_need_strs(g, "a.u8", &strings, &n, &err), "an array of strings");
    REFUSED(gguf_need_strs(g, "none", &strings, &n, &err), "'none' is missing");
#undef REFUSED
    assert_int_equal(gguf_maybe_u32(g, "none", 9, &u, NULL), OMNI_OK);
    assert_int_equal(u, 9);
    assert_int_equal(gguf_maybe_f32(g, "none", 2.5f, &f, NULL), OMNI_OK);
    assert_true(f == 2.5f);
    assert_int_equal(gguf_maybe_str(g, "none", "else", &s, NULL), OMNI_OK);
    assert_string_equal(s, "else");
    assert_int_equal(gguf_need_u32(g, "none", &u, NULL), OMNI_ERR_FORMAT);
    gguf_close(g);
}

static void values_are_printed_for_people(void **state) {
    gguf *g = open_data("keys.gguf");
    static const struct {
        const char *key;
        size_t limit;
        const char *text;
    } cases[] = {
        {"t.str", 8, "\"Größe \\\"x\\\"\\n\""},
        {"t.nul", 8, "\"a\\u0000b\""},
        {"t.u64", 8, "18000000000000000000"},
        {"t.i64", 8, "-9000000000000000000"},
        {"t.f32", 8, "0.100000001"},
        {"t.yes", 8, "true"},
        {"a.bool", 8, "[true, false, true]"},
        {"a.i16", 1, "[-32768, ... (2 in all)]"},
        {"a.str", 3, "[\"\", \"zwei\", \"三\", ... (4 in all)]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t at = gguf_find(g, cases[i].key);
        assert_true(at >= 0);
        char *text = gguf_value_text(g, (size_t)at, cases[i].limit);
        assert_string_equal(text, cases[i].text);
        free(text);
    }
    gguf_close(g);
}

/* The package lays tensors out one behind another, so that agreeing offsets mean agreeing block sizes. */
static void tensors_of_every_type_are_measured(void **state) {
    gguf *g = open_data("types.gguf");
    size_t count = gguf_tensor_count(g), types = 0;
    for (uint32_t t = 0; t < DTYPE_COUNT; t++) {
        types += dtype_find(t) != NULL;
    }
    assert_int_equal(count, types - 2); /* all but Q8_1, which no file holds, and Q2_0, which the package does not know */
    for (size_t i = 0; i < count; i++) {
        const tensor *t = gguf_tensor_at(g, i);
        const dtype_info *info = dtype_find((uint32_t)t->type);
        assert_string_equal(t->name, info->name);
        assert_ptr_equal(gguf_tensor(g, t->name), t);
        assert_int_equal(t->ne[0], info->block == 1 ? 3 : info->block);
        assert_int_equal(t->ne[1], 2);
        assert_int_equal(t->size, 2 * dtype_row_bytes(t->type, t->ne[0]));
        size_t next = i + 1 < count
                          ? (size_t)((const char *)t[1].data - (const char *)t->data)
                          : gguf_file_size(g) - gguf_data_offset(g) - (size_t)((const char *)t->data - (const char *)gguf_tensor_at(g, 0)->data);
        assert_int_equal(next, (t->size + 31) / 32 * 32);
    }
    assert_int_equal(((const int32_t *)gguf_tensor(g, "I32")->data)[5], 5);
    assert_true(((const float *)gguf_tensor(g, "F32")->data)[4] == 4);
    assert_null(gguf_tensor(g, "none"));
    assert_null(gguf_tensor(g, ""));
    gguf_close(g);
}

static void needed_tensors_are_checked(void **state) {
    gguf *g = open_data("types.gguf");
    omni_error err;
    const tensor *t;
    assert_int_equal(gguf_need_tensor(g, &t, &err, 2, (int64_t[]){3, 2}, "F%d", 32), OMNI_OK);
    assert_ptr_equal(t, gguf_tensor(g, "F32"));
    assert_int_equal(gguf_need_tensor(g, &t, &err, 3, (int64_t[]){3, -1, 1}, "BF16"), OMNI_OK);
    assert_int_equal(gguf_need_tensor(g, &t, &err, 1, (int64_t[]){3}, "F32"), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "types.gguf: tensor 'F32' has the shape {3, 2}, but {3} is needed"));
    assert_null(t);
    assert_int_equal(gguf_need_tensor(g, &t, &err, 3, (int64_t[]){3, 2, 4}, "F32"), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "{3, 2, 4}"));
    assert_int_equal(gguf_need_tensor(g, &t, &err, 2, (int64_t[]){3, -1}, "blk.%d", 7), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "tensor 'blk.7' {3, any} is missing"));
    assert_int_equal(gguf_need_tensor(g, &t, &err, 2, (int64_t[]){256, 2}, "IQ2_S"), OMNI_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "tensor 'IQ2_S' is stored as IQ2_S, which this program cannot compute with"));
    gguf_close(g);
}

/* ---- damage ---- */

/* A file built field by field, so that each field's place is known. */
typedef struct bytes {
    uint8_t data[2048];
    size_t size;
} bytes;

static size_t add(bytes *b, const void *data, size_t n) {
    memcpy(b->data + b->size, data, n);
    b->size += n;
    return b->size - n;
}

static size_t add_u32(bytes *b, uint32_t v) {
    return add(b, &v, 4);
}

static size_t add_u64(bytes *b, uint64_t v) {
    return add(b, &v, 8);
}

static size_t add_string(bytes *b, const char *s) {
    size_t at = add_u64(b, strlen(s));
    add(b, s, strlen(s));
    return at;
}

/* Where the fields are. */
typedef struct places {
    size_t version, tensors, keys, key_length, key_type, bool_value, array_element, array_count, string_length, key2, tensor_name, dims, ne0, ne1,
        type, offset, offset2, name2, align_value, data;
} places;

static bytes build(places *p) {
    bytes b = {.size = 0};
    add(&b, "GGUF", 4);
    p->version = add_u32(&b, 3);
    p->tensors = add_u64(&b, 2);
    p->keys = add_u64(&b, 4);
    p->key_length = add_string(&b, "general.alignment");
    p->key_type = add_u32(&b, GGUF_U32);
    p->align_value = add_u32(&b, 32);
    add_string(&b, "key.bool");
    add_u32(&b, GGUF_BOOL);
    p->bool_value = add(&b, "\1", 1);
    p->key2 = add_string(&b, "key.list");
    add_u32(&b, GGUF_ARRAY);
    p->array_element = add_u32(&b, GGUF_STRING);
    p->array_count = add_u64(&b, 2);
    p->string_length = add_string(&b, "one");
    add_string(&b, "two");
    add_string(&b, "key.nums");
    add_u32(&b, GGUF_ARRAY);
    add_u32(&b, GGUF_I16);
    add_u64(&b, 3);
    add(&b, "\1\0\2\0\3\0", 6);
    p->tensor_name = add_string(&b, "first.weight");
    p->dims = add_u32(&b, 2);
    p->ne0 = add_u64(&b, 32);
    p->ne1 = add_u64(&b, 2);
    p->type = add_u32(&b, DTYPE_Q8_0);
    p->offset = add_u64(&b, 0);
    p->name2 = add_string(&b, "other.weight");
    add_u32(&b, 1);
    add_u64(&b, 5);
    add_u32(&b, DTYPE_F32);
    p->offset2 = add_u64(&b, 96);
    while (b.size % 32 != 0) {
        add(&b, "", 1);
    }
    p->data = b.size;
    b.size += 128;
    return b;
}

/* Opens a copy in memory of exactly its size, so that AddressSanitizer sees every byte read too many. */
static omni_status open_copy(const uint8_t *data, size_t size, omni_error *err) {
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    gguf *g = NULL;
    memset(err, 0, sizeof *err);
    omni_status status = gguf_open_memory(copy, size, "name.gguf", &g, err);
    assert_true((status == OMNI_OK) == (g != NULL));
    if (g) {
        for (size_t i = 0; i < gguf_key_count(g); i++) {
            free(gguf_value_text(g, i, 10));
        }
        for (size_t i = 0; i < gguf_tensor_count(g); i++) {
            const tensor *t = gguf_tensor_at(g, i);
            assert_true((const uint8_t *)t->data >= copy && (const uint8_t *)t->data + t->size <= copy + size);
        }
        gguf_close(g);
    } else {
        assert_int_equal(err->code, status);
        assert_int_equal(strncmp(err->text, "name.gguf: ", 11), 0);
    }
    free(copy);
    return status;
}

static void damage_is_refused_with_its_place(void **state) {
    places p;
    bytes whole = build(&p);
    omni_error err;
    assert_int_equal(open_copy(whole.data, whole.size, &err), OMNI_OK);
    const struct {
        size_t at;
        int width; /* bytes */
        uint64_t value;
        omni_status status;
        const char *words;
    } damages[] = {
        {0, 1, 'g', OMNI_ERR_FORMAT, "not a GGUF file"},
        {p.version, 4, 1, OMNI_ERR_UNSUPPORTED, "GGUF version 1 "},
        {p.version, 4, 4, OMNI_ERR_UNSUPPORTED, "GGUF version 4 "},
        {p.version, 4, 3u << 24, OMNI_ERR_UNSUPPORTED, "big-endian GGUF file, version 3"},
        {p.tensors, 8, 1ull << 40, OMNI_ERR_LIMIT, "claims 1099511627776 tensors"},
        {p.tensors, 8, 3, OMNI_ERR_FORMAT, "a tensor at offset"},
        {p.keys, 8, UINT64_MAX, OMNI_ERR_LIMIT, "18446744073709551615 keys"},
        {p.key_length, 8, UINT64_MAX, OMNI_ERR_FORMAT, "a string at offset 24 claims 18446744073709551615 bytes"},
        {p.key_length, 8, 0, OMNI_ERR_FORMAT, "a key at offset 24 has a name of 0 bytes"},
        {p.key_length + 8, 1, 7, OMNI_ERR_FORMAT, "a key at offset 24 has a name that is not readable text"},
        {p.key_length + 8, 1, 0xff, OMNI_ERR_FORMAT, "not readable text"},
        {p.key_type, 4, 13, OMNI_ERR_FORMAT, "key 'general.alignment' has the unknown type 13 (offset 49)"},
        {p.key_type, 4, GGUF_F32, OMNI_ERR_FORMAT, "key 'general.alignment' is no unsigned integer"},
        {p.align_value, 4, 48, OMNI_ERR_FORMAT, "general.alignment is 48, not a power of two"},
        {p.align_value, 4, 0, OMNI_ERR_FORMAT, "general.alignment is 0"},
        {p.align_value, 4, 1, OMNI_ERR_FORMAT, "general.alignment is 1"},
        {p.align_value, 4, 1u << 31, OMNI_ERR_FORMAT, "general.alignment is 2147483648"},
        {p.align_value, 4, 64, OMNI_ERR_FORMAT, "not a multiple of the alignment 64"},
        {p.bool_value, 1, 2, OMNI_ERR_FORMAT, "key 'key.bool': truth value 2 at offset"},
        {p.key2 + 12, 4, 'l' << 24 | 'o' << 16 | 'o' << 8 | 'b', OMNI_ERR_FORMAT, ""},
        {p.array_element, 4, GGUF_ARRAY, OMNI_ERR_UNSUPPORTED, "key 'key.list': array of arrays"},
        {p.array_element, 4, 99, OMNI_ERR_FORMAT, "key 'key.list': unknown element type 99"},
        {p.array_element, 4, GGUF_BOOL, OMNI_ERR_FORMAT, "key 'key.list': truth value 3 at offset"},
        {p.array_count, 8, 1ull << 61, OMNI_ERR_FORMAT, "a string at offset"},
        {p.string_length, 8, 1ull << 63, OMNI_ERR_FORMAT, "key 'key.list'"},
        {p.tensor_name, 8, 256, OMNI_ERR_FORMAT, "a string at offset"},
        {p.tensor_name + 10, 1, 0, OMNI_ERR_FORMAT, "not readable text"},
        {p.dims, 4, 5, OMNI_ERR_FORMAT, "tensor 'first.weight': 5 dimensions at offset"},
        {p.ne0, 8, 0, OMNI_ERR_FORMAT, "tensor 'first.weight': dimension 0 at offset"},
        {p.ne0, 8, 33, OMNI_ERR_FORMAT, "tensor 'first.weight': rows of 33 values, but Q8_0 packs them in blocks of 32"},
        {p.ne0, 8, 1ull << 63, OMNI_ERR_FORMAT, "an impossible size"},
        {p.ne1, 8, 1ull << 60, OMNI_ERR_FORMAT, "dimension 1 at offset"},
        {p.ne1, 8, 1ull << 57, OMNI_ERR_FORMAT, "tensor 'first.weight' needs"},
        {p.ne1, 8, 4, OMNI_ERR_FORMAT, "tensor 'first.weight' needs 136 bytes at data offset 0, but the file holds 128"},
        {p.ne1, 8, 3, OMNI_ERR_FORMAT, "tensors 'first.weight' and 'other.weight' overlap"},
        {p.type, 4, 4, OMNI_ERR_FORMAT, "tensor 'first.weight': unknown type number 4 at offset"},
        {p.type, 4, 1u << 31, OMNI_ERR_FORMAT, "unknown type number 2147483648"},
        {p.offset, 8, 8, OMNI_ERR_FORMAT, "starts at data offset 8, not a multiple of the alignment 32"},
        {p.offset, 8, 96, OMNI_ERR_FORMAT, "tensor 'first.weight' needs 68 bytes at data offset 96"},
        {p.offset2, 8, 64, OMNI_ERR_FORMAT, "overlap"},
        {p.offset2, 8, UINT64_MAX - 31, OMNI_ERR_FORMAT, "tensor 'other.weight' needs 20 bytes at data offset"},
        {p.offset2, 8, 1ull << 40, OMNI_ERR_FORMAT, "cut short or damaged"},
    };
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        bytes b = whole;
        memcpy(b.data + damages[i].at, &damages[i].value, (size_t)damages[i].width);
        if (!*damages[i].words) { /* a key renamed to another's name */
            memcpy(b.data + p.key2 + 8, "key.bool", 8);
        }
        omni_status status = open_copy(b.data, b.size, &err);
        const char *words = *damages[i].words ? damages[i].words : "key 'key.bool' appears twice";
        if (status != damages[i].status || !strstr(err.text, words)) {
            fail_msg("damage %zu gave %d '%s', not '%s'", i, status, err.text, words);
        }
    }
    bytes b = whole;
    memcpy(b.data + p.name2 + 8, "first", 5);
    assert_int_equal(open_copy(b.data, b.size, &err), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "tensor 'first.weight' appears twice"));
}

/* Two tensors in reverse order are fine: only sharing bytes is not. */
static void any_order_of_the_data_is_accepted(void **state) {
    places p;
    omni_error err;
    bytes b = build(&p);
    memcpy(b.data + p.offset, &(uint64_t){32}, 8);
    memcpy(b.data + p.offset2, &(uint64_t){0}, 8);
    assert_int_equal(open_copy(b.data, b.size, &err), OMNI_OK);
    memcpy(b.data + p.version, &(uint32_t){2}, 4);
    assert_int_equal(open_copy(b.data, b.size, &err), OMNI_OK);
}

static void every_cut_is_refused(void **state) {
    places p;
    omni_error err;
    bytes whole = build(&p);
    for (size_t n = 0; n < whole.size; n++) {
        omni_status status = open_copy(whole.data, n, &err);
        assert_int_equal(status, n >= p.data + 116 ? OMNI_OK : OMNI_ERR_FORMAT); /* only padding is missing from 116 bytes of data on */
    }
}

/* Any flipped byte is refused or harmless, never a crash. */
static void flipped_bytes_do_no_harm(void **state) {
    places p;
    omni_error err;
    bytes whole = build(&p);
    int refused = 0;
    for (size_t at = 0; at < p.data; at++) {
        for (int bit = 0; bit < 8; bit++) {
            bytes b = whole;
            b.data[at] ^= (uint8_t)(1 << bit);
            refused += open_copy(b.data, b.size, &err) != OMNI_OK;
        }
    }
    assert_true(refused > 500);
}

static void paths_that_hold_no_file_are_told(void **state) {
    gguf *g = NULL;
    omni_error err;
    assert_int_equal(gguf_open(in_folder("none.gguf"), &g, &err), OMNI_ERR_IO);
    assert_non_null(strstr(err.text, "none.gguf"));
    assert_int_equal(gguf_open(folder, &g, &err), OMNI_ERR_IO);
    FILE *f = fopen(in_folder("empty.gguf"), "w");
    fclose(f);
    assert_int_equal(gguf_open(in_folder("empty.gguf"), &g, &err), OMNI_ERR_FORMAT);
    assert_non_null(strstr(err.text, "empty.gguf: not a GGUF file"));
    assert_null(g);
    _Alignas(8) char misaligned[16] = {0};
    assert_int_equal(gguf_open_memory(misaligned + 1, 8, "m", &g, &err), OMNI_ERR_ARGUMENT);
    gguf_close(NULL);
    files_in_folder(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_of_value_is_read),
        cmocka_unit_test(arrays_of_every_type_are_read),
        cmocka_unit_test(wrong_values_are_refused_with_key_and_reason),
        cmocka_unit_test(values_are_printed_for_people),
        cmocka_unit_test(tensors_of_every_type_are_measured),
        cmocka_unit_test(needed_tensors_are_checked),
        cmocka_unit_test(damage_is_refused_with_its_place),
        cmocka_unit_test(any_order_of_the_data_is_accepted),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(flipped_bytes_do_no_harm),
        cmocka_unit_test(paths_that_hold_no_file_are_told),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
