/* The tokenizer against the `tokenizers` library's ids for the same vocabulary (tests/reference/make_text_vectors.py). */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "base/utf8.h"
#include "text/bpe.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/unicode_class.h"

#include <cmocka.h> /* last: it has a macro named fail */

static tokenizer *tok;
static json_t *cases;

static int set_up(void **state) {
    gguf *g;
    omni_error err;
    if (gguf_open(TEST_DATA "/text/tokenizer.gguf", &g, &err) != OMNI_OK || tokenizer_open(g, &tok, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    gguf_close(g);
    cases = json_load_file(TEST_DATA "/text/tokenizer.json", 0, NULL);
    return cases ? 0 : -1;
}

static int tear_down(void **state) {
    tokenizer_close(tok);
    json_decref(cases);
    return 0;
}

static char *from_hex(const char *hex, size_t *n) {
    *n = strlen(hex) / 2;
    char *out = malloc(*n + 1);
    for (size_t i = 0; i < *n; i++) {
        const char digits[3] = {hex[2 * i], hex[2 * i + 1], 0};
        out[i] = (char)strtol(digits, NULL, 16);
    }
    out[*n] = 0;
    return out;
}

static token_list encode(tokenize_mode mode, const char *s, size_t n) {
    token_list ids = {0};
    omni_error err = {0};
    if (tokenizer_encode(tok, mode, s, n, &ids, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    return ids;
}

static void expect_ids(const char *s, size_t n, tokenize_mode mode, const json_t *want) {
    token_list ids = encode(mode, s, n);
    assert_int_equal(ids.count, json_array_size(want));
    for (size_t i = 0; i < ids.count; i++) {
        assert_int_equal(ids.ids[i], json_integer_value(json_array_get(want, i)));
    }
    token_list_free(&ids);
}

static void ids_equal_the_reference(void **state) {
    assert_true(json_array_size(cases) >= 150);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        size_t n;
        char *text = from_hex(json_string_value(json_object_get(c, "hex")), &n);
        expect_ids(text, n, TOKENIZE_PLAIN, json_object_get(c, "plain"));
        expect_ids(text, n, TOKENIZE_MARKUP, json_object_get(c, "markup"));
        free(text);
    }
}

/* Decoding gives back the text in NFC, and piece by piece the same, in whole characters. */
static void decoding_gives_the_text_back(void **state) {
    char *out = malloc(token_stream_room(tok));
    for (size_t i = 0; i < json_array_size(cases); i++) {
        size_t n, size, streamed = 0;
        char *text = from_hex(json_string_value(json_object_get(json_array_get(cases, i), "hex")), &n), *decoded;
        token_list ids = encode(TOKENIZE_PLAIN, text, n);
        assert_int_equal(tokenizer_decode(tok, ids.ids, ids.count, false, &decoded, &size, NULL), OMNI_OK);
        assert_true(utf8_valid(decoded, size));
        token_list again = encode(TOKENIZE_PLAIN, decoded, size);
        assert_int_equal(again.count, ids.count);
        if (ids.count > 0) {
            assert_memory_equal(again.ids, ids.ids, ids.count * sizeof *ids.ids);
        }
        token_stream stream = {0};
        for (size_t k = 0; k < ids.count; k++) {
            size_t got = token_stream_push(&stream, tok, ids.ids[k], out);
            assert_true(utf8_valid(out, got) && streamed + got <= size);
            assert_memory_equal(out, decoded + streamed, got);
            streamed += got;
        }
        assert_int_equal(token_stream_flush(&stream, out), 0);
        assert_int_equal(streamed, size);
        token_list_free(&ids);
        token_list_free(&again);
        free(text);
        free(decoded);
    }
    free(out);
}

static void streams_never_split_a_character(void **state) {
    /* The four bytes of an emoji as tokens of a byte each, then two of another one and an ASCII byte. */
    static const char bytes[] = "\xF0\x9F\x98\x80\xE4\xB8!";
    static const size_t sizes[] = {0, 0, 0, 4, 0, 0, 4};
    char out[64];
    token_stream stream = {0};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const char one[2] = {bytes[i], 0};
        int32_t id = tokenizer_find(tok, one);
        assert_true(id >= 0);
        assert_int_equal(token_stream_push(&stream, tok, id, out), sizes[i]);
    }
    assert_memory_equal(out, "\xEF\xBF\xBD!", 4);
    assert_int_equal(token_stream_push(&stream, tok, tokenizer_find(tok, "\xE4"), out), 0);
    assert_int_equal(token_stream_push(&stream, tok, tokenizer_find(tok, "<|im_end|>"), out), 0);
    assert_int_equal(token_stream_flush(&stream, out), 3);
    assert_memory_equal(out, "\xEF\xBF\xBD", 3);
    assert_int_equal(token_stream_push(&stream, tok, tokenizer_find(tok, "<think>"), out), 7);
}

static void vocabulary_look_ups(void **state) {
    size_t size;
    int32_t start = tokenizer_find(tok, "<|im_start|>"), think = tokenizer_find(tok, "<think>");
    assert_true(start > 0 && think > start);
    assert_int_equal(tokenizer_kind(tok, start), TOKEN_CONTROL);
    assert_int_equal(tokenizer_kind(tok, think), TOKEN_ADDED);
    assert_int_equal(tokenizer_kind(tok, tokenizer_find(tok, "assistant")), TOKEN_NORMAL);
    assert_int_equal(tokenizer_kind(tok, -1), TOKEN_UNUSED);
    assert_int_equal(tokenizer_kind(tok, (int32_t)tokenizer_size(tok)), TOKEN_UNUSED);
    assert_int_equal(tokenizer_find(tok, "no such token"), -1);
    assert_int_equal(tokenizer_find(tok, ""), -1);
    assert_memory_equal(tokenizer_piece(tok, tokenizer_find(tok, " the"), &size), " the", 4);
    assert_int_equal(size, 4);
    tokenizer_piece(tok, 1 << 30, &size);
    assert_int_equal(size, 0);
    assert_int_equal(tokenizer_eos(tok), tokenizer_find(tok, "<|im_end|>"));
    assert_true(tokenizer_is_end(tok, tokenizer_find(tok, "<|im_end|>")));
    assert_true(tokenizer_is_end(tok, tokenizer_find(tok, "<|endoftext|>")));
    assert_false(tokenizer_is_end(tok, start));
    assert_int_equal(tokenizer_added_at(tok, "<think>x", 8), think);
    assert_int_equal(tokenizer_added_at(tok, "<think>x", 6), -1);
}

static void control_tokens_are_left_out_of_text(void **state) {
    static const char text[] = "<|im_start|>a<think>b<|im_end|>";
    token_list ids = encode(TOKENIZE_MARKUP, text, strlen(text));
    char *out;
    size_t size;
    assert_int_equal(ids.count, 5);
    assert_int_equal(tokenizer_decode(tok, ids.ids, ids.count, true, &out, &size, NULL), OMNI_OK);
    assert_string_equal(out, text);
    free(out);
    assert_int_equal(tokenizer_decode(tok, ids.ids, ids.count, false, &out, &size, NULL), OMNI_OK);
    assert_string_equal(out, "a<think>b");
    free(out);
    token_list_free(&ids);
    ids = encode(TOKENIZE_PLAIN, text, strlen(text));
    for (size_t i = 0; i < ids.count; i++) {
        assert_int_equal(tokenizer_kind(tok, ids.ids[i]), TOKEN_NORMAL);
    }
    token_list_free(&ids);
}

/* Merging as it is defined: the lowest rank anywhere, the leftmost of equals, until none is left. */
static size_t merge_plainly(const bpe *b, const char *s, size_t n, int32_t *ids) {
    for (size_t i = 0; i < n; i++) {
        ids[i] = b->byte_id[(uint8_t)s[i]];
    }
    for (;;) {
        const bpe_merge *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            for (size_t k = 0; k <= b->merge_mask; k++) {
                const bpe_merge *m = &b->merge_slot[k];
                if (m->rank != UINT32_MAX && m->left == (uint32_t)ids[i] && m->right == (uint32_t)ids[i + 1] && (!best || m->rank < best->rank)) {
                    best = m;
                    at = i;
                }
            }
        }
        if (!best) {
            return n;
        }
        ids[at] = (int32_t)best->id;
        n--;
        memmove(ids + at + 1, ids + at + 2, (n - at - 1) * sizeof *ids);
    }
}

/* Short pieces, long ones with a heap, and very long ones with a sorted queue, all merge alike; also where a merge of a low rank makes a
 * pair of a lower one, which no trained vocabulary has. */
static void merging_is_the_same_for_any_length(void **state) {
    static const char bytes[] = "abcaaaaabbccabcaaabaaaa";
    static const uint32_t offset[] = {0, 1, 2, 3, 5, 7, 9, 12, 16, 19, 23};
    /* Ten pieces; which bytes the longer ones have does not matter here, what they merge from is given below. */
    bpe b;
    assert_int_equal(bpe_init(&b, bytes, offset, 10, 8, NULL), OMNI_OK);
    for (uint32_t i = 0; i < 10; i++) {
        bpe_add_piece(&b, i);
    }
    static const uint32_t merges[][3] = {{3, 3, 7}, {0, 1, 4}, {4, 2, 6}, {1, 2, 5}, {0, 0, 3}, {7, 0, 9}, {5, 0, 8}, {3, 4, 9}};
    for (uint32_t r = 0; r < 8; r++) {
        bpe_add_merge(&b, merges[r][0], merges[r][1], r, merges[r][2]);
    }
    bpe_scratch scratch = {0};
    static const size_t lengths[] = {1, 2, 7, 31, 32, 33, 34, 60, 90};
    uint32_t random = 1;
    for (int round = 0; round < 60; round++) {
        size_t n = lengths[round % (sizeof lengths / sizeof *lengths)], count;
        char text[200];
        int32_t want[200];
        for (size_t i = 0; i < n; i++) {
            random = random * 1664525 + 1013904223;
            text[i] = (char)('a' + (random >> 24) % (round % 3 + 1));
        }
        for (int sorted = 0; sorted < 2; sorted++) {
            const int32_t *ids;
            b.ranks = sorted ? 8 : 100000; /* decides which of the two queues long pieces take */
            assert_int_equal(bpe_encode(&b, &scratch, text, n, &ids, &count, NULL), OMNI_OK);
            assert_int_equal(count, merge_plainly(&b, text, n, want));
            assert_memory_equal(ids, want, count * sizeof *ids);
        }
    }
    bpe_scratch_free(&scratch);
    bpe_free(&b);
}

/* No file can be made whose pieces all meet in one slot: where they go is another place each time. */
static void tables_have_a_key(void **state) {
    char bytes[256];
    uint32_t offset[257];
    bpe b[2];
    for (uint32_t i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        offset[i] = i;
    }
    offset[256] = 256;
    for (int k = 0; k < 2; k++) {
        assert_int_equal(bpe_init(&b[k], bytes, offset, 256, 1, NULL), OMNI_OK);
        for (uint32_t i = 0; i < 256; i++) {
            bpe_add_piece(&b[k], i);
        }
        assert_int_equal(bpe_find(&b[k], "a", 1), 'a');
    }
    assert_memory_not_equal(b[0].piece_slot, b[1].piece_slot, (b[0].piece_mask + 1) * sizeof *b[0].piece_slot);
    bpe_free(&b[0]);
    bpe_free(&b[1]);
}

static void *encode_all(void *arg) {
    static const char text[] = "Several threads at once: it's 10 o'clock, \xE5\x88\x86\xE8\xAF\x8D e\xCC\x81 <think> the end.";
    token_list *ids = arg;
    for (int i = 0; i < 200; i++) {
        ids->count = 0;
        if (tokenizer_encode(tok, TOKENIZE_MARKUP, text, strlen(text), ids, NULL) != OMNI_OK) {
            ids->count = 0;
            break;
        }
    }
    return NULL;
}

static void threads_share_a_tokenizer(void **state) {
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    token_list ids[THREADS] = {0};
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, encode_all, &ids[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_true(ids[i].count > 10);
        assert_int_equal(ids[i].count, ids[0].count);
        assert_memory_equal(ids[i].ids, ids[0].ids, ids[0].count * sizeof *ids[0].ids);
        if (i > 0) {
            token_list_free(&ids[i]);
        }
    }
    token_list_free(&ids[0]);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* however busy the machine is */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Text made to be slow: one word, one run of spaces, one letter with very many marks in the wrong order, markup that never closes.
 * Quadratic time would be minutes. */
static void hostile_text_is_not_slow(void **state) {
    size_t n = 1 << 20;
    char *text = malloc(n);
    static const char *const units[] = {"a", "qwertzuiop", " ", "\n ", "\xCC\x81\xCC\xA3", "<|im_<", "\xE5\x88\x86", "'", "\xFF"};
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t size = strlen(units[u]), used = 0;
        for (; used + size <= n; used += size) {
            memcpy(text + used, units[u], size);
        }
        double start = seconds();
        token_list ids = encode(TOKENIZE_MARKUP, text, used);
        assert_true(ids.count > 0);
        assert_true(seconds() - start < 20);
        token_list_free(&ids);
    }
    free(text);
}

/* The classes follow the reference's tables, not the system's. */
static void unicode_classes_are_the_reference_s(void **state) {
    uint8_t *classes = unicode_classes();
    assert_int_equal(classes['a'] & CLASS_MASK, CLASS_LETTER);
    assert_int_equal(classes['7'] & CLASS_MASK, CLASS_NUMBER);
    assert_int_equal(classes[0xBD] & CLASS_MASK, CLASS_NUMBER);   /* one half */
    assert_int_equal(classes[0x3000] & CLASS_MASK, CLASS_SPACE);  /* ideographic space */
    assert_int_equal(classes[0x1C89] & CLASS_MASK, CLASS_LETTER); /* new in Unicode 16 */
    assert_int_equal(classes[0x1DF6] & CLASS_NFC_ACTIVE, 0);      /* a mark newer than the reference's NFC */
    assert_int_equal(classes[0x301] & CLASS_NFC_ACTIVE, CLASS_NFC_ACTIVE);
    assert_int_equal(pretoken_length(classes, "  x", 3), 1);
    assert_int_equal(pretoken_length(classes, " x'll", 5), 2);
    assert_int_equal(pretoken_length(classes, "'\xC5\xBFx", 4), 3); /* the long s is an s */
    assert_int_equal(pretoken_length(classes, "\n \n x", 5), 3);
    assert_int_equal(pretoken_length(classes, " ...\r\n\nx", 8), 7);
    free(classes);
}

static uint32_t crc32_of(uint32_t crc, const void *data, size_t n) {
    const uint8_t *p = data;
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++) {
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        }
    }
    return ~crc;
}

/* The sum over the NFC of `before` c `after`. */
static uint32_t add_nfc(const uint8_t *classes, uint32_t crc, const char *before, uint32_t c, const char *after) {
    char text[32], *composed;
    size_t n = strlen(before), size;
    omni_error err;
    memcpy(text, before, n);
    n += utf8_encode(c, text + n);
    memcpy(text + n, after, strlen(after));
    n += strlen(after);
    assert_int_equal(unicode_nfc(classes, text, n, &composed, &size, &err), OMNI_OK);
    crc = crc32_of(crc, composed, size);
    if (composed != text) {
        free(composed);
    }
    return crc;
}

/* Every code point, against tests/reference/make_unicode_digests.py. */
static void every_code_point(void **state) {
    uint8_t *classes = unicode_classes();
    FILE *f = fopen(TEST_DATA "/text/unicode.txt", "r");
    assert_non_null(f);
    char line[128];
    unsigned first, want_classes, want_nfc, blocks = 0;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%x %x %x", &first, &want_classes, &want_nfc) != 3) {
            continue; /* how it was made */
        }
        uint32_t of_classes = 0, of_nfc = 0;
        for (uint32_t c = first; c < first + 4096; c++) {
            if (c >= 0xD800 && c < 0xE000) {
                continue;
            }
            const uint8_t class = classes[c] & CLASS_MASK;
            of_classes = crc32_of(of_classes, &class, 1);
            of_nfc = add_nfc(classes, of_nfc, "", c, "");
            of_nfc = add_nfc(classes, of_nfc, "e", c, "\xCC\xA3");
            of_nfc = add_nfc(classes, of_nfc, "", c, "\xCC\x81\xCD\x85\xCC\xB4");
        }
        if (of_classes != want_classes || of_nfc != want_nfc) {
            fail_msg("of U+%04X to U+%04X some are not what the reference takes them for: %s", first, first + 4095,
                     of_classes != want_classes ? "letters, numbers or whitespace" : "composition");
        }
        blocks++;
    }
    assert_int_equal(blocks, 0x110);
    fclose(f);
    free(classes);
}

/* ---- damaged vocabularies ---- */

typedef struct vocabulary {
    const char *model, *pre;
    bool drop_byte, bad_character, bad_merge, short_types, bad_eos;
} vocabulary;

static size_t write_vocabulary(const char *path, const vocabulary *v) {
    gguf_writer *w;
    assert_int_equal(gguf_writer_create(path, &w, NULL), OMNI_OK);
    gguf_put_str(w, "general.architecture", "qwen3vlmoe");
    gguf_put_str(w, "tokenizer.ggml.model", v->model ? v->model : "gpt2");
    if (!v->pre || *v->pre) {
        gguf_put_str(w, "tokenizer.ggml.pre", v->pre ? v->pre : "qwen2");
    }
    char names[256][4];
    gguf_str tokens[258];
    int32_t types[258];
    size_t count = 0;
    for (uint32_t byte = 0, next = 256; byte < 256; byte++) {
        bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
        tokens[count] = (gguf_str){names[byte], utf8_encode(printable ? byte : next++, names[byte])};
        count += !(v->drop_byte && byte == 'x');
    }
    tokens[count++] = (gguf_str){"ab", 2};
    tokens[count++] = v->bad_character ? (gguf_str){"\xE4\xB8\xAD", 3} : (gguf_str){"cd", 2};
    for (size_t i = 0; i < count; i++) {
        types[i] = 1;
    }
    gguf_put_strs(w, "tokenizer.ggml.tokens", tokens, count);
    gguf_put_i32s(w, "tokenizer.ggml.token_type", types, count - v->short_types);
    const gguf_str merges[] = {{"a b", 3}, v->bad_merge ? (gguf_str){"a z", 3} : (gguf_str){"c d", 3}};
    gguf_put_strs(w, "tokenizer.ggml.merges", merges, 2 - v->bad_character);
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", v->bad_eos ? 258 : 5);
    assert_int_equal(gguf_writer_begin(w, NULL), OMNI_OK);
    assert_int_equal(gguf_writer_finish(w, NULL), OMNI_OK);
    return count;
}

static void expect_open(const vocabulary *v, omni_status want, const char *mentions) {
    char path[] = "/tmp/test_tokenizer_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    write_vocabulary(path, v);
    gguf *g;
    tokenizer *t;
    omni_error err = {0};
    assert_int_equal(gguf_open(path, &g, &err), OMNI_OK);
    assert_int_equal(tokenizer_open(g, &t, &err), want);
    if (want == OMNI_OK) {
        assert_int_equal(tokenizer_find(t, "ab"), 256);
        tokenizer_close(t);
    } else {
        assert_non_null(strstr(err.text, mentions));
        assert_non_null(strstr(err.text, path));
    }
    gguf_close(g);
    remove(path);
}

static void damaged_vocabularies_are_refused(void **state) {
    expect_open(&(vocabulary){0}, OMNI_OK, "");
    expect_open(&(vocabulary){.model = "llama"}, OMNI_ERR_UNSUPPORTED, "tokenizer.ggml.model");
    expect_open(&(vocabulary){.pre = "gpt-4o"}, OMNI_ERR_UNSUPPORTED, "tokenizer.ggml.pre");
    expect_open(&(vocabulary){.pre = ""}, OMNI_ERR_FORMAT, "tokenizer.ggml.pre");
    expect_open(&(vocabulary){.drop_byte = true}, OMNI_ERR_FORMAT, "0x78");
    expect_open(&(vocabulary){.bad_character = true}, OMNI_ERR_FORMAT, "tokens[257]");
    expect_open(&(vocabulary){.bad_merge = true}, OMNI_ERR_FORMAT, "merges[1]");
    expect_open(&(vocabulary){.short_types = true}, OMNI_ERR_FORMAT, "token_type");
    expect_open(&(vocabulary){.bad_eos = true}, OMNI_ERR_FORMAT, "eos_token_id");
}

/* Markup is matched as the `tokenizers` library does it: the first place, and there the longest token, whatever its id; one given twice is the first.
 */
static void the_longest_markup_is_taken(void **state) {
    char path[] = "/tmp/test_tokenizer_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    gguf_writer *w;
    assert_int_equal(gguf_writer_create(path, &w, NULL), OMNI_OK);
    gguf_put_str(w, "general.architecture", "qwen3vlmoe");
    gguf_put_str(w, "tokenizer.ggml.model", "gpt2");
    gguf_put_str(w, "tokenizer.ggml.pre", "qwen2");
    char names[256][4];
    gguf_str tokens[261];
    int32_t types[261];
    for (uint32_t byte = 0, next = 256; byte < 256; byte++) {
        bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
        tokens[byte] = (gguf_str){names[byte], utf8_encode(printable ? byte : next++, names[byte])};
        types[byte] = 1;
    }
    static const char *const added[] = {"<a", "<a>b", "<a>", "a>bcd", "<a>bc<"};
    for (int i = 0; i < 5; i++) {
        tokens[256 + i] = (gguf_str){added[i], strlen(added[i])};
        types[256 + i] = i % 2 ? 4 : 3; /* user defined and control alike */
    }
    gguf_put_strs(w, "tokenizer.ggml.tokens", tokens, 261);
    gguf_put_i32s(w, "tokenizer.ggml.token_type", types, 261);
    gguf_put_strs(w, "tokenizer.ggml.merges", NULL, 0);
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 5);
    assert_int_equal(gguf_writer_begin(w, NULL), OMNI_OK);
    assert_int_equal(gguf_writer_finish(w, NULL), OMNI_OK);
    gguf *g;
    tokenizer *t;
    omni_error err = {0};
    assert_int_equal(gguf_open(path, &g, &err), OMNI_OK);
    if (tokenizer_open(g, &t, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    static const struct {
        const char *text;
        int32_t ids[8];
        size_t count;
    } texts[] = {{"<a>bx", {257, 'x'}, 2},         {"<a>cx", {258, 'c', 'x'}, 3}, {"<ax", {256, 'x'}, 2},         {"<a>bcd", {257, 'c', 'd'}, 3},
                 {"<a>bc<a>", {260, 'a', '>'}, 3}, {"a>bcd<a>b", {259, 257}, 2},  {"<<a>b<a", {'<', 257, 256}, 3}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        token_list ids = {0};
        assert_int_equal(tokenizer_encode(t, TOKENIZE_MARKUP, texts[i].text, strlen(texts[i].text), &ids, &err), OMNI_OK);
        assert_int_equal(ids.count, texts[i].count);
        assert_memory_equal(ids.ids, texts[i].ids, ids.count * sizeof *ids.ids);
        token_list_free(&ids);
    }
    tokenizer_close(t);
    gguf_close(g);
    remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point),
        cmocka_unit_test(the_longest_markup_is_taken),
        cmocka_unit_test(ids_equal_the_reference),
        cmocka_unit_test(decoding_gives_the_text_back),
        cmocka_unit_test(streams_never_split_a_character),
        cmocka_unit_test(vocabulary_look_ups),
        cmocka_unit_test(control_tokens_are_left_out_of_text),
        cmocka_unit_test(merging_is_the_same_for_any_length),
        cmocka_unit_test(tables_have_a_key),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(hostile_text_is_not_slow),
        cmocka_unit_test(unicode_classes_are_the_reference_s),
        cmocka_unit_test(damaged_vocabularies_are_refused),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, set_up, tear_down);
}
