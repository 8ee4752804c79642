#define _GNU_SOURCE
#include "base/cpus.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { WORD_BITS = 8 * sizeof(unsigned long) };

void cpus_add(cpus *s, int cpu) {
    s->words[cpu / WORD_BITS] |= 1UL << cpu % WORD_BITS;
}

bool cpus_has(const cpus *s, int cpu) {
    return s->words[cpu / WORD_BITS] >> cpu % WORD_BITS & 1;
}

int cpus_count(const cpus *s) {
    int n = 0;
    for (size_t i = 0; i < sizeof s->words / sizeof *s->words; i++) {
        n += __builtin_popcountl(s->words[i]);
    }
    return n;
}

int cpus_nth(const cpus *s, int i) {
    for (int cpu = 0; cpu < CPUS_MOST; cpu++) {
        if (cpus_has(s, cpu) && i-- == 0) {
            return cpu;
        }
    }
    return -1;
}

char *cpus_text(const cpus *s, char *out, size_t size) {
    size_t used = 0;
    *out = 0;
    for (int cpu = 0; cpu < CPUS_MOST; cpu++) {
        if (!cpus_has(s, cpu)) {
            continue;
        }
        int last = cpu;
        while (last + 1 < CPUS_MOST && cpus_has(s, last + 1)) {
            last++;
        }
        if (size - used < sizeof ", 8191-8191..., ...") {
            snprintf(out + used, size - used, ", ...");
            break;
        }
        used += (size_t)snprintf(out + used, size - used, "%s%d", used > 0 ? ", " : "", cpu);
        if (last > cpu) {
            used += (size_t)snprintf(out + used, size - used, "-%d", last);
        }
        cpu = last;
    }
    return out;
}

static omni_status add_mask(cpus *s, const char *mask, omni_error *err) {
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *first = mask[0] == '0' && (mask[1] == 'x' || mask[1] == 'X') ? mask + 2 : mask;
    size_t n = strlen(first);
    for (size_t i = 0; i < n; i++) {
        const char *digit = strchr(digits, first[i]);
        if (!digit) {
            return fail(err, OMNI_ERR_ARGUMENT, "CPU mask \"%.80s\": \"%c\" is not a hexadecimal digit; bit i stands for CPU i, 0x5 for CPUs 0 and 2",
                        mask, first[i]);
        }
        for (int bit = 0; bit < 4; bit++) {
            if (!((digit - digits) >> bit & 1)) {
                continue;
            }
            size_t cpu = 4 * (n - 1 - i) + (size_t)bit;
            if (cpu >= CPUS_MOST) {
                return fail(err, OMNI_ERR_ARGUMENT, "CPU mask \"%.80s\": it names CPU %zu, and no system has more than %d", mask, cpu, CPUS_MOST);
            }
            cpus_add(s, (int)cpu);
        }
    }
    return cpus_count(s) > 0
               ? OMNI_OK
               : fail(err, OMNI_ERR_ARGUMENT, "CPU mask \"%.80s\": there is no CPU in it; bit i stands for CPU i, 0x5 for CPUs 0 and 2", mask);
}

/* Digits alone; CPUS_MOST for anything that large. -1: none. *text moves behind them. */
static int read_number(const char **text) {
    int v = -1;
    for (; **text >= '0' && **text <= '9'; ++*text) {
        v = (v < 0 ? 0 : v * 10) + (**text - '0');
        v = v < CPUS_MOST ? v : CPUS_MOST;
    }
    return v;
}

static omni_status add_range(cpus *s, const char *range, omni_error *err) {
    const char *at = range;
    int low = read_number(&at);
    bool dash = *at == '-';
    at += dash;
    int high = read_number(&at);
    if (low < 0 || !dash || high < 0 || *at) {
        return fail(err, OMNI_ERR_ARGUMENT, "CPU range \"%.80s\": give the first and the last CPU as LO-HI, 0-3 for four CPUs", range);
    }
    if (low > high) {
        return fail(err, OMNI_ERR_ARGUMENT, "CPU range \"%.80s\": it runs backwards; give the smaller number first", range);
    }
    if (high >= CPUS_MOST) {
        return fail(err, OMNI_ERR_ARGUMENT, "CPU range \"%.80s\": no system has more than %d CPUs", range, CPUS_MOST);
    }
    for (int cpu = low; cpu <= high; cpu++) {
        cpus_add(s, cpu);
    }
    return OMNI_OK;
}

omni_status cpus_parse(const char *mask, const char *range, cpus *out, omni_error *err) {
    *out = (cpus){0};
    if (mask) {
        TRY(add_mask(out, mask, err));
    }
    return range ? add_range(out, range, err) : OMNI_OK;
}

#ifdef __linux__

void cpus_usable(cpus *out) {
    *out = (cpus){0};
    if (sched_getaffinity(0, sizeof out->words, (cpu_set_t *)out->words) != 0) {
        cpus_add(out, 0);
    }
}

omni_status cpus_check(const cpus *s, omni_error *err) {
    cpus usable;
    char list[160];
    cpus_usable(&usable);
    for (int i = 0, n = cpus_count(s); i < n; i++) {
        int cpu = cpus_nth(s, i);
        long all = sysconf(_SC_NPROCESSORS_CONF);
        if (cpus_has(&usable, cpu)) {
            continue;
        }
        cpus_text(&usable, list, sizeof list);
        if (cpu >= all) {
            return fail(err, OMNI_ERR_ARGUMENT, "there is no CPU %d on this machine: it has %ld; this process may use %s", cpu, all, list);
        }
        return fail(err, OMNI_ERR_ARGUMENT,
                    "CPU %d is not among those that this process may use, which are %s: name some of these, or let it use more (taskset, the "
                    "container's CPUs)",
                    cpu, list);
    }
    return OMNI_OK;
}

int cpus_keep_thread(pthread_t thread, const cpus *s) {
    return pthread_setaffinity_np(thread, sizeof s->words, (const cpu_set_t *)s->words);
}

#else

void cpus_usable(cpus *out) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    *out = (cpus){0};
    for (int cpu = 0; cpu < (n < 1 ? 1 : n) && cpu < CPUS_MOST; cpu++) {
        cpus_add(out, cpu);
    }
}

omni_status cpus_check(const cpus *s, omni_error *err) {
    return fail(err, OMNI_ERR_UNSUPPORTED,
                "threads cannot be kept on chosen CPUs on this system; leave out --cpu-mask, --cpu-range and --cpu-strict");
}

int cpus_keep_thread(pthread_t thread, const cpus *s) {
    return ENOTSUP;
}

#endif
