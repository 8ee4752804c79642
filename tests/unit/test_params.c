/* Every field of the parameter structs of omni.h acts, through the public interface alone, on the tiny model that ships with the sources. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dialogue.h"
#include "gguf/safetensors.h"
#include "omni.h"
#include "scratch.h"

#include <cmocka.h> /* last: it defines a macro named fail */

#define MODELS TEST_DATA "/../../models"
#define PICTURE_A TEST_DATA "/media/image/baseline.jpg"
#define PICTURE_B MODELS "/media/picture.jpg"
#define VIDEO TEST_DATA "/media/video/sound.mp4"
#define SOUND TEST_DATA "/audio/s16_22k.wav"

static omni_error err;
static omni_model *model;

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

static omni_model_params tiny(void) {
    omni_model_params p = omni_model_params_default();
    p.model = MODELS "/tiny/qwen3-omni-f16.gguf";
    p.mmproj = MODELS "/tiny/mmproj-qwen3-omni-f16.gguf";
    p.talker = MODELS "/tiny/talker-qwen3-omni-f16.gguf";
    p.threads = 2;
    return p;
}

/* What one answer gave. */
typedef struct heard {
    char text[16384];
    size_t size, texts, sounds, samples;
    double sum;
    uint64_t reading_steps, listened; /* times that progress was told */
    int stop_text, stop_sound;        /* the callback that says stop; 0: none */
    omni_result result;
} heard;

static bool on_text(void *arg, const char *text, size_t size) {
    heard *h = arg;
    assert_true(h->size + size < sizeof h->text);
    memcpy(h->text + h->size, text, size);
    h->size += size;
    h->text[h->size] = 0;
    return (int)++h->texts != h->stop_text;
}

static bool on_audio(void *arg, const float *samples, size_t count) {
    heard *h = arg;
    for (size_t i = 0; i < count; i++) {
        h->sum += (double)samples[i] * (double)(1 + (h->samples + i) % 89);
    }
    h->samples += count;
    return (int)++h->sounds != h->stop_sound;
}

static bool on_progress(void *arg, const char *what, uint64_t done, uint64_t total) {
    heard *h = arg;
    assert_true(done <= total);
    h->reading_steps += strcmp(what, "reading") == 0;
    h->listened += strcmp(what, "hearing") == 0;
    return true;
}

static dialogue *session(const dialogue_params *p) {
    dialogue *s;
    must(dialogue_create(model, p, &s, &err));
    return s;
}

static omni_status add_parts(dialogue *s, omni_role role, const omni_part *parts, size_t count) {
    return omni_conversation_add(s->conversation, &(omni_message){role, parts, count}, &err);
}

static void say(dialogue *s, omni_role role, const char *text) {
    must(add_parts(s, role, &(omni_part){.kind = OMNI_TEXT, .text = text}, 1));
}

static omni_generate_params greedy(int64_t tokens) {
    omni_generate_params p = omni_generate_params_default();
    p.text.greedy = p.speech.greedy = p.ignore_eos = true;
    p.max_tokens = tokens;
    p.max_frames = 4;
    return p;
}

static void generate(dialogue *s, omni_generate_params p, heard *h) {
    p.on_text = on_text;
    p.on_audio = on_audio;
    p.on_progress = on_progress;
    p.arg = h;
    must(omni_generate(s->engine, s->conversation, &p, &h->result, &err));
}

/* The answer of a new session to one question. */
static heard ask_in(const dialogue_params *sp, const char *question, omni_generate_params p) {
    dialogue *s = session(sp);
    heard h = {0};
    say(s, OMNI_USER, question);
    generate(s, p, &h);
    dialogue_destroy(s);
    return h;
}

static heard ask(omni_generate_params p) {
    return ask_in(NULL, "Tell me about the sea, please.", p);
}

static bool same_text(const heard *a, const heard *b) {
    return a->size == b->size && memcmp(a->text, b->text, a->size) == 0;
}

static bool same_sound(const heard *a, const heard *b) {
    return a->samples == b->samples && a->sum == b->sum;
}

/* ------------------------------------------------------------------------------------------------ sampling */

static void text_sampling(void **state) {
    const heard best = ask(greedy(24));
    omni_generate_params p = greedy(24);
    p.text = (omni_sampling){.temperature = 1.5f, .top_p = 1, .repeat_penalty = 1};
    p.seed = 3;
    const heard one = ask(p), again = ask(p);
    assert_true(same_text(&one, &again));
    assert_false(same_text(&one, &best));
    p.seed = 4;
    const heard other = ask(p);
    assert_false(same_text(&one, &other));
    /* Each of these leaves the likeliest token alone. */
    for (int k = 0; k < 4; k++) {
        omni_generate_params q = p;
        q.text.temperature = k == 0 ? 1e-4f : 1.5f;
        q.text.top_k = k == 1 ? 1 : 0;
        q.text.top_p = k == 2 ? 1e-6f : 1;
        q.text.min_p = k == 3 ? 1 : 0;
        const heard h = ask(q);
        if (!same_text(&h, &best)) {
            fail_msg("setting %d does not leave the likeliest alone: \"%s\", not \"%s\"", k, h.text, best.text);
        }
    }
    p = greedy(24);
    p.text.repeat_penalty = 1000; /* for greedy answers too */
    const heard changed = ask(p);
    assert_false(same_text(&changed, &best));
}

static void speech_sampling(void **state) {
    omni_generate_params p = greedy(6);
    p.speak = true;
    p.max_frames = 6;
    const heard best = ask(p);
    assert_int_equal(best.result.frames, 6);
    p.speech = (omni_sampling){.temperature = 1.2f, .top_p = 1, .repeat_penalty = 1};
    p.seed = 5;
    const heard one = ask(p), again = ask(p);
    assert_true(same_sound(&one, &again));
    assert_true(same_text(&one, &best)); /* the text's settings are its own */
    assert_false(same_sound(&one, &best));
    p.seed = 6;
    const heard other = ask(p);
    assert_false(same_sound(&one, &other));
    p.speech.top_k = 1; /* the codes after the first of a frame are drawn all the same */
    const heard first_fixed = ask(p);
    p.speech.top_k = 50;
    const heard fifty = ask(p);
    assert_false(same_sound(&first_fixed, &fifty));
    omni_generate_params q = p;
    q.speech.top_k = 0;
    q.speech.top_p = 1e-6f;
    const heard nucleus = ask(q);
    q.speech.top_p = 1;
    q.speech.min_p = 1;
    const heard likely = ask(q);
    assert_true(same_sound(&nucleus, &first_fixed));
    assert_true(same_sound(&likely, &first_fixed));
    q.speech.min_p = 0;
    q.speech.top_k = 1;
    q.max_frames = 40; /* enough for a code to come again */
    const heard repeating = ask(q);
    q.speech.repeat_penalty = 1000;
    const heard varied = ask(q);
    assert_false(same_sound(&varied, &repeating));
}

static void lengths(void **state) {
    for (int n = 1; n < 6; n += 2) {
        omni_generate_params p = greedy(n);
        p.speak = n > 1; /* the last token is not spoken */
        p.max_frames = n;
        const heard h = ask(p);
        assert_int_equal(h.result.answer_tokens, n);
        assert_int_equal(h.result.finish, OMNI_FINISH_LENGTH);
        assert_int_equal(h.result.frames, n > 1 ? n : 0);
        assert_int_equal(h.result.samples, h.samples);
        assert_true(!p.speak || h.result.speech_cut);
    }
    /* An answer that ends by itself, and the same one when it may not. */
    for (uint64_t seed = 0;; seed++) {
        assert_true(seed < 50);
        omni_generate_params p = greedy(300);
        p.text = (omni_sampling){.temperature = 2, .top_p = 1, .repeat_penalty = 1};
        p.seed = seed;
        p.ignore_eos = false;
        const heard h = ask(p);
        if (h.result.finish == OMNI_FINISH_STOP) {
            p.ignore_eos = true;
            const heard on = ask(p);
            assert_int_equal(on.result.answer_tokens, 300);
            assert_int_equal(on.result.finish, OMNI_FINISH_LENGTH);
            assert_memory_equal(on.text, h.text, h.size);
            break;
        }
    }
}

static void stops(void **state) {
    const heard all = ask(greedy(40));
    assert_true(all.size > 30);
    char early[4] = {0}, late[4] = {0};
    size_t at = 9;
    while ((all.text[at] & 0x80) || (all.text[at + 1] & 0x80) || (all.text[at + 2] & 0x80)) {
        at++;
    }
    memcpy(early, all.text + at, 3);
    size_t far = all.size - 6;
    while (far > at + 3 && ((all.text[far] & 0x80) || (all.text[far + 1] & 0x80) || (all.text[far + 2] & 0x80))) {
        far--;
    }
    memcpy(late, all.text + far, 3);
    size_t first = (size_t)(strstr(all.text, early) - all.text), last = (size_t)(strstr(all.text, late) - all.text);
    const char *const both[][2] = {{early, late}, {late, early}};
    for (int k = 0; k < 2; k++) { /* in any order the one that comes first ends it */
        omni_generate_params p = greedy(40);
        p.stop = both[k];
        p.stop_count = 2;
        const heard h = ask(p);
        assert_int_equal(h.result.finish, OMNI_FINISH_STOP);
        assert_int_equal(h.size, first < last ? first : last);
        assert_memory_equal(h.text, all.text, h.size);
        p.stop_count = 1;
        const heard one = ask(p);
        assert_int_equal(one.size, k == 0 ? first : last);
    }
}

static void voices(void **state) {
    size_t n = omni_model_voice_count(model);
    assert_true(n >= 2);
    heard h[8];
    for (size_t i = 0; i < n && i < 8; i++) {
        const char *name;
        must(omni_model_find_voice(model, omni_model_voice(model, i), &name, &err));
        assert_string_equal(name, omni_model_voice(model, i));
        omni_generate_params p = greedy(4);
        p.speak = true;
        p.voice = name;
        h[i] = ask(p);
        for (size_t k = 0; k < i; k++) {
            assert_false(same_sound(&h[i], &h[k]));
        }
    }
    const char *usual;
    must(omni_model_find_voice(model, NULL, &usual, &err));
    omni_generate_params p = greedy(4);
    p.speak = true;
    const heard by_default = ask(p);
    for (size_t i = 0; i < n && i < 8; i++) {
        assert_int_equal(same_sound(&by_default, &h[i]), strcmp(usual, omni_model_voice(model, i)) == 0);
    }
}

static void callbacks_that_say_stop(void **state) {
    omni_generate_params p = greedy(20);
    p.speak = true;
    p.max_frames = 40;
    p.on_text = on_text;
    p.on_audio = on_audio;
    for (int k = 0; k < 2; k++) {
        dialogue *s = session(NULL);
        say(s, OMNI_USER, "Hello.");
        heard h = {.stop_text = k == 0 ? 2 : 0, .stop_sound = k == 1 ? 2 : 0};
        p.arg = &h;
        must(omni_generate(s->engine, s->conversation, &p, &h.result, &err));
        assert_int_equal(h.result.finish, OMNI_FINISH_CANCELLED);
        assert_int_equal(k == 0 ? h.texts : h.sounds, 2);
        dialogue_destroy(s);
    }
}

/* ------------------------------------------------------------------------------------------------ sessions */

/* The scores that follow a message, from a trace: they tell whatever reached the model. */
static double about(const dialogue_params *sp, const omni_part *parts, size_t count, int64_t *prompt_tokens) {
    dialogue *s = session(sp);
    must(add_parts(s, OMNI_USER, parts, count));
    omni_generate_params p = greedy(1);
    omni_result result;
    p.trace = in_folder("trace.safetensors");
    must(omni_generate(s->engine, s->conversation, &p, &result, &err));
    dialogue_destroy(s);
    *prompt_tokens = result.prompt_tokens;
    safetensors *trace;
    must(safetensors_open_file(in_folder("trace.safetensors"), &trace, &err));
    const st_tensor *logits = safetensors_find(trace, "logits");
    assert_non_null(logits);
    double sum = 0;
    const float *x = logits->data;
    for (size_t i = 0; i < logits->size / sizeof *x; i++) {
        sum += (double)x[i] * (double)(1 + i % 97);
    }
    safetensors_close(trace);
    unlink(in_folder("trace.safetensors"));
    return sum;
}

static void session_settings(void **state) {
    omni_generate_params p = greedy(8);
    p.speak = true;
    const char *question = "A question of some length, so that it is read in several pieces by a session with a small batch.";
    const heard usual = ask_in(NULL, question, p);
    dialogue_params sp = dialogue_params_default();
    sp.engine.batch = 4;
    const heard pieces = ask_in(&sp, question, p);
    assert_true(same_text(&usual, &pieces) && same_sound(&usual, &pieces));
    assert_int_equal(pieces.reading_steps, (pieces.result.prompt_tokens + 3) / 4);
    assert_int_equal(usual.reading_steps, 1);
    const omni_part picture = {.kind = OMNI_IMAGE, .path = PICTURE_A};
    int64_t tokens;
    const double whole = about(NULL, &picture, 1, &tokens);
    assert_true(about(NULL, &picture, 1, &tokens) == whole);
    for (int k = 0; k < 2; k++) {
        sp = dialogue_params_default();
        *(k == 0 ? &sp.engine.cache_type_k : &sp.engine.cache_type_v) = OMNI_CACHE_F16;
        assert_false(about(&sp, &picture, 1, &tokens) == whole);
    }
    sp = dialogue_params_default();
    dialogue_set_context(&sp, 70);
    dialogue *s = session(&sp);
    assert_int_equal(omni_engine_context(s->engine), 70);
    say(s, OMNI_USER, "Hi");
    heard h = {0};
    p = greedy(0);
    generate(s, p, &h);
    assert_int_equal(h.result.finish, OMNI_FINISH_LENGTH);
    assert_in_range(h.result.prompt_tokens + h.result.answer_tokens, 70, 71);
    dialogue_destroy(s);
    dialogue_set_context(&sp, 10);
    s = session(&sp);
    say(s, OMNI_USER, question);
    assert_int_equal(omni_generate(s->engine, s->conversation, &p, NULL, &err), OMNI_ERR_LIMIT);
    dialogue_destroy(s);
}

/* Tokens of a prompt with this part; -1 when it is refused with OMNI_ERR_LIMIT. */
static int64_t prompt_of(const dialogue_params *sp, const omni_part *part, heard *h) {
    dialogue *s = session(sp);
    int64_t tokens = -1;
    omni_status status = add_parts(s, OMNI_USER, part, 1);
    *h = (heard){0};
    if (status == OMNI_OK) {
        generate(s, greedy(1), h);
        tokens = h->result.prompt_tokens;
    } else if (status != OMNI_ERR_LIMIT) {
        fail_msg("%s", err.text);
    }
    dialogue_destroy(s);
    return tokens;
}

static void media_settings(void **state) {
    const omni_part video = {.kind = OMNI_VIDEO, .path = VIDEO}, sound = {.kind = OMNI_AUDIO, .path = SOUND},
                    picture = {.kind = OMNI_IMAGE, .path = PICTURE_A};
    heard h;
    dialogue_params sp = dialogue_params_default();
    int64_t usual = prompt_of(&sp, &video, &h);
    assert_true(usual > 0 && h.listened == 0);
    sp.conversation.fps = 8;
    int64_t more = prompt_of(&sp, &video, &h);
    assert_true(more > usual);
    sp.conversation.fps = 2; /* the default */
    assert_int_equal(prompt_of(&sp, &video, &h), usual);
    sp.conversation.use_audio_in_video = true;
    int64_t heard_too = prompt_of(&sp, &video, &h);
    assert_true(heard_too > usual);
    sp = dialogue_params_default();
    sp.conversation.max_audio_seconds = 0.01;
    assert_int_equal(prompt_of(&sp, &sound, &h), -1);
    assert_true(prompt_of(&sp, &video, &h) > 0); /* not heard */
    sp = dialogue_params_default();
    sp.conversation.max_video_frames = 1;
    int64_t few = prompt_of(&sp, &video, &h);
    assert_true(few == -1 || few < usual);
    sp = dialogue_params_default();
    sp.conversation.forbid_files = true;
    dialogue *s = session(&sp);
    static const char json[] = "[{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"path\": \"" PICTURE_A "\"}]}]";
    assert_int_not_equal(omni_conversation_add_json(s->conversation, json, strlen(json), &err), OMNI_OK);
    dialogue_destroy(s);
    s = session(NULL);
    must(omni_conversation_add_json(s->conversation, json, strlen(json), &err));
    dialogue_destroy(s);
    assert_true(prompt_of(NULL, &picture, &h) > 0);
}

static void two_of_everything(void **state) {
    const omni_part pairs[][2] = {{{.kind = OMNI_IMAGE, .path = PICTURE_A}, {.kind = OMNI_IMAGE, .path = PICTURE_B}},
                                  {{.kind = OMNI_AUDIO, .path = SOUND}, {.kind = OMNI_AUDIO, .path = TEST_DATA "/audio/u8_8k.wav"}},
                                  {{.kind = OMNI_VIDEO, .path = VIDEO}, {.kind = OMNI_VIDEO, .path = TEST_DATA "/media/video/vp9.webm"}},
                                  {{.kind = OMNI_TEXT, .text = "one"}, {.kind = OMNI_TEXT, .text = " two"}}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const omni_part *a = &pairs[i][0], *b = &pairs[i][1];
        const omni_part orders[][2] = {{*a, *b}, {*b, *a}, {*a, *a}, {*b, *b}};
        double scores[4];
        int64_t tokens[4];
        for (int x = 0; x < 4; x++) {
            scores[x] = about(NULL, orders[x], 2, &tokens[x]);
            for (int y = 0; y < x; y++) {
                if (scores[x] == scores[y]) {
                    fail_msg("pair %zu: orders %d and %d are answered alike", i, x, y);
                }
            }
        }
        assert_int_equal(tokens[0], tokens[1]);
        if (a->kind != OMNI_TEXT) { /* whose words may join */
            assert_int_equal(2 * tokens[0], tokens[2] + tokens[3]);
        }
    }
}

static void two_turns_of_each_role(void **state) {
    dialogue *s = session(NULL);
    int64_t before = 0;
    const omni_role roles[] = {OMNI_SYSTEM, OMNI_USER, OMNI_ASSISTANT, OMNI_USER, OMNI_ASSISTANT, OMNI_TOOL, OMNI_TOOL};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        say(s, roles[i], "words");
        heard h = {0};
        generate(s, greedy(1), &h);
        assert_true(h.result.prompt_tokens > before);
        before = h.result.prompt_tokens;
        omni_conversation_take_back(s->conversation); /* the answer */
    }
    dialogue_destroy(s);
    s = session(NULL);
    static const char one[] = "[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]",
                      two[] =
                          "[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}, {\"type\": \"function\", \"function\": {\"name\": \"g\"}}]";
    int64_t tokens[2];
    for (int k = 0; k < 2; k++) {
        must(omni_conversation_set_tools(s->conversation, k ? two : one, strlen(k ? two : one), &err));
        say(s, OMNI_USER, "Hi");
        heard h = {0};
        generate(s, greedy(1), &h);
        tokens[k] = h.result.prompt_tokens;
        dialogue_reset(s); /* tools stay, until others are given */
    }
    assert_true(tokens[1] > tokens[0]);
    dialogue_destroy(s);
}

/* ------------------------------------------------------------------------------------------------ models and files */

typedef struct told {
    const char *what;
    uint64_t last, total;
    int count, stop_at;
} told;

static bool note(void *arg, const char *what, uint64_t done, uint64_t total) {
    told *t = arg;
    assert_string_equal(what, t->what);
    assert_true(done >= t->last && (total == 0 || done <= total));
    assert_true(t->total == 0 || t->total == total);
    t->last = done;
    t->total = total;
    return ++t->count != t->stop_at;
}

/* Done grows up to the total; the callback's "no" ends the work. */
static void check_told(omni_status (*work)(told *t), const char *what) {
    told t = {.what = what};
    must(work(&t));
    assert_true(t.count > 0);
    assert_int_equal(t.last, t.total);
    t = (told){.what = what, .stop_at = 1};
    assert_int_equal(work(&t), OMNI_CANCELLED);
    assert_int_equal(t.count, 1);
    assert_int_equal(files_in_folder(true), 0);
}

static omni_status open_model(told *t) {
    omni_model_params p = tiny();
    p.progress = note;
    p.progress_arg = t;
    omni_model *m;
    omni_status status = omni_model_open(&p, &m, &err);
    omni_model_close(m);
    return status;
}

static omni_status quantize(told *t) {
    omni_quantize_params p = omni_quantize_params_default();
    p.input = MODELS "/tiny/talker-qwen3-omni-f16.gguf";
    p.output = in_folder("q.gguf");
    p.type = "q8_0";
    p.progress = note;
    p.progress_arg = t;
    omni_status status = omni_quantize(&p, NULL, &err);
    files_in_folder(status == OMNI_OK);
    return status;
}

static void progress(void **state) {
    check_told(open_model, "loading");
    check_told(quantize, "quantising");
}

static void model_settings(void **state) {
    const heard usual = ask(greedy(8));
    omni_model *shared = model;
    for (int threads = 1; threads <= 3; threads += 2) {
        omni_model_params p = tiny();
        p.threads = threads;
        must(omni_model_open(&p, &model, &err));
        const heard h = ask(greedy(8));
        assert_true(same_text(&usual, &h));
        omni_model_close(model);
    }
    omni_model_params p = tiny();
    p.embeddings_only = true;
    must(omni_model_open(&p, &model, &err));
    dialogue *s = session(NULL);
    say(s, OMNI_USER, "Hi");
    omni_generate_params g = greedy(2);
    assert_int_equal(omni_generate(s->engine, s->conversation, &g, NULL, &err), OMNI_ERR_ARGUMENT);
    heard spoken = {0};
    g.on_audio = on_audio;
    g.arg = &spoken;
    must(omni_speak(s->engine, "Words to say", &g, NULL, &err));
    assert_true(spoken.samples > 0);
    dialogue_destroy(s);
    omni_model_close(model);
    model = shared;
}

static void imatrix_settings(void **state) {
    omni_imatrix_params p = omni_imatrix_params_default();
    omni_imatrix_result all, one, small;
    p.model = tiny();
    p.model.mmproj = p.model.talker = NULL;
    p.text = TEST_DATA "/convert/micro_config.json";
    p.output = in_folder("i.gguf");
    p.piece_bytes = 1000;
    p.max_pieces = 2;
    must(omni_imatrix(&p, &all, &err));
    assert_int_equal(all.pieces, 2);
    p.max_pieces = 1;
    must(omni_imatrix(&p, &one, &err));
    assert_int_equal(one.pieces, 1);
    assert_true(one.tokens < all.tokens && one.tokens > 0);
    p.piece_bytes = 100;
    must(omni_imatrix(&p, &small, &err));
    assert_true(small.tokens < one.tokens && small.tokens > 0);
    assert_int_equal(files_in_folder(true), 1);
}

static int set_up(void **state) {
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_sampling),
        cmocka_unit_test(speech_sampling),
        cmocka_unit_test(lengths),
        cmocka_unit_test(stops),
        cmocka_unit_test(voices),
        cmocka_unit_test(callbacks_that_say_stop),
        cmocka_unit_test(session_settings),
        cmocka_unit_test(media_settings),
        cmocka_unit_test(two_of_everything),
        cmocka_unit_test(two_turns_of_each_role),
        cmocka_unit_test(progress),
        cmocka_unit_test(model_settings),
        cmocka_unit_test(imatrix_settings),
    };
    return cmocka_run_group_tests_name("params", tests, set_up, tear_down);
}
