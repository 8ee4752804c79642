/* Answers under a grammar, through the engine: alone and many at once, with a caller's mask, with what other texts ask of an answer. On the tiny
 * model, which would say anything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "omni.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

#define MODELS TEST_DATA "/../../models"

static omni_model *model;
static omni_engine *engine;
static omni_error err;

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

static int set_up(void **state) {
    omni_model_params p = omni_model_params_default();
    p.model = MODELS "/tiny/qwen3-omni-f16.gguf";
    p.threads = 1;
    must(omni_model_open(&p, &model, &err));
    omni_engine_params e = omni_engine_params_default();
    e.parallel = 4;
    must(omni_engine_create(model, &e, &engine, &err));
    return 0;
}

static int tear_down(void **state) {
    omni_engine_destroy(engine);
    omni_model_close(model);
    return 0;
}

static omni_request *ask(const char *question, const omni_generate_params *p) {
    omni_conversation *c;
    omni_request *r;
    omni_part part = {.kind = OMNI_TEXT, .text = question};
    must(omni_conversation_create(model, NULL, &c, &err));
    must(omni_conversation_add(c, &(omni_message){OMNI_USER, &part, 1}, &err));
    must(omni_request_submit(engine, c, p, &r, &err));
    omni_conversation_free(c);
    return r;
}

typedef struct reply {
    char text[4096];
    omni_status status;
    omni_error err;
    omni_result result;
} reply;

static void read_reply(omni_request *r, reply *out) {
    omni_event e = {.kind = OMNI_EVENT_TEXT};
    *out = (reply){0};
    while (e.kind != OMNI_EVENT_DONE) {
        if (omni_request_next(r, -1, &e) && e.kind == OMNI_EVENT_TEXT) {
            strncat(out->text, e.text, e.size);
        }
    }
    out->status = e.status;
    out->result = *e.result;
    if (e.status != OMNI_OK) {
        out->err = *e.error;
    }
    omni_request_free(r);
}

static void test_grammar(void **state) {
    omni_generate_params p = omni_generate_params_default();
    p.grammar = "root ::= (\"yes\" | \"no\") \", \" [0-9]{3} \"!\"";
    p.text.temperature = 3;
    p.text.top_k = 0;
    p.text.top_p = 1;
    omni_request *r[12];
    reply got;
    for (int i = 0; i < 12; i++) {
        p.seed = (uint64_t)i;
        r[i] = ask(i % 2 ? "Well?" : "Yes or no?", &p);
    }
    for (int i = 0; i < 12; i++) {
        read_reply(r[i], &got);
        assert_int_equal(got.status, OMNI_OK);
        assert_int_equal(got.result.finish, OMNI_FINISH_STOP);
        const char *rest = strncmp(got.text, "yes, ", 5) == 0 ? got.text + 5 : got.text + 4;
        assert_true(rest == got.text + 5 || strncmp(got.text, "no, ", 4) == 0);
        assert_int_equal(strspn(rest, "0123456789"), 3);
        assert_string_equal(rest + 3, "!");
    }
}

/* The one grammar is compiled once, whoever asks for it. */
static void test_shared(void **state) {
    omni_generate_params p = omni_generate_params_default();
    p.grammar = "root ::= \"shared\"";
    omni_request *a = ask("A?", &p), *b = ask("B?", &p);
    int kept = 0;
    for (int i = 0; i < CONSTRAINTS_KEPT; i++) {
        kept += model->constraints.kept[i].key && strcmp(model->constraints.kept[i].key, p.grammar) == 0;
    }
    assert_int_equal(kept, 1);
    for (int i = 0; i < 3 * CONSTRAINTS_KEPT; i++) { /* it is crowded out while it is in use */
        char text[64], wanted[16];
        reply got;
        snprintf(wanted, sizeof wanted, "%d.", i);
        snprintf(text, sizeof text, "root ::= \"%s\"", wanted);
        p.grammar = text;
        read_reply(ask("Number?", &p), &got);
        assert_string_equal(got.text, wanted);
    }
    reply got;
    read_reply(a, &got);
    assert_string_equal(got.text, "shared");
    read_reply(b, &got);
    assert_string_equal(got.text, "shared");
}

/* Takes away every token with a digit but 7 in it. */
static bool only_seven(void *arg, const int32_t *answer, size_t count, uint32_t *bits) {
    const tokenizer *t = model->tokenizer;
    for (int32_t id = 0; id < (int32_t)tokenizer_size(t); id++) {
        size_t size;
        const char *s = tokenizer_piece(t, id, &size);
        for (size_t i = 0; i < size; i++) {
            if (s[i] >= '0' && s[i] <= '9' && s[i] != *(const char *)arg) {
                bits[id / 32] &= ~(1u << (id % 32));
            }
        }
    }
    return true;
}

static void test_mask_besides(void **state) {
    omni_generate_params p = omni_generate_params_default();
    reply got;
    char digit = '7';
    p.grammar = "root ::= [0-9]{4} \".\"";
    p.mask = only_seven;
    p.mask_arg = &digit;
    read_reply(ask("A number?", &p), &got);
    assert_string_equal(got.text, "7777.");
    p.grammar = "root ::= [0-8]{4} \".\"";
    digit = '9';
    read_reply(ask("A number?", &p), &got);
    assert_int_equal(got.status, OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(got.err.text, "mask, grammar and logit bias"));
}

/* What ends an answer before its grammar does, and what goes on behind it. */
static void test_ends(void **state) {
    omni_generate_params p = omni_generate_params_default();
    reply got;
    static const char *const stop[] = {"cd"};
    p.grammar = "root ::= \"abcdef\"";
    p.stop = stop;
    p.stop_count = 1;
    read_reply(ask("Letters?", &p), &got);
    assert_string_equal(got.text, "ab");
    p.stop_count = 0;
    p.max_tokens = 2;
    read_reply(ask("Letters?", &p), &got);
    assert_true(strlen(got.text) >= 2 && strlen(got.text) < 6 && strncmp(got.text, "abcdef", strlen(got.text)) == 0);
    assert_int_equal(got.result.finish, OMNI_FINISH_LENGTH);
    p.ignore_eos = true;
    p.max_tokens = 12;
    read_reply(ask("Letters?", &p), &got);
    assert_int_equal(strncmp(got.text, "abcdef", 6), 0);
    assert_int_equal(got.result.answer_tokens, 12);
}

static void test_refused(void **state) {
    omni_generate_params p = omni_generate_params_default();
    omni_conversation *c;
    omni_request *r;
    omni_part part = {.kind = OMNI_TEXT, .text = "Well?"};
    must(omni_conversation_create(model, NULL, &c, &err));
    must(omni_conversation_add(c, &(omni_message){OMNI_USER, &part, 1}, &err));
    p.grammar = "root ::= rot";
    assert_int_equal(omni_request_submit(engine, c, &p, &r, &err), OMNI_ERR_FORMAT);
    assert_null(r);
    assert_non_null(strstr(err.text, "line 1, column 10: there is no rule \"rot\""));
    p.grammar = "root ::= \"fine\"";
    must(omni_request_submit(engine, c, &p, &r, &err)); /* nothing was left behind */
    reply got;
    read_reply(r, &got);
    assert_string_equal(got.text, "fine");
    omni_conversation_free(c);
}

/* ---- schemas and tools, as requests in JSON ask for them ---- */

static const char tools[] =
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"paint\", \"strict\": true, \"parameters\": {\"type\": \"object\", "
    "\"properties\": {\"color\": {\"enum\": [\"red\", \"blue\"]}}, \"required\": [\"color\"], \"additionalProperties\": false}}}, "
    "{\"type\": \"function\", \"function\": {\"name\": \"wait\"}}]";

typedef struct called {
    char text[4096], names[256], arguments[4096];
    int calls;
    omni_status status;
    omni_finish finish;
} called;

/* Asks with what stands beside the messages. */
static omni_status ask_json(const char *beside, uint64_t seed, called *got) {
    char json[4096];
    omni_conversation *c;
    omni_request *r = NULL;
    omni_generate_params p = omni_generate_params_default();
    p.seed = seed;
    p.max_tokens = 300;
    p.tool_calls_apart = true;
    p.text.temperature = 2;
    snprintf(json, sizeof json, "{\"messages\": [{\"role\": \"user\", \"content\": \"Well?\"}], %s}", beside);
    must(omni_conversation_create(model, NULL, &c, &err));
    omni_status status = omni_conversation_add_request(c, json, strlen(json), &p, &err);
    status = status == OMNI_OK ? omni_request_submit(engine, c, &p, &r, &err) : status;
    omni_conversation_free(c); /* and the texts of its request with it: the engine has copies of what it needs */
    *got = (called){.status = status};
    omni_event e = {.kind = OMNI_EVENT_TEXT};
    while (r && e.kind != OMNI_EVENT_DONE) {
        if (!omni_request_next(r, -1, &e)) {
            continue;
        }
        if (e.kind == OMNI_EVENT_TEXT) {
            strncat(got->text, e.text, e.size);
        } else if (e.kind == OMNI_EVENT_TOOL_CALL) {
            got->calls++;
            snprintf(got->names + strlen(got->names), sizeof got->names - strlen(got->names), "%s ", e.name);
            snprintf(got->arguments, sizeof got->arguments, "%s", e.text);
        }
    }
    if (r) {
        got->status = e.status;
        got->finish = e.result->finish;
        omni_request_free(r);
    }
    return got->status;
}

static void test_schema(void **state) {
    called got;
    int ended = 0;
    for (uint64_t seed = 0; seed < 8; seed++) {
        must(ask_json(
            "\"response_format\": {\"type\": \"json_schema\", \"json_schema\": {\"name\": \"n\", \"schema\": {\"type\": \"array\", \"items\": "
            "{\"type\": \"integer\", \"minimum\": 0, \"maximum\": 9}, \"minItems\": 2, \"maxItems\": 2}}}",
            seed, &got));
        int a = -1, b = -1, read = 0;
        if (got.finish == OMNI_FINISH_STOP) {
            assert_int_equal(sscanf(got.text, " [ %d , %d ]%n", &a, &b, &read), 2);
            assert_true(a >= 0 && a <= 9 && b >= 0 && b <= 9 && (size_t)read == strlen(got.text));
            ended++;
        }
    }
    assert_true(ended >= 6);
    must(ask_json("\"response_format\": {\"type\": \"json_object\"}", 1, &got));
    assert_int_equal(got.text[0], '{');
    must(ask_json("\"grammar\": \"root ::= \\\"x\\\"{3}\"", 1, &got));
    assert_string_equal(got.text, "xxx");
    must(ask_json("\"json_schema\": {\"const\": 7}", 1, &got));
    assert_string_equal(got.text, "7");
    must(ask_json("\"response_format\": {\"type\": \"text\"}, \"max_tokens\": 3", 1, &got));
    static const struct {
        const char *beside, *says;
    } wrong[] = {
        {"\"response_format\": {\"type\": \"xml\"}", "response_format"},
        {"\"response_format\": {\"type\": \"json_schema\"}", "response_format"},
        {"\"grammar\": \"root ::= \\\"a\\\"\", \"json_schema\": {}", "cannot act beside"},
        {"\"json_schema\": {\"not\": {}}", "\"not\" is not supported"},
        {"\"json_schema\": {\"properties\": {\"a\": {\"$ref\": \"#\"}}, \"required\": [\"a\"]}", "the JSON schema as a grammar: grammar, line"},
        {"\"grammar\": 3", "\"grammar\" must be a text"},
        {"\"tool_choice\": \"required\"", "there are no tools"},
        {"\"tool_choice\": \"perhaps\"", "tool_choice"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_not_equal(ask_json(wrong[i].beside, 1, &got), OMNI_OK);
        if (!strstr(err.text, wrong[i].says)) {
            fail_msg("%s: %s", wrong[i].beside, err.text);
        }
    }
}

static void test_tools(void **state) {
    called got;
    char beside[2048];
    int painted = 0;
    for (uint64_t seed = 0; seed < 12; seed++) {
        snprintf(beside, sizeof beside, "%s, \"tool_choice\": \"required\", \"parallel_tool_calls\": false", tools);
        must(ask_json(beside, seed, &got));
        if (got.finish == OMNI_FINISH_STOP) {
            assert_string_equal(got.text, "");
            assert_int_equal(got.calls, 1);
        }
        snprintf(beside, sizeof beside, "%s, \"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"paint\"}}", tools);
        must(ask_json(beside, seed, &got));
        if (got.finish == OMNI_FINISH_STOP) {
            assert_string_equal(got.names, "paint ");
            assert_true(strcmp(got.arguments, "{\"color\": \"red\"}") == 0 || strcmp(got.arguments, "{\"color\": \"blue\"}") == 0);
            painted++;
        }
        snprintf(beside, sizeof beside, "%s, \"tool_choice\": \"none\"", tools);
        must(ask_json(beside, seed, &got));
        assert_int_equal(got.calls, 0);
        assert_null(strstr(got.text, "<tool_call>"));
        snprintf(beside, sizeof beside, "%s, \"json_schema\": {\"const\": 5}", tools);
        must(ask_json(beside, seed, &got));
        if (got.finish == OMNI_FINISH_STOP) {
            assert_true((strcmp(got.text, "5") == 0) == (got.calls == 0));
        }
    }
    assert_true(painted >= 6);
    snprintf(beside, sizeof beside, "%s, \"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"fly\"}}", tools);
    assert_int_equal(ask_json(beside, 1, &got), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "there is no tool \"fly\""));
}

int main(void) {
    const struct CMUnitTest tests_of_ours[] = {
        cmocka_unit_test(test_grammar), cmocka_unit_test(test_shared), cmocka_unit_test(test_mask_besides), cmocka_unit_test(test_ends),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_schema), cmocka_unit_test(test_tools),
    };
    return cmocka_run_group_tests_name("constraint", tests_of_ours, set_up, tear_down);
}
