/* Placeholder expansion and positions against vectors of the reference (tests/reference/positions.py).
 * With a file as argument: against the cases of that file instead. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/positions.h"

#include <cmocka.h> /* its fail() macro must come after our function of that name */

static prompt_markup markup = {.image = 10,
                               .video = 11,
                               .audio = 12,
                               .vision_start = 13,
                               .vision_end = 14,
                               .audio_start = 15,
                               .audio_end = 16,
                               .spatial_merge = 2,
                               .ids_per_second = 13};

static const char *cases_path; /* given on the command line */

static int32_t *read_ids(FILE *f, long n) {
    int32_t *ids = calloc((size_t)n + 1, sizeof *ids);
    assert_non_null(ids);
    for (long i = 0; i < n; i++) {
        assert_int_equal(fscanf(f, "%d", &ids[i]), 1);
    }
    return ids;
}

/* Reads "refused" or "positions DELTA" with three lines, and compares with what was computed. */
static void compare_positions(FILE *f, long number, bool done, long n, float (*got)[3], float delta) {
    char word[16];
    assert_int_equal(fscanf(f, "%15s", word), 1);
    if (strcmp(word, "refused") == 0) {
        return; /* what the reference cannot place may still be placed here */
    }
    float want_delta;
    assert_int_equal(fscanf(f, "%f", &want_delta), 1);
    assert_true(done);
    for (int axis = 0; axis < 3; axis++) {
        for (long i = 0; i < n; i++) {
            float want;
            assert_int_equal(fscanf(f, "%f", &want), 1);
            if (got[i][axis] != want) {
                fail_msg("case %ld, row %ld, axis %d: %.9g, reference %.9g", number, i, axis, (double)got[i][axis], (double)want);
            }
        }
    }
    if (delta != want_delta) {
        fail_msg("case %ld: delta %.9g, reference %.9g", number, (double)delta, (double)want_delta);
    }
}

static void check_rows(const prompt *p, const int32_t *want, long number, const prompt_media *media, long media_count) {
    int64_t visual[64] = {0}, sound[64] = {0};
    for (int64_t i = 0; i < p->n; i++) {
        const prompt_row *r = &p->rows[i];
        if (r->id != want[i]) {
            fail_msg("case %ld, row %ld: id %d, reference %d", number, (long)i, r->id, want[i]);
        }
        assert_true((r->media >= 0) == (r->id == 10 || r->id == 11 || r->id == 12));
        if (r->media >= 0) { /* each media's embeddings are used once each, in order */
            int64_t *seen = r->id == 12 ? &sound[r->media] : &visual[r->media];
            assert_int_equal(r->media_row, *seen);
            ++*seen;
        }
    }
    for (long i = 0; i < media_count; i++) {
        assert_int_equal(visual[i], prompt_visual_rows(&markup, &media[i]));
        assert_int_equal(sound[i], media[i].audio_rows < 0 ? 0 : media[i].audio_rows);
    }
}

static void run_case(FILE *f, long number) {
    long marked, media_count, n;
    assert_int_equal(fscanf(f, "%ld %ld %ld", &marked, &media_count, &n), 3);
    assert_true(media_count <= 64);
    int32_t *ids = read_ids(f, marked);
    prompt_media media[64];
    int32_t order[64];
    for (long i = 0; i < media_count; i++) {
        int kind;
        order[i] = (int32_t)i;
        assert_int_equal(fscanf(f, "%d %d %d %d %lf %d", &kind, &media[i].grid[0], &media[i].grid[1], &media[i].grid[2], &media[i].seconds_per_grid,
                                &media[i].audio_rows),
                         6);
        media[i].kind = (prompt_kind)kind;
    }
    int32_t *want = read_ids(f, n);
    prompt p;
    omni_error err = {0};
    if (prompt_expand(&markup, ids, marked, media, (int32_t)media_count, n, &p, &err) != OMNI_OK) {
        fail_msg("case %ld: %s", number, err.text);
    }
    assert_int_equal(p.n, n);
    check_rows(&p, want, number, media, media_count);

    float(*got)[3] = calloc((size_t)n, sizeof *got);
    uint8_t *classes = malloc((size_t)n);
    assert_true(got && classes);
    position_lists lists;
    assert_int_equal(position_lists_make(media, order, (int32_t)media_count, &lists, &err), OMNI_OK);
    float delta = 0;
    positions_classes(&markup, want, n, classes);
    assert_int_equal(positions_compute(&markup, classes, n, &lists.media, got, &delta, &err), OMNI_OK);
    for (long i = 0; i < n; i++) {
        assert_memory_equal(got[i], p.rows[i].position, sizeof got[i]);
    }
    compare_positions(f, number, true, n, got, delta);
    lists.media.audio_in_video = false; /* as the talker is called */
    bool done = positions_compute(&markup, classes, n, &lists.media, got, &delta, &err) == OMNI_OK;
    compare_positions(f, number, done, n, got, delta);
    position_lists_free(&lists);
    prompt_free(&p);
    free(got);
    free(classes);
    free(ids);
    free(want);
}

static void run_file(const char *path) {
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    char word[256];
    long number = 0;
    assert_non_null(fgets(word, sizeof word, f)); /* how it was made */
    const char *merge = strstr(word, "merge ");
    assert_non_null(merge);
    markup.spatial_merge = atoi(merge + strlen("merge "));
    while (fscanf(f, "%15s", word) == 1) {
        assert_string_equal(word, "case");
        run_case(f, number++);
    }
    fclose(f);
    assert_true(number > 0);
    printf("%ld cases\n", number);
    markup.spatial_merge = 2;
}

static void reference_cases(void **state) {
    if (cases_path) {
        run_file(cases_path);
        return;
    }
    run_file(TEST_DATA "/positions.txt");
    run_file(TEST_DATA "/positions_merge1.txt");
    run_file(TEST_DATA "/positions_merge3.txt");
}

static void refused(void **state) {
    prompt p;
    omni_error err = {0};
    prompt_media image = {.kind = PROMPT_IMAGE, .grid = {1, 4, 4}, .audio_rows = -1};
    const int32_t good[] = {100, 13, -1, 14, 100};
    assert_int_equal(prompt_expand(&markup, good, 5, &image, 1, 8, &p, &err), OMNI_OK);
    assert_int_equal(p.n, 8);
    prompt_free(&p);
    assert_int_equal(prompt_expand(&markup, good, 5, &image, 1, 7, &p, &err), OMNI_ERR_LIMIT);
    assert_non_null(strstr(err.text, "8"));
    assert_int_equal(prompt_expand(&markup, good, 5, &image, 0, 8, &p, &err), OMNI_ERR_ARGUMENT);
    const int32_t bare[] = {100, -1, 100};
    assert_int_equal(prompt_expand(&markup, bare, 3, &image, 1, 8, &p, &err), OMNI_ERR_ARGUMENT);
    prompt_media odd = {.kind = PROMPT_IMAGE, .grid = {1, 3, 4}, .audio_rows = -1};
    assert_int_equal(prompt_expand(&markup, good, 5, &odd, 1, 8, &p, &err), OMNI_ERR_ARGUMENT);
    prompt_media huge = {.kind = PROMPT_VIDEO, .grid = {INT32_MAX, INT32_MAX - 1, INT32_MAX - 1}, .audio_rows = -1};
    assert_int_equal(prompt_expand(&markup, good, 5, &huge, 1, 8, &p, &err), OMNI_ERR_ARGUMENT);
    prompt_media never = {.kind = PROMPT_VIDEO, .grid = {1, 2, 2}, .seconds_per_grid = NAN, .audio_rows = -1};
    assert_int_equal(prompt_expand(&markup, good, 5, &never, 1, 8, &p, &err), OMNI_ERR_ARGUMENT);
}

/* Openings that a model wrote into its own answer are text; the media behind them keep their places. */
static void stray_openings(void **state) {
    prompt p;
    omni_error err = {0};
    prompt_media media[] = {{.kind = PROMPT_IMAGE, .grid = {1, 4, 8}, .audio_rows = -1}, {.kind = PROMPT_AUDIO, .audio_rows = 3}};
    const int32_t ids[] = {13, 15, 10, 13, -1, 14, 13, 15, 15, -2, 16, 12, 13};
    assert_int_equal(prompt_expand(&markup, ids, 13, media, 2, 100, &p, &err), OMNI_OK);
    assert_int_equal(p.n, 22);
    assert_float_equal(p.rows[4].position[0], 4, 0);
    assert_float_equal(p.rows[11].position[0], 4, 0);
    assert_float_equal(p.rows[11].position[2], 7, 0);
    assert_float_equal(p.rows[12].position[1], 8, 0); /* the largest id, a width, + 1 */
    assert_float_equal(p.rows[21].position[2], 17, 0);
    prompt_free(&p);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        cases_path = argv[1];
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(reference_cases), cmocka_unit_test(refused), cmocka_unit_test(stray_openings)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
