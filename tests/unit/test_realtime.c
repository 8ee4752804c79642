/* Realtime sessions whose allocations fail: whichever does, the client gets whole events or the session ends, nothing crashes or leaks, and the next
 * session works. */
#define _GNU_SOURCE
#include "failing.h"
#include "realtime_session.h"

/* cmocka.h last: it needs these and defines a macro fail */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define TINY TEST_DATA "/../../models/tiny/"

static char kinds[8192]; /* of the events told, a space after each */

static void look(const char *text, size_t size) {
    json_t *event = json_loadb(text, size, 0, NULL);
    const char *type = json_string_value(json_object_get(event, "type"));
    if (atomic_load(&failing_kind) == FAIL_NOTHING) {
        assert_non_null(type);
        assert_true(strlen(kinds) + strlen(type) + 2 < sizeof kinds);
        strcat(strcat(kinds, type), " ");
    }
    json_decref(event);
}

static const char configures[] = "{\"type\": \"session.update\", \"event_id\": \"1\", \"session\": {\"type\": \"realtime\", \"output_modalities\": "
                                 "[\"text\"], \"instructions\": \"a\","
                                 " \"max_output_tokens\": 3, \"seed\": 5, \"tools\": [{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}],"
                                 " \"audio\": {\"input\": {\"turn_detection\": null, \"transcription\": {\"model\": \"x\"}}}}}\n";

static const char items[] =
    "{\"type\": \"conversation.item.create\", \"item\": {\"id\": \"A\", \"type\": \"message\", \"role\": \"user\", \"content\":"
    " [{\"type\": \"input_text\", \"text\": \"hello\"}, {\"type\": \"input_audio\", \"audio\": \"AAAAAAAAAAAAAAAA\"}]}}\n"
    "{\"type\": \"conversation.item.create\", \"item\": {\"type\": \"message\", \"role\": \"assistant\", \"content\":"
    " [{\"type\": \"output_text\", \"text\": \"yes\"}]}}\n"
    "{\"type\": \"conversation.item.create\", \"item\": {\"type\": \"function_call\", \"call_id\": \"c\", \"name\": \"f\", \"arguments\": \"{}\"}}\n"
    "{\"type\": \"conversation.item.create\", \"item\": {\"type\": \"function_call_output\", \"call_id\": \"c\", \"output\": \"x\"}}\n"
    "{\"type\": \"conversation.item.retrieve\", \"item_id\": \"A\"}\n"
    "{\"type\": \"conversation.item.delete\", \"item_id\": \"A\"}\n"
    "{\"type\": \"nothing\"}\n";

#define STEP "{\"type\": \"input_audio_buffer.clear\"}\n"
#define STEPS STEP STEP STEP STEP STEP STEP STEP STEP

static const char answers[] =
    "{\"type\": \"conversation.item.create\", \"item\": {\"type\": \"message\", \"role\": \"user\", \"content\": [{\"type\": \"input_text\","
    " \"text\": \"hello\"}]}}\n"
    "{\"type\": \"response.create\"}\n" STEPS "{\"type\": \"response.create\", \"response\": {\"conversation\": \"none\", \"input\":"
    " [{\"type\": \"message\", \"role\": \"user\", \"content\": [{\"type\": \"input_text\", \"text\": \"x\"}]}]}}\n" STEPS
    "{\"type\": \"response.create\"}\n" STEP "{\"type\": \"response.cancel\"}\n";

/* Each allocation of a session in turn, or every step-th. */
static void fail_each(const char *text, bool beta, long step) {
    const size_t size = strlen(text);
    kinds[0] = 0;
    session_run(text, size, beta, false);
    char *whole = strdup(kinds);
    assert_non_null(whole);
    for (long n = 1;; n += step) {
        fail_call(FAIL_ALLOCATION, n, 0);
        session_run(text, size, beta, false);
        if (!failed_call()) {
            assert_true(n > 100);
            break;
        }
    }
    kinds[0] = 0;
    session_run(text, size, beta, false);
    assert_string_equal(kinds, whole);
    assert_int_equal(atomic_load(&session_server.body_bytes), 0);
    free(whole);
}

static void test_events(void **state) {
    char text[sizeof configures + sizeof items];
    snprintf(text, sizeof text, "%s%s", configures, items);
    fail_each(text, false, 1);
    fail_each(text, true, 1);
}

static void test_answers(void **state) {
    char text[sizeof configures + sizeof answers];
    snprintf(text, sizeof text, "%s%s", configures, answers);
    omni_engine_forget(session_server.engine);
    fail_each(text, false, 17);
    assert_non_null(strstr(kinds, "response.done"));
    assert_non_null(strstr(kinds, "response.output_text.delta"));
}

/* Many small messages that nobody reads hold no more than large ones, and count among what the server receives. */
static void test_held(void **state) {
    server *s = &session_server;
    exchange *x = exchange_create(s);
    const size_t most = s->p.max_bodies;
    int n = 0, code = 0;
    assert_non_null(x);
    x->socket = websocket_create();
    assert_non_null(x->socket);
    while (x->socket->in.bytes < WEBSOCKET_IN_HELD) {
        assert_int_equal(websocket_receive(x, "", 0, true), 0);
        n++;
    }
    assert_true(n < WEBSOCKET_IN_HELD / 50);
    s->p.max_bodies = 1000;
    for (n = 0; n < 200 && code == 0; n++) {
        code = websocket_receive(x, "0123456789", 10, n % 7 == 0);
    }
    assert_int_equal(code, 1013);
    assert_int_equal(n, 101);
    assert_int_equal(atomic_load(&s->body_bytes), 1000);
    s->p.max_bodies = most;
    exchange_release(x);
    assert_int_equal(atomic_load(&s->body_bytes), 0);
}

/* What waits for a client that does not read counts, too; one large message beyond what the server may hold ends the connection. */
static void test_held_out(void **state) {
    server *s = &session_server;
    exchange *x = exchange_create(s);
    const size_t most = s->p.max_bodies, large = 1 << 20;
    char *text = calloc(1, large);
    bool room;
    assert_non_null(x);
    assert_non_null(text);
    x->socket = websocket_create();
    assert_non_null(x->socket);
    s->p.max_bodies = large + large / 2;
    session_reads = false;
    websocket_send(x, text, large);
    websocket_send(x, text, 10);
    assert_in_range(atomic_load(&s->body_bytes), large + 10, large + 1000);
    assert_int_equal(x->socket->close_code, 0);
    free(websocket_take_out(x, &room));
    assert_in_range(atomic_load(&s->body_bytes), 10, 1000);
    websocket_send(x, text, large);
    assert_int_equal(x->socket->close_code, 0);
    websocket_send(x, text, large);
    assert_int_equal(x->socket->close_code, 1013);
    exchange_release(x);
    assert_int_equal(atomic_load(&s->body_bytes), 0);
    s->p.max_bodies = most;
    session_reads = true;
    free(text);
}

static int open_model(void **state) {
    omni_error err = {0};
    failing_set_up();
    session_told = look;
    if (!session_server_open(TINY "qwen3-omni-f16.gguf", TINY "mmproj-qwen3-omni-f16.gguf", NULL, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    return 0;
}

static int close_model(void **state) {
    session_server_close();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_events), cmocka_unit_test(test_answers), cmocka_unit_test(test_held),
                                       cmocka_unit_test(test_held_out)};
    return cmocka_run_group_tests(tests, open_model, close_model);
}
