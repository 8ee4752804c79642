#include "convert/vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/json_fields.h"

/* The pattern that GGUF files name "qwen2" (tokenizer.ggml.pre). */
static const char QWEN2_PATTERN[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
                                    "|\\s+(?!\\S)|\\s+";

static omni_status no_memory(const char *dir, omni_error *err) {
    return fail(err, OMNI_ERR_MEMORY, "%s: out of memory for the vocabulary", dir);
}

static gguf_str str(const char *s) {
    return (gguf_str){s, strlen(s)};
}

/* Puts a token at its id; an id twice or beyond the table is an error. */
static void place(json_reader *r, vocabulary *v, const char *token, json_int_t id, int32_t type) {
    if (r->status != OMNI_OK) {
        return;
    }
    if (id < 0 || (uint64_t)id >= v->count) {
        r->status = fail(r->err, OMNI_ERR_FORMAT, "%s: token \"%.60s\" has the id %lld; config.json's vocab_size is %zu", r->file, token,
                         (long long)id, v->count);
    } else if (v->tokens[id].data && strcmp(v->tokens[id].data, token) != 0) {
        r->status =
            fail(r->err, OMNI_ERR_FORMAT, "%s: id %lld belongs to \"%.60s\" and to \"%.60s\"", r->file, (long long)id, v->tokens[id].data, token);
    } else {
        v->tokens[id] = str(token);
        v->types[id] = type;
    }
}

static void place_all(json_reader *r, vocabulary *v, const json_t *vocab) {
    const char *token;
    json_t *id;
    json_object_foreach((json_t *)vocab, token, id) {
        if (!json_is_integer(id)) {
            r->status = fail(r->err, OMNI_ERR_FORMAT, "%s: the id of token \"%.60s\" is no integer", r->file, token);
            return;
        }
        place(r, v, token, json_integer_value(id), TOKEN_NORMAL);
    }
}

/* An added token: control when it is marked special or looks like markup, as the ecosystem's converters have it. */
static void place_added(json_reader *r, vocabulary *v, const json_t *added, json_int_t id) {
    const char *content = json_string_value(json_object_get(added, "content"));
    if (!content || !*content) {
        r->status = fail(r->err, OMNI_ERR_FORMAT, "%s: the added token with the id %lld has no content", r->file, (long long)id);
        return;
    }
    size_t n = strlen(content);
    bool markup = n > 4 && strncmp(content, "<|", 2) == 0 && strcmp(content + n - 2, "|>") == 0;
    place(r, v, content, id, json_is_true(json_object_get(added, "special")) || markup ? TOKEN_CONTROL : TOKEN_USER_DEFINED);
}

/* Merges as ["a", "b"] or "a b". */
static omni_status read_merges(json_reader *r, vocabulary *v, const json_t *merges) {
    size_t n = json_array_size(merges), bytes = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(merges, i);
        bytes +=
            json_is_string(m) ? json_string_length(m) + 1 : json_string_length(json_array_get(m, 0)) + json_string_length(json_array_get(m, 1)) + 2;
    }
    v->merges = calloc(n ? n : 1, sizeof *v->merges);
    char *at = v->memory[0] = malloc(bytes ? bytes : 1);
    if (!v->merges || !at) {
        return no_memory(r->file, r->err);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(merges, i);
        const char *whole = json_string_value(m), *left = json_string_value(json_array_get(m, 0)), *right = json_string_value(json_array_get(m, 1));
        if (whole) {
            strcpy(at, whole);
        } else if (left && right && json_array_size(m) == 2) {
            sprintf(at, "%s %s", left, right);
        } else {
            return fail(r->err, OMNI_ERR_FORMAT, "%s: merge %zu is no pair of strings", r->file, i);
        }
        const char *space = strchr(at, ' ');
        if (!space || space == at || !space[1] || strchr(space + 1, ' ')) {
            return fail(r->err, OMNI_ERR_FORMAT, "%s: merge %zu, \"%.60s\", is not two pieces with one space between", r->file, i, at);
        }
        v->merges[v->n_merges++] = str(at);
        at += strlen(at) + 1;
    }
    return OMNI_OK;
}

/* The steps before the byte-pair merges must be the ones that "qwen2" stands for in a GGUF file. */
static void check_steps(json_reader *r, const json_t *root) {
    const json_t *normalizer = json_object_get(root, "normalizer"), *pre = json_object_get(root, "pre_tokenizer");
    const char *form = json_string_value(json_object_get(normalizer, "type"));
    if (!form || strcmp(form, "NFC") != 0) {
        r->status = fail(r->err, OMNI_ERR_UNSUPPORTED, "%s: the normalizer is %.60s; only NFC is supported", r->file, form ? form : "missing");
        return;
    }
    const json_t *steps = json_object_get(pre, "pretokenizers");
    for (size_t i = 0; i < json_array_size(steps); i++) {
        const char *pattern = json_string_value(json_object_get(json_object_get(json_array_get(steps, i), "pattern"), "Regex"));
        if (pattern && strcmp(pattern, QWEN2_PATTERN) == 0) {
            return;
        }
    }
    r->status = fail(r->err, OMNI_ERR_UNSUPPORTED, "%s: the pre-tokenizer's pattern is not Qwen2's, the only one supported", r->file);
}

static void read_tokenizer_json(json_reader *r, const vocabulary_texts *t, vocabulary *v) {
    json_t *root = v->json[0] = json_parse_object(r, t->tokenizer_json, t->tokenizer_json_size);
    if (!root) {
        return;
    }
    json_section top = json_root(root), model = json_object_at(r, &top, "model", false), vocab = json_object_at(r, &model, "vocab", false);
    const char *type = json_maybe_string(r, &model, "type");
    if (type && strcmp(type, "BPE") != 0) {
        json_fail(r, &model, "type", "\"%.60s\" is not supported; this model uses \"BPE\"", type);
    }
    const json_t *merges = json_get(&model, "merges"), *added = json_get(&top, "added_tokens");
    if (r->status == OMNI_OK && !json_is_array(merges)) {
        json_fail(r, &model, "merges", "must be a list");
    }
    if (r->status == OMNI_OK) {
        check_steps(r, root);
    }
    if (r->status != OMNI_OK) {
        return;
    }
    place_all(r, v, vocab.json);
    for (size_t i = 0; r->status == OMNI_OK && i < json_array_size(added); i++) {
        const json_t *a = json_array_get(added, i), *id = json_object_get(a, "id");
        if (!json_is_integer(id)) {
            json_fail(r, &top, "added_tokens", "entry %zu has no id", i);
        } else {
            place_added(r, v, a, json_integer_value(id));
        }
    }
    if (r->status == OMNI_OK) {
        r->status = read_merges(r, v, merges);
    }
}

/* merges.txt: a pair a line, after an optional "#version" line; a line ends with CR, LF or both. */
static omni_status read_merges_txt(const vocabulary_texts *t, const char *dir, vocabulary *v, omni_error *err) {
    char *text = v->memory[0] = malloc(t->merges_txt_size + 1);
    size_t lines = 1;
    for (size_t i = 0; i < t->merges_txt_size; i++) {
        lines += t->merges_txt[i] == '\n' || t->merges_txt[i] == '\r';
    }
    v->merges = calloc(lines, sizeof *v->merges);
    if (!text || !v->merges) {
        return no_memory(dir, err);
    }
    memcpy(text, t->merges_txt, t->merges_txt_size);
    text[t->merges_txt_size] = '\0';
    char *save = NULL;
    size_t n = 0;
    for (char *line = strtok_r(text, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
        if (n++ == 0 && strncmp(line, "#version", 8) == 0) {
            continue;
        }
        const char *space = strchr(line, ' ');
        if (!space || space == line || !space[1] || strchr(space + 1, ' ')) {
            return fail(err, OMNI_ERR_FORMAT, "%s/merges.txt: line %zu, \"%.60s\", is not two pieces with one space between", dir, n, line);
        }
        v->merges[v->n_merges++] = str(line);
    }
    return OMNI_OK;
}

static void read_separate_files(json_reader *r, const vocabulary_texts *t, const char *dir, vocabulary *v) {
    if (!t->vocab_json || !t->merges_txt || !t->tokenizer_config) {
        r->status = fail(r->err, OMNI_ERR_FORMAT,
                         "%s: no tokenizer: neither tokenizer.json nor vocab.json, merges.txt and tokenizer_config.json together are there", dir);
        return;
    }
    r->file = "vocab.json";
    v->json[0] = json_parse_object(r, t->vocab_json, t->vocab_json_size);
    if (!v->json[0]) {
        return;
    }
    place_all(r, v, v->json[0]);
    r->file = "tokenizer_config.json";
    const char *key;
    json_t *added;
    json_object_foreach(json_object_get(v->json[1], "added_tokens_decoder"), key, added) {
        if (r->status == OMNI_OK) {
            char *end;
            long long id = strtoll(key, &end, 10);
            place_added(r, v, added, *end || end == key ? -1 : id);
        }
    }
    if (r->status == OMNI_OK) {
        r->status = read_merges_txt(t, dir, v, r->err);
    }
}

/* A template may be a string, or a list of named ones. */
static const char *template_in(const json_t *v) {
    if (json_is_string(v)) {
        return json_string_value(v);
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *entry = json_array_get(v, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0) {
            return json_string_value(json_object_get(entry, "template"));
        }
    }
    return NULL;
}

static void read_chat_template(json_reader *r, const vocabulary_texts *t, vocabulary *v) {
    if (t->chat_jinja) {
        if (!(v->memory[1] = strndup(t->chat_jinja, t->chat_jinja_size))) {
            r->status = no_memory("chat_template.jinja", r->err);
        }
        v->chat_template = v->memory[1];
        return;
    }
    if (t->chat_json) {
        r->file = "chat_template.json";
        v->json[2] = json_parse_object(r, t->chat_json, t->chat_json_size);
        v->chat_template = template_in(json_object_get(v->json[2], "chat_template"));
    }
    if (!v->chat_template) {
        v->chat_template = template_in(json_object_get(v->json[1], "chat_template"));
    }
}

/* Rows beyond the tokenizer get a name of their own: llama.cpp wants every row named, and names must differ. */
static omni_status name_unused_rows(vocabulary *v, const char *dir, omni_error *err) {
    size_t unused = 0;
    enum { NAME_SIZE = 24 };
    for (size_t i = 0; i < v->count; i++) {
        unused += !v->tokens[i].data;
    }
    if (unused == v->count) {
        return fail(err, OMNI_ERR_FORMAT, "%s: the tokenizer has no tokens", dir);
    }
    char *at = v->memory[2] = malloc(unused * NAME_SIZE + 1);
    if (!at) {
        return no_memory(dir, err);
    }
    for (size_t i = 0; i < v->count; i++) {
        if (!v->tokens[i].data) {
            int n = snprintf(at, NAME_SIZE, "[PAD%zu]", i);
            v->tokens[i] = (gguf_str){at, (size_t)n};
            v->types[i] = TOKEN_UNUSED;
            at += NAME_SIZE;
        }
    }
    return OMNI_OK;
}

omni_status vocabulary_parse(const vocabulary_texts *t, uint32_t rows, const char *dir, vocabulary *out, omni_error *err) {
    *out = (vocabulary){.count = rows, .padding_id = UINT32_MAX};
    out->tokens = calloc(rows, sizeof *out->tokens);
    out->types = calloc(rows, sizeof *out->types);
    if (!out->tokens || !out->types) {
        return no_memory(dir, err);
    }
    json_reader r = {.file = "tokenizer_config.json", .err = err};
    if (t->tokenizer_config) {
        out->json[1] = json_parse_object(&r, t->tokenizer_config, t->tokenizer_config_size);
    }
    if (r.status == OMNI_OK && t->tokenizer_json) {
        r.file = "tokenizer.json";
        read_tokenizer_json(&r, t, out);
    } else if (r.status == OMNI_OK) {
        read_separate_files(&r, t, dir, out);
    }
    if (r.status == OMNI_OK) {
        read_chat_template(&r, t, out);
    }
    if (r.status != OMNI_OK) {
        return fail_in(err, r.status, "%s", dir);
    }
    TRY(name_unused_rows(out, dir, err));
    const json_t *pad = json_object_get(out->json[1], "pad_token");
    const char *padding = json_is_object(pad) ? json_string_value(json_object_get(pad, "content")) : json_string_value(pad);
    out->padding_id = vocabulary_find(out, padding ? padding : "<|endoftext|>");
    return OMNI_OK;
}

uint32_t vocabulary_find(const vocabulary *v, const char *token) {
    size_t n = strlen(token);
    for (size_t i = 0; i < v->count; i++) {
        if (v->tokens[i].size == n && memcmp(v->tokens[i].data, token, n) == 0) {
            return (uint32_t)i;
        }
    }
    return UINT32_MAX;
}

void vocabulary_free(vocabulary *v) {
    free(v->tokens);
    free(v->types);
    free(v->merges);
    for (size_t i = 0; i < sizeof v->json / sizeof *v->json; i++) {
        json_decref(v->json[i]);
    }
    for (size_t i = 0; i < sizeof v->memory / sizeof *v->memory; i++) {
        free(v->memory[i]);
    }
    *v = (vocabulary){0};
}
