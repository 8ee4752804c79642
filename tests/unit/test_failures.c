/* Every allocation, every write and every start of a thread fails once, in turn, in everything that the library does: the call says so with the
 * right status, nothing crashes, nothing is left on disk, and what was there before goes on as if nothing had been tried. Under
 * AddressSanitizer nothing leaks either.
 *
 * make test tries every call where that is quick, else the first and then fewer and fewer; OMNI_FAILURES=all tries every one. */
#define _GNU_SOURCE
#include <limits.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "omni.h"

#include "failing.h"
#include "scratch.h"

#include "convert_checkpoint.h"
#include "dialogue.h"

#include <cmocka.h> /* last: it defines a macro named fail */

#define MODELS TEST_DATA "/../../models"
#define THINKER MODELS "/tiny/qwen3-omni-f16.gguf"
#define MMPROJ MODELS "/tiny/mmproj-qwen3-omni-f16.gguf"
#define TALKER MODELS "/tiny/talker-qwen3-omni-f16.gguf"

static omni_error err;
static omni_model *model; /* shared by what needs one */

/* ------------------------------------------------------------------------------------------------ the loop */

/* Does one thing from the start to the end, releases what it made, and returns its status. Whatever it prepares it does with failures off. */
typedef omni_status (*operation)(void);

/* What a failure that did not matter may be: work goes on in another way, with the same result. */
typedef enum tolerance { MUST_FAIL, MAY_SUCCEED } tolerance;

enum { EVERY = INT_MAX };

static long next_call(long n, int density) {
    const char *all = getenv("OMNI_FAILURES");
    return all && strcmp(all, "all") == 0 ? n + 1 : n + 1 + n / density;
}

/* Fails call 1, 2, ... of op until it succeeds untouched. density: the larger, the more of the later calls are tried. Returns how many were. */
static int each_failure(const char *name, operation op, failing kind, omni_status expected, int error, tolerance t, int density) {
    int before = files_in_folder(false), tried = 0;
    for (long n = 1; n < 1000000; n = next_call(n, density)) {
        err = (omni_error){0};
        fail_call(kind, n, error);
        omni_status status = op();
        bool failed = failed_call();
        if (!failed) {
            if (status != OMNI_OK) {
                fail_msg("%s: fails without a reason after %ld calls: %s", name, n, err.text);
            }
            assert_true(tried > 0); /* else this test tests nothing */
            return tried;
        }
        tried++;
        if (status == OMNI_OK && t == MUST_FAIL) {
            fail_msg("%s: call %ld fails and nobody says so", name, n);
        }
        if (status != OMNI_OK && (status != expected || err.code != expected || !err.text[0])) {
            fail_msg("%s: call %ld fails: status %d, error %d \"%s\"", name, n, status, err.code, err.text);
        }
        if (status != OMNI_OK && files_in_folder(false) != before) {
            fail_msg("%s: call %ld fails and leaves a file", name, n);
        }
    }
    fail_msg("%s: never ends", name);
    return 0;
}

static void each_allocation(const char *name, operation op, int density) {
    each_failure(name, op, FAIL_ALLOCATION, OMNI_ERR_MEMORY, ENOMEM, MUST_FAIL, density);
}

static void each_write(const char *name, operation op, int density) {
    each_failure(name, op, FAIL_DISK, OMNI_ERR_IO, ENOSPC, MAY_SUCCEED, density);
    each_failure(name, op, FAIL_DISK, OMNI_ERR_IO, EIO, MAY_SUCCEED, density);
}

/* ------------------------------------------------------------------------------------------------ models and sessions */

static omni_model_params tiny(void) {
    omni_model_params p = omni_model_params_default();
    p.model = THINKER;
    p.mmproj = MMPROJ;
    p.talker = TALKER;
    p.threads = 2;
    return p;
}

static omni_status open_model(void) {
    omni_model_params p = tiny();
    omni_model *m = NULL;
    omni_status status = omni_model_open(&p, &m, &err);
    assert_true((status == OMNI_OK) == (m != NULL));
    omni_model_close(m);
    return status;
}

static void opening(void **state) {
    each_allocation("open", open_model, EVERY);
    each_failure("open", open_model, FAIL_THREAD, OMNI_ERR_MEMORY, EAGAIN, MUST_FAIL, EVERY);
}

static omni_status make_session(void) {
    dialogue_params p = dialogue_params_default();
    dialogue_set_context(&p, 300);
    dialogue *s = NULL;
    omni_status status = dialogue_create(model, &p, &s, &err);
    assert_true((status == OMNI_OK) == (s != NULL));
    dialogue_destroy(s);
    return status;
}

static void sessions(void **state) {
    each_allocation("session", make_session, EVERY);
}

/* What was said, text and sound. */
typedef struct said {
    char text[4096];
    size_t size, samples;
    double sum;
} said;

static bool take_text(void *arg, const char *text, size_t size) {
    said *s = arg;
    if (s->size + size < sizeof s->text) {
        memcpy(s->text + s->size, text, size);
        s->size += size;
    }
    return true;
}

static bool take_audio(void *arg, const float *samples, size_t count) {
    said *s = arg;
    for (size_t i = 0; i < count; i++) {
        s->sum += (double)samples[i] * (double)(1 + (s->samples + i) % 97);
    }
    s->samples += count;
    return true;
}

static omni_status answer(dialogue *s, bool speak, said *out) {
    omni_generate_params p = omni_generate_params_default();
    *out = (said){0};
    p.text.greedy = p.speech.greedy = p.ignore_eos = true;
    p.max_tokens = 4;
    p.max_frames = 3;
    p.speak = speak;
    p.on_text = take_text;
    p.on_audio = take_audio;
    p.arg = out;
    return omni_generate(s->engine, s->conversation, &p, NULL, &err);
}

static omni_status add(dialogue *s, omni_kind kind, const char *path, const char *text) {
    const omni_part parts[] = {{.kind = kind, .path = path}, {.kind = OMNI_TEXT, .text = text}};
    return omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, parts + !path, path ? 2 : 1}, &err);
}

static dialogue *new_session(void) {
    dialogue_params p = dialogue_params_default();
    dialogue_set_context(&p, 600);
    dialogue *s;
    assert_int_equal(dialogue_create(model, &p, &s, &err), OMNI_OK);
    return s;
}

/* A turn that fails somewhere and is then asked again, beside the same turn in a session that nothing ever happened to. */
static struct {
    omni_kind kind;
    const char *path;
    bool speak;
} turn;

static said untouched;

static omni_status one_turn(void) {
    long n = atomic_load(&failing_at);
    int kind = atomic_load(&failing_kind);
    atomic_store(&failing_kind, FAIL_NOTHING);
    dialogue *s = new_session();
    atomic_store(&failing_kind, kind);
    said heard;
    omni_status status = add(s, turn.kind, turn.path, "What is this?");
    bool added = status == OMNI_OK;
    if (added) {
        status = answer(s, turn.speak, &heard);
    }
    atomic_store(&failing_kind, FAIL_NOTHING);
    if (status != OMNI_OK) {
        const omni_error first = err;
        if (!added && add(s, turn.kind, turn.path, "What is this?") != OMNI_OK) {
            fail_msg("after call %ld failed: %s", n, err.text);
        }
        if (answer(s, turn.speak, &heard) != OMNI_OK) {
            fail_msg("after call %ld failed: %s", n, err.text);
        }
        err = first;
    }
    if (heard.size != untouched.size || memcmp(heard.text, untouched.text, heard.size) != 0 || heard.samples != untouched.samples ||
        heard.sum != untouched.sum) {
        fail_msg("after call %ld failed (status %d) the answer is another: \"%s\" (%zu samples), not \"%s\" (%zu)", n, status, heard.text,
                 heard.samples, untouched.text, untouched.samples);
    }
    dialogue_destroy(s);
    return status;
}

static void turns_of(const char *name, omni_kind kind, const char *path, bool speak) {
    turn.kind = kind;
    turn.path = path;
    turn.speak = speak;
    dialogue *s = new_session();
    assert_int_equal(add(s, kind, path, "What is this?"), OMNI_OK);
    assert_int_equal(answer(s, speak, &untouched), OMNI_OK);
    dialogue_destroy(s);
    each_allocation(name, one_turn, EVERY);
}

static void turns(void **state) {
    turns_of("text", OMNI_TEXT, NULL, false);
    turns_of("speech", OMNI_TEXT, NULL, true);
    turns_of("picture", OMNI_IMAGE, TEST_DATA "/media/image/baseline.jpg", false);
    turns_of("png", OMNI_IMAGE, TEST_DATA "/media/image/grey-alpha.png", false);
    turns_of("gif", OMNI_IMAGE, TEST_DATA "/media/image/animation.gif", false);
    turns_of("webp", OMNI_IMAGE, TEST_DATA "/media/image/animation.webp", false);
    turns_of("sound", OMNI_AUDIO, TEST_DATA "/audio/a.opus", false);
    turns_of("video", OMNI_VIDEO, TEST_DATA "/audio/v.mp4", false);
}

/* An answer with speech whose tensors are written to a file. */
static off_t untouched_trace;

static omni_status trace_answer(void) {
    int kind = atomic_exchange(&failing_kind, FAIL_NOTHING);
    dialogue *s = new_session();
    assert_int_equal(add(s, OMNI_IMAGE, TEST_DATA "/media/image/baseline.jpg", "What is this?"), OMNI_OK);
    omni_generate_params p = omni_generate_params_default();
    p.text.greedy = p.speech.greedy = p.ignore_eos = true;
    p.max_tokens = 4;
    p.max_frames = 3;
    p.speak = true;
    p.trace = in_folder("t.safetensors");
    atomic_store(&failing_kind, kind);
    omni_status status = omni_generate(s->engine, s->conversation, &p, NULL, &err);
    atomic_store(&failing_kind, FAIL_NOTHING);
    dialogue_destroy(s);
    struct stat st;
    const bool there = stat(in_folder("t.safetensors"), &st) == 0; /* also when the conversation alone had no memory left for the whole answer */
    assert_true(there || status != OMNI_OK);
    if (there) {
        assert_true(untouched_trace == 0 || st.st_size == untouched_trace); /* no tensor is missing */
        untouched_trace = st.st_size;
        assert_int_equal(unlink(in_folder("t.safetensors")), 0);
    }
    return status;
}

static void traces(void **state) {
    assert_int_equal(trace_answer(), OMNI_OK);
    each_allocation("trace", trace_answer, EVERY);
    each_write("trace", trace_answer, 6);
}

static omni_status add_json(void) {
    static const char json[] =
        "{\"messages\": [{\"role\": \"system\", \"content\": \"Be short.\"},"
        " {\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"Hi \\u00e4\"}, {\"type\": \"text\", \"text\": \"and\"}]},"
        " {\"role\": \"assistant\", \"content\": \"Yes?\", \"tool_calls\": [{\"id\": \"1\", \"type\": \"function\","
        " \"function\": {\"name\": \"f\", \"arguments\": \"{\\\"a\\\": [1, 2]}\"}}]},"
        " {\"role\": \"tool\", \"content\": \"3\"}],"
        " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": \"object\"}}},"
        " {\"type\": \"function\", \"function\": {\"name\": \"g\"}}]}";
    int kind = atomic_exchange(&failing_kind, FAIL_NOTHING);
    dialogue *s = new_session();
    atomic_store(&failing_kind, kind);
    omni_status status = omni_conversation_add_json(s->conversation, json, strlen(json), &err);
    atomic_store(&failing_kind, FAIL_NOTHING);
    if (status != OMNI_OK) { /* and what failed leaves nothing behind that stands in the way */
        const omni_error first = err;
        if (omni_conversation_add_json(s->conversation, json, strlen(json), &err) != OMNI_OK) {
            fail_msg("messages, after a failure: %s", err.text);
        }
        err = first;
    }
    dialogue_destroy(s);
    return status;
}

static void messages(void **state) {
    each_allocation("messages", add_json, EVERY);
}

/* ------------------------------------------------------------------------------------------------ files */

/* What convert makes of the small checkpoint; count 0: nothing is there before. */
static struct {
    uint64_t split;
    size_t count;
    char names[8][64];
} older;

static omni_status convert(void) {
    omni_convert_params p = omni_convert_params_default();
    p.checkpoint = p.out_dir = folder;
    p.name = "micro";
    p.threads = 2;
    p.parts = older.split ? OMNI_PART_THINKER : OMNI_PART_ALL;
    p.split_max_size = older.split;
    for (size_t i = 0; i < older.count; i++) {
        put_file(older.names[i], "old", 3);
    }
    omni_converted made;
    omni_status status = omni_convert(&p, &made, &err);
    for (size_t i = 0; i < older.count; i++) {
        struct stat st;
        assert_int_equal(stat(in_folder(older.names[i]), &st), 0);
        assert_int_equal(st.st_size == 3, status != OMNI_OK); /* all of them new, or all as they were */
        unlink(in_folder(older.names[i]));
    }
    assert_true(status == OMNI_OK || made.count == 0);
    for (size_t i = 0; i < made.count && older.count == 0; i++) {
        assert_int_equal(unlink(made.path[i]), 0);
    }
    return status;
}

static void converting(void **state) {
    write_checkpoint(false, NULL);
    each_allocation("convert", convert, 12); /* every one would wait for the disk for long */
    each_write("convert", convert, 2);
    static const char *const prefixes[] = {"", "mmproj-", "talker-"};
    for (older.count = 0; older.count < 3; older.count++) {
        snprintf(older.names[older.count], sizeof older.names[0], "%smicro-f16.gguf", prefixes[older.count]);
    }
    each_failure("convert over older files", convert, FAIL_DISK, OMNI_ERR_IO, EIO, MAY_SUCCEED, 2);
    older.split = 40000;
    for (older.count = 0; older.count < 3; older.count++) {
        snprintf(older.names[older.count], sizeof older.names[0], "micro-f16-%05zu-of-00003.gguf", older.count + 1);
    }
    each_failure("convert over older parts", convert, FAIL_DISK, OMNI_ERR_IO, EIO, MAY_SUCCEED, 2);
    older.count = 0;
}

static omni_status quantize(void) {
    omni_quantize_params p = omni_quantize_params_default();
    p.input = THINKER;
    p.output = in_folder("q.gguf");
    p.type = "q8_0";
    p.threads = 2;
    omni_status status = omni_quantize(&p, NULL, &err);
    if (status == OMNI_OK) {
        assert_int_equal(unlink(in_folder("q.gguf")), 0);
    }
    return status;
}

static void quantizing(void **state) {
    each_allocation("quantize", quantize, EVERY);
    each_write("quantize", quantize, 6);
}

static omni_status collect(void) {
    omni_imatrix_params p = omni_imatrix_params_default();
    p.model = tiny();
    p.model.mmproj = p.model.talker = NULL;
    p.text = TEST_DATA "/convert/micro_config.json";
    p.piece_bytes = 100;
    p.max_pieces = 2;
    p.output = in_folder("i.gguf");
    omni_status status = omni_imatrix(&p, NULL, &err);
    if (status == OMNI_OK) {
        assert_int_equal(unlink(in_folder("i.gguf")), 0);
    }
    return status;
}

static void importance(void **state) {
    each_allocation("imatrix", collect, EVERY);
    each_write("imatrix", collect, 6);
}

static char *untouched_description;

static omni_status describe_as(const char *path, bool json) {
    char *text = NULL;
    omni_status status = omni_describe(path, json, &text, &err);
    assert_true((status == OMNI_OK) == (text != NULL));
    if (status == OMNI_OK && untouched_description) {
        assert_string_equal(text, untouched_description);
    }
    omni_free(text);
    return status;
}

static omni_status describe_text(void) {
    return describe_as(TALKER, false);
}

/* jansson does without some allocations: then nothing may be missing. */
static omni_status describe_json(void) {
    return describe_as(THINKER, true);
}

static omni_status describe_checkpoint(void) {
    return describe_as(TEST_DATA "/decoder.safetensors", true);
}

static void describing(void **state) {
    const struct {
        omni_status (*op)(void);
        const char *path;
        bool json;
    } ways[] = {{describe_text, TALKER, false}, {describe_json, THINKER, true}, {describe_checkpoint, TEST_DATA "/decoder.safetensors", true}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        assert_int_equal(omni_describe(ways[i].path, ways[i].json, &untouched_description, &err), OMNI_OK);
        each_failure(ways[i].path, ways[i].op, FAIL_ALLOCATION, OMNI_ERR_MEMORY, ENOMEM, ways[i].json ? MAY_SUCCEED : MUST_FAIL, EVERY);
        omni_free(untouched_description);
        untouched_description = NULL;
    }
}

static omni_status tokenize(void) {
    omni_tokenizer *t = NULL;
    omni_status status = omni_tokenizer_open(THINKER, &t, &err);
    if (status == OMNI_OK) {
        int32_t *ids;
        size_t count;
        status = omni_tokenize(t, "A word <|im_start|> and 123 more of them, e\u0301!", 47, true, &ids, &count, &err);
        assert_true(status == OMNI_OK || !ids);
        omni_free(ids);
    }
    omni_tokenizer_close(t);
    return status;
}

static void tokenizing(void **state) {
    each_allocation("tokenizer", tokenize, EVERY);
}

static omni_bench_row measured[8];
static size_t measured_count;

static bool take_row(void *arg, const omni_bench_row *row) {
    if (measured_count < sizeof measured / sizeof *measured) {
        measured[measured_count] = *row;
        measured[measured_count++].profile = row->profile ? "some" : NULL;
    }
    return true;
}

static omni_status measure(void) {
    omni_bench_params p = omni_bench_params_default();
    p.model = THINKER;
    p.parts = OMNI_BENCH_THINKER;
    p.threads = 2;
    p.repetitions = 1;
    p.generate = 1;
    p.only = "tg1";
    p.profile = true;
    p.on_row = take_row;
    measured_count = 0;
    omni_status status = omni_bench(&p, &err);
    for (size_t i = 0; i < measured_count; i++) {
        assert_true(status != OMNI_OK || measured[i].profile || measured[i].flops == 0); /* asked for, so it is there */
    }
    assert_true(status != OMNI_OK || measured_count == 3); /* and the machine's own two */
    return status;
}

static void benching(void **state) {
    each_allocation("bench", measure, 1);
}

static omni_status write_sound(void) {
    static float samples[5000];
    omni_sound *s = NULL;
    omni_status status = omni_sound_open(in_folder("s.wav"), 24000, &s, &err);
    if (status == OMNI_OK) {
        status = omni_sound_write(s, samples, 5000, &err);
        if (status == OMNI_OK) {
            status = omni_sound_write(s, samples, 700, &err);
        }
        const omni_error first = err;
        omni_status last = omni_sound_close(s, &err); /* of what was written until then a valid file may be made */
        if (status != OMNI_OK) {
            err = first;
            if (last == OMNI_OK) {
                unlink(in_folder("s.wav"));
            }
        } else {
            status = last;
        }
    }
    if (status == OMNI_OK) {
        assert_int_equal(unlink(in_folder("s.wav")), 0);
    }
    return status;
}

static bool take_bytes(void *arg, const void *data, size_t size) {
    return true;
}

static omni_status encode_sound(void) {
    static float samples[5000];
    omni_encoder *e = NULL;
    omni_status status =
        omni_encoder_open(&(omni_encoder_params){.format = "alaw", .sample_rate = 24000, .speed = 1.5, .write = take_bytes}, &e, &err);
    if (status == OMNI_OK) {
        status = omni_encoder_write(e, samples, 5000, &err);
    }
    return status == OMNI_OK ? omni_encoder_close(e, &err) : (omni_encoder_free(e), status);
}

static void sounds(void **state) {
    each_allocation("sound", write_sound, EVERY);
    each_allocation("encoder", encode_sound, EVERY);
    each_write("sound", write_sound, 100);
}

static omni_status replace_link(void) {
    int kind = atomic_exchange(&failing_kind, FAIL_NOTHING);
    put_file("target.wav", "old", 3);
    assert_int_equal(symlink("target.wav", in_folder("link.wav")), 0);
    atomic_store(&failing_kind, kind);
    omni_sound *s = NULL;
    omni_status status = omni_sound_open(in_folder("link.wav"), 24000, &s, &err);
    if (status == OMNI_OK) {
        status = omni_sound_close(s, &err);
    }
    struct stat st;
    assert_int_equal(lstat(in_folder("link.wav"), &st), 0);
    assert_true(S_ISLNK(st.st_mode)); /* what a link points to is replaced, never the link */
    assert_int_equal(stat(in_folder("target.wav"), &st), 0);
    assert_int_equal(st.st_size, status == OMNI_OK ? 44 : 3);
    unlink(in_folder("link.wav"));
    unlink(in_folder("target.wav"));
    return status;
}

static void links(void **state) {
    each_allocation("link", replace_link, EVERY);
    each_write("link", replace_link, 100);
}

/* ------------------------------------------------------------------------------------------------ */

static int set_up(void **state) {
    failing_set_up();
    omni_model_params p = tiny();
    return make_folder(state) == 0 && omni_model_open(&p, &model, &err) == OMNI_OK ? 0 : -1;
}

static int tear_down(void **state) {
    omni_model_close(model);
    return remove_folder(state);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]); /* one of them alone */
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(opening),   cmocka_unit_test(sessions),   cmocka_unit_test(turns),
                                       cmocka_unit_test(traces),    cmocka_unit_test(messages),   cmocka_unit_test(describing),
                                       cmocka_unit_test(benching),  cmocka_unit_test(tokenizing), cmocka_unit_test(sounds),
                                       cmocka_unit_test(links),     cmocka_unit_test(quantizing), cmocka_unit_test(importance),
                                       cmocka_unit_test(converting)};
    return cmocka_run_group_tests_name("failures", tests, set_up, tear_down);
}
