/* Conversations given as JSON: the forms that are taken, and errors that say what is wrong and where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/base64.h"
#include "text/json_text.h"
#include "text/messages.h"

#include <cmocka.h> /* last: it has a macro named fail */

static message_limits limits;

static int set_up(void **state) {
    limits = message_limits_default();
    return 0;
}

static chat parse(const char *json, message_options *options) {
    chat c = {0};
    omni_error err = {0};
    if (messages_parse(json, strlen(json), &limits, &c, options, &err) != OMNI_OK) {
        fail_msg("%s", err.text);
    }
    return c;
}

static void text_in_all_its_forms(void **state) {
    message_options options;
    chat c = parse("[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"developer\",\"content\":[\"a\",{\"type\":\"text\",\"text\":\"b\\u0000c\"}]},"
                   "{\"role\":\"user\",\"content\":\"\"},{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"T\"}]",
                   &options);
    static const chat_role roles[] = {CHAT_SYSTEM, CHAT_SYSTEM, CHAT_USER, CHAT_TOOL};
    assert_int_equal(c.count, 4);
    for (size_t i = 0; i < c.count; i++) {
        assert_int_equal(c.messages[i].role, roles[i]);
    }
    assert_string_equal(c.messages[0].parts[0].text, "S");
    assert_int_equal(c.messages[1].part_count, 2);
    assert_int_equal(c.messages[1].parts[1].size, 3);
    assert_memory_equal(c.messages[1].parts[1].text, "b\0c", 4);
    assert_int_equal(c.messages[2].part_count, 0);
    assert_false(options.has_fps || options.has_use_audio_in_video);
    chat_free(&c);
}

static void media_in_all_their_forms(void **state) {
    chat c =
        parse("{\"messages\":[{\"role\":\"user\",\"content\":["
              "{\"type\":\"image\",\"path\":\"http://odd "
              "name.png\"},{\"type\":\"image\",\"image\":\"b.png\"},{\"type\":\"audio\",\"audio\":\"file:///c.wav\"},"
              "{\"type\":\"video\",\"video\":\"d.mp4\"},{\"type\":\"image_url\",\"image_url\":\"e.png\"},"
              "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,aGVs\\nbG8=\"}},"
              "{\"type\":\"input_audio\",\"input_audio\":{\"data\":\"AAEC\",\"format\":\"wav\"}},"
              "{\"type\":\"audio_url\",\"audio_url\":{\"url\":\"data:;base64,/w\"}},{\"type\":\"video_url\",\"video_url\":{\"url\":\"f.mkv\"}}]}]}",
              NULL);
    static const struct {
        chat_kind kind;
        const char *path, *data;
        size_t size;
    } want[] = {{CHAT_IMAGE, "http://odd name.png", NULL, 0},
                {CHAT_IMAGE, "b.png", NULL, 0},
                {CHAT_AUDIO, "/c.wav", NULL, 0},
                {CHAT_VIDEO, "d.mp4", NULL, 0},
                {CHAT_IMAGE, "e.png", NULL, 0},
                {CHAT_IMAGE, NULL, "hello", 5},
                {CHAT_AUDIO, NULL, "\0\1\2", 3},
                {CHAT_AUDIO, NULL, "\xFF", 1},
                {CHAT_VIDEO, "f.mkv", NULL, 0}};
    assert_int_equal(c.messages[0].part_count, sizeof want / sizeof *want);
    for (size_t i = 0; i < c.messages[0].part_count; i++) {
        const chat_part *p = &c.messages[0].parts[i];
        assert_int_equal(p->kind, want[i].kind);
        assert_int_equal(p->size, want[i].size);
        if (want[i].path) {
            assert_string_equal(p->path, want[i].path);
        } else {
            assert_memory_equal(p->data, want[i].data, p->size);
        }
    }
    chat_free(&c);
}

static void sounds_of_videos(void **state) {
    message_options options;
    chat c = parse("{\"audio\":[\"a.wav\",\"data:audio/wav;base64,UklGRg==\"],\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}", &options);
    assert_int_equal(options.sounds.part_count, 2);
    assert_string_equal(options.sounds.parts[0].path, "a.wav");
    assert_memory_equal(options.sounds.parts[1].data, "RIFF", 4);
    message_options_free(&options);
    chat_free(&c);
    static const char *const faults[][2] = {{"\"x\"", "audio: must be a list"},
                                            {"[\"a\", 1]", "audio[1]: must be a path"},
                                            {"[\"http://a\"]", "audio[0]: "},
                                            {"[\"data:;base64,?\"]", "audio[0]"}};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        char json[200];
        omni_error err = {0};
        snprintf(json, sizeof json, "{\"audio\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}", faults[i][0]);
        assert_int_equal(messages_parse(json, strlen(json), &limits, &c, &options, &err), OMNI_ERR_FORMAT);
        assert_ptr_equal(strstr(err.text, faults[i][1]), err.text);
        assert_int_equal(options.sounds.part_count, 0);
    }
}

static void options_tools_and_calls(void **state) {
    message_options options;
    chat c = parse(
        "{\"fps\":1.5,\"use_audio_in_video\":true,\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"x\":[1,2]}}],"
        "\"max_tokens\":12,\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"r\","
        "\"tool_calls\":[{\"id\":\"i\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}},{\"name\":\"g\",\"arguments\":{\"b\":[]}},"
        "{\"name\":\"h\"}]}]}",
        &options);
    assert_true(options.has_fps && options.fps == 1.5 && options.has_use_audio_in_video && options.use_audio_in_video);
    assert_int_equal(c.tool_count, 1);
    assert_string_equal(c.tools[0], "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"x\": [1, 2]}}");
    const chat_message *m = &c.messages[1];
    assert_string_equal(m->reasoning, "r");
    assert_int_equal(m->call_count, 3);
    assert_string_equal(m->calls[0].id, "i");
    assert_string_equal(m->calls[0].arguments, "{\"a\":1}");
    assert_null(m->calls[1].id);
    assert_string_equal(m->calls[1].name, "g");
    assert_string_equal(m->calls[1].arguments, "{\"b\": []}");
    assert_string_equal(m->calls[2].arguments, "{}");
    static const char more[] = "[{\"name\":\"bare\"}]";
    assert_int_equal(messages_parse_tools(more, strlen(more), &limits, &c, NULL), OMNI_OK);
    assert_string_equal(c.tools[1], "{\"name\": \"bare\"}");
    chat_free(&c);
}

/* What other programs write beside role and content, as their documentation has it. */
static void keys_of_messages(void **state) {
    /* OpenAI's answer sent back whole, its call answered; then the older form of the same; then Ollama's pictures and reasoning. */
    chat c = parse("[{\"role\":\"user\",\"content\":\"q\",\"name\":null},"
                   "{\"role\":\"assistant\",\"content\":null,\"refusal\":null,\"annotations\":[],\"audio\":null,\"function_call\":null,"
                   "\"tool_calls\":[{\"id\":\"i\",\"type\":\"function\",\"index\":0,\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},"
                   "{\"role\":\"tool\",\"tool_call_id\":\"i\",\"name\":\"f\",\"content\":\"3\"},"
                   "{\"role\":\"assistant\",\"content\":null,\"function_call\":{\"name\":\"g\",\"arguments\":\"{\\\"a\\\":1}\"}},"
                   "{\"role\":\"function\",\"name\":\"g\",\"content\":\"4\"},"
                   "{\"role\":\"user\",\"content\":\"what?\",\"images\":[\"YWJj\",\"data:image/png;base64,ZGVm\"]},"
                   "{\"role\":\"assistant\",\"content\":\"x\",\"thinking\":\"t\"},{\"role\":\"assistant\",\"content\":\"x\",\"reasoning\":\"r\"}]",
                   NULL);
    static const chat_role roles[] = {CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL, CHAT_ASSISTANT, CHAT_TOOL, CHAT_USER, CHAT_ASSISTANT, CHAT_ASSISTANT};
    assert_int_equal(c.count, sizeof roles / sizeof *roles);
    for (size_t i = 0; i < c.count; i++) {
        assert_int_equal(c.messages[i].role, roles[i]);
    }
    assert_int_equal(c.messages[3].call_count, 1);
    assert_string_equal(c.messages[3].calls[0].name, "g");
    assert_string_equal(c.messages[3].calls[0].arguments, "{\"a\":1}");
    const chat_message *pictures = &c.messages[5]; /* in front of the text */
    assert_int_equal(pictures->part_count, 3);
    assert_int_equal(pictures->parts[0].kind, CHAT_IMAGE);
    assert_int_equal(pictures->parts[1].kind, CHAT_IMAGE);
    assert_memory_equal(pictures->parts[0].data, "abc", 3);
    assert_memory_equal(pictures->parts[1].data, "def", 3);
    assert_string_equal(pictures->parts[2].text, "what?");
    assert_string_equal(c.messages[6].reasoning, "t");
    assert_string_equal(c.messages[7].reasoning, "r");
    chat_free(&c);
}

static void expect_error(const char *json, omni_status status, const char *mentions) {
    chat c = {0};
    omni_error err = {0};
    chat_message *m;
    assert_int_equal(chat_add_message(&c, CHAT_USER, &m, NULL), OMNI_OK);
    assert_int_equal(messages_parse(json, strlen(json), &limits, &c, NULL, &err), status);
    if (!strstr(err.text, mentions)) {
        fail_msg("\"%s\" does not mention \"%s\"", err.text, mentions);
    }
    assert_int_equal(c.count, 1);
    assert_int_equal(c.tool_count, 0);
    chat_free(&c);
}

#define WITH(role, keys) "[{\"role\":\"" role "\",\"content\":\"x\"," keys "}]"
#define USER(content) "[{\"role\":\"user\",\"content\":\"ok\"},{\"role\":\"user\",\"content\":" content "}]"

static void errors_say_what_and_where(void **state) {
    static const struct {
        const char *json, *mentions;
    } cases[] = {
        {"", "not JSON"},
        {"[{\"role\":\"user\",\n\"content\":}]", "line 2"},
        {"7", "not JSON"},
        {"{}", "\"messages\""},
        {"[]", "empty"},
        {"[7]", "messages[0]: a message must be"},
        {"[{\"content\":\"x\"}]", "messages[0]: \"role\""},
        {WITH("user", "\"name\":\"Ann\""), "messages[0]: \"name\" cannot act in a user's message"},
        {WITH("system", "\"name\":\"Ann\""), "messages[0]: \"name\" cannot act in a system message"},
        {WITH("assistant", "\"name\":\"Ann\""), "messages[0]: \"name\" cannot act in an assistant's message"},
        {WITH("user", "\"tool_calls\":[]"), "\"tool_calls\" cannot act"},
        {WITH("user", "\"\":[]"), "messages[0]: \"\" cannot act"},
        {WITH("user", "\"role content\":1"), "messages[0]: \"role content\" cannot act"},
        {WITH("user", "\"tool_call_id\":\"i\""), "\"tool_call_id\" cannot act"},
        {WITH("user", "\"cache_control\":{}"), "\"cache_control\" cannot act"},
        {WITH("system", "\"images\":[]"), "\"images\" cannot act"},
        {WITH("assistant", "\"audio\":{\"id\":\"a\"}"), "\"audio\" cannot act"},
        {WITH("assistant", "\"refusal\":\"no\""), "\"refusal\" cannot act"},
        {WITH("assistant", "\"prefix\":true"), "\"prefix\" cannot act"},
        {WITH("assistant", "\"annotations\":1"), "\"annotations\" must be a list"},
        {WITH("assistant", "\"thinking\":7"), "\"thinking\" must be a string"},
        {WITH("assistant", "\"thinking\":\"a\",\"reasoning\":\"b\""), "\"thinking\" is another name"},
        {WITH("assistant", "\"function_call\":7"), "messages[0]: function_call must be"},
        {WITH("assistant", "\"function_call\":{\"name\":\"f\"},\"tool_calls\":[{\"name\":\"g\"}]"), "\"function_call\" cannot act beside"},
        {WITH("assistant", "\"tool_calls\":[{\"name\":\"g\"},{\"type\":\"custom\",\"name\":\"g\"}]"), "messages[0]: tool_calls[1]: \"type\" must be"},
        {WITH("assistant", "\"tool_calls\":[{\"function\":{\"name\":\"g\",\"parameters\":{}}}]"), "tool_calls[0]: \"parameters\" cannot act"},
        {WITH("assistant", "\"tool_calls\":[{\"arguments\":{},\"function\":{\"name\":\"g\"}}]"), "tool_calls[0]: \"arguments\" cannot act"},
        {WITH("tool", "\"tool_call_id\":7"), "\"tool_call_id\" must be a text"},
        {WITH("tool", "\"is_error\":true"), "\"is_error\" cannot act in a tool's message"},
        {WITH("user", "\"images\":\"YWJj\""), "messages[0]: \"images\" must be a list"},
        {WITH("user", "\"images\":[\"YWJj\",7]"), "messages[0].images[1]: must be a picture"},
        {WITH("user", "\"images\":[\"a.png\"]"), "messages[0].images[0]: not base64"},
        {"[{\"role\":\"boss\",\"content\":\"x\"}]", "boss"},
        {"[{\"role\":\"user\"}]", "\"content\" must be a string or a list of parts, found missing"},
        {USER("7"), "messages[1]: \"content\""},
        {USER("[7]"), "messages[1].content[0]"},
        {USER("[\"a\",{\"text\":\"b\"}]"), "messages[1].content[1]"},
        {USER("[{\"type\":\"text\"}]"), "\"text\" must be a string"},
        {USER("[{\"type\":\"smell\"}]"), "\"smell\" is not known"},
        {USER("[{\"type\":\"image\"}]"), "the image is missing"},
        {USER("[{\"type\":\"image\",\"path\":7}]"), "\"path\" must be a string, found an integer"},
        {USER("[{\"type\":\"image\",\"path\":\"\"}]"), "empty"},
        {USER("[{\"type\":\"image\",\"path\":\"a\\u0000b\"}]"), "NUL"},
        {USER("[{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://example.org/a.png\"}}]"), "nothing is fetched"},
        {USER("[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png,xyz\"}}]"), "base64"},
        {USER("[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:;base64,a-b\"}}]"), "messages[1].content[0]: not base64: byte 1"},
        {USER("[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:;base64,\"}}]"), "no bytes"},
        {USER("[{\"type\":\"input_audio\",\"input_audio\":\"x\"}]"), "\"input_audio\" must be"},
        {"[{\"role\":\"assistant\",\"content\":\"x\",\"tool_calls\":{}}]", "\"tool_calls\" must be a list"},
        {"[{\"role\":\"assistant\",\"content\":\"x\",\"tool_calls\":[{}]}]", "tool_calls[0]"},
        {"[{\"role\":\"assistant\",\"content\":\"x\",\"reasoning_content\":1}]", "\"reasoning_content\""},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"fps\":0}", "fps"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"use_audio_in_video\":1}", "use_audio_in_video"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":{}}", "tools: must be a list"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":7}],\"tools\":[{\"name\":\"f\"}]}", "messages[0]"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{\"type\":\"function\"}]}", "tools[0]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_error(cases[i].json, OMNI_ERR_FORMAT, cases[i].mentions);
    }
}

static void limits_are_kept(void **state) {
    message_limits usual = limits;
    limits.messages = 1;
    expect_error(USER("\"x\""), OMNI_ERR_LIMIT, "2 of them; up to 1");
    limits = usual;
    limits.parts = 1;
    expect_error(USER("[\"a\",\"b\"]"), OMNI_ERR_LIMIT, "messages[1]: 2 parts");
    limits = usual;
    limits.json_size = 10;
    expect_error(USER("\"x\""), OMNI_ERR_LIMIT, "up to 10");
    limits = usual;
    limits.media_size = 4;
    expect_error(USER("[{\"type\":\"input_audio\",\"input_audio\":{\"data\":\"aGVsbG8=\"}}]"), OMNI_ERR_LIMIT, "limit of 4");
    limits = usual;
    limits.forbid_files = true;
    expect_error(USER("[{\"type\":\"image\",\"path\":\"/etc/passwd\"}]"), OMNI_ERR_FORMAT, "files of this machine");
    expect_error(USER("[{\"type\":\"image_url\",\"image_url\":{\"url\":\"file:///etc/passwd\"}}]"), OMNI_ERR_FORMAT, "files of this machine");
    limits = usual;
    /* Two million values in four megabytes would cost the parser a hundred. */
    size_t n = 4000000;
    char *many = malloc(n + 1);
    for (size_t i = 0; i < n; i += 2) {
        memcpy(many + i, "1,", 2);
    }
    many[0] = '[';
    many[n - 1] = ']';
    many[n] = 0;
    expect_error(many, OMNI_ERR_LIMIT, "values of JSON");
    /* The same inside a string is one value. */
    memcpy(many, "[\"\\\"", 4);
    memcpy(many + n - 3, "\" ]", 3);
    expect_error(many, OMNI_ERR_FORMAT, "messages[0]: a message must be");
    memset(many, '[', n);
    expect_error(many, OMNI_ERR_LIMIT, "values of JSON");
    many[100000] = 0;
    expect_error(many, OMNI_ERR_FORMAT, "not JSON");
    free(many);
}

/* What Python's json.dumps(json.loads(x), ensure_ascii=False) gives. */
static void json_is_written_as_python_writes_it(void **state) {
    static const char *const cases[][2] = {
        {"[0.1,1.0,100.0,-0.0,1e5,1e15,1e16,1.5e300,1e-4,1e-5,123456789.125,5e-324,0.30000000000000004,2.5e-7]",
         "[0.1, 1.0, 100.0, -0.0, 100000.0, 1000000000000000.0, 1e+16, 1.5e+300, 0.0001, 1e-05, 123456789.125, 5e-324, 0.30000000000000004, "
         "2.5e-07]"},
        {"{\"b\":1,\"a\":{\"x\":[]},\"b\":2}", "{\"b\": 2, \"a\": {\"x\": []}}"},
        {"[\"\\u00e9\\u0001\\n\\t\\\\\\\"/\\u007f\\b\\f\\r\\u001f\",true,false,null,-7]",
         "[\"\xC3\xA9\\u0001\\n\\t\\\\\\\"/\x7F\\b\\f\\r\\u001f\", true, false, null, -7]"},
        {"{}", "{}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *v = json_loads(cases[i][0], 0, NULL);
        assert_non_null(v);
        char *text = json_text(v);
        assert_string_equal(text, cases[i][1]);
        free(text);
        json_decref(v);
    }
}

static void base64_decodes(void **state) {
    static const struct {
        const char *text, *want;
        omni_status status;
    } cases[] = {{"", "", OMNI_OK},
                 {"Zg==", "f", OMNI_OK},
                 {"Zm8=", "fo", OMNI_OK},
                 {"Zm9v", "foo", OMNI_OK},
                 {"Zm9vYg", "foob", OMNI_OK},
                 {" Zm9v\r\nYmE= ", "fooba", OMNI_OK},
                 {"Zm9vYmFy", "foobar", OMNI_OK},
                 {"Z", "", OMNI_ERR_FORMAT},
                 {"Zg=", "", OMNI_ERR_FORMAT},
                 {"Zg==Zg==", "", OMNI_ERR_FORMAT},
                 {"=", "", OMNI_ERR_FORMAT},
                 {"Zm9v=", "", OMNI_ERR_FORMAT},
                 {"Zg===", "", OMNI_ERR_FORMAT},
                 {"Zm9vYmFyeA", "", OMNI_ERR_LIMIT},
                 {"Zm 9*", "", OMNI_ERR_FORMAT}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t *data;
        size_t n;
        omni_error err = {0};
        assert_int_equal(base64_decode(cases[i].text, strlen(cases[i].text), 6, &data, &n, &err), cases[i].status);
        if (cases[i].status == OMNI_OK) {
            assert_int_equal(n, strlen(cases[i].want));
            assert_memory_equal(data, cases[i].want, n);
            free(data);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_in_all_its_forms), cmocka_unit_test(media_in_all_their_forms),
        cmocka_unit_test(sounds_of_videos),      cmocka_unit_test(options_tools_and_calls),
        cmocka_unit_test(keys_of_messages),      cmocka_unit_test(errors_say_what_and_where),
        cmocka_unit_test(limits_are_kept),       cmocka_unit_test(json_is_written_as_python_writes_it),
        cmocka_unit_test(base64_decodes),
    };
    return cmocka_run_group_tests_name("messages", tests, set_up, NULL);
}
