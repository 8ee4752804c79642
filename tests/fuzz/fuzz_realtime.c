/* Fuzzing the events of a Realtime client: whatever comes, a line an event, the session answers with events that are JSON, named and numbered, begins
 * with its own, and says of each error what it is; nothing crashes, leaks or takes long. The first byte chooses the interface: today's or the
 * beta's, a conversation or a transcription. */
#include "check.h"

#include "../unit/realtime_session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool begun;

static void look(const char *text, size_t size) {
    json_t *event = json_loadb(text, size, 0, NULL);
    const char *type = json_string_value(json_object_get(event, "type"));
    check(type && json_is_string(json_object_get(event, "event_id")));
    check(begun || strcmp(type, "session.created") == 0 || strcmp(type, "transcription_session.created") == 0);
    begun = true;
    if (strcmp(type, "error") == 0) {
        check(json_string_length(json_object_get(json_object_get(event, "error"), "message")) > 0);
    }
    json_decref(event);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char models[] = TEST_DATA "/../../models/tiny/";
    char model[600], mmproj[600], talker[600];
    omni_error err = {0};
    if (!session_server.model) {
        snprintf(model, sizeof model, "%sqwen3-omni-f16.gguf", models);
        snprintf(mmproj, sizeof mmproj, "%smmproj-qwen3-omni-f16.gguf", models);
        snprintf(talker, sizeof talker, "%stalker-qwen3-omni-f16.gguf", models);
        if (!session_server_open(model, mmproj, talker, &err)) {
            fprintf(stderr, "%s\n", err.text);
            abort();
        }
        session_told = look;
    }
    if (size > 1) {
        begun = false;
        session_run((const char *)data + 1, size - 1, data[0] & 1, data[0] & 2);
    }
    return 0;
}
