/* A folder under /tmp for what a test writes: set-up and tear-down of a cmocka group, and paths inside. Include before cmocka.h. */
#ifndef OMNI_TESTS_SCRATCH_H
#define OMNI_TESTS_SCRATCH_H

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

static int make_folder(__attribute__((unused)) void **state) {
    strcpy(folder, "/tmp/omni-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

/* A path in the folder; the last two stay valid. */
static char *in_folder(const char *name) {
    static char path[2][512];
    static int next;
    next ^= 1;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

/* Entries of the folder; with clear, removed as they are counted. */
static int files_in_folder(bool clear) {
    DIR *d = opendir(folder);
    int n = 0;
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        if (e->d_name[0] != '.') {
            n++;
            if (clear) {
                unlink(in_folder(e->d_name));
            }
        }
    }
    closedir(d);
    return n;
}

static int remove_folder(__attribute__((unused)) void **state) {
    files_in_folder(true);
    return rmdir(folder);
}

#endif
