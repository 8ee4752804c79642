#define _GNU_SOURCE /* strcasestr */
#include "engine/constraint.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/json_schema.h"
#include "text/json_schema_parts.h"
#include "text/json_text.h"

void constraint_cache_init(constraint_cache *c) {
    *c = (constraint_cache){0};
    pthread_mutex_init(&c->lock, NULL);
}

static void empty(struct kept_grammar *k) {
    free(k->key);
    token_grammar_drop(k->g);
    *k = (struct kept_grammar){0};
}

void constraint_cache_free(constraint_cache *c) {
    for (int i = 0; i < CONSTRAINTS_KEPT; i++) {
        empty(&c->kept[i]);
    }
    token_trie_free(c->trie);
    pthread_mutex_destroy(&c->lock);
}

/* With the lock held. */
static token_grammar *find(constraint_cache *c, const char *key) {
    for (int i = 0; i < CONSTRAINTS_KEPT; i++) {
        if (c->kept[i].key && strcmp(c->kept[i].key, key) == 0) {
            c->kept[i].used = ++c->uses;
            return token_grammar_hold(c->kept[i].g);
        }
    }
    return NULL;
}

/* In the place of the one that was not used for the longest time. Another thread may have been faster: then there are two, which does no harm. */
static void keep(constraint_cache *c, const char *key, token_grammar *g) {
    struct kept_grammar *oldest = &c->kept[0];
    char *copy = strdup(key);
    if (!copy) {
        return;
    }
    for (int i = 1; i < CONSTRAINTS_KEPT; i++) {
        oldest = c->kept[i].used < oldest->used ? &c->kept[i] : oldest;
    }
    empty(oldest);
    *oldest = (struct kept_grammar){copy, token_grammar_hold(g), ++c->uses};
}

static omni_status compile(constraint_cache *c, const tokenizer *t, int64_t vocabulary, const char *gbnf, token_grammar **out, omni_error *err) {
    pthread_mutex_lock(&c->lock);
    *out = find(c, gbnf);
    omni_status status = *out || c->trie ? OMNI_OK : token_trie_create(t, vocabulary, &c->trie, err);
    pthread_mutex_unlock(&c->lock);
    if (status != OMNI_OK || *out) {
        return status;
    }
    TRY(token_grammar_create(gbnf, strlen(gbnf), t, c->trie, out, err)); /* others need not wait for it */
    pthread_mutex_lock(&c->lock);
    keep(c, gbnf, *out);
    pthread_mutex_unlock(&c->lock);
    return OMNI_OK;
}

/* ---- tools ---- */

typedef struct tool {
    const char *name;
    const json_t *parameters; /* NULL: none given */
    bool strict;
} tool;

typedef struct toolbox {
    json_t *json; /* what the tools point into */
    tool *list;
    size_t count;
} toolbox;

static void toolbox_free(toolbox *b) {
    json_decref(b->json);
    free(b->list);
}

static omni_status open_toolbox(const chat *c, toolbox *b, omni_error *err) {
    *b = (toolbox){.json = json_array(), .list = calloc(c->tool_count + 1, sizeof *b->list)};
    for (size_t i = 0; b->json && b->list && i < c->tool_count; i++) {
        json_t *one = json_loads(c->tools[i], JSON_ALLOW_NUL, NULL);
        const json_t *function = json_object_get(one, "function");
        function = json_is_object(function) ? function : one;
        const char *name = json_string_value(json_object_get(function, "name"));
        json_array_append_new(b->json, one);
        if (!name) {
            return fail(err, OMNI_ERR_FORMAT, "tools[%zu]: it has no name", i);
        }
        b->list[b->count++] = (tool){name, json_object_get(function, "parameters"), json_is_true(json_object_get(function, "strict"))};
    }
    return b->json && b->list ? OMNI_OK : fail(err, OMNI_ERR_MEMORY, "out of memory for the tools");
}

/* A token of the vocabulary where it is one, else its text. */
static void put_tag(text_buffer *out, const tokenizer *t, const char *tag) {
    if (tokenizer_kind(t, tokenizer_find(t, tag)) == TOKEN_ADDED) {
        text_puts(out, tag);
    } else {
        schema_put_literal(out, tag, strlen(tag));
    }
}

static omni_status put_tool(text_buffer *out, const tokenizer *t, const tool *x, size_t i, bool strict, omni_error *err) {
    char name[48], place[64];
    snprintf(name, sizeof name, "tool%zu", i);
    text_puts(out, name);
    text_puts(out, " ::= ");
    put_tag(out, t, "<tool_call>");
    text_puts(out, " \"\\n{\\\"name\\\": \" ");
    json_t *said = json_string_nocheck(x->name);
    char *text = said ? json_text(said) : NULL;
    json_decref(said);
    if (!text) {
        return fail(err, OMNI_ERR_MEMORY, "out of memory for the tools");
    }
    schema_put_literal(out, text, strlen(text));
    free(text);
    text_puts(out, " \", \\\"arguments\\\": \" ");
    const bool given = strict && x->parameters;
    text_puts(out, given ? name : "json-object");
    text_puts(out, given ? "- \"}\\n\" " : " \"}\\n\" ");
    put_tag(out, t, "</tool_call>");
    text_puts(out, "\n");
    if (!given) {
        return OMNI_OK;
    }
    snprintf(name, sizeof name, "tool%zu-", i);
    snprintf(place, sizeof place, "tools[%zu].function.parameters", i);
    return json_schema_rules(x->parameters, name, place, out, err);
}

/* Any text but one with <tool_call> in it. */
static void put_free_text(text_buffer *out) {
    static const char tag[] = "<tool_call>";
    const int n = (int)sizeof tag - 1;
    text_puts(out, "text ::= [^<] text | \"<\" text1 | \"\"\n");
    for (int i = 1; i < n; i++) {
        char line[160], more[48] = "";
        if (i + 1 < n) {
            snprintf(more, sizeof more, "\"%c\" text%d | ", tag[i], i + 1);
        }
        snprintf(line, sizeof line, "text%d ::= [^<%c] text | %s\"<\" text1 | \"\"\n", i, tag[i], more);
        text_puts(out, line);
    }
}

/* The rule "calls": of all tools, or of the one with that name. */
static omni_status put_calls(text_buffer *out, const tokenizer *t, const toolbox *b, const omni_generate_params *p, omni_error *err) {
    const bool forced = p->tool_choice == OMNI_TOOLS_REQUIRED || p->tool_choice == OMNI_TOOLS_NAMED;
    text_buffer choice = {0};
    omni_status status = OMNI_OK;
    for (size_t i = 0; status == OMNI_OK && i < b->count; i++) {
        if (p->tool_choice == OMNI_TOOLS_NAMED && strcmp(b->list[i].name, p->tool_name) != 0) {
            continue;
        }
        char name[48];
        snprintf(name, sizeof name, "%stool%zu", choice.size > 0 ? " | " : "", i);
        text_puts(&choice, name);
        status = put_tool(out, t, &b->list[i], i, forced || b->list[i].strict, err);
    }
    if (status == OMNI_OK && choice.size == 0) {
        status = forced && p->tool_choice == OMNI_TOOLS_NAMED
                     ? fail(err, OMNI_ERR_ARGUMENT, "tool_choice: there is no tool \"%.60s\"", p->tool_name)
                     : fail(err, OMNI_ERR_ARGUMENT, "tool_choice: a call is asked for, and there are no tools");
    }
    text_puts(out, "call ::= ");
    text_put(out, choice.data ? choice.data : "", choice.size);
    text_puts(out, p->one_tool_call || p->tool_choice == OMNI_TOOLS_NAMED ? "\ncalls ::= call\n" : "\ncalls ::= call (\"\\n\" call)*\n");
    text_buffer_free(&choice);
    return status;
}

static omni_status put_answer(text_buffer *out, const char *schema, omni_error *err) {
    json_t *json = NULL;
    omni_status status = json_schema_load(schema, strlen(schema), &json, err);
    status = status == OMNI_OK ? json_schema_rules(json, "answer-", "JSON schema", out, err) : status;
    json_decref(json);
    return status;
}

static bool any_strict(const toolbox *b) {
    for (size_t i = 0; i < b->count; i++) {
        if (b->list[i].strict) {
            return true;
        }
    }
    return false;
}

/* The grammar's text, if there is anything to say: *out stays empty otherwise. */
static omni_status write_grammar(text_buffer *out, const tokenizer *t, const toolbox *b, const omni_generate_params *p, omni_error *err) {
    const bool forced = p->tool_choice == OMNI_TOOLS_REQUIRED || p->tool_choice == OMNI_TOOLS_NAMED;
    const bool may_call = b->count > 0 && p->tool_choice == OMNI_TOOLS_AUTO && (p->json_schema || any_strict(b));
    const bool refused = b->count > 0 && p->tool_choice == OMNI_TOOLS_NONE;
    if (forced && (p->grammar || p->json_schema)) {
        return fail(err, OMNI_ERR_ARGUMENT, "tool_choice: a call cannot be asked for together with a grammar or a schema of the answer");
    }
    if (p->grammar) {
        text_puts(out, p->grammar);
        return OMNI_OK;
    }
    if (forced || may_call) {
        TRY(put_calls(out, t, b, p, err));
    }
    if (p->json_schema) {
        TRY(put_answer(out, p->json_schema, err));
        text_puts(out, may_call ? "root ::= answer- | calls\n" : "root ::= answer-\n");
    } else if (forced) {
        text_puts(out, "root ::= calls\n");
    } else if (may_call || refused) {
        put_free_text(out);
        text_puts(out, may_call ? "root ::= text calls?\n" : "root ::= text\n");
    }
    if (out->size > 0) {
        json_schema_common(out);
    }
    return out->failed ? fail(err, OMNI_ERR_MEMORY, "out of memory for a grammar") : OMNI_OK;
}

omni_status constraint_open(constraint_cache *c, const tokenizer *t, int64_t vocabulary, const chat *tools, const omni_generate_params *p,
                            token_grammar **out, omni_error *err) {
    toolbox b = {0};
    text_buffer text = {0};
    *out = NULL;
    if (p->grammar && p->json_schema) {
        return fail(err, OMNI_ERR_ARGUMENT, "an answer follows a grammar or a JSON schema, not both");
    }
    if ((unsigned)p->tool_choice > OMNI_TOOLS_NAMED || (p->tool_choice == OMNI_TOOLS_NAMED && !p->tool_name)) {
        return fail(err, OMNI_ERR_ARGUMENT, "tool_choice is %d, which is none of omni_tool_choice, or tool_name is missing", (int)p->tool_choice);
    }
    omni_status status = open_toolbox(tools, &b, err);
    status = status == OMNI_OK ? write_grammar(&text, t, &b, p, err) : status;
    if (status == OMNI_OK && text.size > 0) {
        status = compile(c, t, vocabulary, text.data, out, err);
        if ((status == OMNI_ERR_FORMAT || status == OMNI_ERR_LIMIT) && !p->grammar) { /* the caller has not seen this grammar */
            status = fail_in(err, status, p->json_schema ? "the JSON schema as a grammar" : "the tools' parameters as a grammar");
        }
    }
    toolbox_free(&b);
    text_buffer_free(&text);
    return status;
}

omni_status constraint_model_reasons(gguf *g, bool *out, omni_error *err) {
    /* The template of a checkpoint that always reasons opens <think> in its answer; one that may do so opens and closes it at wish. */
    static const char opens[] = "<|im_start|>assistant\\n<think>\\n'";
    const char *name = "", *layout = "";
    TRY(gguf_maybe_str(g, "general.name", "", &name, err));
    TRY(gguf_maybe_str(g, "tokenizer.chat_template", "", &layout, err));
    *out = strcasestr(name, "thinking") != NULL || strstr(layout, opens) != NULL;
    return OMNI_OK;
}
