/* Media as a session holds them: several of a kind in one call, each with its own embeddings; sound from pipes and of videos. */
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "dialogue.h"
#include "engine/engine.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

#define MODELS TEST_DATA "/../../models"
#define AUDIO TEST_DATA "/audio/"

static omni_model *model;
static omni_error err;

static void must(omni_status status) {
    if (status != OMNI_OK) {
        fail_msg("%s", err.text);
    }
}

static int set_up(void **state) {
    omni_model_params p = omni_model_params_default();
    p.model = MODELS "/tiny/qwen3-omni-f16.gguf";
    p.mmproj = MODELS "/tiny/mmproj-qwen3-omni-f16.gguf";
    p.threads = 2;
    must(omni_model_open(&p, &model, &err));
    return 0;
}

static int tear_down(void **state) {
    omni_model_close(model);
    return 0;
}

static medium load(omni_kind kind, const char *path, bool heard) {
    budget b;
    budget_init(&b, NULL);
    medium m;
    must(medium_load(&model->encoders, kind, path, NULL, 0, &(medium_options){.use_audio_in_video = heard}, &b, &m, &err));
    return m;
}

/* A sound of its own: which of them, and how many samples. */
static medium made_up(int which, int64_t count) {
    medium m = {.kind = PROMPT_AUDIO, .name = strdup("made up"), .has_sound = true};
    m.sound = (sound){.samples = malloc((size_t)count * sizeof(float)), .count = count, .rate = 16000};
    assert_true(m.name && m.sound.samples);
    for (int64_t i = 0; i < count; i++) {
        m.sound.samples[i] = (float)(i * (7919 + 26 * which) % 2003) / 2003.0f - 0.5f;
    }
    return m;
}

/* In small units. */
static omni_status encode_item(media_item *m) {
    if (media_item_is_encoded(m)) {
        return OMNI_OK;
    }
    encoding *x;
    TRY(encoding_begin(&model->encoders, m, NULL, &x, &err));
    bool done = false;
    omni_status status = OMNI_OK;
    while (status == OMNI_OK && !done) {
        status = encoding_step(x, 3, &done, &err);
    }
    encoding_free(x);
    return status;
}

/* As one request reads them. */
static omni_status encode(medium *const *media, size_t count) {
    medium all[8];
    assert_true(count <= 8);
    for (size_t i = 0; i < count; i++) {
        all[i] = *media[i];
    }
    omni_status status = media_items_take(&model->encoders, &model->media_cache, NULL, all, count, &err);
    for (size_t i = 0; i < count; i++) {
        *media[i] = all[i];
        status = status == OMNI_OK ? encode_item(all[i].item) : status;
    }
    return status;
}

static const embeddings *embedded(const medium *m) {
    assert_non_null(m->item->embedded);
    return m->item->embedded;
}

/* The embeddings of a medium's sound on the host. */
static float *heard(const medium *m) {
    const size_t bytes = (size_t)embedded(m)->audio_rows * (size_t)audio_encoder_width(model->encoders.audio) * sizeof(float);
    float *values = malloc(bytes);
    assert_non_null(values);
    model->b->ops->download(model->b, values, embedded(m)->audio, bytes);
    return values;
}

/* The largest difference of two sounds' embeddings. Other numbers of rows round otherwise; other sounds differ by far more. */
static float difference(const medium *a, const medium *b) {
    float *x = heard(a), *y = heard(b), worst = 0;
    const int64_t rows = embedded(a)->audio_rows < embedded(b)->audio_rows ? embedded(a)->audio_rows : embedded(b)->audio_rows;
    assert_true(rows > 0);
    for (int64_t i = 0; i < rows * audio_encoder_width(model->encoders.audio); i++) {
        worst = fmaxf(worst, fabsf(x[i] - y[i]));
    }
    free(x);
    free(y);
    return worst;
}

static void same_sound(const medium *a, const medium *b) {
    assert_int_equal(embedded(a)->audio_rows, embedded(b)->audio_rows);
    const float worst = difference(a, b);
    if (!(worst < 1e-4f)) {
        fail_msg("embeddings differ by %g", worst);
    }
}

static void different_sound(const medium *a, const medium *b) {
    const float worst = difference(a, b);
    if (!(worst > 1e-2f)) {
        fail_msg("embeddings differ only by %g", worst);
    }
}

static void release(medium *media, size_t count) {
    for (size_t i = 0; i < count; i++) {
        medium_free(&media[i]);
    }
}

/* Sounds of one length that are encoded together: each gives what it gives alone. */
static void test_sounds_of_one_length(void **state) {
    enum { N = 4, SAMPLES = 20000 };
    medium together[N], alone[N];
    medium *all[N];
    for (int i = 0; i < N; i++) {
        together[i] = made_up(i, SAMPLES);
        alone[i] = made_up(i, SAMPLES);
        all[i] = &together[i];
        must(encode((medium *[]){&alone[i]}, 1));
    }
    must(encode(all, N));
    for (int i = 0; i < N; i++) {
        same_sound(&together[i], &alone[i]);
        for (int k = 0; k < i; k++) {
            different_sound(&together[i], &together[k]);
        }
    }
    release(together, N);
    release(alone, N);
}

/* Nor on the order, whatever the lengths. */
static void test_sounds_in_any_order(void **state) {
    enum { N = 3 };
    static const int64_t lengths[N] = {9000, 31000, 17777};
    static const int orders[][N] = {{0, 1, 2}, {2, 0, 1}, {1, 2, 0}, {2, 1, 0}};
    medium first[N];
    for (int o = 0; o < 4; o++) {
        medium media[N];
        medium *all[N];
        for (int i = 0; i < N; i++) {
            media[i] = made_up(i, lengths[i]);
        }
        for (int i = 0; i < N; i++) {
            all[i] = &media[orders[o][i]];
        }
        must(encode(all, N));
        if (o == 0) {
            memcpy(first, media, sizeof first);
            continue;
        }
        for (int i = 0; i < N; i++) {
            same_sound(&media[i], &first[i]);
        }
        release(media, N);
    }
    release(first, N);
}

/* Two videos with sound, two sounds, two pictures' worth of rows: all keep what is theirs. */
static void test_two_of_everything(void **state) {
    enum { N = 5 };
    static const char *const paths[N] = {AUDIO "v.mp4", AUDIO "s24.wav", AUDIO "v.webm", AUDIO "speech16.wav", AUDIO "v.mkv"};
    medium mixed[N], sounds[N];
    medium *all[N], *only[N];
    for (int i = 0; i < N; i++) {
        const omni_kind kind = i % 2 ? OMNI_AUDIO : OMNI_VIDEO;
        mixed[i] = load(kind, paths[i], true);
        sounds[i] = load(OMNI_AUDIO, paths[i], false);
        assert_true(mixed[i].has_sound);
        all[i] = &mixed[i];
        only[N - 1 - i] = &sounds[i];
    }
    must(encode(all, N));
    must(encode(only, N));
    for (int i = 0; i < N; i++) {
        same_sound(&mixed[i], &sounds[i]);
        medium alone = load(i % 2 ? OMNI_AUDIO : OMNI_VIDEO, paths[i], false);
        must(encode((medium *[]){&alone}, 1));
        assert_int_equal(embedded(&alone)->visual_rows, embedded(&mixed[i])->visual_rows);
        if (embedded(&alone)->visual_rows) {
            assert_memory_equal(embedded(&alone)->visual, embedded(&mixed[i])->visual,
                                (size_t)embedded(&alone)->visual_rows * (size_t)vision_encoder_config(model->encoders.vision)->out * sizeof(float));
        }
        release(&alone, 1);
    }
    release(mixed, N);
    release(sounds, N);
}

static void test_too_short_names_the_file(void **state) {
    medium m = made_up(0, 100), longer = made_up(1, 200);
    free(longer.name);
    longer.name = strdup("longer.wav");
    assert_int_equal(encode((medium *[]){&m, &longer}, 2), OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(err.text, "longer.wav"));
    assert_non_null(strstr(err.text, "201"));
    release(&longer, 1);
    longer = made_up(1, 201); /* beside a longer one, any length will do */
    must(encode((medium *[]){&m, &longer}, 2));
    release(&m, 1);
    release(&longer, 1);
}

/* ---- where the bytes come from ---- */

typedef struct writer {
    const char *from, *to;
} writer;

static void *write_all(void *arg) {
    const writer *w = arg;
    char *data;
    size_t size;
    omni_error e;
    if (file_read(w->from, 1 << 24, &data, &size, &e) == OMNI_OK) {
        FILE *f = fopen(w->to, "wb"); /* waits for the reader */
        if (f) {
            fwrite(data, 1, size, f);
            fclose(f);
        }
        free(data);
    }
    return NULL;
}

/* Through a pipe everything comes in that a file brings, also MP4, whose index is sought, and both halves of a video. */
static void test_from_a_pipe(void **state) {
    static const struct {
        omni_kind kind;
        const char *path;
    } cases[] = {{OMNI_AUDIO, AUDIO "a.m4a"}, {OMNI_AUDIO, AUDIO "s24.wav"}, {OMNI_VIDEO, AUDIO "v.mp4"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[] = "/tmp/omni-test-pipe-XXXXXX", pipe_path[64];
        assert_non_null(mkdtemp(folder));
        snprintf(pipe_path, sizeof pipe_path, "%s/pipe", folder);
        assert_int_equal(mkfifo(pipe_path, 0600), 0);
        writer w = {cases[i].path, pipe_path};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, write_all, &w), 0);
        medium m = load(cases[i].kind, pipe_path, true), file = load(cases[i].kind, cases[i].path, true);
        pthread_join(thread, NULL);
        assert_int_equal(m.sound.count, file.sound.count);
        assert_memory_equal(m.sound.samples, file.sound.samples, (size_t)file.sound.count * sizeof(float));
        assert_int_equal(m.grid[0], file.grid[0]);
        release(&m, 1);
        release(&file, 1);
        unlink(pipe_path);
        rmdir(folder);
    }
}

static void test_standard_input_once(void **state) {
    const int old = dup(STDIN_FILENO), file = open(AUDIO "a.mp3", O_RDONLY);
    assert_true(old >= 0 && file >= 0);
    dup2(file, STDIN_FILENO);
    close(file);
    budget b;
    budget_init(&b, NULL);
    medium m, again;
    const medium_options o = {0};
    const omni_status first = medium_load(&model->encoders, OMNI_AUDIO, "-", NULL, 0, &o, &b, &m, &err);
    omni_error second;
    const omni_status next = medium_load(&model->encoders, OMNI_AUDIO, "-", NULL, 0, &o, &b, &again, &second);
    dup2(old, STDIN_FILENO);
    close(old);
    must(first);
    medium same = load(OMNI_AUDIO, AUDIO "a.mp3", false);
    assert_int_equal(m.sound.count, same.sound.count);
    assert_int_equal(next, OMNI_ERR_ARGUMENT);
    assert_non_null(strstr(second.text, "standard input"));
    release(&m, 1);
    release(&same, 1);
}

/* ---- videos without sound ---- */

static void take_warning(void *arg, const char *text) {
    char *all = arg;
    strcat(strcat(all, text), "\n");
}

/* A warning and on, as a picture alone. */
static void test_silent_video(void **state) {
    char warnings[2000] = "";
    dialogue_params p = dialogue_params_default();
    p.conversation.use_audio_in_video = true;
    p.conversation.on_warning = take_warning;
    p.conversation.warning_arg = warnings;
    dialogue *s;
    must(dialogue_create(model, &p, &s, &err));
    const omni_part parts[] = {{.kind = OMNI_VIDEO, .path = AUDIO "v.mp4"},
                               {.kind = OMNI_VIDEO, .path = AUDIO "silent.mp4"},
                               {.kind = OMNI_AUDIO, .path = AUDIO "s24.wav"},
                               {.kind = OMNI_TEXT, .text = "What?"}};
    must(omni_conversation_add(s->conversation, &(omni_message){OMNI_USER, parts, 4}, &err));
    assert_non_null(strstr(warnings, "silent.mp4: has no sound"));
    assert_non_null(strstr(warnings, "--use-audio-in-video"));
    assert_ptr_equal(strchr(warnings, '\n'), warnings + strlen(warnings) - 1); /* one */
    assert_int_equal(s->conversation->media_count, 3);
    assert_true(s->conversation->media[0].has_sound && !s->conversation->media[1].has_sound &&
                s->conversation->media[2].has_sound); /* the sound stays one of its own */
    warnings[0] = 0;
    const char json[] = "[{\"role\": \"user\", \"content\": [{\"type\": \"video\", \"path\": \"" AUDIO "silent.mp4\"}]}]";
    must(omni_conversation_add_json(s->conversation, json, sizeof json - 1, &err));
    assert_non_null(strstr(warnings, "silent.mp4: has no sound"));
    dialogue_destroy(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sounds_of_one_length), cmocka_unit_test(test_sounds_in_any_order),
        cmocka_unit_test(test_two_of_everything),    cmocka_unit_test(test_too_short_names_the_file),
        cmocka_unit_test(test_from_a_pipe),          cmocka_unit_test(test_standard_input_once),
        cmocka_unit_test(test_silent_video),
    };
    return cmocka_run_group_tests_name("medium", tests, set_up, tear_down);
}
