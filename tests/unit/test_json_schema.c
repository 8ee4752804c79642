/* JSON Schemas as grammars: what is accepted and refused follows from the specification (draft 2020-12) and from what json_schema.h says is left out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/grammar_states.h"
#include "text/json_schema.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

static omni_error err;

typedef struct example {
    const char *schema;
    const char *right[10], *wrong[14];
} example;

static const example examples[] = {
    {"{}", {"1", "\"a\"", "null", "[1, {\"a\": []}]", "-0.5e3", "{}"}, {"", "tru", "[1,]", "{a:1}", "01", "\"\n\"", "nan"}},
    {"true", {"true"}, {"x"}},
    {"{\"type\": \"boolean\"}", {"true", "false"}, {"null", "1", "\"true\""}},
    {"{\"type\": [\"null\", \"integer\"]}", {"null", "0", "-12"}, {"1.5", "-0", "true", "00"}},
    {"{\"type\": \"number\"}", {"0", "-1.25", "1e5", "2.5E-3"}, {".5", "1.", "+1", "1e"}},
    {"{\"const\": {\"a\": [1, \"x\\\"y\"]}}", {"{\"a\": [1, \"x\\\"y\"]}"}, {"{}", "{\"a\": [1]}"}},
    {"{\"enum\": [\"a\", 2, null, \"\\u00e4\"]}", {"\"a\"", "2", "null", "\"\xc3\xa4\""}, {"\"b\"", "3", "\"\""}},
    {"{\"enum\": [1, \"a\", \"abc\", 7, 2.5], \"type\": [\"string\", \"integer\"], \"minLength\": 2, \"maximum\": 5}",
     {"1", "\"abc\""},
     {"\"a\"", "7", "2.5"}},
    {"{\"type\": \"string\", \"enum\": [\"a\"], \"description\": \"x\", \"x-order\": 3}", {"\"a\""}, {"\"b\""}},
    /* numbers */
    {"{\"type\": \"integer\", \"minimum\": 0, \"maximum\": 150}",
     {"0", "9", "10", "99", "100", "149", "150"},
     {"151", "-1", "200", "1000", "007", "1.0"}},
    {"{\"type\": \"integer\", \"exclusiveMinimum\": -12, \"exclusiveMaximum\": 7}",
     {"-11", "-10", "-9", "-1", "0", "6"},
     {"-12", "7", "-20", "-0", "10"}},
    {"{\"type\": \"integer\", \"minimum\": 98}", {"98", "99", "100", "123456"}, {"97", "9", "-98", "0"}},
    {"{\"type\": \"integer\", \"maximum\": -5}", {"-5", "-6", "-10", "-99999"}, {"-4", "5", "0"}},
    {"{\"type\": \"integer\", \"minimum\": 1.5, \"maximum\": 3.5}", {"2", "3"}, {"1", "4"}},
    {"{\"type\": \"number\", \"minimum\": 0.1, \"maximum\": 0.25}",
     {"0.1", "0.10", "0.2", "0.25", "0.1001"},
     {"0", "0.09", "0.251", "0.2501", "1", "-0.1"}},
    {"{\"type\": \"number\", \"exclusiveMinimum\": 0, \"maximum\": 10}", {"0.5", "10", "9.9999", "10.0", "0.0001"}, {"0", "0.0", "10.1", "-1", "11"}},
    {"{\"type\": \"number\", \"minimum\": -1.5, \"exclusiveMaximum\": 1}", {"-1.5", "-1.49", "0", "0.99", "-0.5"}, {"-1.51", "1", "1.0", "-2"}},
    {"{\"type\": \"number\", \"minimum\": 5, \"maximum\": 5}", {"5", "5.0"}, {"5.1", "4"}},
    {"{\"type\": \"number\", \"multipleOf\": 1}", {"5"}, {"5.5"}},
    {"{\"minimum\": 3}", {"3", "4.5"}, {"2", "\"a\""}},
    /* strings */
    {"{\"type\": \"string\"}",
     {"\"\"", "\"a \xe2\x82\xac\"", "\"\\n\\\"\\\\\\u00e4\""},
     {"\"", "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\x01\"", "\"\\u0000\""}},
    {"{\"type\": \"string\", \"minLength\": 2, \"maxLength\": 3}",
     {"\"ab\"", "\"\xf0\x9f\x98\x80\xc3\xa4x\"", "\"\\n\\u00e4\""},
     {"\"a\"", "\"abcd\"", "\"\\n\""}},
    {"{\"type\": \"string\", \"pattern\": \"^[0-9]{5}$\"}", {"\"01234\""}, {"\"1234\"", "\"123456\"", "\"a1234\""}},
    {"{\"type\": \"string\", \"pattern\": \"b+\"}", {"\"abc\"", "\"b\"", "\"\\nbb\""}, {"\"\"", "\"ac\""}},
    {"{\"type\": \"string\", \"pattern\": \"^(a|b\\\\.c)?\\\\d\\\\W[^x\\\\\\\\-z]$|^q\"}",
     {"\"a1-A\"", "\"b.c1 [\"", "\"9?\xc3\xa4\"", "\"q!\""},
     {"\"bxc1-A\"", "\"1aA\"", "\"1-x\"", "\"1-w\"", "\"aq\""}},
    {"{\"type\": \"string\", \"pattern\": \"^[\\\"\\\\n\\\\\\\\]$\"}", {"\"\\\"\"", "\"\\n\"", "\"\\\\\""}, {"\"n\"", "\"\"\"", "\"\\u000a\""}},
    {"{\"type\": \"string\", \"pattern\": \"^.{2,}$\", \"minLength\": 1}", {"\"ab\"", "\"abc\""}, {"\"a\"", "\"a\\nb\""}},
    {"{\"type\": \"string\", \"format\": \"date\"}",
     {"\"2024-02-29\"", "\"1999-12-31\"", "\"2000-02-29\"", "\"0001-04-30\""},
     {"\"2023-02-29\"", "\"1900-02-29\"", "\"2023-04-31\"", "\"2023-13-01\"", "\"0000-01-01\"", "\"2023-1-1\""}},
    {"{\"type\": \"string\", \"format\": \"date-time\"}",
     {"\"2024-02-29T23:59:59Z\"", "\"1999-12-31T00:00:00.5+01:30\""},
     {"\"2024-02-29 23:59:59Z\"", "\"2024-02-29T24:00:00Z\"", "\"2024-02-29T10:00:00\""}},
    {"{\"type\": \"string\", \"format\": \"uuid\"}",
     {"\"123e4567-e89b-12d3-a456-426614174000\""},
     {"\"123e4567e89b12d3a456426614174000\"", "\"123e4567-e89b-12d3-a456-42661417400g\""}},
    {"{\"type\": \"string\", \"format\": \"ipv4\"}", {"\"0.0.0.0\"", "\"255.249.10.1\""}, {"\"256.0.0.0\"", "\"1.2.3\"", "\"01.2.3.4\""}},
    {"{\"type\": \"string\", \"format\": \"ipv6\"}",
     {"\"::\"", "\"::1\"", "\"1::\"", "\"1:2:3:4:5:6:7:8\"", "\"1:2::8\"", "\"1:2:3:4:5:6:7::\""},
     {"\":\"", "\"1:2:3:4:5:6:7\"", "\"1::2::3\"", "\"1:2:3:4:5:6:7:8:9\"", "\"12345::\"", "\"1:2:3:4:5:6:7::8\""}},
    {"{\"type\": \"string\", \"format\": \"email\"}", {"\"a.b@c-d.org\""}, {"\"a@\"", "\"@b\"", "\"a b@c\"", "\"a@-b\""}},
    {"{\"type\": \"string\", \"format\": \"uri\"}",
     {"\"https://a.b/c?d=e#f\"", "\"http://x:80/%20\""},
     {"\"a.b\"", "\"http://a b\"", "\"http://x/%2\""}},
    /* arrays */
    {"{\"type\": \"array\", \"items\": {\"type\": \"integer\"}}",
     {"[]", "[1]", "[1,2]", "[1, 2, 3]", "[\n  1\n]"},
     {"[1,]", "[,1]", "[\"a\"]", "[1"}},
    {"{\"type\": \"array\", \"items\": {\"type\": \"integer\"}, \"minItems\": 1, \"maxItems\": 2}", {"[1]", "[1,2]"}, {"[]", "[1,2,3]"}},
    {"{\"type\": \"array\", \"minItems\": 2, \"items\": true}", {"[1,\"a\"]", "[[],{},3]"}, {"[1]"}},
    {"{\"type\": \"array\", \"maxItems\": 0}", {"[]"}, {"[1]"}},
    {"{\"prefixItems\": [{\"type\": \"integer\"}, {\"type\": \"string\"}], \"items\": false}",
     {"[]", "[1]", "[1,\"a\"]"},
     {"[\"a\"]", "[1,2]", "[1,\"a\",3]"}},
    {"{\"prefixItems\": [{\"type\": \"integer\"}, {\"type\": \"string\"}], \"items\": {\"type\": \"null\"}, \"minItems\": 1, \"maxItems\": 4}",
     {"[1]", "[1,\"a\",null]", "[1,\"a\",null,null]"},
     {"[]", "[1,null]", "[1,\"a\",null,null,null]"}},
    {"{\"prefixItems\": [{\"type\": \"integer\"}, false], \"items\": {\"type\": \"null\"}}", {"[]", "[1]"}, {"[1,2]"}},
    /* objects */
    {"{\"type\": \"object\"}", {"{}", "{\"a\": 1}", "{ \"a\":[],\"b\":{} }"}, {"{\"a\"}", "{\"a\":1,}", "[]"}},
    {"{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"type\": \"string\"}}}",
     {"{}", "{\"a\": 1}", "{\"b\":\"x\"}", "{\"a\":1, \"b\":\"x\"}"},
     {"{\"b\":\"x\",\"a\":1}", "{\"a\":\"x\"}", "{\"c\":1}", "{,\"a\":1}", "{\"a\":1 \"b\":\"x\"}"}},
    {"{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"type\": \"null\"}, \"c\": {\"type\": \"null\"}}, "
     "\"required\": [\"b\"]}",
     {"{\"b\":null}", "{\"a\":1,\"b\":null,\"c\":null}", "{\"b\":null,\"c\":null}"},
     {"{}", "{\"a\":1}", "{\"a\":1,\"c\":null}"}},
    {"{\"properties\": {\"ab\": {\"const\": 1}, \"ac\": {\"const\": 2}}, \"additionalProperties\": {\"type\": \"null\"}}",
     {"{}", "{\"ab\":1}", "{\"x\":null}", "{\"ab\":1,\"ac\":2,\"a\":null,\"ad\":null,\"abc\":null,\"\":null}", "{\"\\n\":null}"},
     {"{\"ab\":null}", "{\"ac\":null}", "{\"x\":1}", "{\"a\\u0062\":null}", "{\"x\":null,\"ab\":null}"}},
    {"{\"properties\": {\"\": {\"const\": 1}, \"q\\\"\": {\"const\": 2}}, \"additionalProperties\": true}",
     {"{\"\":1}", "{\"q\\\"\":2}", "{\"q\":0,\"q\\\"x\":0}"},
     {"{\"\":2}", "{\"q\\\"\":3}"}},
    {"{\"required\": [\"z\"]}", {"{\"z\":[]}"}, {"{}", "{\"y\":1}"}},
    {"{\"properties\": {\"a\": false, \"b\": true}, \"additionalProperties\": false}", {"{}", "{\"b\":1}"}, {"{\"a\":1}"}},
    {"{\"properties\": {\"a\": {\"const\": 1}, \"b\": {\"const\": 2}, \"c\": {\"const\": 3}}, \"minProperties\": 2}",
     {"{\"a\":1,\"b\":2}", "{\"a\":1,\"c\":3}", "{\"b\":2,\"c\":3}", "{\"a\":1,\"b\":2,\"c\":3}"},
     {"{}", "{\"a\":1}", "{\"c\":3}"}},
    {"{\"properties\": {\"a\": {\"const\": 1}, \"b\": {\"const\": 2}, \"c\": {\"const\": 3}}, \"maxProperties\": 1}",
     {"{}", "{\"a\":1}", "{\"c\":3}"},
     {"{\"a\":1,\"b\":2}", "{\"b\":2,\"c\":3}"}},
    {"{\"type\": \"object\", \"minProperties\": 1, \"maxProperties\": 2}", {"{\"a\":1}", "{\"a\":1,\"b\":1}"}, {"{}", "{\"a\":1,\"b\":1,\"c\":1}"}},
    /* combinations */
    {"{\"anyOf\": [{\"type\": \"integer\"}, {\"const\": \"x\"}]}", {"1", "\"x\""}, {"\"y\"", "1.5"}},
    {"{\"anyOf\": [{\"required\": [\"a\"]}, {\"required\": [\"b\"]}], \"properties\": {\"a\": {\"const\": 1}, \"b\": {\"const\": 2}}}",
     {"{\"a\":1}", "{\"b\":2}", "{\"a\":1,\"b\":2}"},
     {"{}"}},
    {"{\"allOf\": [{\"minimum\": 3, \"type\": \"number\"}, {\"maximum\": 5, \"type\": \"integer\"}]}", {"3", "5"}, {"2", "6", "3.5"}},
    {"{\"allOf\": [{\"properties\": {\"a\": {\"minimum\": 1}}, \"required\": [\"a\"]}, {\"properties\": {\"a\": {\"type\": \"integer\", \"maximum\": "
     "2}, \"b\": {\"const\": 0}}}]}",
     {"{\"a\":1}", "{\"a\":2,\"b\":0}"},
     {"{\"a\":0}", "{\"a\":3}", "{}"}},
    {"{\"oneOf\": [{\"type\": \"string\"}, {\"type\": \"integer\"}, {\"type\": \"object\", \"properties\": {\"k\": {\"const\": 1}}, \"required\": "
     "[\"k\"]}, {\"type\": \"object\", \"properties\": {\"k\": {\"const\": 2}, \"l\": {}}, \"required\": [\"k\"]}]}",
     {"\"a\"", "1", "{\"k\":1}", "{\"k\":2,\"l\":[]}"},
     {"{\"k\":1,\"l\":1}", "{\"k\":3}", "null"}},
    {"{\"$ref\": \"#/$defs/a~1b\", \"$defs\": {\"a/b\": {\"type\": \"null\"}}}", {"null"}, {"1"}},
    {"{\"properties\": {\"v\": {\"type\": \"integer\"}, \"next\": {\"anyOf\": [{\"$ref\": \"#\"}, {\"type\": \"null\"}]}}, \"required\": [\"v\", "
     "\"next\"]}",
     {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}"},
     {"{\"v\":1,\"next\":1}", "{\"v\":1,\"next\":{\"v\":2}}"}},
    {"{\"$defs\": {\"t\": {\"type\": \"array\", \"items\": {\"$ref\": \"#/$defs/t\"}, \"maxItems\": 2}}, \"allOf\": [{\"$ref\": \"#/$defs/t\"}, "
     "{\"minItems\": 1}]}",
     {"[[]]", "[[[],[[]]]]", "[[],[]]"},
     {"[]", "[1]", "[[],[],[]]"}},
    {"{\"$ref\": \"#/$defs/n\", \"maximum\": 3, \"$defs\": {\"n\": {\"type\": \"integer\", \"minimum\": 2}}}", {"2", "3"}, {"1", "4"}},
};

static bool matches(const grammar *g, const char *text) {
    grammar_states *s = grammar_states_create(g, 32 << 20);
    assert_non_null(s);
    int32_t state = grammar_states_start(s);
    for (const char *c = text; *c && state > 0; c++) {
        state = grammar_states_step(s, state, (uint8_t)*c);
    }
    assert_true(state >= 0);
    const bool whole = state > 0 && grammar_states_ends(s, state);
    grammar_states_free(s);
    return whole;
}

static void test_examples(void **state) {
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        const example *e = &examples[i];
        char *text = NULL;
        grammar *g = NULL;
        if (json_schema_to_grammar(e->schema, strlen(e->schema), &text, &err) != OMNI_OK ||
            grammar_parse(text, strlen(text), NULL, NULL, &g, &err) != OMNI_OK) {
            fail_msg("%s\n%s\n%s", e->schema, err.text, text ? text : "");
        }
        for (size_t k = 0; k < 10 && e->right[k]; k++) {
            if (!matches(g, e->right[k])) {
                fail_msg("%s\nrefused: %s\n%s", e->schema, e->right[k], text);
            }
        }
        for (size_t k = 0; k < 14 && e->wrong[k]; k++) {
            if (matches(g, e->wrong[k])) {
                fail_msg("%s\naccepted: %s\n%s", e->schema, e->wrong[k], text);
            }
        }
        free(text);
        grammar_free(g);
    }
}

static void test_refused(void **state) {
    static const struct {
        const char *schema, *says;
    } wrong[] = {
        {"{\"type\": \"object\", \"properties\": {\"a\": {\"not\": {}}}}", "#/properties/a: \"not\" is not supported"},
        {"{\"if\": {}}", "\"if\" is not supported"},
        {"{\"patternProperties\": {}}", "\"patternProperties\""},
        {"{\"items\": {\"uniqueItems\": true}}", "#/items: \"uniqueItems\" is not supported"},
        {"{\"anyOf\": [{}, {\"contains\": {}}]}", "#/anyOf/1: \"contains\""},
        {"{\"multipleOf\": 0.5}", "\"multipleOf\""},
        {"{\"typo\": 1}", "\"typo\" is not supported"},
        {"{\"type\": \"text\"}", "\"type\" must be"},
        {"{\"minimum\": \"1\"}", "\"minimum\" must be a number"},
        {"{\"minLength\": -1}", "\"minLength\" must be a whole number"},
        {"{\"format\": \"color\"}", "\"format\" is none of"},
        {"{\"pattern\": \"(?=a)\"}", "\"pattern\": at its character 2, looking ahead"},
        {"{\"pattern\": \"a\\\\bc\"}", "this escape is not supported"},
        {"{\"pattern\": \"(\"}", "( is not closed"},
        {"{\"pattern\": \"a)\"}", "no ( for this )"},
        {"{\"pattern\": \"a^b\"}", "^ and $ are supported only"},
        {"{\"pattern\": \"^a+$\", \"maxLength\": 3}", "\"maxLength\" cannot be combined"},
        {"{\"$ref\": \"http://x\"}", "\"$ref\" must be"},
        {"{\"$ref\": \"#/$defs/a\"}", "\"$ref\" points to nothing"},
        {"{\"$ref\": \"#\"}", "refers to itself without end"},
        {"{\"oneOf\": [{\"type\": \"integer\"}, {\"type\": \"number\"}]}", "\"oneOf\" has alternatives that may both be right"},
        {"{\"oneOf\": [{\"properties\": {\"a\": {}}}, {\"properties\": {\"b\": {}}}]}", "\"oneOf\" has alternatives"},
        {"{\"allOf\": [{\"pattern\": \"a\"}, {\"pattern\": \"b\"}]}", "\"pattern\" is asked for twice"},
        {"false", "no value can be right"},
        {"{\"type\": \"integer\", \"minimum\": 3, \"maximum\": 2}", "no value can be right"},
        {"{\"required\": [\"a\"], \"additionalProperties\": false}", "no value can be right"},
        {"{\"allOf\": [{\"type\": \"string\"}, {\"type\": \"integer\"}]}", "no value can be right"},
        {"[]", "a schema must be an object"},
        {"{", "JSON schema"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char *text = NULL;
        const omni_status status = json_schema_to_grammar(wrong[i].schema, strlen(wrong[i].schema), &text, &err);
        if (status == OMNI_OK || text || !strstr(err.text, wrong[i].says)) {
            fail_msg("%s\n%s", wrong[i].schema, status == OMNI_OK ? "accepted" : err.text);
        }
    }
}

/* Names of any length, with short and long ones that they begin with: the other names are told apart from all of them. */
static void test_long_names(void **state) {
    enum { LONG = 1000, ROOM = 4 * LONG };
    char *schema = malloc(ROOM), *name = malloc(LONG + 1), *value = malloc(ROOM);
    memset(name, 'a', LONG);
    name[LONG] = 0;
    snprintf(
        schema, ROOM,
        "{\"properties\": {\"%s\": {\"const\": 1}, \"%.*s\": {\"const\": 1}, \"%.*sb\": {\"const\": 1}}, \"additionalProperties\": {\"const\": 2}}",
        name, LONG / 2, name, LONG / 2, name);
    char *text = NULL;
    grammar *g = NULL;
    assert_int_equal(json_schema_to_grammar(schema, strlen(schema), &text, &err), OMNI_OK);
    assert_int_equal(grammar_parse(text, strlen(text), NULL, NULL, &g, &err), OMNI_OK);
    static const struct {
        int letters;
        const char *end;
        int value;
    } names[] = {{LONG, "", 1},       {LONG / 2, "", 1},     {LONG / 2, "b", 1},     {LONG - 1, "", 2}, {LONG, "a", 2}, {LONG / 2, "c", 2},
                 {LONG / 2, "bb", 2}, {LONG / 2 - 1, "", 2}, {LONG / 2 - 1, "b", 2}, {32, "", 2},       {31, "", 2},    {33, "x", 2},
                 {0, "", 2}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (int v = 1; v <= 2; v++) {
            snprintf(value, ROOM, "{\"%.*s%s\":%d}", names[i].letters, name, names[i].end, v);
            if (matches(g, value) != (v == names[i].value)) {
                fail_msg("%d letters and \"%s\": %d", names[i].letters, names[i].end, v);
            }
        }
    }
    free(text);
    grammar_free(g);
    free(value);
    free(name);
    free(schema);
}

/* What would need a stack as deep as a name is long, or more than the output holds, is refused. */
static void test_too_large(void **state) {
    enum { LONG = 1000000 };
    char *schema = malloc(LONG + 100), *text = NULL;
    size_t n = (size_t)sprintf(schema, "{\"properties\": {\"");
    memset(schema + n, 'a', LONG);
    strcpy(schema + n + LONG, "\": {}}, \"additionalProperties\": {}}");
    assert_int_equal(json_schema_to_grammar(schema, strlen(schema), &text, &err), OMNI_ERR_LIMIT);
    assert_null(text);
    assert_non_null(strstr(err.text, "too large"));
    free(schema);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_examples), cmocka_unit_test(test_refused), cmocka_unit_test(test_long_names),
                                       cmocka_unit_test(test_too_large)};
    return cmocka_run_group_tests_name("json_schema", tests, NULL, NULL);
}
