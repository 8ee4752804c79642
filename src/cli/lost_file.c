#define _GNU_SOURCE
#include "cli/lost_file.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

/* Part of the error message of a handler, which may use little else than write(). */
static void say(const char *text, size_t size) {
    ssize_t n = write(STDERR_FILENO, text, size);
    (void)n;
}

/* Files are mapped, so one that is cut short while in use, or whose disk fails, shows as a fault at an address: names the file whose mapping
 * holds it, after /proc/self/maps ("FROM-TO rights offset device inode PATH" a line). Without one it is no such fault, and kills as usual. */
static void handle_fault(int number, siginfo_t *info, void *context) {
    static atomic_flag reported = ATOMIC_FLAG_INIT;
    uintptr_t at = (uintptr_t)info->si_addr, from = 0, to = 0, *hex = &from;
    char line[4096 + 128], buffer[4096];
    size_t used = 0;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    for (ssize_t n; fd >= 0 && (n = read(fd, buffer, sizeof buffer)) > 0;) {
        for (ssize_t i = 0; i < n; i++) {
            char c = buffer[i];
            if (c != '\n') {
                if (hex == &from && c == '-') {
                    hex = &to;
                } else if (hex && c == ' ') {
                    hex = NULL;
                } else if (hex) {
                    *hex = *hex * 16 + (uintptr_t)(c <= '9' ? c - '0' : c - 'a' + 10);
                }
                line[used] = c;
                used += used < sizeof line - 1;
                continue;
            }
            line[used] = 0;
            const char *path = strchr(line, '/');
            if (path && at >= from && at < to) {
                for (char *p = line; *p; p++) {
                    *p = (unsigned char)*p < 0x20 || *p == 0x7F ? '?' : *p; /* a terminal would obey it */
                }
                while (atomic_flag_test_and_set(&reported)) {
                    pause(); /* another thread came upon it too, and ends the process */
                }
                static const char what[] = ": was cut short or cannot be read any more while it was in use\n";
                say("omni: ", 6);
                say(path, strlen(path));
                say(what, sizeof what - 1);
                _exit(1);
            }
            from = to = used = 0;
            hex = &from;
        }
    }
    signal(number, SIG_DFL); /* the fault happens again */
}

void report_lost_files(void) {
    struct sigaction act = {.sa_sigaction = handle_fault, .sa_flags = SA_SIGINFO};
    sigemptyset(&act.sa_mask);
    sigaction(SIGBUS, &act, NULL);
}
