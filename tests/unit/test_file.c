/* Whole-file reads with a limit, and output that appears under its name when it is whole. test_file_named.c runs the same where the file
 * system has no files without names. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "scratch.h"
/* after the others */
#include <cmocka.h>

#ifndef NAMED
enum { NAMED = 0 };
#endif

static omni_error err;

static void write_text(const char *path, const char *text, mode_t mode) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(path, mode), 0);
}

static void holds(const char *path, const char *text) {
    char *data;
    size_t size;
    assert_int_equal(file_read(path, 1 << 20, &data, &size, &err), OMNI_OK);
    assert_string_equal(data, text);
    free(data);
}

static mode_t mode_of(const char *path) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static omni_status replace(const char *path, const char *text) {
    file_out f;
    err = (omni_error){0};
    omni_status status = file_out_open(path, &f, &err);
    if (status == OMNI_OK) {
        status = file_out_write_at(&f, 0, text, strlen(text), &err);
        status = status == OMNI_OK ? file_out_commit(&f, &err) : (file_out_abandon(&f), status);
    }
    return status;
}

static void rights_are_kept_or_follow_the_umask(void **state) {
    static const mode_t masks[] = {022, 077, 002, 0}, olds[] = {0600, 0640, 0666, 0755, 0444 | 0200};
    const char *path = in_folder("a");
    mode_t before = umask(0);
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        umask(masks[i]);
        assert_int_equal(replace(path, "new"), OMNI_OK);
        assert_int_equal(mode_of(path), 0666 & ~masks[i]);
        unlink(path);
        for (size_t k = 0; k < sizeof olds / sizeof *olds; k++) {
            write_text(path, "old", olds[k]);
            assert_int_equal(replace(path, "new"), OMNI_OK);
            assert_int_equal(mode_of(path), olds[k]);
            holds(path, "new");
            unlink(path);
        }
    }
    umask(before);
    assert_int_equal(files_in_folder(true), 0);
}

static void an_owner_is_kept(void **state) {
    if (geteuid() != 0) {
        skip();
    }
    const char *path = in_folder("a");
    write_text(path, "old", 0640);
    assert_int_equal(chown(path, 4001, 4002), 0);
    assert_int_equal(replace(path, "new"), OMNI_OK);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_uid, 4001);
    assert_int_equal(st.st_gid, 4002);
    assert_int_equal(st.st_mode & 07777, 0640);
    files_in_folder(true);
}

static void nothing_but_the_target_changes(void **state) {
    static const char *const others[] = {"a.part-1", "a.part-999999", "a.part-x", "a.part-0123456789abcdef", "a~", "b"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        write_text(in_folder(others[i]), others[i], 0600);
    }
    assert_int_equal(replace(in_folder("a"), "new"), OMNI_OK);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        holds(in_folder(others[i]), others[i]);
    }
    assert_int_equal(files_in_folder(true), 7);
}

/* Links under the name that used to be written to (PATH.part-PID) are not followed. */
static void links_beside_are_not_followed(void **state) {
    char name[64];
    snprintf(name, sizeof name, "a.part-%ld", (long)getpid());
    write_text(in_folder("victim"), "precious", 0600);
    assert_int_equal(symlink("victim", in_folder(name)), 0);
    assert_int_equal(replace(in_folder("a"), "new"), OMNI_OK);
    holds(in_folder("victim"), "precious");
    holds(in_folder("a"), "new");
    assert_int_equal(files_in_folder(true), 3);
}

static void of_a_link_the_target_is_replaced(void **state) {
    struct stat st;
    write_text(in_folder("real"), "old", 0600);
    assert_int_equal(symlink("real", in_folder("link")), 0);
    assert_int_equal(symlink("link", in_folder("link2")), 0);
    assert_int_equal(replace(in_folder("link2"), "new"), OMNI_OK);
    holds(in_folder("real"), "new");
    assert_int_equal(mode_of(in_folder("real")), 0600);
    assert_true(lstat(in_folder("link2"), &st) == 0 && S_ISLNK(st.st_mode));
    unlink(in_folder("real"));
    assert_int_equal(replace(in_folder("link"), "newer"), OMNI_OK); /* to nothing: the link itself gives way */
    assert_true(lstat(in_folder("link"), &st) == 0 && S_ISREG(st.st_mode));
    files_in_folder(true);
    assert_int_equal(symlink("loop", in_folder("loop")), 0);
    assert_int_equal(replace(in_folder("loop"), "new"), OMNI_ERR_IO);
    files_in_folder(true);
}

static void what_is_no_file_is_refused(void **state) {
    assert_int_equal(mkdir(in_folder("folder"), 0700), 0);
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    assert_int_equal(symlink("/dev/null", in_folder("null")), 0);
    static const char *const names[] = {"folder", "pipe", "null", "no/such", "folder/"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = in_folder(names[i]);
        assert_int_equal(file_out_check(path, &err), OMNI_ERR_IO);
        assert_int_equal(replace(path, "new"), OMNI_ERR_IO);
        assert_non_null(strstr(err.text, path));
    }
    assert_int_equal(replace("", "new"), OMNI_ERR_ARGUMENT);
    rmdir(in_folder("folder"));
    assert_int_equal(files_in_folder(true), 2);
}

/* Runs part as an ordinary user in a child; true when it returned 0. As root, rights would not be asked for. */
static bool as_user(int (*part)(void)) {
    pid_t child = fork();
    if (child == 0) {
        if (geteuid() == 0 && (setgid(4002) != 0 || setuid(4001) != 0)) {
            _exit(100);
        }
        _exit(part());
    }
    int ended;
    return waitpid(child, &ended, 0) == child && WIFEXITED(ended) && WEXITSTATUS(ended) == 0;
}

static int cannot_replace(void) {
    return replace(in_folder("a"), "new") == OMNI_ERR_IO && file_out_check(in_folder("a"), &err) == OMNI_ERR_IO && err.code == OMNI_ERR_IO ? 0 : 1;
}

static void rights_are_respected(void **state) {
    write_text(in_folder("a"), "old", 0444);
    chmod(folder, 0777);
    assert_true(as_user(cannot_replace)); /* a file that may not be written */
    chmod(in_folder("a"), 0666);
    chmod(folder, 0555);
    assert_true(as_user(cannot_replace)); /* a folder that may not be written */
    if (geteuid() == 0) {
        chmod(folder, 01777);
        assert_true(as_user(cannot_replace)); /* someone else's file in a folder like /tmp: known before anything is computed */
    }
    chmod(folder, 0700);
    holds(in_folder("a"), "old");
    assert_int_equal(files_in_folder(true), 1);
}

static void links_of_others_in_shared_folders_are_refused(void **state) {
    if (geteuid() != 0) {
        skip();
    }
    write_text(in_folder("victim"), "precious", 0600);
    assert_int_equal(symlink("victim", in_folder("a")), 0);
    assert_int_equal(lchown(in_folder("a"), 4001, 4002), 0);
    chmod(folder, 01777);
    assert_int_equal(replace(in_folder("a"), "new"), OMNI_ERR_IO);
    assert_non_null(strstr(err.text, "of another user"));
    holds(in_folder("victim"), "precious");
    chmod(folder, 0700);
    assert_int_equal(replace(in_folder("a"), "new"), OMNI_OK);
    assert_int_equal(files_in_folder(true), 2);
}

static void abandoned_and_failed_writers_leave_nothing(void **state) {
    file_out f;
    write_text(in_folder("a"), "old", 0600);
    assert_int_equal(file_out_open(in_folder("a"), &f, &err), OMNI_OK);
    assert_int_equal(file_out_write_at(&f, 0, "new", 3, &err), OMNI_OK);
    assert_int_equal(files_in_folder(false), 1 + NAMED);
    file_out_abandon(&f);
    assert_int_equal(files_in_folder(false), 1);
    holds(in_folder("a"), "old");
    /* a disk that takes no more */
    struct rlimit limit, small;
    getrlimit(RLIMIT_FSIZE, &limit);
    small = limit;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    char big[8192] = {0};
    assert_int_equal(file_out_open(in_folder("a"), &f, &err), OMNI_OK);
    assert_int_equal(file_out_write_at(&f, 0, big, sizeof big, &err), OMNI_ERR_IO);
    assert_non_null(strstr(err.text, in_folder("a")));
    file_out_abandon(&f);
    setrlimit(RLIMIT_FSIZE, &limit);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(files_in_folder(false), 1);
    /* a name that has become a folder meanwhile, and a folder that has gone */
    assert_int_equal(file_out_open(in_folder("b"), &f, &err), OMNI_OK);
    assert_int_equal(mkdir(in_folder("b"), 0700), 0);
    assert_int_equal(file_out_commit(&f, &err), OMNI_ERR_IO);
    rmdir(in_folder("b"));
    assert_int_equal(files_in_folder(false), 1);
    assert_int_equal(mkdir(in_folder("c"), 0700), 0);
    assert_int_equal(file_out_open(in_folder("c/x"), &f, &err), OMNI_OK);
    if (!NAMED) {
        assert_int_equal(rmdir(in_folder("c")), 0);
        assert_int_equal(file_out_commit(&f, &err), OMNI_ERR_IO);
    } else {
        file_out_abandon(&f);
        assert_int_equal(rmdir(in_folder("c")), 0);
    }
    assert_int_equal(files_in_folder(true), 1);
}

/* Three files that belong together; the names of the first and the last had other files before. What lies in the way of the name fault (3: of none)
 * comes while they are written. */
static omni_status write_three(int fault) {
    static const char *const names[] = {"a", "b", "c"};
    file_out f[3];
    write_text(in_folder("a"), "old a", 0640);
    write_text(in_folder("c"), "old c", 0600);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(file_out_open(in_folder(names[i]), &f[i], &err), OMNI_OK);
        assert_int_equal(file_out_write_at(&f[i], 0, names[i], 1, &err), OMNI_OK);
    }
    if (fault < 3) {
        unlink(in_folder(names[fault]));
        assert_int_equal(mkdir(in_folder(names[fault]), 0700), 0);
    }
    return file_out_commit_all((file_out *const[]){&f[0], &f[1], &f[2]}, 3, &err);
}

static void several_files_get_their_names_or_none(void **state) {
    for (int fault = 0; fault < 3; fault++) {
        assert_int_equal(write_three(fault), OMNI_ERR_IO);
        assert_non_null(strstr(err.text, in_folder(fault == 0 ? "a" : fault == 1 ? "b" : "c")));
        assert_int_equal(rmdir(in_folder(fault == 0 ? "a" : fault == 1 ? "b" : "c")), 0); /* untouched */
        if (fault != 0) {
            holds(in_folder("a"), "old a");
            assert_int_equal(mode_of(in_folder("a")), 0640);
        }
        if (fault != 2) {
            holds(in_folder("c"), "old c");
        }
        assert_int_equal(files_in_folder(true), fault == 1 ? 2 : 1);
    }
    assert_int_equal(write_three(3), OMNI_OK);
    holds(in_folder("a"), "a");
    holds(in_folder("b"), "b");
    holds(in_folder("c"), "c");
    assert_int_equal(mode_of(in_folder("a")), 0640);
    assert_int_equal(files_in_folder(true), 3);
}

static void killed_writers_leave_no_final_name(void **state) {
    pid_t child = fork();
    if (child == 0) {
        file_out f;
        if (file_out_open(in_folder("a"), &f, NULL) == OMNI_OK && file_out_write_at(&f, 0, "half", 4, NULL) == OMNI_OK) {
            raise(SIGKILL);
        }
        _exit(1);
    }
    int ended;
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_true(WIFSIGNALED(ended));
    assert_int_not_equal(access(in_folder("a"), F_OK), 0);
    assert_int_equal(files_in_folder(true), NAMED);
}

static void writers_of_one_name_do_not_meet(void **state) {
    file_out f[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(file_out_open(in_folder("a"), &f[i], &err), OMNI_OK);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(file_out_write_at(&f[i], 0, i ? "second" : "first!", 6, &err), OMNI_OK);
    }
    assert_int_equal(file_out_commit(&f[0], &err), OMNI_OK);
    holds(in_folder("a"), "first!");
    assert_int_equal(file_out_commit(&f[1], &err), OMNI_OK);
    holds(in_folder("a"), "second");
    assert_int_equal(files_in_folder(true), 1);
}

static void scratch_files_have_no_name(void **state) {
    file_scratch s;
    assert_int_equal(file_scratch_open(in_folder("no"), &s, &err), OMNI_ERR_IO);
    assert_int_equal(file_scratch_open(folder, &s, &err), OMNI_OK);
    assert_int_equal(files_in_folder(false), 0);
    assert_int_equal(replace(s.path, "something"), OMNI_OK);
    assert_int_equal(file_out_check(s.path, &err), OMNI_OK);
    holds(s.path, "something");
    assert_int_equal(mode_of(s.path), 0600);
    file_map m;
    assert_int_equal(file_map_open(s.path, &m, &err), OMNI_OK);
    file_scratch_close(&s);
    assert_int_equal(m.size, 9);
    assert_memory_equal(m.data, "something", 9);
    file_map_close(&m);
    assert_int_equal(files_in_folder(true), 0);
}

static void a_limit_is_met_exactly(void **state) {
    char *data;
    size_t size;
    static const size_t sizes[] = {0, 1, 4095, 65535, 65536, 65537, 131072, 200000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const size_t n = sizes[i];
        write_text(in_folder("a"), "", 0600);
        assert_int_equal(truncate(in_folder("a"), (off_t)n), 0);
        assert_int_equal(file_read(in_folder("a"), n, &data, &size, &err), OMNI_OK);
        assert_int_equal(size, n);
        assert_int_equal(data[n], 0);
        free(data);
        assert_int_equal(file_read(in_folder("a"), n + 1, &data, &size, &err), OMNI_OK);
        free(data);
        if (n) {
            assert_int_equal(file_read(in_folder("a"), n - 1, &data, &size, &err), OMNI_ERR_LIMIT);
            assert_null(data);
        }
    }
    files_in_folder(true);
    assert_int_equal(file_read("/dev/zero", 1 << 20, &data, &size, &err), OMNI_ERR_LIMIT);
    assert_int_equal(file_read("/dev/null", 0, &data, &size, &err), OMNI_OK);
    free(data);
    assert_int_equal(file_read("/proc/self/status", 1 << 20, &data, &size, &err), OMNI_OK); /* says that it has no size */
    assert_true(size > 100);
    free(data);
    assert_int_equal(file_read(folder, 1 << 20, &data, &size, &err), OMNI_ERR_IO);
    assert_non_null(strstr(err.text, "folder"));
}

/* A writer that comes late and writes in pieces; the limit holds for pipes, too. */
static void pipes_are_read_to_their_end(void **state) {
    enum { PIECES = 40 };
    const char *path = in_folder("pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    for (int small = 0; small < 2; small++) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGPIPE, SIG_IGN);
            usleep(50000);
            FILE *f = fopen(path, "wb");
            for (int i = 0; i < PIECES && f; i++) {
                fprintf(f, "%06d", i);
                fflush(f);
                usleep(1000);
            }
            _exit(0);
        }
        char *data;
        size_t size;
        omni_status status = file_read(path, small ? 100 : PIECES * 6, &data, &size, &err);
        assert_int_equal(waitpid(child, NULL, 0), child);
        if (small) {
            assert_int_equal(status, OMNI_ERR_LIMIT);
        } else {
            assert_int_equal(status, OMNI_OK);
            assert_int_equal(size, PIECES * 6);
            assert_memory_equal(data + 6 * 39, "000039", 6);
            free(data);
        }
    }
    files_in_folder(true);
}

static void ignore_signal(__attribute__((unused)) int number) {
}

/* Also with handlers after which system calls go on, as the command line has them. */
static void a_signal_ends_waiting_for_a_writer(void **state) {
    const char *path = in_folder("pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    struct sigaction act = {.sa_handler = ignore_signal, .sa_flags = SA_RESTART}, old;
    sigaction(SIGALRM, &act, &old);
    alarm(1);
    char *data;
    size_t size;
    assert_int_equal(file_read(path, 100, &data, &size, &err), OMNI_CANCELLED);
    assert_non_null(strstr(err.text, "interrupted"));
    sigaction(SIGALRM, &old, NULL);
    files_in_folder(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rights_are_kept_or_follow_the_umask),
        cmocka_unit_test(an_owner_is_kept),
        cmocka_unit_test(nothing_but_the_target_changes),
        cmocka_unit_test(links_beside_are_not_followed),
        cmocka_unit_test(of_a_link_the_target_is_replaced),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(rights_are_respected),
        cmocka_unit_test(links_of_others_in_shared_folders_are_refused),
        cmocka_unit_test(abandoned_and_failed_writers_leave_nothing),
        cmocka_unit_test(several_files_get_their_names_or_none),
        cmocka_unit_test(killed_writers_leave_no_final_name),
        cmocka_unit_test(writers_of_one_name_do_not_meet),
        cmocka_unit_test(scratch_files_have_no_name),
        cmocka_unit_test(a_limit_is_met_exactly),
        cmocka_unit_test(pipes_are_read_to_their_end),
        cmocka_unit_test(a_signal_ends_waiting_for_a_writer),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
